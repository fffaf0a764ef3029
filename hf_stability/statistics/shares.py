"""Failed shares: intervals of one share and of a difference, tests, also paired; the estimate from audited runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from .checks import check_confidence


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

    count, n = _checked(count, n)
    check_confidence(confidence)
    z = ndtri((1 + confidence) / 2)
    half = z * np.sqrt(count * (n - count) / n + z**2 / 4)
    low, high = ((count + z**2 / 2 + sign * half) / (n + z**2) for sign in (-1, 1))
    # At the ends the formula gives 0 and 1, except for rounding.
    return np.where(count == 0, 0.0, low)[()], np.where(count == n, 1.0, high)[()]


def share_difference_interval(
    count_a: ArrayLike, n_a: ArrayLike, count_b: ArrayLike, n_b: ArrayLike, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Newcombe's interval of the difference a - b of two independent shares.

    From Wilson's intervals (l_a, u_a) and (l_b, u_b) of the shares a and b:

        low  = a - b - sqrt((a - l_a)^2 + (u_b - b)^2)
        high = a - b + sqrt((u_a - a)^2 + (b - l_b)^2)

    Method 10 of Newcombe 1998, Statistics in Medicine 17, p. 873. It stays in [-1, 1], and it has a width even for 0 of n
    against 0 of n. It and Fisher's test may disagree about 0 where the difference is near the level.

    Args:
        count_a: (...), A's count, for example of failed runs.
        n_a: (...), A's number of runs, at least 1.
        count_b: (...), B's count.
        n_b: (...), B's number of runs.
        confidence: in (0, 1).

    Returns:
        low (...) and high (...), in [-1, 1], with `low <= a - b <= high`.
    """
    low_a, high_a = wilson_interval(count_a, n_a, confidence)
    low_b, high_b = wilson_interval(count_b, n_b, confidence)
    a, b = (count / n for count, n in (_checked(count_a, n_a), _checked(count_b, n_b)))
    return a - b - np.hypot(a - low_a, high_b - b), a - b + np.hypot(high_a - a, b - low_b)


def paired_share_difference_interval(
    both: ArrayLike, only_a: ArrayLike, only_b: ArrayLike, neither: ArrayLike, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Newcombe's interval of the difference a - b of two shares, where A and B have the same seeds.

    The four counts are of seeds. With e = both, f = only_a, g = only_b, h = neither and n = e + f + g + h, the shares are
    a = (e + f) / n and b = (e + g) / n. From their Wilson intervals (l_a, u_a) and (l_b, u_b):

        low  = a - b - sqrt((a - l_a)^2 - 2 phi (a - l_a) (u_b - b) + (u_b - b)^2)
        high = a - b + sqrt((u_a - a)^2 - 2 phi (u_a - a) (b - l_b) + (b - l_b)^2)

    phi is the correlation of the two, corrected so that chance alone does not make the interval narrow:

        phi = c / sqrt((e + f) (g + h) (e + g) (f + h)),    d = e h - f g

    with c = d if d < 0, c = d - n / 2 if d > n / 2, and else c = 0. If a share is 0 or 1, phi is 0. Method 10 of Newcombe
    1998, Statistics in Medicine 17, p. 2635. With phi = 0 it is `share_difference_interval`.

    Args:
        both: (...), number of seeds with which both failed, for example.
        only_a: (...), with which only A failed.
        only_b: (...), with which only B failed.
        neither: (...), with which neither failed; all four together at least 1.
        confidence: in (0, 1).

    Returns:
        low (...) and high (...), in [-1, 1], with `low <= a - b <= high`.

    Raises:
        InputError: a count is negative, there are no seeds, or the confidence is outside (0, 1).
    """
    e, f, g, h = np.broadcast_arrays(*(np.asarray(count, dtype=float) for count in (both, only_a, only_b, neither)))
    n = e + f + g + h
    if not ((np.minimum(np.minimum(e, f), np.minimum(g, h)) >= 0) & (n >= 1)).all():
        raise InputError("counts of paired seeds: need four counts of at least 0, together at least 1 seed")
    low_a, high_a = wilson_interval(e + f, n, confidence)
    low_b, high_b = wilson_interval(e + g, n, confidence)
    product = (e + f) * (g + h) * (e + g) * (f + h)
    d = e * h - f * g
    corrected = np.where(d < 0, d, np.maximum(d - n / 2, 0.0))
    phi = np.where(product > 0, corrected / np.sqrt(np.where(product > 0, product, 1.0)), 0.0)
    a, b = (e + f) / n, (e + g) / n
    below, above = (a - low_a, high_b - b), (high_a - a, b - low_b)
    low, high = (np.sqrt(np.maximum(x**2 - 2 * phi * x * y + y**2, 0.0)) for x, y in (below, above))
    return (a - b - low)[()], (a - b + high)[()]


def mcnemar_p(only_a: int, only_b: int) -> float:
    """McNemar's exact test: do two recipes with the same seeds fail equally often?

    Only the seeds count with which one of the two failed. If both fail equally often, each of these is A's with probability
    1/2: `scipy.stats.binomtest(only_a, only_a + only_b, 0.5)`, two-sided (McNemar 1947, Psychometrika 12, p. 153).

    Args:
        only_a: number of seeds with which only A failed.
        only_b: with which only B failed.

    Returns:
        p in (0, 1]; 1 if there is no such seed. Fewer than 6 such seeds cannot give p <= 0.05.
    """
    from scipy.stats import binomtest

    if min(only_a, only_b) < 0:
        raise InputError(
            f"{only_a} and {only_b} seeds with which one of two recipes failed: need counts of at least 0"
        )
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def fisher_exact_p(count_a: int, n_a: int, count_b: int, n_b: int) -> float:
    """Fisher's exact test: are two shares the same? `scipy.stats.fisher_exact`, two-sided.

    Given the total count_a + count_b of all n_a + n_b, A's count is hypergeometric. p is the probability of all outcomes
    that are no more likely than the observed one (Fisher 1935).

    Args:
        count_a: A's count, for example of failed runs.
        n_a: A's number of runs, at least 1.
        count_b: B's count.
        n_b: B's number of runs.

    Returns:
        p in (0, 1].
    """
    from scipy.stats import fisher_exact

    for count, n in ((count_a, n_a), (count_b, n_b)):
        if n < 1 or not 0 <= count <= n:
            raise InputError(f"a share of {count} of {n}: need 0 <= count <= n and n >= 1")
    return float(fisher_exact([[count_a, n_a - count_a], [count_b, n_b - count_b]])[1])


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


def _checked(count: ArrayLike, n: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as floats of one shape. Raises InputError for a count outside 0 to n, and for no runs."""
    count, n = np.broadcast_arrays(np.asarray(count, dtype=float), np.asarray(n, dtype=float))
    if not ((n >= 1) & (count >= 0) & (count <= n)).all():
        raise InputError(f"a share of {count.tolist()} of {n.tolist()} runs: need 0 <= count <= n and n >= 1")
    return count, n
