"""Two recipes compared: against scipy, published definitions worked out slowly, and lists of all permutations."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, brunnermunzel, mannwhitneyu, permutation_test, ttest_1samp, ttest_ind, ttest_rel

from hf_stability.errors import InputError
from hf_stability.statistics import (
    equivalence,
    holm,
    mean_difference,
    noise_floor,
    probability_of_superiority,
    wilson_interval,
)


grid = st.integers(0, 8).map(lambda right: right / 8)
few = st.lists(grid, min_size=2, max_size=5)
many = st.lists(grid, min_size=2, max_size=15)


# ---- difference of means, independent runs --------------------------------------------------------------------------


def test_the_interval_of_independent_runs_is_scipys_welch_interval():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.9, 0.01, 12), rng.normal(0.85, 0.1, 20)
    found = mean_difference(a, b, confidence=0.9)
    expected = ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    assert found.n == (12, 20) and found.estimate == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def welch(a, b):
    """The absolute t statistic, in fractions: its square; infinite without variance."""
    a, b = [[Fraction(score) for score in group] for group in (a, b)]
    means = [sum(group) / len(group) for group in (a, b)]
    error = sum(
        sum((score - mean) ** 2 for score in group) / (len(group) - 1) / len(group)
        for group, mean in zip((a, b), means, strict=True)
    )
    gap = means[0] - means[1]
    return (gap**2 / error if error else math.inf) if gap else 0


@settings(deadline=None, max_examples=40)
@given(few, few)
def test_p_of_independent_runs_is_that_of_all_ways_to_split_them(a, b):
    """The oracle lists the ways and computes Welch's t in exact fractions."""
    both = a + b
    found = []
    for way in combinations(range(len(both)), len(a)):
        first = [both[i] for i in way]
        found.append(welch(first, [both[i] for i in range(len(both)) if i not in way]))
    expected = Fraction(sum(value >= found[0] for value in found), len(found))
    assert mean_difference(a, b).p == pytest.approx(float(expected))


def test_p_of_independent_runs_is_that_of_scipys_permutation_test():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.6, 1, 5), rng.normal(0, 2, 6)

    def t(a, b, axis=-1):
        return np.abs(ttest_ind(a, b, equal_var=False, axis=axis).statistic)

    expected = permutation_test((a, b), t, vectorized=True, alternative="greater", n_resamples=np.inf)
    assert mean_difference(a, b).p == pytest.approx(expected.pvalue)


def test_random_permutations_have_a_fixed_seed_and_are_near_the_t_test():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.6, 1, 30), rng.normal(0, 1, 30)
    found = mean_difference(a, b)
    assert found == mean_difference(a, b) and found.p == pytest.approx(ttest_ind(a, b).pvalue, abs=0.01)
    assert mean_difference(a, b, seed=1).p == pytest.approx(found.p, abs=0.01)
    assert mean_difference(a, a + 100, permutations=999).p == 1 / 1000


# ---- difference of means, pairs -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(grid, grid), min_size=2, max_size=7))
def test_p_of_pairs_is_that_of_all_exchanges_within_seeds(pairs):
    differences = [Fraction(a) - Fraction(b) for a, b in pairs]
    sums = [
        abs(sum(s * d for s, d in zip(way, differences, strict=True))) for way in product((1, -1), repeat=len(pairs))
    ]
    expected = Fraction(sum(value >= sums[0] for value in sums), len(sums))
    found = mean_difference(*zip(*pairs, strict=True), paired=True)
    assert found.p == pytest.approx(float(expected)) and found.n == (len(pairs),)


def test_the_interval_of_pairs_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 25))
    found = mean_difference(a, b, paired=True)
    expected = ttest_rel(a, b).confidence_interval()
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.p == pytest.approx(ttest_rel(a, b).pvalue, abs=0.02)
    assert ttest_1samp(a - b, 0).pvalue == pytest.approx(ttest_rel(a, b).pvalue)


# ---- difference of means, both --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(few, few, st.integers(-5, 5), st.sampled_from([0.01, 100]))
def test_a_difference_turns_with_the_order_and_follows_shifts_and_units(a, b, shift, unit):
    found, turned = mean_difference(a, b), mean_difference(b, a)
    assert (turned.estimate, turned.low, turned.high) == pytest.approx((-found.estimate, -found.high, -found.low))
    assert turned.p == pytest.approx(found.p)
    moved = mean_difference(unit * (np.array(a) + shift), unit * (np.array(b) + shift))
    assert moved.p == found.p
    expected = tuple(unit * value for value in (found.estimate, found.low, found.high))
    assert (moved.estimate, moved.low, moved.high) == pytest.approx(expected, abs=1e-9)


def test_tasks_count_equally_within_a_run():
    a, b = np.random.default_rng(0).normal(size=(2, 6, 3))
    for paired in (False, True):
        assert mean_difference(a, b, paired) == mean_difference(a.mean(1), b.mean(1), paired)


def test_constant_scores_and_single_runs():
    same = mean_difference([0.3, 0.1 + 0.2, 0.3], [0.3] * 4)
    assert (same.low, same.high, same.p) == (pytest.approx(0), pytest.approx(0), 1)
    apart = mean_difference([0.9] * 4, [0.5] * 4)
    assert apart.low == apart.high == apart.estimate == pytest.approx(0.4) and apart.p == pytest.approx(2 / 70)
    for one in (mean_difference([0.5], [0.4, 0.6]), mean_difference([0.5], [0.25], paired=True)):
        assert math.isnan(one.low) and math.isnan(one.high) and math.isnan(one.p)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1, 0.2], [0.1], True), "2 and 1 paired scores"),
        (([], [0.1]), "need .runs,. or .runs, tasks."),
        (([0.1, math.nan], [0.1]), "not finite"),
        (([0.1, 0.2], [0.1, 0.2], False, 0), "0 permutations"),
        (([0.1, 0.2], [0.1, 0.2], False, 99, 95), "confidence 95"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        mean_difference(*arguments)


# ---- probability of superiority -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(many, many)
def test_the_probability_is_mann_and_whitneys_u_and_turns_with_the_order(a, b):
    share, low, high = probability_of_superiority(a, b)
    assert share == pytest.approx(mannwhitneyu(a, b).statistic / len(a) / len(b))
    assert 0 <= low <= share <= high <= 1 and low < high
    assert probability_of_superiority(b, a) == pytest.approx((1 - share, 1 - high, 1 - low), abs=1e-9)
    assert probability_of_superiority(np.exp(a), np.exp(b)) == (share, low, high)  # ranks alone count


def test_the_interval_is_wilsons_of_as_many_runs_as_have_the_variance_of_brunner_and_munzel():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 15), rng.normal(0, 1, 20)
    share, low, high = probability_of_superiority(a, b)
    # Their statistic is (share - 1/2) / sqrt(V), with the same V as DeLong's.
    variance = ((share - 0.5) / brunnermunzel(a, b).statistic) ** 2
    runs = share * (1 - share) / variance
    assert 15 < runs < 35
    assert (low, high) == pytest.approx(tuple(map(float, wilson_interval(share * runs, runs))))


def test_recipes_that_always_win_have_wilsons_interval_of_the_smaller_number_of_runs():
    assert probability_of_superiority([0.9] * 5, [0.5] * 9) == (1, pytest.approx(float(wilson_interval(5, 5)[0])), 1)
    share, low, high = probability_of_superiority([0.5, 0.6], [0.7])
    assert share == 0 and math.isnan(low) and math.isnan(high)


def test_one_lost_pair_of_25_does_not_count_as_more_runs_than_there_are():
    share, low, high = probability_of_superiority([2, 3, 4, 5, 6], [1, 1.1, 1.2, 1.3, 2.5])
    variance = 2 * 0.008 / 5  # of the placements 0.8, 1, 1, 1, 1 of both recipes
    assert share == 0.96 and 0.96 * 0.04 / variance == pytest.approx(12)
    assert (low, high) == pytest.approx(tuple(map(float, wilson_interval(9.6, 10))))


def test_failed_runs_lose_and_tasks_are_averaged():
    share, _, _ = probability_of_superiority([0.9] * 8 + [0.5] * 2, [0.8] * 10)
    assert share == pytest.approx(0.8)
    a, b = np.random.default_rng(0).normal(size=(2, 6, 3))
    expected = np.mean([probability_of_superiority(a[:, k], b[:, k])[0] for k in range(3)])
    assert probability_of_superiority(a, b)[0] == pytest.approx(expected)
    with pytest.raises(InputError, match="need the same tasks"):
        probability_of_superiority(a, b[:, :2])


# ---- decisions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "decision"),
    [
        (0.011, 0.03, "better"),
        (0.01, 0.03, "undecided"),
        (-0.01, 0.01, "equal"),
        (-0.005, 0.02, "undecided"),
        (-0.03, 0.03, "undecided"),
        (-0.03, -0.011, "worse"),
        (-0.03, -0.01, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_equivalence(low, high, decision):
    assert equivalence(low, high, 0.01) == decision
    turned = {"better": "worse", "worse": "better"}
    assert equivalence(-high, -low, 0.01) == turned.get(decision, decision)


def test_equivalence_without_a_region_is_a_test_of_0():
    assert equivalence(0.001, 0.1, 0) == "better" and equivalence(-0.001, 0.1, 0) == "undecided"
    assert equivalence(0, 0, 0) == "equal"
    for bad, message in (((0, 1, -0.01), "rope -0.01"), ((0, 1, math.nan), "rope nan"), ((1, 0, 0.1), "from 1 to 0")):
        with pytest.raises(InputError, match=message):
            equivalence(*bad)


@pytest.mark.parametrize(("right", "examples"), [(139, 277), (250, 277), (277, 277), (0, 50)])
def test_the_noise_floor_is_half_of_scipys_wilson_interval(right, examples):
    interval = binomtest(right, examples).proportion_ci(method="wilson")
    assert noise_floor(right / examples, examples) == pytest.approx((interval.high - interval.low) / 2)


def test_the_noise_floor_is_near_two_standard_errors_and_refuses_what_is_no_share():
    assert noise_floor(0.5, 277) == pytest.approx(0.058, abs=5e-4)
    assert noise_floor(0.9, 10_000) == pytest.approx(1.96 * math.sqrt(0.9 * 0.1 / 10_000), rel=1e-2)
    for bad in ((1.5, 100), (-0.1, 100), (0.5, 0), (math.nan, 100)):
        with pytest.raises(InputError, match="need a share from 0 to 1"):
            noise_floor(*bad)


# ---- Holm -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """Marcus, Peritz & Gabriel 1976: the largest Bonferroni p of all subsets that have the comparison in them."""
    subsets = [s for size in range(1, len(p_values) + 1) for s in combinations(range(len(p_values)), size)]
    found = [
        max(min(1, len(s) * min(p_values[j] for j in s)) for s in subsets if i in s) for i in range(len(p_values))
    ]
    assert holm(p_values) == pytest.approx(found)


def test_holm_of_a_known_example_and_of_none():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
