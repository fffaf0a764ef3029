"""A study's tables: summary.json, summary.csv and summary.md, made from the runs' records alone, the same bytes each time."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..callback import write_json, write_text
from .records import RunRecord


SUMMARY_SCHEMA = "hf_stability.summary/1"
NOT_OK = ("failed", "diverged")
RUN_COLUMNS = (
    "recipe", "seed", "status", "metric", "last", "best", "accuracy", "baseline", "train_loss", "steps", "evaluations",
    "sentence",
)  # fmt: skip


def summarize(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Figures of each recipe, in the order in which recipes come first in `runs`.

    Scores are the headline metric at the END of training; `best_*` are over each run's best evaluation, comparable only
    between equal numbers of evaluations. The standard deviation (ddof = 1) is over all runs that have a score: among
    recipes with failed runs it says little by itself, so `failed` comes first. Crashed runs have no score and are
    counted apart.
    """
    recipes = list(dict.fromkeys(run.recipe for run in runs))
    return {
        "schema": SUMMARY_SCHEMA,
        "metric": next((run.metric for run in runs if run.metric), None),
        "recipes": [_figures(recipe, [run for run in runs if run.recipe == recipe]) for recipe in recipes],
        "runs": [run.to_dict() for run in runs],
    }


def _figures(recipe: str, runs: list[RunRecord]) -> dict[str, Any]:
    judged = [run for run in runs if run.status != "crashed"]
    last = np.array([run.last for run in judged if run.last is not None])
    best = np.array([run.best for run in judged if run.best is not None])
    return {
        "recipe": recipe,
        "runs": len(judged),
        "failed": sum(run.status in NOT_OK for run in judged),
        "crashed": len(runs) - len(judged),
        "mean": float(last.mean()) if len(last) else None,
        "std": float(last.std(ddof=1)) if len(last) > 1 else None,
        "median": float(np.median(last)) if len(last) else None,
        "max": float(last.max()) if len(last) else None,
        "best_mean": float(best.mean()) if len(best) else None,
        "evaluations": sorted({run.evaluations for run in judged}),
    }


def to_markdown(summary: dict[str, Any]) -> str:
    """The table a study ends with."""
    metric = summary["metric"] or "score"
    header = [
        "recipe",
        "runs",
        "failed",
        f"{metric}: mean",
        "std",
        "median",
        "max",
        f"best {metric}: mean",
        "evaluations a run",
    ]
    rows = [
        [
            figures["recipe"],
            str(figures["runs"]) + (f" (+{figures['crashed']} crashed)" if figures["crashed"] else ""),
            str(figures["failed"]),
            *(_number(figures[key]) for key in ("mean", "std", "median", "max", "best_mean")),
            "/".join(map(str, figures["evaluations"])) or "-",
        ]
        for figures in summary["recipes"]
    ]
    return markdown_table(header, rows)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write summary.json, summary.csv (a row for each run) and summary.md, each atomically."""
    write_json(folder / "summary.json", summary)
    table = io.StringIO()
    writer = csv.DictWriter(table, RUN_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(summary["runs"])
    runs = [
        [r["recipe"], str(r["seed"]), _number(r["last"]), _number(r["best"]), r["sentence"]] for r in summary["runs"]
    ]
    metric = summary["metric"] or "score"
    text = (
        f"# Scores over seeds\n\n{to_markdown(summary)}\n\n`failed` counts failed and diverged runs; mean, std (ddof = 1), "
        f"median and max are of {metric} at the end of training, over all runs that have one. A small std says nothing of "
        "stability where runs fail.\n\n## Runs\n\n"
        + markdown_table(["recipe", "seed", f"{metric}, last", f"{metric}, best", "verdict"], runs)
        + "\n"
    )
    for name, content in (("summary.csv", table.getvalue()), ("summary.md", text)):
        write_text(folder / name, content)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are lined up, so that it reads in a terminal too."""
    cells = [[" ".join(cell.replace("|", "\\|").split("\n")) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
