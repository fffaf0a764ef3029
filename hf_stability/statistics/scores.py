"""One recipe's scores: the mean's interval, the lowest decile, the interquartile mean, the expected best of n runs."""

from __future__ import annotations

from math import floor

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from .checks import ROUNDING, check_confidence, finite, runs_or_tasks
from .spread import standard_deviation


def t_interval(scores: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Student's t interval of a mean: `mean -+ t std / sqrt(n)`, t the quantile of n - 1 degrees of freedom.

    For paired differences, give the differences, one per seed (Student 1908, Biometrika 6, p. 1). If failures are rare, none
    of the n runs may have failed. No interval from these n scores can account for such failures.
    `python benchmarks/interval_coverage.py` measures how often it covers the mean, next to bootstrap intervals.

    Args:
        scores: (..., n), finite, n >= 2.
        confidence: in (0, 1).

    Returns:
        low (...) and high (...), in the scores' unit; NaN for n < 2. If all scores are the same, the width is 0.

    Raises:
        InputError: a score is not finite, or the confidence is outside (0, 1).
    """
    from scipy.special import stdtrit

    scores = finite(scores)
    check_confidence(confidence)
    n = scores.shape[-1]
    if n < 2:
        return np.full(scores.shape[:-1], np.nan), np.full(scores.shape[:-1], np.nan)
    half = stdtrit(n - 1, (1 + confidence) / 2) * standard_deviation(scores) / np.sqrt(n)
    half = np.where(np.ptp(scores, -1) <= ROUNDING * np.abs(scores).max(-1), 0.0, half)
    return scores.mean(-1) - half, scores.mean(-1) + half


def expanded_ends(n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Levels of the expanded percentile bootstrap interval: `Phi(-+ sqrt(n / (n - 1)) t)`, t as in `t_interval`.

    For small n, percentiles at (1 -+ confidence) / 2 are too close together. The draws' std has n in place of n - 1, and the
    percentiles correspond to a normal quantile instead of Student's. For a mean, these levels correct both (Hesterberg 2015,
    The American Statistician 69, p. 371).

    Args:
        n: number of runs, at least 2.
        confidence: in (0, 1).

    Returns:
        low and high, in (0, 1); their sum is 1: 0.0159 and 0.9841 for n = 20 and a confidence of 0.95.
    """
    from scipy.special import ndtr, stdtrit

    check_confidence(confidence)
    if n < 2:
        raise InputError(f"an interval from {n} run: need at least 2 runs")
    low = float(ndtr(-np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 + confidence) / 2)))
    return low, 1 - low


def lowest_decile(scores: ArrayLike) -> float:
    """The score that a tenth of the runs stay below: the 10% quantile, linear between the sorted scores.

    `numpy.quantile(scores, 0.1)`, definition 7 of Hyndman & Fan 1996, The American Statistician 50, p. 361. If more than a
    tenth of the runs failed, it is the score of a failed run. With fewer than 11 runs it lies between the two lowest scores.

    Args:
        scores: (runs,), or (runs, tasks) on one scale: then all of them count alike.

    Returns:
        In the scores' unit.
    """
    return float(np.quantile(runs_or_tasks(scores), 0.1))


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean of the middle half of the scores: the lowest and the highest quarter are left out (Agarwal et al. 2021, NeurIPS).

    `scipy.stats.trim_mean(scores, 0.25, axis=None)`: the number left out at each end is a quarter, rounded down. IT HIDES
    FAILURES: if a quarter of the runs failed, they are all left out. So give it next to the failed share only.

    Args:
        scores: (runs,), or (runs, tasks) on one scale: then all of them count alike.

    Returns:
        In the scores' unit.
    """
    ordered = np.sort(runs_or_tasks(scores), axis=None)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def expected_maximum(
    scores: np.ndarray, n: np.ndarray | int, report: np.ndarray | None = None, *, replace: bool = False
) -> np.ndarray:
    """Expected report score of the best of n runs drawn from N: the best by `scores`, valued by `report`.

    With v_(1) <= ... <= v_(N) the sorted scores,

        without replacement  E[max_n] = sum_i v_(i) [C(i, n) - C(i - 1, n)] / C(N, n)
        with replacement     E[max_n] = sum_i v_(i) [(i / N)^n - ((i - 1) / N)^n]

    The first is the mean over all subsets of n runs, a U-statistic. It is unbiased for the expected maximum of n new runs
    (Tang et al. 2020, "Showing Your Work Doesn't Always Work", ACL, arXiv 2004.13705). The second is that of Dodge et
    al. 2019 ("Show Your Work", EMNLP, arXiv 1909.03004). It may draw a run more than once. On average it is too low, the
    more the closer n is to N, but it varies less (Dodge et al. 2021, arXiv 2110.00613). For n = 1 both are the mean.

    If several of the drawn runs are best by `scores`, each is kept equally often: the mean of their report scores counts.

    Args:
        scores: (N,), finite, larger is better: the scores that select. A diverged run has the score of its predictions, for
            example of a constant class. Without it the recipe would look better.
        n: (...), whole numbers from 1 to N.
        report: (N,), finite, in any unit; default: `scores`.
        replace: draw with replacement. Default: without.

    Returns:
        (...), as n, in the unit of `report`.

    Raises:
        InputError: a score is not finite, there are more or fewer reports than scores, or n is outside 1 to N.
    """
    scores, report = checked_reports(scores, report)
    n = np.asarray(n)
    if not np.issubdtype(n.dtype, np.integer) or not ((n >= 1) & (n <= len(scores))).all():
        raise InputError(f"n = {n.tolist()}: need whole numbers from 1 to {len(scores)}, the number of runs")
    _, level, size = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(level, weights=report) / size
    at_most = np.concatenate([[0], size.cumsum()])
    return (np.diff(_probability_all_among(at_most, n, len(scores), replace)) * means).sum(-1)


def _probability_all_among(count: np.ndarray, n: np.ndarray, runs: int, replace: bool) -> np.ndarray:
    """Probability that n drawn runs are all among `count` of them: (..., counts) for n of shape (...)."""
    if replace:
        return (count / runs) ** n[..., None]
    j = np.arange(n.max(initial=1))[:, None]
    return np.cumprod((count - j).clip(0) / (runs - j), axis=0)[n - 1]  # C(count, n) / C(runs, n), as a product


def chance_among(count: np.ndarray, budget: float, runs: int, *, replace: bool) -> np.ndarray:
    """Probability that all of `budget` drawn runs are among `count` of `runs`; linear between whole budgets.

    Args:
        count: (...), from 0 to `runs`.
        budget: at least 1; without replacement at most `runs`.
        runs: N, at least 1.
        replace: draw with replacement.

    Returns:
        (...), in [0, 1].
    """
    whole = floor(budget)
    more = whole + 1 if replace else min(whole + 1, runs)
    at_whole, at_more = _probability_all_among(np.asarray(count), np.array([whole, more]), runs, replace)
    return at_whole + (budget - whole) * (at_more - at_whole)


def checked_reports(scores: np.ndarray, report: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Both as (N,) floats. Raises InputError if they are not of the same runs, or not finite."""
    scores = np.asarray(scores, dtype=float)
    report = scores if report is None else np.asarray(report, dtype=float)
    if scores.ndim != 1 or not len(scores) or report.shape != scores.shape:
        raise InputError(
            f"scores of shapes {scores.shape} and {report.shape}: need one selecting and one reported score per run"
        )
    if not (np.isfinite(scores).all() and np.isfinite(report).all()):
        raise InputError("some scores are not finite; for a diverged run, give the score of its predictions")
    return scores, report
