"""How far scores spread: standard deviations with an interval, and tests of whether groups spread equally.

A recipe that nearly always fails has a small standard deviation, which is no sign of stability. So give the standard deviation
of the runs that did not fail, next to the failed share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from .checks import ROUNDING, check_confidence, finite
from .permutation import permutation_p, splits


FEWEST_RUNS = 5
"""Fewer runs than this have no interval of their standard deviation."""


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


def std_interval(scores: ArrayLike, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Bonett's interval of a standard deviation. It allows for heavy tails, unlike the interval from the chi-square distribution.

    With the sample's variance s^2, z the normal's quantile at (1 + confidence) / 2, and c = n / (n - z):

        exp((ln(c s^2) -+ z c sqrt((k - (n - 3) / n) / (n - 1))) / 2)

    k is the kurtosis about the mean m of the scores without the share 1 / (2 sqrt(n - 4)) of them at each end:
    `k = n sum_i (s_i - m)^4 / (sum_i (s_i - mean)^2)^2` (Bonett 2006, Computational Statistics & Data Analysis 50, p. 775).
    At n = 5, m is the median. `benchmarks/statistics_coverage.py` chose it among other intervals, and measures its coverage.

    Give it the scores of the runs that did not fail. If a few runs of all failed, the scores have two heaps, and the interval
    often misses the true value.

    Args:
        scores: (..., n), finite.
        confidence: in (0, 1).

    Returns:
        low (...) and high (...), in the scores' unit; NaN for n < 5. If all scores are the same, both are 0.

    Raises:
        InputError: a score is not finite, or the confidence is outside (0, 1).
    """
    from scipy.special import ndtri

    scores = finite(scores)
    check_confidence(confidence)
    n = scores.shape[-1]
    if n < FEWEST_RUNS:
        return np.full(scores.shape[:-1], np.nan)[()], np.full(scores.shape[:-1], np.nan)[()]
    z = ndtri((1 + confidence) / 2)
    c = n / (n - z)
    same = np.ptp(scores, -1) <= ROUNDING * np.abs(scores).max(-1)
    squares = ((scores - scores.mean(-1, keepdims=True)) ** 2).sum(-1)
    squares = np.where(same, 1.0, squares)
    kurtosis = n * ((scores - _trimmed_mean(scores)[..., None]) ** 4).sum(-1) / squares**2
    half = z * c * np.sqrt((np.maximum(kurtosis, 1.0) - (n - 3) / n) / (n - 1))  # k >= 1, but 0 for equal scores
    middle = np.log(c * squares / (n - 1))
    low, high = (np.where(same, 0.0, np.exp((middle + sign * half) / 2)) for sign in (-1, 1))
    return low[()], high[()]


def _trimmed_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the scores (..., n) without the share 1 / (2 sqrt(n - 4)) of them at each end, rounded down to whole scores."""
    n = scores.shape[-1]
    cut = min(int(n / (2 * np.sqrt(n - 4))), (n - 1) // 2)
    return np.sort(scores, -1)[..., cut : n - cut].mean(-1)


@dataclass(frozen=True)
class SpreadTest:
    """Result of `brown_forsythe` and of `levene`.

    Args:
        f: the statistic, F(groups - 1, all scores - groups) under the null hypothesis; None if it is undefined.
        p: one minus the distribution function at `f`; None if it is undefined.
        n: number of scores of each group.
        distances: each group's mean distance from its centre, in the scores' unit. The test compares these. They may rank
            two groups differently from their standard deviations.
        reason: why the test is undefined; empty if it is defined.
    """

    f: float | None
    p: float | None
    n: tuple[int, ...]
    distances: tuple[float, ...]
    reason: str = ""


def brown_forsythe(*groups: Sequence[float] | np.ndarray) -> SpreadTest:
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
    return _spread_test("Brown-Forsythe", "median", groups)


def levene(*groups: Sequence[float] | np.ndarray) -> SpreadTest:
    """Levene's test about the mean: do groups of scores spread equally?

    As `brown_forsythe`, with the distances from the group's mean, `scipy.stats.levene(*groups, center="mean")` (Levene 1960,
    "Robust tests for equality of variances"). It is here because Mosbach et al. (2021) used it. It finds differences too
    often where scores are skewed or where runs failed; prefer `brown_forsythe`.

    Args:
        groups: k >= 2 of them, each (n_i,), finite.

    Returns:
        As `brown_forsythe`.
    """
    return _spread_test("Levene", "mean", groups)


def _spread_test(name: str, center: str, groups: Sequence[Sequence[float] | np.ndarray]) -> SpreadTest:
    from scipy.stats import levene as levene_test

    arrays = [np.asarray(group, dtype=float) for group in groups]
    if len(arrays) < 2 or any(array.ndim != 1 or not np.isfinite(array).all() for array in arrays):
        raise InputError(f"the {name} test needs two groups or more, each a list of finite scores")
    n = tuple(map(len, arrays))
    if min(n) < 2:
        return SpreadTest(None, None, n, (), "a group has fewer than 2 scores")
    z = [np.abs(array - (np.median(array) if center == "median" else array.mean())) for array in arrays]
    distances = tuple(float(group.mean()) for group in z)
    same = ROUNDING * max(np.abs(array).max() for array in arrays)
    if all(np.ptp(array) <= same for array in arrays):
        return SpreadTest(None, None, n, distances, "the scores of each group are all the same")
    if all(np.ptp(group) <= same for group in z):
        reason = (
            f"each group's scores are equally far from its {center} (two scores always are), so the test is undefined"
        )
        return SpreadTest(None, None, n, distances, reason)
    result = levene_test(*arrays, center=center)
    return SpreadTest(float(result.statistic), float(result.pvalue), n, distances)


def spread_permutation_p(a: ArrayLike, b: ArrayLike, permutations: int = 9999, seed: int = 0) -> float:
    """Permutation test of equal spread, on the distances from the group's median. It needs no F distribution.

    The statistic is the difference of the mean distances, `|mean z_a - mean z_b|` with `z_ij = |s_ij - median_i|`. Over
    the permutations of the z it ranks as the F of `brown_forsythe`. The medians are estimates, so that the z are not quite
    exchangeable and the test is not exact; `benchmarks/statistics_coverage.py` measures its size.

    Args:
        a: (n_a,), finite, at least 2 scores.
        b: (n_b,), the same.
        permutations: largest number of permutations. If all are no more than these, all are used, and p is that of a full
            enumeration. Default: 9999.
        seed: of the random permutations.

    Returns:
        p in (0, 1]; NaN for a group of fewer than 2 scores.

    Raises:
        InputError: a score is not finite, or the scores are not one-dimensional.
    """
    groups = [finite(group) for group in (a, b)]
    if any(group.ndim != 1 for group in groups):
        raise InputError("the permutation test of spread needs two lists of scores, (n_a,) and (n_b,)")
    n_a, n_b = map(len, groups)
    if min(n_a, n_b) < 2:
        return float("nan")
    z = np.concatenate([np.abs(group - np.median(group)) for group in groups])
    sums = splits(n_a, n_b, permutations, seed) @ z
    differences = np.abs(sums / n_a - (z.sum() - sums) / n_b)
    return permutation_p(np.where(differences <= ROUNDING * np.abs(np.concatenate(groups)).max(), 0.0, differences))
