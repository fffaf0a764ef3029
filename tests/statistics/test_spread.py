"""Standard deviations and tests of equal spread against scipy, exact fractions and slow enumerations."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import f as f_distribution
from scipy.stats import f_oneway, norm, trim_mean
from scipy.stats import levene as scipy_levene

from hf_stability.errors import InputError
from hf_stability.statistics import brown_forsythe, levene, spread_permutation_p, standard_deviation, std_interval


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


# ---- interval of a standard deviation -------------------------------------------------------------------------------


def bonett(scores, confidence):
    """Bonett 2006, in plain Python, with scipy's trimmed mean."""
    n, z = len(scores), norm.ppf((1 + confidence) / 2)
    centre = trim_mean(scores, 1 / (2 * math.sqrt(n - 4))) if n > 5 else statistics.median(scores)
    fourth = math.fsum((score - centre) ** 4 for score in scores)
    kurtosis = n * fourth / (statistics.variance(scores) * (n - 1)) ** 2
    c = n / (n - z)
    error = c * math.sqrt((kurtosis - (n - 3) / n) / (n - 1))
    middle = math.log(c * statistics.variance(scores))
    return math.exp((middle - z * error) / 2), math.exp((middle + z * error) / 2)


@settings(deadline=None, max_examples=50)
@given(st.lists(accuracies, min_size=5, max_size=40), st.sampled_from([0.8, 0.95]))
def test_the_interval_of_a_std_is_bonetts(scores, confidence):
    assume(len(set(scores)) > 1)
    scores = list(map(float, scores))
    assert std_interval(scores, confidence) == pytest.approx(bonett(scores, confidence))


@pytest.mark.parametrize("n", [10, 50])
def test_the_interval_of_a_std_covers_it_for_normal_scores_and_heavy_tails(n):
    """2000 data sets each; the chi-square interval covers 0.73 to 0.89 of the second."""
    rng = np.random.default_rng(0)
    for scores, std, least in (
        (rng.normal(size=(2000, n)), 1, 0.93),
        (rng.standard_t(5, (2000, n)), math.sqrt(5 / 3), 0.88),
    ):
        low, high = std_interval(scores)
        assert low.shape == (2000,) and np.mean((low <= std) & (std <= high)) > least


def test_the_interval_of_a_std_follows_the_scores_unit_and_has_no_width_without_spread():
    scores = np.random.default_rng(0).normal(size=12)
    low, high = std_interval(scores)
    assert low < scores.std(ddof=1) < high
    assert std_interval(100 * scores - 7) == (pytest.approx(100 * low), pytest.approx(100 * high))
    assert std_interval([0.3, 0.1 + 0.2, 0.3, 0.3, 0.3]) == (0, 0)
    low, high = std_interval(np.stack([scores, np.full(12, 0.5)]))
    assert high[0] == std_interval(scores)[1] and high[1] == 0


def test_a_std_of_fewer_than_5_scores_has_no_interval():
    assert all(math.isnan(end) for end in std_interval([0.1, 0.2, 0.3, 0.4]))
    with pytest.raises(InputError, match="not finite"):
        std_interval([0.1, 0.2, 0.3, 0.4, math.nan])
    with pytest.raises(InputError, match="confidence 95"):
        std_interval([0.1, 0.2, 0.3, 0.4, 0.5], 95)


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
        assert result.p == scipy_levene(*floats(groups), center="median").pvalue


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


# ---- Levene's test --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(groups)
def test_levene_is_scipys_about_the_mean(groups):
    result = levene(*floats(groups))
    far = [[abs(score - sum(group) / len(group)) for score in group] for group in groups]
    expected = one_way_f(far)
    assert result.distances == pytest.approx([float(sum(group) / len(group)) for group in far], abs=1e-12)
    if expected is None:
        assert result.f is None and result.p is None and result.reason
    else:
        assert result.f == pytest.approx(float(expected), rel=1e-6, abs=1e-9)
        assert result.p == scipy_levene(*floats(groups), center="mean").pvalue


def test_levene_of_constant_groups_has_no_f_and_says_why():
    assert levene([0.1] * 3, [0.7] * 4).reason == "the scores of each group are all the same"
    assert "equally far from its mean" in levene([0.1, 0.2], [0.1, 0.7]).reason
    with pytest.raises(InputError, match="the Levene test needs two groups"):
        levene([0.1, 0.2])


# ---- permutation test of spread -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.lists(accuracies, min_size=2, max_size=5), st.lists(accuracies, min_size=2, max_size=5))
def test_the_permutation_test_lists_all_ways_and_ranks_them_as_brown_forsythes_f(a, b):
    """The oracle sorts the F of a one-way analysis of variance, in exact fractions, over all ways to split the distances."""
    z = distances(a) + distances(b)
    ways = list(combinations(range(len(z)), len(a)))

    def gap(chosen):
        first = sum((z[i] for i in chosen), Fraction(0)) / len(a)
        return abs(first - (sum(z) - first * len(a)) / len(b))

    expected = Fraction(sum(gap(way) >= gap(ways[0]) for way in ways), len(ways))
    assert spread_permutation_p(*floats([a, b])) == pytest.approx(float(expected))


def test_the_permutation_test_is_that_of_scipys_f_on_one_example():
    a, b = [0.1, 0.5, 0.9, 0.2], [0.45, 0.5, 0.55, 0.53, 0.4]
    z = np.array(distances(a) + distances(b))
    ways = [np.isin(range(9), way) for way in combinations(range(9), 4)]
    f = np.array([f_oneway(z[way], z[~way]).statistic for way in ways])
    assert spread_permutation_p(a, b) == pytest.approx(np.mean(f >= f[0] * (1 - 1e-9)))


def test_many_runs_have_random_permutations_with_a_fixed_seed():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=20), 3 * rng.normal(size=25)
    p = spread_permutation_p(a, b, 999)
    assert p == spread_permutation_p(a, b, 999) == pytest.approx(1 / 1000, abs=2e-3) and p >= 1 / 1000
    assert spread_permutation_p(a, b, 999, seed=1) == pytest.approx(p, abs=0.01)
    assert spread_permutation_p(a, a + 5) == 1
    assert math.isnan(spread_permutation_p([0.5], b))
    with pytest.raises(InputError, match="two lists of scores"):
        spread_permutation_p([a], b)
