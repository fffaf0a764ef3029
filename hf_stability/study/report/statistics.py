"""The statistics of a study's tables: pure functions of scores and counts.

A recipe's scores over seeds are `n` numbers, one per run. Its runs are counted as failed or not. Tests are two-sided.
scipy is imported where it is used, because its import takes most of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ...errors import InputError


ROUNDING = 1e-12
"""Scores that differ by less than this fraction of the largest differ only by rounding."""


def standard_deviation(scores: np.ndarray) -> np.ndarray:
    """Standard deviation of a sample, `sqrt(sum_i (s_i - mean)^2 / (n - 1))` (ddof = 1).

    Args:
        scores: (..., n).

    Returns:
        (...), in the scores' unit; NaN for n < 2.
    """
    scores = np.asarray(scores, dtype=float)
    if scores.shape[-1] < 2:
        return np.full(scores.shape[:-1], np.nan)
    return scores.std(-1, ddof=1)


def wilson_interval(count: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a share, as `scipy.stats.binomtest(count, n).proportion_ci(method="wilson")`.

    All shares p that the score test does not reject: `|count/n - p| <= z sqrt(p (1 - p) / n)`, hence

        (count + z^2/2 -+ z sqrt(count (n - count) / n + z^2/4)) / (n + z^2)

    with z the normal's quantile at (1 + confidence) / 2, 1.96 for 95%. Unlike `share -+ z SE` it stays in [0, 1], and it
    has a width even for none and all of n: 0 of 20 gives 0 to 0.161 (Wilson 1927, JASA 22, p. 209).

    Args:
        count: (...), for example failed runs of n; at least 0, at most n.
        n: (...), at least 1.
        confidence: in (0, 1).

    Returns:
        low (...) and high (...), in [0, 1], with `low <= count / n <= high`.
    """
    from scipy.special import ndtri

    count, n = np.broadcast_arrays(np.asarray(count, dtype=float), np.asarray(n, dtype=float))
    if not ((n >= 1) & (count >= 0) & (count <= n)).all():
        raise InputError(f"a share of {count.tolist()} of {n.tolist()} runs: need 0 <= count <= n and n >= 1")
    check_confidence(confidence)
    z = ndtri((1 + confidence) / 2)
    half = z * np.sqrt(count * (n - count) / n + z**2 / 4)
    low, high = ((count + z**2 / 2 + sign * half) / (n + z**2) for sign in (-1, 1))
    # At the ends the formula gives 0 and 1, except for rounding.
    return np.where(count == 0, 0.0, low), np.where(count == n, 1.0, high)


def audited_failed_share(
    failed: int, stopped: int, audited_failed: int, audited: int, runs: int
) -> tuple[float, float, float] | None:
    """Estimate of the share of runs that would have failed if none had been stopped, and its 95% interval.

    Audited runs would have been stopped, but were finished anyway. With their failed share s = audited_failed / audited,

        share = (failed + stopped * s) / runs

    which is (failed among all others + (stopped + audited) * s) / runs. This is double sampling (Neyman 1938, JASA 33,
    p. 101): the estimator of Horvitz & Thompson with the number of audited runs in place of its expectation. Given this
    number, the audited runs are a simple random sample of the runs to be stopped. So the estimate is unbiased if any run
    was audited.

    The interval replaces s by its lower (upper) Wilson limit, and takes Wilson's lower (upper) limit of the resulting count.
    It lies within the outer limits of the bounds. Without stopped runs it is Wilson's own interval. With few audited runs it
    is wide: for one audited run that failed, s is 0.21 to 1. Two 95% limits in a row usually cover more than 95%. With 20
    runs and a fifth of the alarmed ones audited they cover 0.99 (median over shares of all sizes; a test computes it). The
    lowest coverage is 0.88, where alarms and failures are both rare.
    Crashed runs are not counted. If audited runs tended to crash, the rest would no longer be a random sample.

    Args:
        failed: number of failed runs, also audited ones.
        stopped: number of stopped runs.
        audited_failed: number of audited runs that failed.
        audited: number of audited runs.
        runs: number of all runs.

    Returns:
        share, low, high; None if no run was audited.
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

    scores = np.asarray(scores, dtype=float)
    if not np.isfinite(scores).all():
        raise InputError("some scores are not finite; for a diverged run, give the score of its predictions")
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


def check_confidence(confidence: float) -> None:
    """Raises InputError for a confidence outside (0, 1)."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence}: need a number between 0 and 1, for example 0.95")


def fisher_exact_p(count_a: int, n_a: int, count_b: int, n_b: int) -> float:
    """Fisher's exact test: are two shares the same? `scipy.stats.fisher_exact`, two-sided.

    Given the total count_a + count_b of all n_a + n_b, A's count is hypergeometric. p is the probability of all outcomes
    that are no more likely than the observed one (Fisher 1935).

    Args:
        count_a, n_a: A's count, for example of failed runs, and its number of runs, at least 1.
        count_b, n_b: B's.

    Returns:
        p in (0, 1].
    """
    from scipy.stats import fisher_exact

    for count, n in ((count_a, n_a), (count_b, n_b)):
        if n < 1 or not 0 <= count <= n:
            raise InputError(f"a share of {count} of {n}: need 0 <= count <= n and n >= 1")
    return float(fisher_exact([[count_a, n_a - count_a], [count_b, n_b - count_b]])[1])


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order (Holm 1979, Scandinavian Journal of Statistics 6, p. 65)."""
    order = np.argsort(p_values)
    adjusted = np.maximum.accumulate([(len(order) - rank) * p_values[i] for rank, i in enumerate(order)])
    result = np.empty(len(order))
    result[order] = np.minimum(adjusted, 1.0)
    return result.tolist()


@dataclass(frozen=True)
class BrownForsythe:
    """Result of `brown_forsythe`.

    Args:
        f: the statistic, F(groups - 1, all scores - groups) under the null hypothesis; None if it is undefined.
        p: one minus the distribution function at `f`; None if it is undefined.
        n: number of scores of each group.
        distances: each group's mean distance from its median, in the scores' unit. The test compares these. They may rank
            two groups differently from their standard deviations.
        reason: why the test is undefined; empty if it is defined.
    """

    f: float | None
    p: float | None
    n: tuple[int, ...]
    distances: tuple[float, ...]
    reason: str = ""


def brown_forsythe(*groups: Sequence[float] | np.ndarray) -> BrownForsythe:
    """Brown-Forsythe test, which is Levene's test about the median: do groups of scores spread equally?

    The one-way analysis of variance of the distances from the group's median, `z_ij = |s_ij - median_i|`: with k
    groups of n_i scores, N in all,

        F = (N - k) / (k - 1) * sum_i n_i (mean z_i - mean z)^2 / sum_ij (z_ij - mean z_i)^2

    `scipy.stats.levene(*groups, center="median")` (Brown & Forsythe 1974, JASA 69, p. 364). If the distances do not vary
    within any group, the denominator is 0 and F is undefined. This is so for constant groups, and for groups of two scores,
    which are always equally far from their median.

    Args:
        groups: k >= 2 of them, each (n_i,), finite.

    Returns:
        F and p, or None for both and the reason. A group of fewer than 2 scores has no spread: the test is undefined then,
        and there are no `distances`.
    """
    from scipy.stats import levene

    arrays = [np.asarray(group, dtype=float) for group in groups]
    if len(arrays) < 2 or any(array.ndim != 1 or not np.isfinite(array).all() for array in arrays):
        raise InputError("the Brown-Forsythe test needs two groups or more, each a list of finite scores")
    n = tuple(map(len, arrays))
    if min(n) < 2:
        return BrownForsythe(None, None, n, (), "a group has fewer than 2 scores")
    z = [np.abs(array - np.median(array)) for array in arrays]
    distances = tuple(float(group.mean()) for group in z)
    same = ROUNDING * max(np.abs(array).max() for array in arrays)
    if all(np.ptp(array) <= same for array in arrays):
        return BrownForsythe(None, None, n, distances, "the scores of each group are all the same")
    if all(np.ptp(group) <= same for group in z):
        reason = (
            "each group's scores are equally far from its median (two scores always are), so the test is undefined"
        )
        return BrownForsythe(None, None, n, distances, reason)
    result = levene(*arrays, center="median")
    return BrownForsythe(float(result.statistic), float(result.pvalue), n, distances)
