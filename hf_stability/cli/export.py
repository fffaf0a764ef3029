"""`hf-stability export`: a study's runs and its table of recipes for other programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError, nearest
from ..study.folder import read_runs
from ..study.report.export import FORMATS, exported
from ..study.report.scores import left_without_record, read_recipes
from ..study.report.until import until_notes
from ..utils.files import write_bytes
from .plain_parser import Texts, folder_parser, parse, study_folder


TEXTS = Texts(
    "hf-stability export STUDY_FOLDER --to csv|parquet|latex|markdown [--output FILE] [--recipe R ...]",
    """A study's numbers for other programs. csv and parquet: a row per run, with every metric of its last evaluation,
numbers in full. latex and markdown: the table of recipes, as in summary.md. Reads the finished runs; trains nothing.""",
    """
examples:
  # to a program that reads standard input
  hf-stability export results/demo_pair --to csv
  # a table for a paper; it needs \\usepackage{booktabs}
  hf-stability export results/demo_pair --to latex --output recipes.tex
  hf-stability export results/demo_pair --to parquet --output runs.parquet

Without --output, text goes to standard output. Crashed and unfinished runs have no record: they are counted on standard
error. Numbers in the tables are rounded as in summary.md; those of csv and parquet are not.
""",
)


def main(argv: Sequence[str]) -> int:
    """Write the file, or print it."""
    known = folder_parser("export", TEXTS)
    known.add_argument("--to", help=f"The format: {', '.join(FORMATS)}.")
    known.add_argument("--output", help="The file. Default: standard output, except for parquet.")
    given = parse(known, argv)
    folder, to = study_folder("export", given), given.get("to")
    if to is None:
        raise InputError(f"export: give the format with --to: {', '.join(FORMATS)}")
    if to not in FORMATS:
        raise InputError(f"--to {to}: no such format{nearest(to, FORMATS)}; give one of {', '.join(FORMATS)}")
    output = Path(given["output"]) if "output" in given else None
    if output is None and to == "parquet":
        raise InputError("--to parquet: this is no text; give a file, for example --output runs.parquet")
    if output is not None and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise InputError(f"--output {output}: no file can be written there; give one in an existing folder")
    recipes = read_recipes(folder, given.get("recipe"))
    runs = [run for own in recipes.values() for run in own]
    notes = until_notes(folder, [(run.recipe, run.seed) for run in read_runs(folder)])
    content = exported(runs, to, notes)
    if output is None:
        print(content.decode(), end="")
    else:
        write_bytes(output, content)
        print(f"{output}: {len(runs)} run{'s' * (len(runs) > 1)} of {len(recipes)} recipe{'s' * (len(recipes) > 1)}")
    left = left_without_record(folder, list(recipes))
    if left:
        print(f"left out: {left}", file=sys.stderr)
    return 0
