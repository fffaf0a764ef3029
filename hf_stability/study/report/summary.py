"""A study's tables: summary.json, summary.csv and summary.md; from the runs' records alone, the same bytes each time.

Failed runs come first. With bimodal scores a recipe that nearly always fails has a small standard deviation, which is
no stability: no recipe is called more stable than one that fails less often.

A run that its alarm stopped (`--on_alarm stop`) is censored: it neither failed nor held. A recipe with such runs has no
failed share but its bounds, and an estimate from those alarmed runs that were finished anyway (`--audit_alarms`); its
scores are those of the runs that were not stopped, which flatter it, so that it has no mean and no std, and nothing is
tested on it. The same holds of a recipe whose runs were stopped early because others looked better (`--restarts`): what it
has is its best finished run, and what that cost.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.files import write_json, write_text
from ...verdicts.verdict import CENSORED
from ..job import run_name
from ..records import RunRecord
from .statistics import BrownForsythe, brown_forsythe, fisher_exact_p, standard_deviation, wilson_interval


SUMMARY_SCHEMA = "hf_stability.summary/4"
NOT_OK = ("failed", "diverged")
NO_RESULT = ("crashed", "waiting", "unknown")
RUN_COLUMNS = (
    "recipe", "seed", "status", "metric", "last", "best", "accuracy", "baseline", "train_loss", "steps",
    "planned_steps", "alarm_step", "audited", "evaluations", "sentence",
)  # fmt: skip

LEVEL = 0.05
"""A difference is called one where p is below this."""

BOUNDS = ("failed_share_if_all_heal", "failed_share_if_all_fail")
COMPARED = ("failed", "stopped", "stopped_early", "runs", *BOUNDS, "failed_share_audited")

STOPPED_NOTES = (
    "Stopped runs were ended by their alarm. They are censored, not failed: in no score and in no failed count. A recipe "
    "that has any has no failed share, mean, median or std, which would be of its other runs alone, and no test.",
    "Bounds: the failed share if all stopped runs had healed, and if all had failed; in brackets the lower 95% Wilson limit "
    "of the one and the upper of the other.",
    "Audited estimate: of the runs to be stopped some, drawn at random (--audit_alarms), were finished anyway, and their "
    "failed share is taken for that of the stopped. Its 95% interval has Wilson's limits of both shares, one upon the other.",
    "Saved: update steps that stopped runs did not make, and their share of all that were planned.",
)
"""What must be known to read the columns of stopped runs."""

EARLY_NOTES = (
    "Runs that were stopped early are censored, not failed, but for those that had diverged: others looked better "
    "(--restarts). A recipe that has any has no failed share, mean, median or std, which would be of the runs that looked "
    "best, and no test.",
    "Budget: update steps of all runs but crashed ones, as a number of whole runs. The best finished run was chosen by its "
    "score on the development set that counts: as a score on new examples that is too high.",
)
"""What must be known to read the columns of runs that were stopped early."""

SCORE_COLUMNS = {
    "std of the ok runs (conditional)": "std_ok",
    "std, all runs": "std",
    "mean": "mean",
    "median": "median",
    "max": "max",
}
"""Columns of the scores, and the figures in them."""

ALL_PAIRS_UP_TO = 3
"""With more recipes than this each is compared with the first only."""

MOST_DECIMALS = 9
"""Standard deviations that are the same to this many decimals are the same."""


# ---- figures --------------------------------------------------------------------------------------------------------


def summarize(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Figures of each recipe, in the order in which recipes come first in `runs`, and comparisons of pairs.

    Scores are the headline metric at the END of training; `best_mean` is over each run's best evaluation, comparable
    only between equal numbers of `evaluations`. Failed and diverged runs are counted as `failed`; `failed_share_low`
    and `failed_share_high` are the 95% Wilson interval. Crashed runs have no score and are counted apart, in no share. Waiting
    ones are among the `runs` of the result only.

    `std` (ddof = 1) is over all runs that have a score, and so are `mean`, `median` and `max`; `std_ok` is over the ok
    runs alone: it is conditional on success. What cannot be computed is None. With `--validation_half both` all of these
    are of the first half; `report_mean` is the mean on the second, of the same runs as `mean`.

    Runs with the verdict `unknown` are in no figure; `unknown` counts them, where there are any.

    Stopped runs are among the `runs`, and have no score. A recipe with `stopped` runs has a `max` only, and instead of
    `failed_share` the bounds `failed_share_if_all_heal` and `failed_share_if_all_fail`, each with its 95% Wilson
    interval; without stopped runs these are the failed share. `alarmed` runs raised an alarm, whatever came of it;
    `audited` ones were to be stopped by it, were finished anyway, and `audited_failed` of them failed:
    `failed_share_audited` is what [`audited_failed_share`] makes of them. `saved_steps` are the update steps that stopped
    runs did not make, `saved_share` their share of the steps planned for all `runs`. A run that had diverged when its
    alarm ended it counts as failed, and not as stopped; it has no score either.

    Runs that a policy ended at their look are counted as `stopped_early`, apart from the `stopped` ones, and are in the
    bounds as these are; but those among them that had diverged are known to have `failed`, and are counted there too. A
    recipe with such runs has `best_run` (seed, score, and report score, where there is one) of its finished runs; `budget`
    is what all `runs` cost, in runs: the sum of their shares of the planned update steps.

    `comparisons` has an entry for each pair of up to 3 recipes; of more, for each with the first. The values of a pair
    stand in the order of its `recipes`; see [`brown_forsythe`][hf_stability.study.report.statistics.brown_forsythe].
    """
    names = list(dict.fromkeys(run.recipe for run in runs))
    by_recipe = {name: [run for run in runs if run.recipe == name] for name in names}
    figures = {name: _figures(name, own) for name, own in by_recipe.items()}
    scores = {name: _last_scores(own) for name, own in by_recipe.items()}
    pairs = [(a, b) for a, b in combinations(names, 2) if len(names) <= ALL_PAIRS_UP_TO or a == names[0]]
    return {
        "schema": SUMMARY_SCHEMA,
        "metric": next((run.metric for run in runs if run.metric), None),
        "recipes": list(figures.values()),
        "comparisons": [_compare(figures[a], figures[b], scores[a], scores[b]) for a, b in pairs],
        "runs": [run.to_dict() for run in runs],
    }


def _apart(figures: Mapping[str, Any]) -> str:
    """Runs that are in no figure: ` (+1 crashed, +2 unknown)`."""
    counts = [f"+{figures[kind]} {kind}" for kind in ("crashed", "unknown") if figures.get(kind)]
    return f" ({', '.join(counts)})" if counts else ""


def _last_scores(runs: Sequence[RunRecord]) -> np.ndarray:
    return np.array([run.last for run in runs if run.status not in NO_RESULT and run.last is not None], dtype=float)


def _figures(recipe: str, runs: list[RunRecord]) -> dict[str, Any]:
    judged = [run for run in runs if run.status not in NO_RESULT]
    finished = [run for run in judged if run.status not in CENSORED]
    stopped = sum(run.status == "stopped" for run in judged)
    early = sum(run.ended_at_look for run in judged)
    failed = sum(run.status in NOT_OK for run in finished)
    unknown = sum(run.status == "unknown" for run in runs)
    last = _last_scores(finished)
    whole = [] if stopped or early else finished  # the others' scores are conditional on not having been stopped
    scores = _last_scores(whole)
    best = [run.best for run in whole if run.best is not None]
    report = [run.report for run in whole if run.report is not None]
    return {
        "recipe": recipe,
        "runs": len(judged),
        "crashed": sum(run.status == "crashed" for run in runs),
        **({"unknown": unknown} if unknown else {}),
        "failed": failed,
        **_with_interval("failed_share", failed, len(whole)),
        "std_ok": _std(_last_scores([run for run in whole if run.status == "ok"])),
        "std": _std(scores),
        "mean": float(scores.mean()) if len(scores) else None,
        "median": float(np.median(scores)) if len(scores) else None,
        "max": float(last.max()) if len(last) else None,
        "scores": len(last),
        "best_mean": float(np.mean(best)) if best else None,
        "report_mean": float(np.mean(report)) if report else None,
        "evaluations": sorted({run.evaluations for run in finished if run.steps >= run.planned_steps}),
        "stopped": stopped,
        "stopped_early": early,
        "budget": sum(run.steps / run.planned_steps for run in judged if run.planned_steps),
        "best_run": _best_run(finished) if early else None,
        **_alarm_figures(judged, failed),
    }


def _best_run(runs: Sequence[RunRecord]) -> dict[str, Any] | None:
    """The run with the best score at its end, of equals that of the smallest seed."""
    scored = [run for run in runs if run.last is not None]
    if not scored:
        return None
    best = max(scored, key=lambda run: (run.last, -run.seed))
    return {"seed": best.seed, "score": best.last, "report": best.report}


def _alarm_figures(judged: list[RunRecord], failed: int) -> dict[str, Any]:
    audited = [run for run in judged if run.audited]
    audited_failed = sum(run.status in NOT_OK for run in audited)
    saved = sum(run.planned_steps - run.steps for run in judged if run.status == "stopped")
    planned = sum(run.planned_steps for run in judged)
    stopped, early = (sum(run.status == status for run in judged) for status in CENSORED)
    return {
        "alarmed": sum(run.alarm_step is not None for run in judged),
        "audited": len(audited),
        "audited_failed": audited_failed,
        **_with_interval("failed_share_if_all_heal", failed, len(judged)),
        **_with_interval("failed_share_if_all_fail", failed + stopped + early, len(judged)),
        **_named(
            "failed_share_audited", audited_failed_share(failed, stopped, audited_failed, len(audited), len(judged))
        ),
        "saved_steps": saved,
        "saved_share": saved / planned if planned else None,
    }


def audited_failed_share(
    failed: int, stopped: int, audited_failed: int, audited: int, runs: int
) -> tuple[float, float, float] | None:
    """Estimate of the share of runs that would have failed if none had been stopped, and its 95% interval.

    With s = audited_failed / audited, the failed share of those runs that were to be stopped and were finished anyway,

        share = (failed + stopped * s) / runs

    which is (failed among all others + (stopped + audited) * s) / runs: double sampling (Neyman 1938, JASA 33, p. 101),
    the estimator of Horvitz & Thompson with the number of audited runs in place of its expectation. Given this number the
    audited runs are a simple random sample of those to be stopped, so that the estimate is unbiased whenever there is one.

    The interval: Wilson's limits of s are put in its place, and of the lower (upper) count that this makes, Wilson's
    lower (upper) limit is taken. It lies within the outer limits of the bounds, is Wilson's own where nothing was
    stopped, and is wide where few were audited: of one run that failed s is .21 to 1. Two 95% limits one upon the other
    cover more than 95% as a rule: with 20 runs and a fifth of the alarmed ones audited 99% (median over shares of all
    sizes; a test computes it), and .88 at the lowest, where alarms and failures are both rare.
    Runs that crashed are in no figure, so that audits that tend to crash would not be a random sample any more.

    Args:
        failed: failed runs, audited ones among them.
        stopped: runs that were stopped.
        audited_failed: audited runs that failed, of `audited`.
        audited: runs that were to be stopped and were finished.
        runs: all of them.

    Returns:
        share, low, high; None where no run was audited.
    """
    if not audited:
        return None
    low, high = wilson_interval(audited_failed, audited)
    share = (failed + stopped * audited_failed / audited) / runs
    return (
        share,
        float(wilson_interval(failed + stopped * float(low), runs)[0]),
        float(wilson_interval(failed + stopped * float(high), runs)[1]),
    )


def _with_interval(name: str, count: int, n: int) -> dict[str, float | None]:
    """A share with its 95% Wilson interval; None for all where n is 0."""
    if not n:
        return _named(name, None)
    low, high = wilson_interval(count, n)
    return _named(name, (count / n, float(low), float(high)))


def _named(name: str, values: tuple[float, float, float] | None) -> dict[str, float | None]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), values or (None,) * 3, strict=True))


def _std(scores: np.ndarray) -> float | None:
    return float(standard_deviation(scores)) if len(scores) > 1 else None


def _compare(a: dict[str, Any], b: dict[str, Any], scores_a: np.ndarray, scores_b: np.ndarray) -> dict[str, Any]:
    counts = (a["failed"], a["runs"], b["failed"], b["runs"])
    censored = bool(_censored(a) or _censored(b))
    if censored:
        spreads = BrownForsythe(None, None, (len(scores_a), len(scores_b)), (), "runs were stopped")
    else:
        spreads = brown_forsythe(scores_a, scores_b)
    comparison = {
        "recipes": [a["recipe"], b["recipe"]],
        **{key: [a[key], b[key]] for key in COMPARED},
        "fisher_p": fisher_exact_p(*counts) if a["runs"] and b["runs"] and not censored else None,
        "std_ok": [a["std_ok"], b["std_ok"]],
        "std": [a["std"], b["std"]],
        "brown_forsythe": asdict(spreads),
    }
    return {**comparison, "sentence": _sentence(comparison)}


# ---- words ----------------------------------------------------------------------------------------------------------


def _sentence(comparison: dict[str, Any]) -> str:
    (a, b), (failed_a, failed_b), (runs_a, runs_b) = (comparison[key] for key in ("recipes", "failed", "runs"))
    if any(comparison["stopped_early"]):
        return (
            f"{a} against {b}: seeds were stopped early because others looked better, so that neither failed shares nor "
            "spreads are compared; one best run against another is one seed against one."
        )
    if runs_a and runs_b and any(comparison["stopped"]):
        return f"{a} against {b}: {_bounds(comparison)}"
    head = f"{a} against {b}: failed {failed_a} of {runs_a} against {failed_b} of {runs_b}"
    if not (runs_a and runs_b):
        return f"{head}. Nothing to compare."
    head += f" (Fisher's exact {_p(comparison['fisher_p'])})."
    if failed_a == failed_b == 0:
        return f"{head} {_no_failures(comparison)}"
    if failed_a * runs_b == failed_b * runs_a:
        return f"{head} {_equal_shares(comparison)}"
    return f"{head} {_different_shares(comparison)}"


def _bounds(comparison: dict[str, Any]) -> str:
    """Of runs some of which were stopped, all that is known of the failed shares; nothing is tested."""
    low, high = (comparison[key] for key in BOUNDS)
    parts = []
    for k, stopped in enumerate(comparison["stopped"]):
        audited = comparison["failed_share_audited"][k]
        part = f"{_share(low[k])} to {_share(high[k])}" if stopped else _share(low[k])
        part += f" ({stopped} of {comparison['runs'][k]} stopped"
        parts.append(part + (f"; audited estimate {_share(audited)})" if stopped and audited is not None else ")"))
    text = f"failed share {parts[0]} against {parts[1]}. "
    if max(low) <= min(high):
        text += "The bounds overlap: which of the two fails less often is open."
    else:
        less = comparison["recipes"][0 if high[0] < low[1] else 1]
        text += (
            f"Whatever the stopped runs had done, a smaller share of {less} would have failed here; it may be chance."
        )
    return f"{text} Stopped runs are censored: neither failed shares nor spreads are tested."


def _no_failures(comparison: dict[str, Any]) -> str:
    """No run failed in either, so their spreads may be compared."""
    test = comparison["brown_forsythe"]
    text = f"Std of the ok runs: {_both(comparison['std_ok'])}. {_brown_forsythe(test)}"
    if test["p"] is None:
        return text
    steadier = _smaller(comparison["std_ok"])
    if steadier is None or steadier != _smaller(test["distances"]) or not _shown(test["p"]):
        return f"{text} No difference in spread is shown."
    name = comparison["recipes"][steadier]
    return f"{text} {name} is the more stable of the two: no run failed, and its scores spread less."


def _equal_shares(comparison: dict[str, Any]) -> str:
    """The same share failed, and it is not 0."""
    if comparison["failed"] == comparison["runs"]:
        caution = "where no run succeeds they say nothing of stability."
    else:
        caution = "failed runs among them, they say how far these are from the others."
    text = f"The failed shares are the same. Std, all runs: {_both(comparison['std'])}; {caution}"
    return f"{text} {_brown_forsythe(comparison['brown_forsythe'])}"


def _different_shares(comparison: dict[str, Any]) -> str:
    failed, runs, names, std = (comparison[key] for key in ("failed", "runs", "recipes", "std"))
    more = 0 if failed[0] * runs[1] > failed[1] * runs[0] else 1
    if _shown(comparison["fisher_p"]):
        text = f"{names[1 - more]} is the more stable of the two: it fails less often."
    else:
        text = "The difference in failed shares may be chance."
    text += f" Std, all runs: {_both(std)}"
    if _smaller(std) == more:
        # a few failed runs, far from the others, make a std large: only where half of them fail do they make it small
        if 2 * failed[more] >= runs[more]:
            text += f"; that of {names[more]} is small because its runs fail, and is no stability"
        else:
            text += f"; that of {names[more]} is smaller, but more of its runs fail: it is no stability"
    return f"{text}. {_brown_forsythe(comparison['brown_forsythe'])}"


def _brown_forsythe(test: dict[str, Any]) -> str:
    n = " and ".join(map(str, test["n"]))
    if test["p"] is None:
        return f"Brown-Forsythe: undefined, {test['reason']} (n = {n})."
    return f"Brown-Forsythe: F(1, {sum(test['n']) - 2}) = {decimal(test['f'], 2)}, {_p(test['p'])} (n = {n})."


def _smaller(values: Sequence[float | None]) -> int | None:
    """Which of two is smaller; None where they are the same but for rounding, or one is missing."""
    if None in values or round(values[0], MOST_DECIMALS) == round(values[1], MOST_DECIMALS):
        return None
    return 0 if values[0] < values[1] else 1


def _shown(p: float) -> bool:
    """As p is printed: none that reads .050 is below .05."""
    return round(p, 3) < LEVEL


def _notes(summary: dict[str, Any]) -> list[str]:
    """What must be known to read the table, and the comparisons; a line each."""
    metric, recipes = summary["metric"] or "score", summary["recipes"]
    notes = [
        "failed: failed and diverged runs, their share and its 95% Wilson interval. Where runs fail a small std is no "
        "stability.",
        f"{metric}: at the end of training. std: ddof = 1; that of the ok runs leaves the failed ones out, and is "
        "comparable only where none failed.",
    ]
    if any(figures["report_mean"] is not None for figures in recipes):
        notes.append(
            "Scores and verdicts are of the first half of the development set, which may select (the best run, the best "
            "evaluation); the column of the second half is for reporting what was selected."
        )
    if any(run["cell"] for run in summary["runs"]):
        notes.append(
            "Runs of two-way seeds share initialisations and data orders: intervals and tests, which take runs for "
            "independent, are too sure of them. two_way.md has the variance's sources, where the design is whole."
        )
    if any(figures["crashed"] for figures in recipes):
        notes.append("Crashed runs are in no figure.")
    missing = [(f["runs"] - _censored(f) - f["scores"], f["recipe"]) for f in recipes]
    scoreless = [f"{number} of {recipe}" for number, recipe in missing if number]
    if scoreless:
        notes.append(f"Runs without a score: {', '.join(scoreless)}. They are in the failed share only.")
    if any(figures["stopped"] for figures in recipes):
        notes += STOPPED_NOTES
    if any(figures["stopped_early"] for figures in recipes):
        notes += EARLY_NOTES
        notes += [f"{f['recipe']}: {_best_sentence(f, metric)}" for f in recipes if f["best_run"] is not None]
    if len(_evaluations(summary)) > 1:
        numbers = [f"{f['recipe']} {_either(f['evaluations'])}" for f in recipes if f["evaluations"]]
        notes.append(
            f"No column for the best evaluation: the runs differ in how many they have ({', '.join(numbers)}), and "
            "the best of more evaluations is higher by selection."
        )
    tested = [c for c in summary["comparisons"] if not any(c["stopped"]) and not any(c["stopped_early"])]
    number = len(tested)
    if number:
        pairs = "each pair" if len(recipes) <= ALL_PAIRS_UP_TO else f"each of {len(recipes)} recipes with the first"
        corrected = f", not corrected for {number} comparisons" if number > 1 else ""
        notes.append(
            f"Comparisons, {pairs}: failed runs, then spread. Brown-Forsythe is Levene's test about the median, on "
            f"the last {metric} of all runs, for comparison with the paper's Levene test. p is two-sided{corrected}; "
            f"a difference is called one below {decimal(LEVEL, 2)}."
        )
    return notes + [comparison["sentence"] for comparison in summary["comparisons"]]


def _evaluations(summary: dict[str, Any]) -> set[int]:
    """The numbers of evaluations that runs have."""
    return {number for figures in summary["recipes"] for number in figures["evaluations"]}


# ---- tables ---------------------------------------------------------------------------------------------------------


def to_markdown(summary: dict[str, Any]) -> str:
    """What a study ends with: the recipes' table, and below it what must be known to read it and the comparisons."""
    return "\n".join([recipes_table(summary), "", *(f"- {note}" for note in _notes(summary))])


def recipes_table(summary: dict[str, Any]) -> str:
    """A row for each recipe, as Markdown.

    The best evaluations' mean has a column only where all runs have the same number of evaluations, two or more; stopped
    runs have columns only where there are any.
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
    rows = [
        [
            figures["recipe"],
            str(figures["runs"]) + _apart(figures),
            failed_text(figures),
            *(cell(figures) for cell in stops.values()),
            *(decimal(figures[key]) for key in columns.values()),
        ]
        for figures in summary["recipes"]
    ]
    return markdown_table(["recipe", "runs", "failed = share (95% interval)", *stops, *columns], rows)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write summary.json, summary.csv (a row for each run) and summary.md, each atomically."""
    write_json(folder / "summary.json", summary)
    table = io.StringIO()
    writer = csv.DictWriter(table, RUN_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(summary["runs"])
    metric = summary["metric"] or "score"
    header = ["recipe", "seed", f"{metric}: last", f"{metric}: best", "best of", "verdict"]
    runs = [
        [r["recipe"], _seed(r), decimal(r["last"]), decimal(r["best"]), str(r["evaluations"]), r["sentence"]]
        for r in summary["runs"]
    ]
    text = f"# Scores over seeds\n\n{to_markdown(summary)}\n\n## Runs\n\n{markdown_table(header, runs)}\n"
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


def _seed(run: dict[str, Any]) -> str:
    """`3`; of two-way seeds `init-02_order-01_dropout-1`."""
    return str(run["seed"]) if run["cell"] is None else run_name("", 0, run["cell"]).strip("/")


# ---- numbers --------------------------------------------------------------------------------------------------------


def failed_text(figures: dict[str, Any]) -> str:
    """`0 (0-.16)`, `9 = .45 (.26-.66)`; `9` where runs were stopped; `-` where no run ended."""
    if not figures["runs"]:
        return "-"
    if _censored(figures):
        return str(figures["failed"])
    share, low, high = (_share(figures[key]) for key in ("failed_share", "failed_share_low", "failed_share_high"))
    return f"{figures['failed']}{f' = {share}' if figures['failed'] else ''} ({low}-{high})"


def _bounds_cell(figures: dict[str, Any]) -> str:
    """`.10-.35 (.03-.57)`; `-` where no run was stopped."""
    if not figures["stopped"]:
        return "-"
    keys = (*BOUNDS, "failed_share_if_all_heal_low", "failed_share_if_all_fail_high")
    heal, fail, low, high = (_share(figures[key]) for key in keys)
    return f"{heal}-{fail} ({low}-{high})"


def _audited_cell(figures: dict[str, Any]) -> str:
    """`.28 (.07-.56), 1 of 2`; `-` where no run was stopped, or none audited."""
    if not figures["stopped"] or not figures["audited"]:
        return "-"
    keys = ("failed_share_audited", "failed_share_audited_low", "failed_share_audited_high")
    share, low, high = (_share(figures[key]) for key in keys)
    return f"{share} ({low}-{high}), {figures['audited_failed']} of {figures['audited']}"


def _saved_cell(figures: dict[str, Any]) -> str:
    """`570 = .15`; `-` where no run was stopped."""
    return f"{figures['saved_steps']} = {_share(figures['saved_share'])}" if figures["stopped"] else "-"


STOP_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "stopped": lambda figures: str(figures["stopped"]),
    "failed share: bounds (95% limits)": _bounds_cell,
    "failed share: audited estimate (95% interval), failed of audited": _audited_cell,
    "update steps saved = share": _saved_cell,
}
"""Columns of the recipes' table where runs were stopped."""

EARLY_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "stopped early": lambda figures: str(figures["stopped_early"]),
    "budget, runs": lambda figures: decimal(figures["budget"], 2),
}
"""Columns where runs were stopped early, because others looked better."""


def _censored(figures: dict[str, Any]) -> int:
    """Runs whose end nobody knows."""
    return figures["stopped"] + figures["stopped_early"]


def _best_sentence(figures: dict[str, Any], metric: str) -> str:
    """`the best finished run is seed 3, accuracy .712; .695 on the second half, which did not select it.`"""
    best = figures["best_run"]
    text = f"the best finished run is seed {best['seed']}, {metric} {decimal(best['score'])}"
    if best["report"] is None:
        return f"{text}, on the set that selected it (--validation_half both keeps a half for the report)."
    return f"{text}; {decimal(best['report'])} on the second half, which did not select it."


def _share(share: float) -> str:
    """Two decimals; `0` and `1` only where it is none and all."""
    return str(int(share)) if share in (0, 1) else decimal(share, 2)


def decimal(value: float | None, decimals: int = 3) -> str:
    """`.827`, `-.012`, `1.000`; `-` for None."""
    if value is None:
        return "-"
    text = f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0: no minus sign before zero
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def _p(p: float) -> str:
    return "p < .001" if p < 0.001 else f"p = {decimal(p)}"


def _both(values: Sequence[float | None]) -> str:
    """Two numbers with three decimals, or with as many as it takes to tell them apart."""
    decimals = 3
    while _smaller(values) is not None and len({decimal(value, decimals) for value in values}) == 1:
        decimals += 1
    return " against ".join(decimal(value, decimals) for value in values)


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))
