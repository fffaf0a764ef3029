"""`hf-stability card`: the model card of a recipe in a study, and its upload where `--push` asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..study.report.card import card, hub
from ..study.report.card.source import read_source
from .plain_parser import PlainParser, Texts, parse, study_folder


TEXTS = Texts(
    "hf-stability card STUDY_FOLDER [--recipe R] [--seed N] [--output FILE] [--push USER/NAME]",
    """Write a model card (README.md) for one recipe of a finished study: mean, standard deviation and failed share over its
seeds, which run the weights are from and how it was chosen, its verdict, settings, versions, and the command that runs
it again. The metadata are those of the Hugging Face hub. It trains nothing and needs no network, except with --push.""",
    """
examples:
  # a study that keeps the best model, and its card in rte/README.md
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe mosbach2021 --seeds 20 \\
      --validation_half both --keep_model failed_and_best --output_dir rte
  hf-stability card rte
  # another run, a study of several recipes, another file
  hf-stability card results/demo_pair --recipe mosbach2021 --seed 2 --output card.md
  # upload the card and the model of this run; needs `hf auth login`
  hf-stability card rte --push my_name/bert-large-rte --private

Without --seed, the weights are those of the best run. Its score is partly luck, and the card says so. With
--validation_half both, the card also has its score on the half that selected nothing.
The study does not record what is not in its folder (your data's name, a licence): the card leaves it out. Read the card
before you publish it.
""",
)


def main(argv: Sequence[str]) -> int:
    """Write the card, and upload it with the model if `--push` is given."""
    known = PlainParser("card", TEXTS)
    known.add_argument("study_folder", nargs="?", help="The study's folder, given to it as --output_dir.")
    known.add_argument("--recipe", help="The recipe to describe. Default: the only one.")
    known.add_argument(
        "--seed", type=int, help="The run that the weights are from. Default: the one with the best score."
    )
    known.add_argument("--base_model", help="The pretrained model's name on the hub, if the study does not tell.")
    known.add_argument("--dataset", help="The data's name on the hub. Default: GLUE's for a GLUE task.")
    known.add_argument("--output", help="The file to write. Default: README.md in the study's folder.")
    known.add_argument("--push", help="Upload the card and the run's model to this repository, USER/NAME.")
    known.add_argument("--private", action="store_true", help="With --push: make a new repository private.")
    given = parse(known, argv)
    if "private" in given and "push" not in given:
        raise InputError("--private: goes with --push")
    folder = study_folder("card", given)
    path = Path(given.get("output") or folder / "README.md")
    names = {name: given.get(name) for name in ("recipe", "seed", "base_model", "dataset")}
    source = read_source(folder, **names)
    card.check_output(path)
    token = hub.check_push(source, given["push"]) if "push" in given else None
    text = card.card_text(source)
    card.write_card(text, path)
    print(f"{path}: the card of {source.run.name}. {card.chosen_how(source)}")
    if source.left_out:
        print(f"Left out, because the study does not record it: {'; '.join(source.left_out)}.")
    if token is not None and source.model is not None:
        print(f"Uploaded: {hub.push(text, source.model, given['push'], token, given.get('private', False))}")
    return 0
