"""`hf-stability show`: one run in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..study.report.one_run import describe_run
from .plain_parser import PlainParser, Texts, parse


TEXTS = Texts(
    "hf-stability show RUN_FOLDER",
    """One run: its verdict, scores, files with figures, and settings, each with its source. Reads the run's folder alone.
Trains nothing and writes nothing.""",
    """
examples:
  hf-stability show results/demo_pair/runs/mosbach2021/seed-001
  # a run of a Trainer with the StabilityCallback: the folder that it was given as output_dir
  hf-stability show out/run-1
""",
)


def main(argv: Sequence[str]) -> int:
    """Print one run."""
    known = PlainParser("show", TEXTS)
    known.add_argument(
        "run_folder", nargs="?", help="The run's folder, for example STUDY_FOLDER/runs/RECIPE/seed-001."
    )
    given = parse(known, argv)
    if "run_folder" not in given:
        raise InputError("show: give the run's folder first; see hf-stability show --help")
    print(describe_run(Path(given["run_folder"])))
    return 0
