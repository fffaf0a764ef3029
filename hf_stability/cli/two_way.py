"""`hf-stability two_way`: the sources of the variance over seeds, in a study with `--two_way`."""

from __future__ import annotations

from collections.abc import Sequence

from ..study.report import two_way_page
from .plain_parser import Texts, folder_parser, parse, study_folder


TEXTS = Texts(
    "hf-stability two_way STUDY_FOLDER [--recipe R ...]",
    """Where does the variance over seeds come from: the new head's initialisation, the order of the training data,
their interaction, or dropout? Reads a study that was run with --two_way. Trains nothing. Writes two_way.md into the
study's folder and prints it.""",
    """
examples:
  # 5 initialisations x 5 data orders x 2 dropout seeds: 50 runs, with the table at the end
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 \\
      --two_way 5 5 2 --output_dir two_way
  # more of each; finished runs are kept
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 \\
      --two_way 10 10 2 --output_dir two_way
  # print the table again
  hf-stability two_way two_way

How to read it: "variance" is the part of the scores' variance that a source adds; "share" is that part divided by the
sum. With one dropout seed (--two_way 5 5 1), interaction and dropout cannot be separated. If few runs fail, look at the
counts of failed runs first: a row that fails points to an initialisation, a column to a data order.
""",
)


def main(argv: Sequence[str]) -> int:
    """Write `two_way.md` and print it."""
    given = parse(folder_parser("two_way", TEXTS), argv)
    folder = study_folder("two_way", given)
    print(two_way_page.write_two_way(folder, given.get("recipe")))
    print(f"{folder}: written to two_way.md")
    return 0
