"""`hf-stability report`: one page on a study, or on runs made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from .plain_parser import PlainParser, Texts, parse


TEXTS = Texts(
    "hf-stability report [STUDY_FOLDER] [--runs GLOB ...] [--scores FILE] [--output_dir DIR]",
    """One page on a finished study, to send or to publish: a verdict in three sentences, failed shares and scores with their
intervals, recipes in pairs, figures, settings and versions. Trains nothing.""",
    """
examples:
  hf-stability report results/demo_pair
  # plain Trainer folders, a recipe per folder name; a score at or below 0.53 counts as failed
  hf-stability report --runs 'out/*' --metric eval_accuracy --baseline 0.53 --output_dir report
  # a table with the columns recipe, seed and accuracy
  hf-stability report --scores scores.csv --metric accuracy --examples 277 --output_dir report

It writes report.html (one file, which needs no network), report.md, recipes.tex and pairs.tex (LaTeX with booktabs),
report.json (every number), and figures/ (PNG and SVG). They go to STUDY_FOLDER/report, never into the runs' folders.
How to read the page: docs/report.md.
""",
)


def main(argv: Sequence[str]) -> int:
    """Write the report, and print its verdict."""
    known = PlainParser("report", TEXTS)
    known.add_argument("study_folder", nargs="?", help="The study's folder, given to it as --output_dir.")
    known.add_argument(
        "--runs",
        nargs="+",
        metavar="GLOB",
        help="Trainer folders of runs made elsewhere. Quote patterns: 'out/*'.",
    )
    known.add_argument("--scores", help="A CSV or JSON file of scores with the columns recipe, seed and a metric.")
    known.add_argument("--metric", help="With --runs or --scores: the metric. Needed if there are several.")
    known.add_argument(
        "--baseline",
        type=float,
        help="With --runs or --scores: score of the best constant prediction. A run at or below it has failed. Without it, "
        "failed runs are unknown.",
    )
    known.add_argument("--task_name", help="With --runs or --scores: name of the data, for the title and the verdict.")
    known.add_argument(
        "--examples",
        type=int,
        help="Number of development examples, for the noise floor. Default: as in the study's verdicts.",
    )
    known.add_argument(
        "--rope",
        type=float,
        help="Region of practical equivalence: means that differ by less count as equal. In the metric's unit. Default: 0.01.",
    )
    known.add_argument("--output_dir", help="Where to write. Default: STUDY_FOLDER/report, or ./report.")
    known.add_argument(
        "--no_links", action="store_true", help="No links to the runs' files, for a page that you send or publish."
    )
    given = parse(known, argv)
    from ..study.report.page.contents import ROPE  # scipy and matplotlib are imported later, when they are used
    from ..study.report.page.page import write_report

    paths = write_report(
        given.get("study_folder"),
        _elsewhere(given),
        given.get("output_dir"),
        given.get("rope", ROPE),
        given.get("examples"),
        links=not given.get("no_links", False),
    )
    print(_verdict(paths[0]))
    print(f"\nThe page: {paths[0]}. Also Markdown, LaTeX, JSON and figures in {paths[0].parent}")
    return 0


def _elsewhere(given: dict[str, Any]) -> list[Any]:
    """Records of the runs that --runs and --scores name.

    Raises:
        InputError: nothing was given to report on, or a flag has no effect without them.
    """
    if not given.keys() & {"study_folder", "runs", "scores"}:
        raise InputError("report: give a study's folder, --runs or --scores; see hf-stability report --help")
    if not given.keys() & {"runs", "scores"}:
        for name in ("metric", "baseline", "task_name"):
            if name in given:
                raise InputError(f"--{name}: it belongs to --runs or --scores; a study's records have it already")
        return []
    from ..study.report.elsewhere.read import read_scores_file, read_trainer_folders

    chosen = (given.get("metric"), given.get("baseline"))
    runs = read_trainer_folders(given["runs"], *chosen) if "runs" in given else []
    runs += read_scores_file(given["scores"], *chosen) if "scores" in given else []
    return [replace(run, task=given["task_name"]) for run in runs] if "task_name" in given else runs


def _verdict(page: Path) -> str:
    """The three sentences, from the report's numbers."""
    import json

    return "\n".join(json.loads((page.parent / "report.json").read_text(encoding="utf-8"))["verdict"])
