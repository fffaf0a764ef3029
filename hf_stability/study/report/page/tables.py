"""The tables of a report, as text cells, from its numbers alone; and the same tables as Markdown and LaTeX (booktabs)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....utils.text import apart, decimal, latex, latex_table, markdown_table, p_text, share_text
from ...attempts import with_restarts
from ..summary_page import RESTART_NOTES, cost_cell, first_cell


MOSTLY_FAILED = 0.5
"""From this failed share on, a small std is marked: it is small because the runs fail."""

MARK = "*"


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        name: of its file.
        caption: what it shows, with metric and n.
        header: a name for each column.
        rows: a cell for each column.
        left: indices of columns that are aligned left; the others hold numbers.
        notes: how to read it, a sentence each.
        first: number of rows that are shown at once; the rest may be folded away.
    """

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()
    first: int | None = None


# ---- the tables -----------------------------------------------------------------------------------------------------


def recipes_table(contents: Mapping[str, Any]) -> Table:
    """A row for each recipe, in the order of the ranking."""
    metric = words(contents["metric"])
    by_name = {figures["recipe"]: figures for figures in contents["recipes"]}
    rows = [by_name[name] for name in contents["ranking"]]
    more = _more_means(rows)
    steps = [figures["steps"] for figures in rows]
    again = {"failed first attempts": first_cell, "cost, in runs": cost_cell} if with_restarts(rows) else {}
    with_steps = None not in steps and len(set(steps)) > 1
    cells = [
        (
            figures["recipe"],
            str(figures["runs"] or figures["n_scores"]),
            failed_cell(figures),
            *(cell(figures) for cell in again.values()),
            estimate_cell(figures, "mean"),
            estimate_cell(figures, "std_ok", "n_ok"),
            decimal(figures["std"]) + MARK * _mostly_failed(figures),
            *(
                decimal(figures[key])
                for key in ("median", "lowest_decile", "interquartile_mean", "max", *more.values())
            ),
            *([str(figures["steps"])] if with_steps else []),
        )
        for figures in rows
    ]
    notes = [
        "failed: runs that ended no better than the best constant prediction, or diverged; their share, and its 95% Wilson "
        "interval.",
        f"mean, median, lowest decile, interquartile mean and max: {metric} at the end of training, failed runs included. "
        "The interquartile mean leaves out the best and the worst quarter, and so hides failures: read it beside the failed "
        "share.",
        "std (not failed): of the runs that did not fail, with its 95% interval. It is comparable only between recipes "
        "without failed runs.",
    ]
    if "report_mean" in more.values():
        notes.append(
            "mean, second half: on the half of the development set that selected nothing. Report this one for new examples."
        )
    if "best_mean" in more.values():
        notes.append("Best of the evaluations: chosen on the same examples, so it is too high for new ones.")
    if with_steps:
        notes.append("update steps: of one run. They differ, so these recipes do not have the same compute.")
    if again:
        notes += RESTART_NOTES
    if any(_mostly_failed(figures) for figures in rows):
        notes.append(f"{MARK} Half of the runs or more failed. A small std is no sign of stability there.")
    header = (
        "recipe", "runs", "failed", *again, "mean", "std (not failed)", "std (all)", "median", "lowest decile",
        "interquartile mean", "max", *more, *(["update steps"] if with_steps else []),
    )  # fmt: skip
    caption = f"{_upper(metric)} and failed runs per recipe, over seeds{_on(contents)}."
    return Table("recipes", caption, header, tuple(cells), notes=tuple(notes))


def _more_means(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Columns of other means -> their figures.

    The mean of the best evaluations is there only if all runs have the same number of evaluations, two or more.
    """
    columns = {}
    if any(figures["report_mean"] is not None for figures in rows):
        columns["mean, second half"] = "report_mean"
    evaluations = {number for figures in rows for number in figures["evaluations"]}
    if len(evaluations) == 1 and max(evaluations) > 1:
        columns[f"mean, best of {max(evaluations)} evaluations"] = "best_mean"
    return columns


def pairs_table(contents: Mapping[str, Any]) -> Table:
    """A row for each pair of recipes; first those of the first recipe in the ranking."""
    metric, pairs = words(contents["metric"]), contents["pairs"]
    cells = []
    for pair in pairs:
        share, mean, win, spread = (pair[key] for key in ("share", "mean", "superiority", "spread"))
        n = "" if mean is None else f"{mean['n'][0]} pairs" if mean["paired"] else " and ".join(map(str, mean["n"]))
        cells.append(
            (
                pair["a"],
                pair["b"],
                pair["finding"],
                _failed_of_both(pair),
                "-" if share is None else signed_interval(share),
                "-" if share is None else p_cell(share["p_holm"]),
                "-" if mean is None else signed_interval(mean),
                n or "-",
                "-" if mean is None else p_cell(mean["p_holm"]),
                "-" if win is None else f"{decimal(win['estimate'], 2)} ({_both(win, 2)})",
                "-" if spread is None else p_cell(spread["p_holm"]),
            )
        )
    header = (
        "A", "B", "A is", "failed A / B", "failed share, A - B", "p of failed", "mean, A - B", "n", "p of mean",
        "P(A beats B)", "p of spread",
    )  # fmt: skip
    first = sum(pair["a"] == contents["ranking"][0] for pair in pairs)
    caption = (
        f"Recipes compared in pairs{_on(contents)}: failed runs first, then mean {metric} at the end of training."
    )
    return Table("pairs", caption, header, tuple(cells), (0, 1, 2), pair_notes(contents), first)


def pair_notes(contents: Mapping[str, Any]) -> tuple[str, ...]:
    """How to read the table of pairs, with the family of the tests."""
    family, rope = contents["family"], f"±{contents['rope']:g}"
    sizes = f"{family['share']} tests of failed shares, {family['mean']} of means, {family['spread']} of spread"
    notes = [
        "In brackets: 95% intervals, not corrected. Failed shares: Newcombe's interval, Fisher's exact test. Means: "
        "permutation test; within seeds where both recipes have the same seeds (n in pairs).",
        f"p is two-sided, after Holm's correction. The families are all pairs of {family['recipes']} recipes: {sizes}.",
        f"A is: fails less or fails more (p of failed below 0.05); else better or worse (the whole interval of the mean is "
        f"outside {rope}, p below 0.05), equal (inside {rope}), undecided, or within noise.",
        "P(A beats B): probability that a run of A scores higher than a run of B; ties count half.",
        "p of spread: permutation test, only where no run of either recipe failed.",
    ]
    if contents["noise_floor"] is not None:
        notes.append(
            f"Within noise: the means differ by less than the noise floor of {contents['examples']} development examples, "
            f"±{decimal(contents['noise_floor'])}. Such recipes are not ranked."
        )
    return tuple(notes)


# ---- cells ----------------------------------------------------------------------------------------------------------


def _failed_of_both(pair: Mapping[str, Any]) -> str:
    """`1 of 20 / 3 of 20`; `unknown` where no baseline tells which runs failed."""
    both = zip(pair["failed"], pair["runs"], strict=True)
    return " / ".join("unknown" if failed is None else f"{failed} of {runs}" for failed, runs in both)


def failed_cell(figures: Mapping[str, Any]) -> str:
    """`0 (0-0.16)`, `9 = 0.45 (0.26-0.66)`; `2 to 7 of 20` where runs were stopped; `unknown` without verdicts."""
    if figures["stopped"] or figures["stopped_early"]:
        most = figures["failed"] + figures["stopped"] + figures["stopped_early"]
        return f"{figures['failed']} to {most} of {figures['runs']}"
    if figures["failed_share"] is None:
        return "unknown"
    share, low, high = (share_text(figures[key]) for key in ("failed_share", "failed_share_low", "failed_share_high"))
    return f"{figures['failed']}{f' = {share}' if figures['failed'] else ''} ({low}-{high})"


def estimate_cell(figures: Mapping[str, Any], name: str, n: str | None = None) -> str:
    """`0.891 (0.884-0.897)`, and n where it is not that of the runs; `-` if it is unknown."""
    value, low, high = (figures[key] for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return "-"
    text = decimal(value) if low is None or high is None else f"{decimal(value)} ({decimal(low)}-{decimal(high)})"
    return text if n is None or figures[n] == figures["n_scores"] else f"{text}, n = {figures[n]}"


def signed_interval(test: Mapping[str, Any]) -> str:
    """`+0.021 (0.012 to 0.030)`."""
    return f"{test['estimate']:+.3f} ({_both(test)})"


def p_cell(p: float | None) -> str:
    """`0.043`, `< 0.001`; `-` if it is undefined."""
    return "-" if p is None else p_text(p).removeprefix("p ").removeprefix("= ")


def _both(test: Mapping[str, Any], decimals: int = 3) -> str:
    return " to ".join(apart(test["low"], test["high"], decimals=decimals))


def _mostly_failed(figures: Mapping[str, Any]) -> bool:
    return (figures["failed_share"] or 0) >= MOSTLY_FAILED and figures["std"] is not None


def words(metric: str) -> str:
    """A metric's name in words: `matthews correlation`."""
    return metric.replace("_", " ")


def _on(contents: Mapping[str, Any]) -> str:
    return f", on {contents['task']}" if contents["task"] else ""


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


# ---- Markdown and LaTeX ---------------------------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """The table with its caption and notes."""
    parts = [table.caption, markdown_table(table.header, table.rows), "\n".join(f"- {note}" for note in table.notes)]
    return "\n\n".join(part for part in parts if part)


def to_latex(table: Table) -> str:
    """The table with the rules of booktabs, in a float. Its notes are comments below it.

    Wide tables are scaled to the width of the text: the document needs the packages booktabs and graphicx.
    """
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{latex(table.caption)}}}",
        f"\\label{{tab:{table.name}}}",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        latex_table(table.header, table.rows, table.left) + "}",
        "\\end{table}",
        *(f"% {note}" for note in table.notes),
    ]
    return "\n".join(lines) + "\n"
