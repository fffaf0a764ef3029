"""A study's summary as numbers: what `summary.json` holds, from the runs' records alone.

Failed runs come first: a recipe that nearly always fails has a small standard deviation, which is no stability.

A run that its alarm stopped (`--on_alarm stop`) is censored: nobody knows how it would have ended. A recipe with such runs
has bounds instead of a failed share, and an estimate from the alarmed runs that were finished anyway (`--audit_alarms`). It
has no mean and no std, because the scores of the other runs flatter it, and it is not tested. The same goes for a recipe
with runs that were stopped early because others looked better (`--restarts`): it has its best finished run, and its cost.

The words are elsewhere: [`sentences`][hf_stability.study.report.sentences] compares two recipes,
[`summary_page`][hf_stability.study.report.summary_page] writes the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from ...verdicts.verdict import CENSORED
from ..records import RunRecord
from .sentences import BOUNDS, comparison_sentence
from .statistics import (
    BrownForsythe,
    audited_failed_share,
    brown_forsythe,
    fisher_exact_p,
    standard_deviation,
    wilson_interval,
)


SUMMARY_SCHEMA = "hf_stability.summary/4"

NOT_OK = ("failed", "diverged")
"""Statuses that count as failed."""

NO_RESULT = ("crashed", "waiting", "unknown")
"""Statuses of runs that are in no figure."""

COMPARED = ("failed", "stopped", "stopped_early", "runs", *BOUNDS, "failed_share_audited")
"""Figures of a recipe that its comparisons repeat."""

ALL_PAIRS_UP_TO = 3
"""With more recipes than this each is compared with the first only."""


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


def censored(figures: Mapping[str, Any]) -> int:
    """Number of a recipe's runs that were ended before their time: nobody knows how they would have ended."""
    return figures["stopped"] + figures["stopped_early"]


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
    any_censored = bool(censored(a) or censored(b))
    if any_censored:
        spreads = BrownForsythe(None, None, (len(scores_a), len(scores_b)), (), "runs were stopped")
    else:
        spreads = brown_forsythe(scores_a, scores_b)
    comparison = {
        "recipes": [a["recipe"], b["recipe"]],
        **{key: [a[key], b[key]] for key in COMPARED},
        "fisher_p": fisher_exact_p(*counts) if a["runs"] and b["runs"] and not any_censored else None,
        "std_ok": [a["std_ok"], b["std_ok"]],
        "std": [a["std"], b["std"]],
        "brown_forsythe": asdict(spreads),
    }
    return {**comparison, "sentence": comparison_sentence(comparison)}
