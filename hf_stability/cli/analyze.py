"""`hf-stability analyze`: the paper's experiments on a finished study."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

from ..analysis import ANALYSES
from ..errors import InputError
from .plain_parser import PlainParser, Texts, parse


TEXTS = Texts(
    "hf-stability analyze NAME STUDY_FOLDER [--recipe R ...] [--output_dir DIR] [options of the analysis]",
    """The paper's experiments on a finished study: what came out in a few sentences, the numbers, and a figure.
Only --make_runs and --path_points train. `hf-stability analyze NAME --help` lists the options of an analysis.

analyses:
"""
    + "\n".join(f"  {name:<20} {purpose}" for name, purpose in ANALYSES.items()),
    """
examples:
  # gradients of failed runs against those of ok runs
  hf-stability analyze gradients results/demo_pair
  # the mean of n seeds; to average weights too, run the study with --keep_model last
  hf-stability analyze ensemble results/demo_pair --recipe mosbach2021
  # all of them
  for name in gradients generalisation churn ensemble; do hf-stability analyze $name results/demo_pair; done

It writes NAME.json (every number), a CSV per table, NAME.png, NAME.svg and NAME.md into STUDY_FOLDER/analysis/NAME,
never into the runs' folders. From Python: hf_stability.analysis.analyze("gradients", "results/demo_pair").
docs/paper_experiments.md has the question of each analysis, and what came out here.
""",
)


def main(argv: Sequence[str]) -> int:
    """Run an analysis; print what came out, and the files."""
    name = next((word for word in argv if not word.startswith("-")), None)
    if name is None:
        parse(_parser(TEXTS), argv)  # --help ends here
        raise InputError(f"analyze: give an analysis, {', '.join(ANALYSES)}; see hf-stability analyze --help")
    from ..analysis import analyze
    from ..analysis.analysis import load_analysis

    analysis = load_analysis(name)
    known = _parser(_texts(name))
    options = _add_options(known, analysis.Options)
    given = parse(known, argv)
    folder = given.get("study_folder")
    if folder is None:
        raise InputError(f"analyze {name}: give the study's folder, its --output_dir, after the name")
    chosen = {option: given[option] for option in options if option in given}
    where = given.get("recipe"), given.get("output_dir")
    result = analyze(name, folder, *where, given.get("make_runs", False), given.get("workers"), **chosen)
    print("\n".join(result.sentences))
    print("\n" + "\n".join(map(str, result.files)))
    return 0


def _texts(name: str) -> Texts:
    return Texts(
        f"hf-stability analyze {name} STUDY_FOLDER [options]",
        f"{ANALYSES[name][0].upper()}{ANALYSES[name][1:]}",
        f"\nexample:\n  hf-stability analyze {name} results/demo_pair\n\nhf-stability analyze --help lists all analyses.\n",
    )


def _parser(texts: Texts) -> PlainParser:
    built = PlainParser("analyze", texts)
    built.add_argument("analysis", nargs="?", help="The analysis, see above.")
    built.add_argument("study_folder", nargs="?", help="The study's folder, given to it as --output_dir.")
    built.add_argument("--recipe", nargs="+", help="Only these recipes. Default: all recipes of the study.")
    built.add_argument("--output_dir", help="Where to write. Default: STUDY_FOLDER/analysis/NAME.")
    built.add_argument(
        "--make_runs", action="store_true", help="Train the runs that the analysis needs beside the study's."
    )
    built.add_argument(
        "--workers", type=int, help="How many of them at a time. Default: one per GPU, else one per core."
    )
    return built


def _add_options(parser: PlainParser, options: type) -> list[str]:
    """Add a flag for each field of a dataclass of options. Returns their names.

    A field is of the type int, float, str or bool, of one of them or None, or a tuple of one of them.
    """
    types = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        kinds = [
            kind for kind in (typing.get_args(types[field.name]) or (types[field.name],)) if kind is not type(None)
        ]
        flag: dict[str, Any] = {"help": f"{field.metadata['help']} Default: {_text(field.default)}."}
        kind = next((kind for kind in kinds if kind is not ...), str)
        if kind is bool:
            flag["action"] = "store_true"
        else:
            many = typing.get_origin(types[field.name]) is tuple
            flag |= {"type": kind} | ({"nargs": "+"} if many else {})
            flag |= {"choices": field.metadata["choices"]} if "choices" in field.metadata else {}
        parser.add_argument(f"--{field.name}", **flag)
    return [field.name for field in dataclasses.fields(options)]


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
