"""`summary.md` and `summary.csv`: a study's summary as tables, with notes on how to read them.

Made from the summary alone, see `summarize`; the same bytes each time.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...utils.files import write_json, write_text
from ...utils.text import decimal, joined, markdown_table, share_text
from ..attempts import MARK_NOTE, marked
from ..job import run_name
from ..records import seed_text
from .sentences import BOUNDS, LEVEL, UNJUDGED_NOTE
from .summary import ALL_PAIRS_UP_TO, censored
from .until import until_notes


RUN_COLUMNS = (
    "recipe", "seed", "status", "metric", "last", "best", "accuracy", "baseline", "train_loss", "steps",
    "planned_steps", "alarm_step", "audited", "evaluations", "sentence",
)  # fmt: skip

ATTEMPT_COLUMNS = ("attempts", "steps_spent", "first_status")
"""More columns of a run's row, if runs could restart (`--on_alarm restart`)."""

SCORE_COLUMNS = {
    "std of runs that did not fail": "std_ok",
    "std of all runs": "std",
    "mean": "mean",
    "median": "median",
    "max": "max",
}
"""Columns of the scores, and the figures in them."""


# ---- the files ------------------------------------------------------------------------------------------------------


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The recipes' table, then notes on how to read it, then the comparisons."""
    return "\n".join([recipes_table(summary), "", *(f"- {note}" for note in _notes(summary))])


def recipes_table(summary: Mapping[str, Any]) -> str:
    """A row for each recipe, as Markdown; see `recipes_cells`."""
    return markdown_table(*recipes_cells(summary))


def recipes_cells(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The header, and a row for each recipe.

    Columns for stopped runs are there only if runs were stopped. The mean of the best evaluations has a column only if all
    runs have the same number of evaluations, two or more.
    """
    metric = summary["metric"] or "score"
    columns = {f"{metric}: {name}": key for name, key in SCORE_COLUMNS.items()}
    if any(figures["report_mean"] is not None for figures in summary["recipes"]):
        columns[f"{metric}: mean on the second half"] = "report_mean"
    evaluations = _evaluations(summary)
    if len(evaluations) == 1 and max(evaluations) > 1:
        columns[f"{metric}: mean of the best of {max(evaluations)} evaluations"] = "best_mean"
    stops = dict(STOP_COLUMNS) if any(figures["stopped"] for figures in summary["recipes"]) else {}
    if any(figures["stopped_early"] for figures in summary["recipes"]):
        stops |= EARLY_COLUMNS
    if any(figures.get("restarts") for figures in summary["recipes"]):
        stops |= RESTART_COLUMNS
    rows = [
        [
            marked(figures["recipe"], figures),
            str(figures["runs"]) + _apart(figures),
            failed_text(figures),
            *(cell(figures) for cell in stops.values()),
            *(decimal(figures[key]) for key in columns.values()),
        ]
        for figures in summary["recipes"]
    ]
    return ["recipe", "runs", "failed = share (95% interval)", *stops, *columns], rows


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json, summary.csv (a row for each run) and summary.md, each atomically.

    If the folder has `until.json`, summary.md begins with how to read a study with `--until`.
    """
    write_json(folder / "summary.json", summary)
    table = io.StringIO()
    restarted = any(run.get("attempts") is not None for run in summary["runs"])
    columns = RUN_COLUMNS + ATTEMPT_COLUMNS * restarted
    writer = csv.DictWriter(table, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(run_row, summary["runs"]))
    metric = summary["metric"] or "score"
    header = ["recipe", "seed", f"{metric}: last", f"{metric}: best", "best of", "verdict"]
    runs = [
        [r["recipe"], _seed(r), decimal(r["last"]), decimal(r["best"]), str(r["evaluations"]), r["sentence"]]
        for r in summary["runs"]
    ]
    if restarted:
        header += ["attempts", "update steps of all attempts"]
        for row, run in zip(runs, map(run_row, summary["runs"]), strict=True):
            row += [str(run.get(name) or "-") for name in ATTEMPT_COLUMNS[:2]]
    ended = [(run["recipe"], run["seed"]) for run in summary["runs"] if run["status"] != "crashed"]
    until = "".join(f"{note}\n\n" for note in until_notes(folder, ended))
    text = f"# Scores over seeds\n\n{until}{to_markdown(summary)}\n\n## Runs\n\n{markdown_table(header, runs)}\n"
    for name, content in (("summary.csv", table.getvalue()), ("summary.md", text)):
        write_text(folder / name, content)


def run_row(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record for a row of a table: the number of attempts in place of their list."""
    attempts = run.get("attempts")
    return {**run, "attempts": None if attempts is None else len(attempts) or None}


def _seed(run: Mapping[str, Any]) -> str:
    """`3`, `unknown`, or with two-way seeds `init-02_order-01_dropout-1`."""
    return seed_text(run["seed"]) if run["cell"] is None else run_name("", 0, run["cell"]).strip("/")


# ---- cells ----------------------------------------------------------------------------------------------------------


def _apart(figures: Mapping[str, Any]) -> str:
    """Runs that no figure counts: ` (+1 crashed, +2 unknown)`."""
    counts = [f"+{figures[kind]} {kind}" for kind in ("crashed", "unknown") if figures.get(kind)]
    return f" ({', '.join(counts)})" if counts else ""


def failed_text(figures: Mapping[str, Any]) -> str:
    """`0 (0-0.16)`, `9 = 0.45 (0.26-0.66)`; `9` where runs were stopped; `not known`, or `2 or more`, where runs are unjudged;
    `-` where no run ended."""
    if not figures["runs"]:
        return "-"
    if figures.get("unjudged"):
        return f"{figures['failed']} or more" if figures["failed"] else "not known"
    if censored(figures):
        return str(figures["failed"])
    share, low, high = (share_text(figures[key]) for key in ("failed_share", "failed_share_low", "failed_share_high"))
    return f"{figures['failed']}{f' = {share}' if figures['failed'] else ''} ({low}-{high})"


def bounds_cell(figures: Mapping[str, Any]) -> str:
    """`0.10-0.35 (0.03-0.57)`; `-` where no run was stopped."""
    if not figures["stopped"]:
        return "-"
    keys = (*BOUNDS, "failed_share_if_all_heal_low", "failed_share_if_all_fail_high")
    heal, fail, low, high = (share_text(figures[key]) for key in keys)
    return f"{heal}-{fail} ({low}-{high})"


def audited_cell(figures: Mapping[str, Any]) -> str:
    """`0.28 (0.07-0.56), 1 of 2`; `-` where no run was stopped, or none audited."""
    if not figures["stopped"] or not figures["audited"]:
        return "-"
    keys = ("failed_share_audited", "failed_share_audited_low", "failed_share_audited_high")
    share, low, high = (share_text(figures[key]) for key in keys)
    return f"{share} ({low}-{high}), {figures['audited_failed']} of {figures['audited']}"


def saved_cell(figures: Mapping[str, Any]) -> str:
    """`570 = 0.15`; `-` where no run was stopped."""
    return f"{figures['saved_steps']} = {share_text(figures['saved_share'])}" if figures["stopped"] else "-"


STOP_COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "stopped": lambda figures: str(figures["stopped"]),
    "failed share: bounds (95% limits)": bounds_cell,
    "failed share: audited estimate (95% interval), failed of audited": audited_cell,
    "update steps saved = share": saved_cell,
}
"""Columns of the recipes' table if alarms stopped runs."""

EARLY_COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "stopped early": lambda figures: str(figures["stopped_early"]),
    "budget, runs": lambda figures: decimal(figures["budget"], 2),
}
"""Columns if runs were stopped early because others looked better."""


RESTART_COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "began again": lambda figures: str(figures["restarts"]["restarted"]) if figures.get("restarts") else "-",
    "failed first attempts: share, bounds (95% limits)": lambda figures: first_cell(figures),
    "failed first attempts: audited estimate (95% interval), failed of audited": lambda figures: first_audited_cell(
        figures
    ),
    "cost per run, in runs": lambda figures: cost_cell(figures),
}
"""Columns if runs could begin again on an alarm. All other columns of such a recipe are of its final results."""


def first_cell(figures: Mapping[str, Any]) -> str:
    """`0.10-0.35 (0.03-0.57)`, or `0.10 (0.03-0.30)` where no end of a first attempt is unknown; `-` without restarts."""
    first = figures.get("restarts")
    if not first or not first["runs"]:
        return "-"
    if not first["stopped"]:
        low, high = (share_text(first[f"{BOUNDS[0]}_{end}"]) for end in ("low", "high"))
        return f"{share_text(first[BOUNDS[0]])} ({low}-{high})"
    return bounds_cell(first)


def first_audited_cell(figures: Mapping[str, Any]) -> str:
    """`0.28 (0.07-0.56), 1 of 2`; `-` where no end is unknown, or no first attempt was audited."""
    first = figures.get("restarts")
    return audited_cell(first) if first else "-"


def cost_cell(figures: Mapping[str, Any]) -> str:
    """`1.32`; `-` without restarts."""
    first = figures.get("restarts")
    return decimal(first["cost"], 2) if first else "-"


# ---- notes ----------------------------------------------------------------------------------------------------------

STOPPED_NOTES = (
    "Stopped runs were ended by their alarm. They are censored, not failed: no score and no failed count includes them. A "
    "recipe with stopped runs has no failed share, mean, median, std or test. They would describe only its other runs.",
    "Bounds: the failed share if all stopped runs had healed, and if all had failed. In brackets: the lower 95% Wilson limit "
    "of the first, and the upper limit of the second.",
    "Audited estimate: some of the alarmed runs, drawn at random (--audit_alarms), were finished anyway. The estimate takes "
    "their failed share for the stopped runs too. Its 95% interval combines the Wilson limits of both shares.",
    "Saved: update steps that stopped runs did not make, and their share of all planned update steps.",
)
"""How to read the columns of stopped runs."""

EARLY_NOTES = (
    "Runs were stopped early because others looked better (--restarts). They are censored, not failed, except those that "
    "had diverged. A recipe with such runs has no failed share, mean, median, std or test. They would describe only the runs "
    "that looked best.",
    "Budget: update steps of all runs except crashed ones, as a number of whole runs. The best finished run was chosen by "
    "its score on the development set that selects. For new examples this score is too high.",
)
"""How to read the columns of runs that were stopped early."""


RESTART_NOTES = (
    MARK_NOTE,
    "First attempts: the share that failed, or would have. An alarm ended some of them, so there are bounds: the share if all of "
    "these had healed, and if all had failed. In brackets: the lower 95% Wilson limit of the first, the upper limit of the second. "
    "Audited: some of these first attempts, drawn at random (--audit_alarms), were trained to their end as well.",
    "Cost: update steps of all attempts over those of one whole run, mean over runs. Audits are not in it.",
)
"""How to read the figures of recipes with restarts."""


def _notes(summary: Mapping[str, Any]) -> list[str]:
    """How to read the table, then the comparisons, each in a line."""
    metric, recipes = summary["metric"] or "score", summary["recipes"]
    notes = [
        "failed: number of failed and diverged runs, their share, and its 95% Wilson interval. Where runs fail, a small std "
        "is no sign of stability.",
        f"{metric}: the score at the end of training. std: sample standard deviation (ddof = 1). The std of runs that did "
        "not fail is comparable only between recipes without failed runs.",
    ]
    if any(figures["report_mean"] is not None for figures in recipes):
        notes.append(
            "Scores and verdicts come from the first half of the development set. It may select (the best run, the best "
            "evaluation). The second half has a column of its own, for reporting what was selected."
        )
    if any(run["cell"] for run in summary["runs"]):
        notes.append(
            "Runs of two-way seeds share initialisations and data orders. Intervals and tests treat runs as independent, so "
            "that intervals are too narrow and p-values too small. If the design is complete, two_way.md has the sources of "
            "the variance."
        )
    apart = [kind for kind in ("crashed", "unknown") if any(figures.get(kind) for figures in recipes)]
    if apart:
        notes.append(f"{joined(apart).capitalize()} runs are not counted in any figure.")
    if any(figures.get("unjudged") for figures in recipes):
        notes.append(UNJUDGED_NOTE)
    missing = [(f["runs"] - censored(f) - f["scores"], f["recipe"]) for f in recipes]
    scoreless = [f"{number} of {recipe}" for number, recipe in missing if number]
    if scoreless:
        notes.append(f"Runs without a score: {', '.join(scoreless)}. They count only in the failed share.")
    if any(figures["stopped"] for figures in recipes):
        notes += STOPPED_NOTES
    if any(figures["stopped_early"] for figures in recipes):
        notes += EARLY_NOTES
        notes += [f"{f['recipe']}: {_best_sentence(f, metric)}" for f in recipes if f["best_run"] is not None]
    if any(figures.get("restarts") for figures in recipes):
        notes += RESTART_NOTES
    if len(_evaluations(summary)) > 1:
        numbers = [f"{f['recipe']} {' or '.join(map(str, f['evaluations']))}" for f in recipes if f["evaluations"]]
        notes.append(
            f"There is no column for the best evaluation. Runs differ in their number of evaluations "
            f"({', '.join(numbers)}), and the best of more evaluations is higher by selection."
        )
    tested = [c for c in summary["comparisons"] if not any(c["stopped"]) and not any(c["stopped_early"])]
    number = len(tested)
    if number:
        pairs = "each pair" if len(recipes) <= ALL_PAIRS_UP_TO else f"each of {len(recipes)} recipes with the first"
        corrected = f", not corrected for {number} comparisons" if number > 1 else ""
        notes.append(
            f"Comparisons, {pairs}: failed runs first, then spread. Brown-Forsythe is Levene's test about the median, on "
            f"the last {metric} of all runs. The paper uses Levene's test. p is two-sided{corrected}. A difference counts as "
            f"shown if p is below {decimal(LEVEL, 2)}."
        )
    return notes + [comparison["sentence"] for comparison in summary["comparisons"]]


def _evaluations(summary: Mapping[str, Any]) -> set[int]:
    """The numbers of evaluations that runs have."""
    return {number for figures in summary["recipes"] for number in figures["evaluations"]}


def _best_sentence(figures: Mapping[str, Any], metric: str) -> str:
    """`the best finished run is seed 3, accuracy 0.712; 0.695 on the second half, which did not select it.`"""
    best = figures["best_run"]
    text = f"the best finished run is seed {seed_text(best['seed'])}, {metric} {decimal(best['score'])}"
    if best["report"] is None:
        return f"{text}, on the set that selected it (--validation_half both keeps a half for the report)."
    return f"{text}; {decimal(best['report'])} on the second half, which did not select it."
