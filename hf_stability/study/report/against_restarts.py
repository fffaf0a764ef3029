"""One run of a recipe against restarts of another recipe at the same cost: the difference, and its interval.

A run of the recipe costs as much as k runs of the base. The recipe's mean score is compared with the expected score of the
best of k runs of the base (see `restarts_at_budget`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ...statistics import chance_among, check_confidence, expanded_ends
from .restarts import restarts_at_budget


@dataclass(frozen=True)
class AgainstRestarts:
    """Result of `against_restarts`, in the scores' unit.

    Args:
        restarts: expected score of the best of k runs of the base.
        difference: mean of the other recipe's runs minus `restarts`.
        low, high: interval of the difference; NaN if either recipe has fewer than 2 runs.
    """

    restarts: float
    difference: float
    low: float
    high: float


def against_restarts(
    scores: np.ndarray,
    select: np.ndarray,
    report: np.ndarray,
    budget: float,
    rng: np.random.Generator,
    draws: int = 2000,
    confidence: float = 0.95,
) -> AgainstRestarts:
    """Mean score of a recipe minus the best of k restarts of the base, with its expanded percentile interval.

    Each bootstrap draw takes M and N runs with replacement. A draw often misses the best run, which lowers its expected
    maximum. So the draws' differences are shifted until their mean is the estimate. The interval's ends are percentiles
    further out than the confidence asks for, see
    `expanded_ends`, with n the smaller number of runs.

    `python benchmarks/interval_coverage.py` compares this interval with others, and measures how often it covers the true
    value. The runs of both recipes count as independent. With shared seeds the interval is too long rather than too short.

    Args:
        scores: (M,), finite: the other recipe's runs.
        select: (N,), finite, larger is better: the scores of the base's runs that select.
        report: (N,), finite: the scores of the same runs that are reported.
        budget: k, in runs of the base, from 1 to N; linear between whole numbers.
        rng: draws the base's runs, then the other recipe's.
        draws: bootstrap draws, at least 1.
        confidence: in (0, 1).

    Raises:
        InputError: a score is not finite, there are more or fewer reports than scores, the budget is outside 1 to N, the
            confidence is outside (0, 1), or there are no draws.
    """
    scores, select, report = (np.asarray(values, dtype=float) for values in (scores, select, report))
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise InputError("no scores, or some are not finite; for a diverged run, give the score of its predictions")
    check_confidence(confidence)
    if draws < 1:
        raise InputError(f"{draws} bootstrap draws: need at least 1, better 1000")
    best = float(restarts_at_budget(select, budget, report))
    difference = float(scores.mean()) - best
    if min(len(scores), len(report)) < 2:
        return AgainstRestarts(best, difference, np.nan, np.nan)
    best_drawn = restarts_of_draws(resample(len(report), draws, rng), select, budget, report)
    drawn = resample(len(scores), draws, rng) @ scores / len(scores) - best_drawn
    ends = np.quantile(drawn, expanded_ends(min(len(scores), len(report)), confidence))
    low, high = ends - drawn.mean() + difference
    return AgainstRestarts(best, difference, float(low), float(high))


def resample(n: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n runs is in a bootstrap draw of n: (draws, n), whole numbers as floats; rows add up to n."""
    drawn = rng.integers(n, size=(draws, n))
    return np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(float)


def restarts_of_draws(times: np.ndarray, select: np.ndarray, budget: float, report: np.ndarray) -> np.ndarray:
    """`restarts_at_budget` of many bootstrap draws at once.

    Runs that tie by `select` form one level, with the mean of their drawn reports.

    Args:
        times: (draws, N), how often each run is drawn; each row's sum is N.
        select, report: (N,).
        budget: from 1 to N.

    Returns:
        (draws,), in the unit of `report`.
    """
    runs = len(report)
    levels, level = np.unique(select, return_inverse=True)
    member = (level[:, None] == np.arange(len(levels))).astype(float)  # (N, levels)
    size = times @ member
    means = (times * report) @ member / size.clip(1)
    at_most = np.concatenate([np.zeros((len(times), 1)), size.cumsum(1)], 1).astype(int)
    chance = chance_among(np.arange(runs + 1), budget, runs, replace=False)
    return (np.diff(chance[at_most]) * means).sum(1)
