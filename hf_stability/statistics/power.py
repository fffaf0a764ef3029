"""Seeds needed before a study: the power of Fisher's test of two failed shares, and of the t test of two means.

The power is the probability that the test finds the difference, p <= alpha, if the true difference is the given one. Both
recipes have n runs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import InputError


MOST_SEEDS = 1000
"""Largest number of seeds per recipe that is looked for."""

FAR = 8.0
"""Counts further from their mean than this many standard deviations are left out: their probability is below 1e-14."""


# ---- failed shares --------------------------------------------------------------------------------------------------


def shares_found(share_a: float, share_b: float, n: int, alpha: float = 0.05) -> float:
    """Power of Fisher's exact test of two failed shares, n runs each: exact, by enumeration of all counts.

        sum over i, j = 0 .. n of Binomial(i; n, a) Binomial(j; n, b) [p of Fisher's test <= alpha]

    The test is two-sided, see `fisher_exact_p`. With equal n the hypergeometric distribution of A's count, given the sum of
    both counts, is symmetric. So p is twice the smaller tail.

    Args:
        share_a: A's true failed share, in [0, 1].
        share_b: B's.
        n: runs per recipe, at least 1.
        alpha: the level, in (0, 1); for m comparisons with Holm's correction, 0.05 / m is the strictest step.

    Returns:
        In [0, 1]. If the shares are the same, it is the size of the test, below alpha.

    Raises:
        InputError: a value is outside its range.
    """
    _check_shares(share_a, share_b)
    _check_level(alpha)
    if n < 1:
        raise InputError(f"{n} runs per recipe: need at least 1")
    counts = np.arange(n + 1)
    a, b = np.meshgrid(counts, counts, indexing="ij")
    mean = n * (share_a + share_b)
    far = FAR * np.sqrt(n * (share_a * (1 - share_a) + share_b * (1 - share_b))) + FAR
    totals = np.arange(max(0, int(mean - far)), min(2 * n, int(mean + far)) + 1)
    least = np.full(2 * n + 1, -1)
    least[totals] = _rejected_up_to(totals, n, alpha)
    rejected = np.minimum(a, b) <= least[a + b]
    return float(_binomial(n, share_a) @ rejected @ _binomial(n, share_b))


def _log_factorials(most: int) -> np.ndarray:
    from scipy.special import gammaln

    return gammaln(np.arange(most + 1) + 1.0)


def _binomial(n: int, share: float) -> np.ndarray:
    """Probability of 0 to n failed runs, (n + 1,)."""
    from scipy.special import xlog1py, xlogy

    count, log_factorial = np.arange(n + 1), _log_factorials(n)
    log_ways = log_factorial[n] - log_factorial - log_factorial[::-1]
    return np.exp(log_ways + xlogy(count, share) + xlog1py(n - count, -share))


def _rejected_up_to(totals: np.ndarray, n: int, alpha: float) -> np.ndarray:
    """Largest smaller count that Fisher's test rejects, for each sum of the two counts; -1 if none is rejected."""
    log_factorial = _log_factorials(2 * n)

    def log_ways(count: np.ndarray) -> np.ndarray:
        return log_factorial[n] - log_factorial[count] - log_factorial[n - count]

    smaller = np.arange(n + 1)[None]
    other = totals[:, None] - smaller
    # p is twice the tail up to the smaller count; at equal counts it is 1.
    possible = (smaller < other) & (other <= n)
    all_ways = log_factorial[2 * n] - log_factorial[totals] - log_factorial[2 * n - totals]
    chance = np.where(possible, np.exp(log_ways(smaller) + log_ways(other.clip(0, n)) - all_ways[:, None]), 0.0)
    rejected = possible & (2 * chance.cumsum(1) <= alpha * (1 + 1e-9))
    return np.where(rejected.any(1), n - rejected[:, ::-1].argmax(1), -1)


def seeds_for_shares(share_a: float, share_b: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Smallest number of runs per recipe with which Fisher's exact test finds the difference of two failed shares.

    The power is the exact one of `shares_found`. It does not grow evenly: a few more runs may have a power that is lower by
    0.01 or so.

    Args:
        share_a: A's true failed share, in [0, 1].
        share_b: B's, another one.
        power: wanted, in (0, 1).
        alpha: the level, in (0, 1).

    Raises:
        InputError: a value is outside its range, or more than 1000 runs are needed.
    """
    _check_shares(share_a, share_b)
    _check_power(power)
    if share_a == share_b:
        raise InputError(f"failed shares {share_a} and {share_b}: they are the same, so no number of seeds can differ")

    def found(n: int) -> float:
        return shares_found(share_a, share_b, n, alpha)

    enough = _first(found, power, f"failed shares {share_a} and {share_b}")
    # A smaller n may have the power too, because it does not grow evenly.
    start = 2 if enough <= 100 else enough - enough // 10
    return next(n for n in range(start, enough + 1) if found(n) >= power)


# ---- means ----------------------------------------------------------------------------------------------------------


def means_found(difference: float, std: float, n: int, alpha: float = 0.05, paired: bool = False) -> float:
    """Power of the t test of two means, n runs each: from the noncentral t distribution, here through its square.

    With delta the difference over std, the statistic has n - 1 degrees of freedom and noncentrality delta sqrt(n) for pairs,
    else 2 n - 2 and delta sqrt(n / 2) (Cohen 1988, "Statistical Power Analysis", chapter 2). Scores are taken as normal.
    Failed runs make std large.

    Args:
        difference: of the true means, in the scores' unit; the sign does not matter.
        std: standard deviation of the scores over seeds, the same for both recipes. Pairs: of the differences.
        n: runs per recipe, at least 2.
        alpha: the level, in (0, 1).
        paired: whether the runs are paired by seed.

    Returns:
        In [0, 1].

    Raises:
        InputError: a value is outside its range.
    """
    from scipy.special import ncfdtr, stdtrit

    if not (np.isfinite(difference) and 0 < std < np.inf):
        raise InputError(f"a difference of {difference} with std {std}: need two numbers, and a std above 0")
    _check_level(alpha)
    if n < 2:
        raise InputError(f"{n} runs per recipe: need at least 2")
    freedom = n - 1 if paired else 2 * n - 2
    shift = abs(difference) / std * np.sqrt(n if paired else n / 2)
    t = stdtrit(freedom, 1 - alpha / 2)
    if shift > 6 * t + 6:  # a miss needs an event of 6 standard deviations; the series below fails for larger shifts
        return 1.0
    # The square of a noncentral t is a noncentral F, which has both tails at once.
    return float(np.clip(1 - ncfdtr(1, freedom, shift**2, t**2), 0, 1))


def seeds_for_means(
    difference: float, std: float, power: float = 0.8, alpha: float = 0.05, paired: bool = False
) -> int:
    """Smallest number of runs per recipe with which the t test finds a difference of two means; see `means_found`.

    Args:
        difference: of the true means, in the scores' unit, not 0.
        std: standard deviation of the scores over seeds; for pairs, of the differences.
        power: wanted, in (0, 1).
        alpha: the level, in (0, 1).
        paired: whether the runs are paired by seed.

    Raises:
        InputError: a value is outside its range, or more than 1000 runs are needed.
    """
    _check_power(power)
    if difference == 0:
        raise InputError("a difference of 0: no number of seeds can find it")
    return _first(
        lambda n: means_found(difference, std, n, alpha, paired), power, f"a difference of {difference} at std {std}"
    )


# ---- helpers --------------------------------------------------------------------------------------------------------


def _first(found: Callable[[int], float], power: float, name: str) -> int:
    """An n from 2 on with `found(n) >= power > found(n - 1)`; the smallest one if `found` grows evenly."""
    low, high = 1, 2
    while found(high) < power:
        if high == MOST_SEEDS:
            raise InputError(f"{name}: needs more than {MOST_SEEDS} runs per recipe; a larger difference needs fewer")
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) >= power else (middle, high)
    return high


def _check_shares(*shares: float) -> None:
    if not all(0 <= share <= 1 for share in shares):
        raise InputError(
            f"failed shares {shares[0]} and {shares[1]}: need shares from 0 to 1, for example 0.3 and 0.05"
        )


def _check_power(power: float) -> None:
    if not 0 < power < 1:
        raise InputError(f"power {power}: need a number between 0 and 1, for example 0.8")


def _check_level(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InputError(f"level {alpha}: need a number between 0 and 1, for example 0.05")
