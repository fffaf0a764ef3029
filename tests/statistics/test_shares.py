"""Intervals and tests of failed shares against scipy, published tables and slow enumerations."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, fisher_exact, norm

from hf_stability.errors import InputError
from hf_stability.statistics import (
    audited_failed_share,
    fisher_exact_p,
    mcnemar_p,
    paired_share_difference_interval,
    share_difference_interval,
    wilson_interval,
)


counts = st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
pairs = st.lists(st.integers(0, 30), min_size=4, max_size=4).filter(any)
small_counts = st.integers(1, 25).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


# ---- Wilson's interval ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(counts, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_is_scipys(count, confidence):
    expected = binomtest(*count).proportion_ci(confidence, method="wilson")
    assert wilson_interval(*count, confidence) == (pytest.approx(expected.low), pytest.approx(expected.high))


@given(counts)
def test_at_wilsons_ends_the_score_test_just_rejects(count):
    k, n = count
    for end in wilson_interval(k, n):
        p = float(end)
        assert abs(k / n - p) == pytest.approx(norm.ppf(0.975) * math.sqrt(p * (1 - p) / n), abs=1e-9)


@given(counts)
def test_wilson_holds_the_share_lies_in_0_to_1_shrinks_with_n_and_mirrors(count):
    k, n = count
    low, high = wilson_interval(k, n)
    assert 0 <= low <= k / n <= high <= 1 and low < high
    low_of_more, high_of_more = wilson_interval(2 * k, 2 * n)
    assert high_of_more - low_of_more < high - low
    assert wilson_interval(n - k, n) == (pytest.approx(1 - high, abs=1e-12), pytest.approx(1 - low, abs=1e-12))


def test_wilson_of_none_and_all_of_20():
    assert wilson_interval(0, 20) == (0, pytest.approx(0.1611, abs=5e-5))
    assert wilson_interval(20, 20) == (pytest.approx(0.8389, abs=5e-5), 1)


def test_wilson_takes_arrays():
    low, high = wilson_interval(np.array([[0, 1, 2], [3, 4, 20]]), 20)
    for i, k in np.ndenumerate([[0, 1, 2], [3, 4, 20]]):
        assert (low[i], high[i]) == wilson_interval(k, 20)


@pytest.mark.parametrize(("count", "n"), [(0, 0), (-1, 3), (4, 3), ([0, 4], 3)])
def test_a_share_of_nothing_or_of_too_few_is_refused(count, n):
    with pytest.raises(InputError, match="0 <= count <= n and n >= 1"):
        wilson_interval(count, n)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_in_percent_is_refused(confidence):
    with pytest.raises(InputError, match=f"confidence {confidence}: "):
        wilson_interval(1, 2, confidence)


# ---- Newcombe's interval of a difference ----------------------------------------------------------------------------


NEWCOMBE_1998 = {  # Statistics in Medicine 17, p. 873, table II, method 10
    (56, 70, 48, 80): (0.0524, 0.3339),
    (9, 10, 3, 10): (0.1705, 0.8090),
    (6, 7, 2, 7): (0.0582, 0.8062),
    (5, 56, 0, 29): (-0.0381, 0.1926),
    (0, 10, 0, 20): (-0.1611, 0.2775),
    (0, 10, 0, 10): (-0.2775, 0.2775),
    (10, 10, 0, 20): (0.6791, 1.0000),
    (10, 10, 0, 10): (0.6075, 1.0000),
}


@pytest.mark.parametrize("shares", NEWCOMBE_1998, ids=str)
def test_newcombes_own_table(shares):
    assert share_difference_interval(*shares) == pytest.approx(NEWCOMBE_1998[shares], abs=5.1e-5)


@settings(deadline=None)
@given(counts, counts, st.sampled_from([0.8, 0.95]))
def test_newcombe_holds_the_difference_lies_in_minus_1_to_1_and_turns_with_the_order(a, b, confidence):
    low, high = share_difference_interval(*a, *b, confidence)
    assert -1 - 1e-12 <= low <= a[0] / a[1] - b[0] / b[1] <= high <= 1 + 1e-12 and low < high
    turned = share_difference_interval(*b, *a, confidence)
    assert turned == (pytest.approx(-high, abs=1e-12), pytest.approx(-low, abs=1e-12))


def test_newcombe_takes_arrays():
    low, high = share_difference_interval(np.array([[1], [6]]), 7, np.array([2, 5]), 7)
    assert low.shape == high.shape == (2, 2)
    assert (low[1, 0], high[1, 0]) == share_difference_interval(6, 7, 2, 7)
    with pytest.raises(InputError, match="0 <= count <= n"):
        share_difference_interval(1, 7, 8, 7)


# ---- Fisher's test --------------------------------------------------------------------------------------------------


def fisher_by_enumeration(count_a, n_a, count_b, n_b):
    """Sum over the tables with these margins that are no more likely than this one, in whole numbers."""
    counted = count_a + count_b
    ways = {k: math.comb(n_a, k) * math.comb(n_b, counted - k) for k in range(min(counted, n_a) + 1)}
    return Fraction(sum(w for w in ways.values() if w <= ways[count_a]), sum(ways.values()))


@settings(deadline=None)
@given(small_counts, small_counts)
def test_fisher_against_enumeration_and_in_both_orders(a, b):
    p = fisher_exact_p(*a, *b)
    assert p == pytest.approx(float(fisher_by_enumeration(*a, *b)))
    assert p == pytest.approx(fisher_exact_p(*b, *a))
    assert 0 < p <= 1


def test_fisher_on_known_tables():
    assert fisher_exact_p(9, 20, 0, 20) == pytest.approx(fisher_exact([[9, 11], [0, 20]]).pvalue)
    assert fisher_exact_p(4, 4, 0, 4) == pytest.approx(2 / 70)
    assert fisher_exact_p(0, 20, 0, 20) == 1


@pytest.mark.parametrize("bad", [(0, 0, 1, 2), (1, 2, 0, 0), (3, 2, 1, 2), (1, 2, -1, 2)])
def test_fisher_of_no_runs_is_refused(bad):
    with pytest.raises(InputError, match="0 <= count <= n and n >= 1"):
        fisher_exact_p(*bad)


# ---- the same seeds -------------------------------------------------------------------------------------------------


PUBLISHED = {
    (36, 12, 2, 0): (0.0569, 0.3404),  # Newcombe 1998, Statistics in Medicine 17, p. 2635, method 10
    (14, 5, 0, 22): (0.011, 0.226),  # Altman et al. 2000, "Statistics with Confidence", p. 52
    (1, 1, 7, 12): (-0.507, -0.026),  # Fagerland et al. 2014, Statistics in Medicine 33, p. 2850
}


@pytest.mark.parametrize("counts", PUBLISHED, ids=str)
def test_published_examples_of_the_paired_interval(counts):
    assert paired_share_difference_interval(*counts) == pytest.approx(PUBLISHED[counts], abs=5.1e-4)


def newcombe_paired(e, f, g, h):
    """Method 10, in plain Python, from the roots of Wilson's quadratic equation."""
    n, z = e + f + g + h, norm.ppf(0.975)

    def wilson(k):
        roots = np.roots([n * n + n * z * z, -(2 * k * n + n * z * z), k * k]).real
        return float(roots.min()), float(roots.max())

    (low_a, high_a), (low_b, high_b), a, b = wilson(e + f), wilson(e + g), (e + f) / n, (e + g) / n
    margins, d = (e + f, g + h, e + g, f + h), e * h - f * g
    corrected = d if d < 0 else max(d - n / 2, 0)
    phi = corrected / math.sqrt(math.prod(margins)) if all(margins) else 0

    def half(x, y):
        return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0))

    return a - b - half(a - low_a, high_b - b), a - b + half(high_a - a, b - low_b)


@settings(deadline=None)
@given(pairs)
def test_the_paired_interval_is_that_of_plain_python(counts):
    assert paired_share_difference_interval(*counts) == pytest.approx(newcombe_paired(*counts), abs=1e-7)


@settings(deadline=None)
@given(pairs, st.sampled_from([0.8, 0.95]))
def test_the_paired_interval_holds_the_difference_and_turns_with_the_order_and_with_failed_and_ok(counts, confidence):
    e, f, g, h = counts
    low, high = paired_share_difference_interval(e, f, g, h, confidence)
    assert -1 - 1e-12 <= low <= (f - g) / sum(counts) <= high <= 1 + 1e-12
    turned = pytest.approx(-high, abs=1e-12), pytest.approx(-low, abs=1e-12)
    assert paired_share_difference_interval(e, g, f, h, confidence) == turned
    assert paired_share_difference_interval(h, g, f, e, confidence) == turned


def test_pairs_that_are_uncorrelated_or_that_all_fail_alike_have_the_interval_of_independent_shares():
    for e, f, g, h in (
        (4, 8, 4, 8),
        (3, 3, 3, 4),
        (0, 5, 0, 15),
        (0, 0, 0, 20),
    ):  # d = 0, 0 < d < n / 2, a margin is 0
        expected = share_difference_interval(e + f, e + f + g + h, e + g, e + f + g + h)
        assert paired_share_difference_interval(e, f, g, h) == pytest.approx(expected)
    low, high = paired_share_difference_interval(10, 2, 0, 8)  # failures often come together
    assert high - low < np.diff(share_difference_interval(12, 20, 10, 20))[0]


def test_the_paired_interval_takes_arrays():
    low, high = paired_share_difference_interval(np.array([[1], [6]]), 2, np.array([0, 5]), 7)
    assert low.shape == high.shape == (2, 2)
    assert (low[1, 0], high[1, 0]) == paired_share_difference_interval(6, 2, 0, 7)


@pytest.mark.parametrize("bad", [(0, 0, 0, 0), (1, -1, 2, 3)])
def test_paired_counts_without_a_seed_or_below_0_are_refused(bad):
    with pytest.raises(InputError, match="need four counts of at least 0"):
        paired_share_difference_interval(*bad)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_twice_the_tail_of_a_fair_coin(only_a, only_b):
    n, least = only_a + only_b, min(only_a, only_b)
    tail = Fraction(sum(math.comb(n, k) for k in range(least + 1)), 2**n)
    assert mcnemar_p(only_a, only_b) == pytest.approx(float(min(2 * tail, 1)))


def test_six_seeds_are_the_fewest_that_mcnemars_test_can_tell():
    assert mcnemar_p(0, 5) == 2 / 32 > 0.05 > mcnemar_p(6, 0) == 2 / 64
    assert mcnemar_p(0, 0) == 1
    with pytest.raises(InputError, match="at least 0"):
        mcnemar_p(-1, 2)


# ---- audited estimate -----------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    ends=st.lists(st.booleans(), min_size=1, max_size=7),
    others=st.lists(st.booleans(), max_size=4),
    share=st.sampled_from([Fraction(1, 5), Fraction(1, 2), Fraction(9, 10)]),
)
def test_the_audited_estimate_is_unbiased_over_all_draws(ends, others, share):
    """`ends`: whether each run that raises an alarm would fail; `others`: whether each of the others failed.

    Every draw of audits is gone through, with its probability; where none is drawn there is no estimate.
    """
    n, expected, probability = len(ends) + len(others), Fraction(0), Fraction(0)
    for number in range(1, len(ends) + 1):
        for audited in combinations(range(len(ends)), number):
            failed = sum(ends[i] for i in audited)
            counts = (sum(others) + failed, len(ends) - number, failed, number, n)
            weight = share**number * (1 - share) ** (len(ends) - number)
            exact = Fraction(counts[0] * number + counts[1] * failed, number * n)
            assert audited_failed_share(*counts)[0] == pytest.approx(float(exact))
            expected, probability = expected + weight * exact, probability + weight
    assert expected / probability == Fraction(sum(ends) + sum(others), n)


def coverage(alarms: float, failing: float, otherwise: float, n: int = 20, audits: float = 0.2) -> float:
    """How often the interval holds the failed share, exactly, among studies with both a stopped and an audited run.

    Args:
        alarms: probability of an alarm.
        failing: probability that an alarmed run fails; `otherwise`: that another one does.
    """
    truth = alarms * failing + (1 - alarms) * otherwise
    grid = np.meshgrid(*map(np.arange, (n + 1, n + 1, n + 1, n + 1)), indexing="ij")
    possible = (grid[1] > 0) & (grid[1] < grid[0]) & (grid[2] <= grid[1]) & (grid[3] <= n - grid[0])
    alarmed, audited, audited_failed, failed = (values[possible] for values in grid)
    weights = binom.pmf(alarmed, n, alarms) * binom.pmf(audited, alarmed, audits)
    weights *= binom.pmf(audited_failed, audited, failing) * binom.pmf(failed, n - alarmed, otherwise)
    kept = weights > 1e-9
    rows = zip(*(values[kept].tolist() for values in (alarmed, audited, audited_failed, failed)), strict=True)
    intervals = np.array([limits(k + f, a - m, f, m, n) for a, m, f, k in rows])
    held = (intervals[:, 0] <= truth) & (truth <= intervals[:, 1])
    return float(weights[kept][held].sum() / weights[kept].sum())


@cache
def limits(*counts: int) -> tuple[float, float]:
    return audited_failed_share(*counts)[1:]


def test_the_interval_of_the_audited_estimate_holds_what_its_docstring_says():
    settings = list(product([0.1, 0.2, 0.5, 0.8], [0.1, 0.5, 0.9], [0.0, 0.1, 0.3]))
    found = dict(zip(settings, (coverage(*setting) for setting in settings), strict=True))
    assert statistics.median(found.values()) == pytest.approx(0.99, abs=0.005)
    assert min(found.values()) == found[0.1, 0.1, 0.0] == pytest.approx(0.885, abs=0.005)
    assert min(share for setting, share in found.items() if setting != (0.1, 0.1, 0.0)) > 0.95
