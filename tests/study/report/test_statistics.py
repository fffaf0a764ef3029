"""The statistics of the tables against their definitions, worked out the slow way."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, fisher_exact, levene, norm
from scipy.stats import f as f_distribution
from scipy.stats import t as student

from hf_stability.errors import InputError
from hf_stability.study.report.statistics import (
    audited_failed_share,
    brown_forsythe,
    expanded_ends,
    fisher_exact_p,
    standard_deviation,
    t_interval,
    wilson_interval,
)


counts = st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
small_counts = st.integers(1, 25).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
accuracies = st.integers(0, 277).map(lambda right: Fraction(right, 277))  # of RTE's development set
groups = st.lists(st.lists(accuracies, min_size=2, max_size=12), min_size=2, max_size=4)


# ---- standard deviation ---------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_the_standard_deviation_divides_by_n_minus_1(scores):
    mean = math.fsum(scores) / len(scores)
    expected = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
    assert standard_deviation(scores) == pytest.approx(expected, abs=1e-12)
    assert standard_deviation(scores) == pytest.approx(statistics.stdev(scores), abs=1e-12)


def test_the_standard_deviation_of_one_score_or_none_is_nan_and_leading_axes_stay():
    assert math.isnan(standard_deviation([0.5])) and math.isnan(standard_deviation([]))
    scores = np.array([[0.5, 0.75], [0.5, 0.5], [0.25, 0.75]])
    assert standard_deviation(scores) == pytest.approx([0.25 / math.sqrt(2), 0, 0.5 / math.sqrt(2)])
    assert standard_deviation(scores[:, :1]).shape == (3,)


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


# ---- Student's interval ---------------------------------------------------------------------------------------------


@given(st.lists(accuracies, min_size=2, max_size=20), st.sampled_from([0.5, 0.9, 0.95]))
def test_the_t_interval_is_scipys_with_exact_sums(scores, confidence):
    assume(len(set(scores)) > 1)
    n, mean = len(scores), sum(scores) / len(scores)
    error = math.sqrt(sum((score - mean) ** 2 for score in scores) / (n - 1) / n)
    expected = student.interval(confidence, n - 1, float(mean), error)
    assert t_interval(np.array(scores, float), confidence) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_the_t_interval_keeps_leading_axes_and_has_no_width_without_spread():
    scores = np.array([[0.1, 0.2, 0.4], [0.3, 0.1 + 0.2, 0.3]])
    low, high = t_interval(scores)
    assert low.shape == high.shape == (2,) and low[0] == t_interval(scores[0])[0]
    assert low[1] == high[1] == pytest.approx(0.3)
    assert all(math.isnan(end) for end in t_interval([0.5])) and all(math.isnan(end) for end in t_interval([]))
    low, high = t_interval([0.4, 0.6])
    assert (low, high) == (pytest.approx(0.5 - 0.1 * 12.7062, abs=1e-4), pytest.approx(0.5 + 0.1 * 12.7062, abs=1e-4))


def test_scores_that_are_not_finite_and_a_wrong_confidence_are_refused():
    with pytest.raises(InputError, match="not finite"):
        t_interval([0.5, math.nan])
    with pytest.raises(InputError, match="confidence 95"):
        t_interval([0.5, 0.6], 95)
    with pytest.raises(InputError, match="confidence 0"):
        expanded_ends(20, 0)
    with pytest.raises(InputError, match="an interval from 1 run"):
        expanded_ends(1)


@pytest.mark.parametrize("n", [5, 20, 100])
def test_expanded_percentiles_of_a_normal_bootstrap_are_the_t_interval(n):
    """A bootstrap mean spreads by std sqrt((n - 1) / n) / sqrt(n); at these levels its normal quantiles are Student's."""
    low, high = expanded_ends(n)
    half = norm.ppf(high) * math.sqrt((n - 1) / n)
    assert low + high == pytest.approx(1) and half == pytest.approx(student.ppf(0.975, n - 1))
    assert expanded_ends(10**7) == (pytest.approx(0.025, abs=1e-4), pytest.approx(0.975, abs=1e-4))
    assert expanded_ends(20)[0] == pytest.approx(0.0159, abs=5e-5)


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


# ---- Brown-Forsythe -------------------------------------------------------------------------------------------------


def one_way_f(groups):
    """F of a one-way analysis of variance, in fractions; None where the groups do not vary."""
    n = sum(map(len, groups))
    grand = sum(map(sum, groups)) / n
    means = [sum(group) / len(group) for group in groups]
    between = sum(len(group) * (mean - grand) ** 2 for group, mean in zip(groups, means, strict=True))
    within = sum((z - mean) ** 2 for group, mean in zip(groups, means, strict=True) for z in group)
    return between / (len(groups) - 1) / (within / (n - len(groups))) if within else None


def distances(group):
    return [abs(score - statistics.median(group)) for score in group]


def floats(groups):
    return [[float(score) for score in group] for group in groups]


@settings(deadline=None)
@given(groups)
def test_brown_forsythe_is_a_one_way_f_test_on_distances_from_the_median(groups):
    expected = one_way_f([distances(group) for group in groups])
    result = brown_forsythe(*floats(groups))
    assert result.n == tuple(map(len, groups))
    assert result.distances == pytest.approx([float(statistics.mean(distances(group))) for group in groups])
    if expected is None:
        assert result.f is None and result.p is None and result.reason
    else:
        assert result.f == pytest.approx(float(expected), abs=1e-9) and not result.reason
        freedom = (len(groups) - 1, sum(result.n) - len(groups))
        assert result.p == pytest.approx(f_distribution.sf(float(expected), *freedom))
        assert result.p == levene(*floats(groups), center="median").pvalue


@settings(deadline=None)
@given(groups, st.randoms(use_true_random=False))
def test_brown_forsythe_does_not_depend_on_the_order(groups, random):
    result = brown_forsythe(*floats(groups))
    shuffled = [random.sample(group, len(group)) for group in groups]
    again = brown_forsythe(*floats(reversed(shuffled)))
    assert (again.n, again.reason) == (result.n[::-1], result.reason)
    assert (again.f, again.p) == (pytest.approx(result.f, abs=1e-9), pytest.approx(result.p))


@settings(deadline=None)
@given(groups, st.integers(-100, 100), st.sampled_from([0.01, 3, 100]))
def test_brown_forsythe_sees_neither_shifts_nor_units(groups, shift, unit):
    result = brown_forsythe(*floats(groups))
    assume(result.f is not None)
    moved = brown_forsythe(
        *([unit * (score + shift * (i + 1)) for score in group] for i, group in enumerate(floats(groups)))
    )
    assert moved.f == pytest.approx(result.f, rel=1e-6, abs=1e-9)


def test_a_group_of_fewer_than_two_scores_has_no_spread():
    for short in ([], [0.5]):
        result = brown_forsythe([0.5, 0.6, 0.8], short)
        assert result.f is None and result.p is None and result.reason == "a group has fewer than 2 scores"


def test_constant_groups_have_no_f_and_one_constant_group_has():
    result = brown_forsythe([0.1] * 3, [0.7] * 4)
    assert result.f is None and result.p is None and result.reason == "the scores of each group are all the same"
    assert brown_forsythe([0.1 + 0.2, 0.3, 0.3], [0.7] * 4).reason == result.reason  # but for rounding
    assert brown_forsythe([0.1] * 3, [0.5, 0.6, 0.9, 0.9]).p is not None


@pytest.mark.parametrize("score", [0.1, 0.3, 1 / 3, 131 / 277, 1e-9, 1e9])
def test_rounding_makes_no_test_of_groups_of_two(score):
    """Two scores are equally far from their median, but the two distances may differ in the last bit."""
    for gap in (0.1, 0.007, 1 / 3):
        result = brown_forsythe([score, score * (1 + gap)], [score, score * (1 + 3 * gap)])
        assert result.f is None and "two scores always are" in result.reason


def test_brown_forsythe_refuses_what_it_cannot_take():
    for bad in ([], [[0.5, 0.6]], [[0.5, math.nan], [0.5, 0.6]], [[[0.5, 0.6]], [0.5, 0.6]]):
        with pytest.raises(InputError, match="two groups or more"):
            brown_forsythe(*bad)


# ---- audited estimate -------------------------------------------------------------------------------------------------


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
