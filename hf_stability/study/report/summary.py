"""A study's summary as numbers: the content of `summary.json`, from the runs' records alone.

Failed runs come first. A recipe that nearly always fails has a small standard deviation, which is no sign of stability.

A run that its alarm stopped (`--on_alarm stop`) is censored: how it would have ended is unknown. A recipe with such runs
has bounds instead of a failed share, and an estimate from the alarmed runs that were finished anyway (`--audit_alarms`). It
has no mean and no std, because they would describe only its other runs, and it is not tested. The same is true of a recipe
with runs that were stopped early because others looked better (`--restarts`). It has its best finished run, and its cost.

A recipe with restarts (`--on_alarm restart`) has the figures of its final results, marked everywhere, and beside them how
its first attempts ended: with bounds, because an attempt that its alarm ended is censored.

A run made elsewhere may have a score, but no known baseline. It is unjudged: its score counts in mean and std, but whether it
failed is not known. A recipe with such runs has no failed share, only bounds on it, and no std of the runs that did not fail.

The words are elsewhere: `sentences` compares two recipes,
`summary_page` writes the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from ...statistics import (
    SpreadTest,
    audited_failed_share,
    brown_forsythe,
    fisher_exact_p,
    standard_deviation,
    wilson_interval,
)
from ...verdicts.verdict import CENSORED, NOT_OK
from ..attempts import cost, first_attempts, has_attempts, was_restarted
from ..records import UNJUDGED, RunRecord
from .sentences import BOUNDS, comparison_sentence


SUMMARY_SCHEMA = "hf_stability.summary/4"

NO_RESULT = ("crashed", "waiting", "unknown")
"""Statuses of runs that no figure counts."""

COMPARED = ("failed", "stopped", "stopped_early", "runs", *BOUNDS, "failed_share_audited")
"""Figures of a recipe that its comparisons repeat."""

ALL_PAIRS_UP_TO = 3
"""With more recipes than this, each is compared only with the first."""


def summarize(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The figures of each recipe, in the order of their first runs, and comparisons of pairs.

    A score is a run's headline metric at the END of training. With `--validation_half both` it is that of the first half.
    A figure that cannot be computed is None.

    | figure of a recipe | meaning |
    | --- | --- |
    | `runs` | runs that count: all except crashed, waiting and unknown ones |
    | `crashed`, `unknown` | their numbers; `unknown` only if there are any |
    | `failed` | failed and diverged runs, also those that had diverged when they were stopped |
    | `unjudged` | runs with a score but without a known baseline; only if there are any. `failed` is then the number of runs that are known to have failed |
    | `failed_share`, `_low`, `_high` | their share, and its 95% Wilson interval; None if runs were stopped or are unjudged |
    | `std`, `mean`, `median`, `max` | of all scores, `std` with ddof = 1; if runs were stopped there is only `max` |
    | `std_ok` | standard deviation of the runs that did not fail; None if runs are unjudged |
    | `scores` | number of scores; stopped runs have none |
    | `best_mean` | mean of each run's best evaluation; comparable only between equal numbers of `evaluations` |
    | `report_mean` | mean on the second half, of the same runs as `mean` |
    | `evaluations` | the numbers of evaluations of finished runs |
    | `stopped` | runs that their alarm stopped |
    | `stopped_early` | runs that a policy ended at their look, also diverged ones |
    | `budget` | cost of all `runs`, in runs: the sum of their shares of the planned update steps, of all attempts |
    | `restarts` | only with `--on_alarm restart`, see `_restart_figures` |
    | `best_run` | seed, score and report score of the best finished run, if runs were stopped early |
    | `alarmed` | runs that raised an alarm |
    | `audited`, `audited_failed` | runs that were finished although an alarm would have stopped them; how many of them failed |
    | `failed_share_if_all_heal`, `_low`, `_high` | bound if no stopped run would have failed, and no unjudged run has failed |
    | `failed_share_if_all_fail`, `_low`, `_high` | bound if all stopped runs would have failed, and all unjudged runs have |
    | `failed_share_audited`, `_low`, `_high` | estimate from the audited runs, see `statistics.audited_failed_share` |
    | `saved_steps`, `saved_share` | update steps that stopped runs did not make, and their share of those planned for all `runs` |

    `comparisons` has an entry for each pair of up to 3 recipes; with more recipes, for each with the first. The values of a
    pair are in the order of its `recipes`; see `brown_forsythe`.

    Args:
        runs: records of one task and metric, in the order of the tables.

    Returns:
        the content of `summary.json`; `runs` has every run, waiting ones too.
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
    """Number of a recipe's runs that were stopped before their end, so that their end is unknown."""
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
    unjudged = sum(run.status == UNJUDGED for run in runs)
    last = _last_scores(finished)
    whole = [] if stopped or early else finished  # the other scores depend on not having been stopped
    scores = _last_scores(whole)
    best = [run.best for run in whole if run.best is not None]
    report = [run.report for run in whole if run.report is not None]
    return {
        "recipe": recipe,
        "runs": len(judged),
        "crashed": sum(run.status == "crashed" for run in runs),
        **({"unknown": unknown} if unknown else {}),
        "failed": failed,
        **({"unjudged": unjudged} if unjudged else {}),
        **with_interval("failed_share", failed, 0 if unjudged else len(whole)),
        "std_ok": None if unjudged else _std(_last_scores([run for run in whole if run.status == "ok"])),
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
        "budget": sum(own for run in judged if (own := cost(run)) is not None),
        "best_run": _best_run(finished) if early else None,
        **_alarm_figures(judged, failed),
        **_restart_figures(judged),
    }


def _best_run(runs: Sequence[RunRecord]) -> dict[str, Any] | None:
    """The run with the best score at its end; ties go to the smallest seed."""
    scored = [run for run in runs if run.last is not None]
    if not scored:
        return None
    best = max(scored, key=lambda run: (run.last, -run.seed))
    return {"seed": best.seed, "score": best.last, "report": best.report}


def _alarm_figures(judged: list[RunRecord], failed: int) -> dict[str, Any]:
    audited = [run for run in judged if run.audited and run.attempts is None]  # of a restart: see `_restart_figures`
    audited_failed = sum(run.status in NOT_OK for run in audited)
    saved = sum(run.planned_steps - run.steps for run in judged if run.status == "stopped")
    planned = sum(run.planned_steps for run in judged)
    stopped, early, unjudged = (sum(run.status == status for run in judged) for status in (*CENSORED, UNJUDGED))
    return {
        "alarmed": sum(run.alarm_step is not None or was_restarted(run) for run in judged),
        "audited": len(audited),
        "audited_failed": audited_failed,
        **with_interval("failed_share_if_all_heal", failed, len(judged)),
        **with_interval("failed_share_if_all_fail", failed + stopped + early + unjudged, len(judged)),
        **_named(
            "failed_share_audited", audited_failed_share(failed, stopped, audited_failed, len(audited), len(judged))
        ),
        "saved_steps": saved,
        "saved_share": saved / planned if planned else None,
    }


def _restart_figures(judged: list[RunRecord]) -> dict[str, Any]:
    """The figures of first attempts and of cost, under the key `restarts`; empty for a recipe without restarts.

    | figure | meaning |
    | --- | --- |
    | `runs` | number of first attempts |
    | `restarted` | runs that began again at least once |
    | `failed`, `stopped`, `audited`, `audited_failed` | of first attempts, see `first_attempts` |
    | `failed_share_if_all_heal`, `failed_share_if_all_fail`, `_low`, `_high` | bounds: no stopped first attempt would have failed, or all |
    | `failed_share_audited`, `_low`, `_high` | estimate from the audited first attempts |
    | `cost` | mean cost per run, in runs: update steps of all attempts over those of one whole run |
    """
    if not has_attempts(judged):
        return {}
    found, runs = first_attempts(judged), len(judged)
    failed, stopped = found["failed"], found["stopped"]
    audit = audited_failed_share(failed, stopped, found["audited_failed"], found["audited"], runs)
    costs = [own for run in judged if (own := cost(run)) is not None]
    figures = {
        "runs": runs,
        "restarted": sum(map(was_restarted, judged)),
        **found,
        **with_interval(BOUNDS[0], failed, runs),
        **with_interval(BOUNDS[1], failed + stopped, runs),
        **_named("failed_share_audited", audit),
        "cost": float(np.mean(costs)) if costs else None,
    }
    return {"restarts": figures}


def with_interval(name: str, count: int, n: int) -> dict[str, float | None]:
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
    unjudged = [figures.get("unjudged", 0) for figures in (a, b)]
    restarted = [bool(figures.get("restarts")) for figures in (a, b)]
    shares_known = a["runs"] and b["runs"] and not any_censored and not any(unjudged)
    if any_censored:
        spreads = SpreadTest(None, None, (len(scores_a), len(scores_b)), (), "runs were stopped")
    else:
        spreads = brown_forsythe(scores_a, scores_b)
    comparison = {
        "recipes": [a["recipe"], b["recipe"]],
        **{key: [a[key], b[key]] for key in COMPARED},
        **({"unjudged": unjudged} if any(unjudged) else {}),
        **({"restarts": restarted} if any(restarted) else {}),
        "fisher_p": fisher_exact_p(*counts) if shares_known else None,
        "std_ok": [a["std_ok"], b["std_ok"]],
        "std": [a["std"], b["std"]],
        "brown_forsythe": asdict(spreads),
    }
    return {**comparison, "sentence": comparison_sentence(comparison)}
