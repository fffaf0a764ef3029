"""The text that a study prints at its end: a table that fits a terminal, a line per comparison, a pointer to the rest.

It is plain text of at most `WIDTH` columns, made from the summary alone (see `summarize`). All columns, notes and tests are in
`summary.md` (see `summary_page`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...tasks.load import HALVES
from ...utils.text import decimal, joined
from ..attempts import MARK, marked
from .plots import wrap_name
from .sentences import comparison_line
from .summary_page import (
    audited_cell,
    bounds_cell,
    cost_cell,
    failed_text,
    first_audited_cell,
    first_cell,
    saved_cell,
)


WIDTH = 100
"""Columns of the terminal that the text fits."""

MOST_COMPARISONS = 5
"""More comparisons than this are only counted."""

SHORTEST_NAME = 12
"""Least number of columns for a recipe's name; a longer name takes more lines."""


def printed_summary(summary: Mapping[str, Any], folder: str | Path) -> str:
    """The text.

    If a comparison would be too long with the recipes' names, recipes get numbers. Runs that alarms or a policy stopped, and
    recipes with restarts, have their own small tables.

    Args:
        summary: see `summarize`.
        folder: the study's folder, for the pointer to `summary.md`.
    """
    recipes = summary["recipes"]
    names = {figures["recipe"]: marked(figures["recipe"], figures) for figures in recipes}
    apart, compared = _not_counted(recipes, names), _comparisons(summary, names)
    if any(len(line) > WIDTH for line in (*apart, *compared)):
        numbers = {f["recipe"]: marked(f"recipe {number}", f) for number, f in enumerate(recipes, 1)}
        apart, compared = _not_counted(recipes, numbers), _comparisons(summary, numbers)
        names = {name: f"{number} {shown}" for number, (name, shown) in enumerate(names.items(), 1)}
    parts = [
        f"{_heading(summary)}\n\n{_scores_table(recipes, names)}",
        *_stopped_tables(summary, names),
        "\n".join(apart),
        "\n".join(compared),
        f"Notes, tests and every run: {Path(folder) / 'summary.md'}",
    ]
    return "\n\n".join(part for part in parts if part)


def _heading(summary: Mapping[str, Any]) -> str:
    """`accuracy at the end of training`, and on which half of the development set."""
    metric = summary["metric"] or "score"
    halves = any(f"eval_{HALVES[1]}_{metric}" in run["metrics"] for run in summary["runs"])
    return f"{metric} at the end of training{', on the first half of the development set' * halves}"


# ---- tables ---------------------------------------------------------------------------------------------------------


def _scores_table(recipes: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    header = ["recipe", "runs", "failed (95% interval)", "mean", "std of non-failed", "std", "max"]
    rows = [
        [
            names[figures["recipe"]],
            str(figures["runs"]),
            failed_text(figures),
            *(decimal(figures[key]) for key in ("mean", "std_ok", "std", "max")),
        ]
        for figures in recipes
    ]
    return text_table(header, rows, left=(0, 2))


def _stopped_tables(summary: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """A table of recipes with runs that alarms stopped, and one of recipes with runs that a policy stopped early."""
    tables = []
    stopped = [figures for figures in summary["recipes"] if figures["stopped"]]
    if stopped:
        rows = [
            [names[f["recipe"]], str(f["stopped"]), bounds_cell(f), audited_cell(f), saved_cell(f)] for f in stopped
        ]
        header = ["stopped by an alarm", "runs", "failed share: bounds", "audited estimate", "steps saved"]
        tables.append(text_table(header, rows, left=(0, 2, 3)))
    early = [figures for figures in summary["recipes"] if figures["stopped_early"]]
    if early:
        rows = [
            [names[f["recipe"]], str(f["stopped_early"]), decimal(f["budget"], 2), _best_cell(f["best_run"])]
            for f in early
        ]
        header = ["stopped early", "runs", "budget, in runs", "best finished run"]
        tables.append(text_table(header, rows, left=(0, 3)))
    again = [figures for figures in summary["recipes"] if figures.get("restarts")]
    if again:
        rows = [
            [names[f["recipe"]], str(f["restarts"]["restarted"]), first_cell(f), first_audited_cell(f), cost_cell(f)]
            for f in again
        ]
        header = ["recipe", "runs that began again", "failed first attempts", "audited estimate", "cost, in runs"]
        table = text_table(header, rows, left=(0, 2, 3))
        tables.append(f"{table}\n\n{MARK} final results, after the last attempt; see the notes in summary.md")
    return tables


def _best_cell(best: Mapping[str, Any] | None) -> str:
    """`seed 3: 0.712, 0.695 on the second half`; `-` where no run was finished."""
    if best is None:
        return "-"
    text = f"seed {best['seed']}: {decimal(best['score'])}"
    return text if best["report"] is None else f"{text}, {decimal(best['report'])} on the second half"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int], width: int = WIDTH) -> str:
    """A table for a terminal. Names that do not fit into the first column are cut into more lines.

    Args:
        header: a name for each column.
        rows: a cell for each column; the first is the recipe's name.
        left: indices of columns that are aligned left; the others are aligned right.
        width: columns of the terminal.
    """
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    widths[0] = min(widths[0], max(SHORTEST_NAME, width - sum(widths[1:]) - 2 * (len(header) - 1)))

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(widths[i]) if i in left else cell.rjust(widths[i]) for i, cell in enumerate(cells)]
        return "  ".join(padded).rstrip()

    lines = []
    for name, *cells in (header, *rows):
        first, *others = wrap_name(name, widths[0])
        lines += [line([first, *cells]), *others]
    heads = len(wrap_name(header[0], widths[0]))
    return "\n".join([*lines[:heads], "  ".join("-" * w for w in widths), *lines[heads:]])


# ---- lines below ----------------------------------------------------------------------------------------------------


def _not_counted(recipes: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[str]:
    """`Not counted: 2 crashed and 1 unknown of devlin2019.`; a line per recipe that has such runs."""
    lines = []
    for figures in recipes:
        counts = [f"{figures[kind]} {kind}" for kind in ("crashed", "unknown") if figures.get(kind)]
        if counts:
            lines.append(f"Not counted: {joined(counts)} of {names[figures['recipe']]}.")
    return lines


def _comparisons(summary: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Notes on the p-values, then a line per comparison; at most `MOST_COMPARISONS`."""
    comparisons = summary["comparisons"]
    tested = [comparison for comparison in comparisons if comparison["fisher_p"] is not None]
    lines, notes = [], []
    if any(run["cell"] for run in summary["runs"]):
        lines.append("Runs of two-way seeds share seeds: intervals are too narrow, p too small. See two_way.md.")
    if any(not any(comparison["failed"]) for comparison in tested):
        notes.append("p of std: Brown-Forsythe test")
    if len(tested) > 1:
        notes.append(f"p not corrected for {len(tested)} comparisons")
    if notes:
        lines.append(f"Comparisons ({'; '.join(notes)}):")
    lines += [comparison_line(comparison, names) for comparison in comparisons[:MOST_COMPARISONS]]
    left = len(comparisons) - MOST_COMPARISONS
    if left > 0:
        lines.append(f"{left} more comparison{'s' * (left > 1)}: see summary.md.")
    return lines
