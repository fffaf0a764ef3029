"""The value of restarts, and of stopping bad seeds early: several runs of one recipe, of which the best is kept.

Restarts: fine-tune n times with other seeds, keep the run with the best development-set score (Devlin et al. 2019, BERT,
section 4.1). Early stopping of bad seeds: start t runs, look at them after a fraction f of training, finish the best p
(Dodge et al. 2020, arXiv 2002.06305). Both are computed from N runs that were all finished, as the mean over all possible
draws from them.

A run has three scores. `looks`, in the middle of training, and `scores`, at its end, SELECT. `report` is the score at the
end on examples that did not select. The run with the best score was also lucky on the examples of that score; `report`
leaves that luck out. Without `report` the selecting scores are reported, and the result is too high for new examples.

All functions are exact and pure: no draws, no global state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import comb, floor

import numpy as np

from ...errors import InputError
from ...statistics import expected_maximum
from ...statistics.scores import checked_reports


ROUNDING = 1e-9
"""Tolerance of a budget, in runs: `5 * 0.2 + 4 * 0.8` may be above 4.2."""


# ---- restarts -------------------------------------------------------------------------------------------------------


def restarts_at_budget(scores: np.ndarray, budget: np.ndarray | float, report: np.ndarray | None = None) -> np.ndarray:
    """Expected report score of plain restarts that cost `budget` runs, not necessarily a whole number.

    For whole numbers of runs it is `expected_maximum` without replacement, and it is linear between them. 3.4 runs are 4
    runs with probability 0.4 and 3 otherwise, which costs 3.4 on average.

    Args:
        scores: (N,), the scores that select; larger is better.
        budget: (...), in runs, from 1 to N.
        report: (N,), the scores that are reported; default: `scores`.

    Returns:
        (...), as `budget`, in the unit of `report`.

    Raises:
        InputError: the budget is outside 1 to N; and as `expected_maximum`.
    """
    scores, report = checked_reports(scores, report)
    budget = np.asarray(budget, dtype=float)
    runs = np.arange(1, len(scores) + 1)
    if not ((budget >= 1 - ROUNDING) & (budget <= runs[-1] + ROUNDING)).all():
        raise InputError(f"a budget of {budget.tolist()} runs: need 1 to {runs[-1]}, the number of runs")
    return np.interp(budget, runs, expected_maximum(scores, runs, report))


# ---- early stopping of bad seeds ------------------------------------------------------------------------------------


def early_stopping_cost(started: int, fraction: float, finished: int) -> float:
    """Cost in runs of starting t, looking after a fraction f and finishing p: `t f + p (1 - f)` (Dodge et al. 2020).

    The evaluations are not counted.

    Args:
        started: t, at least p.
        fraction: f, of the planned update steps, in (0, 1).
        finished: p, at least 1.

    Returns:
        The spent budget, in runs, from 1 to t.

    Raises:
        InputError: a value is outside these ranges.
    """
    if not 1 <= finished <= started:
        raise InputError(f"{started} runs started, {finished} finished: need 1 <= finished <= started")
    if not 0 < fraction < 1:
        raise InputError(f"a look after a fraction {fraction} of training: need a number between 0 and 1")
    return started * fraction + finished * (1 - fraction)


def affordable(budget: float, fractions: Sequence[float], runs: int) -> list[tuple[int, float, int]]:
    """All `(t, f, p)` that stop at least one run, cost at most `budget`, and leave too little to start one more run.

    For each f and p, t is the largest number that the budget and the number of runs allow; a smaller t would spend less.

    Args:
        budget: in runs, at least 1.
        fractions: f, each in (0, 1).
        runs: N, the largest number that can be started.

    Returns:
        (t, f, p), by f in the given order, then by p; empty if the budget allows only plain restarts.
    """
    if not budget >= 1:
        raise InputError(f"a budget of {budget} runs: need at least 1")
    policies = []
    for fraction in fractions:
        for finished in range(1, floor(budget) + 1):
            early_stopping_cost(finished, fraction, finished)  # for its check of the fraction
            started = min(runs, floor((budget - finished * (1 - fraction)) / fraction + ROUNDING))
            if started > finished:
                policies.append((started, fraction, finished))
    return policies


def expected_early_stopping(
    look: np.ndarray, scores: np.ndarray, started: int, finished: int, report: np.ndarray | None = None
) -> float:
    """Expected report score of starting t runs, finishing the best p at the look, and keeping the best at the end.

    This is the exact mean over all C(N, t) subsets of the N runs. In each subset the p best by `look` are finished. The best
    of these by `scores` is kept, and its `report` counts. Runs that tie at the look are finished equally often, and runs
    that tie at the end are kept equally often. With p = t it is plain restarts, `expected_maximum(scores, t, report)`.

    Subsets are counted, not listed. Let a runs score above some level at the look, h runs at it, and b runs below it. In
    C(a, p - q) sum_{x >= q} C(h, x) C(b, t - (p - q) - x) subsets this level is the last one that is finished, with q of its
    runs. Any p - q of the a runs and any q of the h runs are finished then. The best of these is counted in the same way.

    Args:
        look: (N,), finite, larger is better: scores at the look.
        scores: (N,), finite, larger is better: scores at the end, of the same runs.
        started: t, from 1 to N.
        finished: p, from 1 to t.
        report: (N,), finite; default: `scores`.

    Returns:
        In the unit of `report`.

    Raises:
        InputError: a score is not finite, the scores are not of the same runs, or t or p is outside its range.
    """
    look, _ = checked_reports(look, scores)
    scores, report = checked_reports(scores, report)
    runs = len(scores)
    if not 1 <= finished <= started <= runs:
        raise InputError(
            f"{started} of {runs} runs started, {finished} finished: need 1 <= finished <= started <= {runs}"
        )
    subsets = comb(runs, started)
    total = 0.0
    for value in np.unique(look):
        above, level = look > value, look == value
        a, h = int(above.sum()), int(level.sum())
        b = runs - a - h
        for q in range(max(1, finished - a), min(finished, h) + 1):
            k = finished - q
            ways = sum(comb(h, x) * comb(b, started - k - x) for x in range(q, min(h, started - k) + 1))
            if ways:
                total += comb(a, k) * ways / subsets * _expected_best(scores, report, above, k, level, q)
    return float(total)


def _expected_best(
    scores: np.ndarray, report: np.ndarray, first: np.ndarray, k: int, second: np.ndarray, q: int
) -> float:
    """Mean report score of the best by `scores` of any k runs of `first` and any q of `second` (masks, (N,))."""
    levels, rank = np.unique(scores, return_inverse=True)
    count = [np.bincount(rank[runs], minlength=len(levels)) for runs in (first, second)]
    total_report = [np.bincount(rank[runs], weights=report[runs], minlength=len(levels)) for runs in (first, second)]
    mean = [(sums / ties.clip(1)).tolist() for sums, ties in zip(total_report, count, strict=True)]
    lower = [(ties.cumsum() - ties).tolist() for ties in count]
    ties = [ties.tolist() for ties in count]
    subsets = comb(sum(ties[0]), k) * comb(sum(ties[1]), q)
    total = 0.0
    for level in range(len(levels)):
        for x in range(min(k, ties[0][level]) + 1):  # x and y runs tie for the best, of first and second
            ways_first = comb(ties[0][level], x) * comb(lower[0][level], k - x)
            for y in range(min(q, ties[1][level]) + 1) if ways_first else ():
                ways = ways_first * comb(ties[1][level], y) * comb(lower[1][level], q - y)
                if x + y:
                    total += ways / subsets * (x * mean[0][level] + y * mean[1][level]) / (x + y)
    return total


@dataclass(frozen=True)
class PolicyWorth:
    """A row of `tabulate`: start t runs, look at a fraction f of training, finish p.

    Args:
        started, fraction, finished: t, f, p.
        budget: what it costs, `t f + p (1 - f)` runs.
        score: expected report score of the run that is kept.
        restarts: the same for plain restarts at this budget, see `restarts_at_budget`.
        gain: `score - restarts`.
        gain_se: its jackknife standard error, see `jackknife_standard_error`; None if t = N, or if not asked for.
    """

    started: int
    fraction: float
    finished: int
    budget: float
    score: float
    restarts: float
    gain: float
    gain_se: float | None


def tabulate(
    budget: float,
    fractions: Sequence[float],
    looks: np.ndarray,
    scores: np.ndarray,
    report: np.ndarray | None = None,
    *,
    standard_errors: bool = True,
) -> list[PolicyWorth]:
    """Every early stopping that a budget allows, each against plain restarts of the same cost.

    The row with the largest gain was chosen by its gain. Its gain is therefore too high as an estimate, and its standard
    error too small. Choose a row on some runs, value it on others.

    Args:
        budget: in runs, from 1 to N.
        fractions: (F,), of the planned update steps, each in (0, 1).
        looks: (N, F), finite, larger is better: scores of N finished runs at each fraction.
        scores: (N,), at the end: the scores that select.
        report: (N,), at the end, on examples that did not select; default: `scores`.
        standard_errors: whether to compute `gain_se`, which costs N times as much as the rest. Default: yes.

    Returns:
        A row for each policy of `affordable`.

    Raises:
        InputError: as the functions that it calls; or the looks are not (N, F).
    """
    scores, report = checked_reports(scores, report)
    looks = np.asarray(looks, dtype=float)
    if looks.shape != (len(scores), len(fractions)):
        raise InputError(f"looks of shape {looks.shape}: need {(len(scores), len(fractions))}, runs x fractions")
    if budget > len(scores):
        raise InputError(f"a budget of {budget} runs: need 1 to {len(scores)}, the number of runs")
    rows = []
    for started, fraction, finished in affordable(budget, fractions, len(scores)):
        look = looks[:, list(fractions).index(fraction)]
        cost = early_stopping_cost(started, fraction, finished)
        score = expected_early_stopping(look, scores, started, finished, report)
        restarts = float(restarts_at_budget(scores, cost, report))
        error = None
        if standard_errors and started < len(scores):
            error = jackknife_standard_error(partial(_gain, started, finished, cost), look, scores, report)
        rows.append(PolicyWorth(started, fraction, finished, cost, score, restarts, score - restarts, error))
    return rows


def _gain(started: int, finished: int, cost: float, look: np.ndarray, scores: np.ndarray, report: np.ndarray) -> float:
    score = expected_early_stopping(look, scores, started, finished, report)
    return score - float(restarts_at_budget(scores, cost, report))


def jackknife_standard_error(statistic: Callable[..., float], *arrays: np.ndarray) -> float:
    """Jackknife standard error of a statistic of N runs: each run is left out in turn.

        sqrt((N - 1) / N * sum_i (T_(-i) - mean T_(-i))^2)

    It estimates how much the statistic would vary over N other seeds. On average it is too large rather than too small
    (Efron & Stein 1981, Ann. Statist. 9, p. 586), and it is rough if nearly all runs are drawn at once. For the gain of
    finishing 2 of 8, from 12 runs, it is a third to a half too large (root mean square; a test computes it).

    Args:
        statistic: a function of the arrays without one run.
        arrays: each (N, ...), of the same N >= 2 runs.

    Returns:
        In the statistic's unit.
    """
    runs = len(arrays[0])
    left_out = np.array([statistic(*(np.delete(array, i, axis=0) for array in arrays)) for i in range(runs)])
    return float(np.sqrt((runs - 1) * left_out.var()))
