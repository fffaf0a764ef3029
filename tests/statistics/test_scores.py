"""One recipe's figures against scipy, numpy and lists of all that could have been drawn."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm, trim_mean
from scipy.stats import t as student

from hf_stability.errors import InputError
from hf_stability.statistics import (
    chance_among,
    expanded_ends,
    expected_maximum,
    interquartile_mean,
    lowest_decile,
    t_interval,
)


accuracies = st.integers(0, 277).map(lambda right: Fraction(right, 277))  # of RTE's development set


@st.composite
def finished_runs(draw, most=6):
    """Looks, scores and reports of N runs: few values, so that many are the same."""
    runs = draw(st.integers(1, most))
    column = st.lists(st.integers(0, 3).map(float), min_size=runs, max_size=runs)
    return tuple(np.array(draw(column)) for _ in range(3))


def mean(values):
    values = [Fraction(value) for value in values]
    return sum(values) / len(values)


def best_of(runs, scores, report):
    """Mean report score of those runs that are best by `scores`."""
    runs = list(runs)
    return mean(report[i] for i in runs if scores[i] == max(scores[j] for j in runs))


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


# ---- lowest decile and interquartile mean ---------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_the_lowest_decile_is_pythons_inclusive_quantile(scores):
    assert lowest_decile(scores) == pytest.approx(statistics.quantiles(scores, n=10, method="inclusive")[0], abs=1e-12)
    assert min(scores) - 1e-12 <= lowest_decile(scores) <= statistics.median(scores) + 1e-12


def test_the_lowest_decile_of_one_run_and_of_failed_runs():
    assert lowest_decile([0.7]) == 0.7
    assert lowest_decile([0.5] * 2 + [0.9] * 9) == 0.5  # a tenth of 11 runs, and more, failed
    assert lowest_decile([[0.5, 0.9], [0.9, 0.9]]) == lowest_decile([0.5, 0.9, 0.9, 0.9])


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=15))
def test_the_interquartile_mean_is_scipys_trimmed_mean(scores):
    assert interquartile_mean(scores) == pytest.approx(trim_mean(scores, 0.25, axis=None), abs=1e-12)
    first = [row[0] for row in scores]
    cut = len(first) // 4
    assert interquartile_mean(first) == pytest.approx(
        statistics.fmean(sorted(first)[cut : len(first) - cut]), abs=1e-12
    )


def test_the_interquartile_mean_hides_failures():
    assert interquartile_mean([0.9] * 15 + [0.5] * 5) == interquartile_mean([0.9] * 20) == pytest.approx(0.9)


@pytest.mark.parametrize("figure", [lowest_decile, interquartile_mean])
def test_no_scores_and_scores_that_are_not_finite_have_no_figure(figure):
    for bad in ([], [[[0.5]]], 0.5):
        with pytest.raises(InputError, match="need .runs,. or .runs, tasks."):
            figure(bad)
    with pytest.raises(InputError, match="not finite"):
        figure([0.5, math.inf])


# ---- expected maximum -----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(finished_runs())
def test_the_expected_maximum_is_the_mean_over_all_subsets(runs):
    _, scores, report = runs
    for n in range(1, len(scores) + 1):
        expected = mean(best_of(subset, scores, report) for subset in combinations(range(len(scores)), n))
        assert expected_maximum(scores, n, report) == pytest.approx(float(expected), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(finished_runs(most=4))
def test_with_replacement_it_is_the_mean_over_all_sequences(runs):
    _, scores, report = runs
    for n in range(1, len(scores) + 1):
        # a tie between runs, not between draws: by symmetry each is kept equally often
        expected = mean(best_of(set(drawn), scores, report) for drawn in product(range(len(scores)), repeat=n))
        assert expected_maximum(scores, n, report, replace=True) == pytest.approx(float(expected), abs=1e-12)


def test_the_formula_of_dodge_2019():
    scores, n = [0.7, 0.1, 0.5, 0.5], 3
    v, size = sorted(scores), len(scores)
    expected = sum(v[i - 1] * ((i / size) ** n - ((i - 1) / size) ** n) for i in range(1, size + 1))
    assert expected_maximum(scores, n, replace=True) == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.booleans())
def test_it_rises_from_the_mean_to_the_maximum_and_is_vectorised(scores, replace):
    n = np.arange(1, len(scores) + 1)
    values = expected_maximum(scores, n, replace=replace)
    assert values.shape == n.shape
    assert values[0] == pytest.approx(np.mean(scores), abs=1e-12)
    assert (np.diff(values) >= -1e-12).all()
    assert values == pytest.approx([float(expected_maximum(scores, k, replace=replace)) for k in n], abs=1e-12)
    if not replace:
        assert values[-1] == pytest.approx(max(scores), abs=1e-12)
    assert expected_maximum(scores, np.ones((2, 3), dtype=int)).shape == (2, 3)


def test_only_without_replacement_it_is_unbiased():
    """10 draws of U(0, 1): the expected maximum of n is n / (n + 1); 4000 samples, within 4 standard errors."""
    rng, n = np.random.default_rng(0), np.array([2, 5, 10])
    samples = rng.random((4000, 10))
    for replace in (False, True):
        values = np.array([expected_maximum(sample, n, replace=replace) for sample in samples])
        error = (values.mean(0) - n / (n + 1)) / (values.std(0) / np.sqrt(len(samples)))
        assert (np.abs(error) < 4).all() if not replace else (error < -4).all()


def test_what_selected_is_reported_too_high():
    """If all runs are the same but for noise, the best's report score is the mean, its selecting one is above."""
    scores, report = np.random.default_rng(0).normal(size=(2, 2000))
    assert expected_maximum(scores, 10) > 1.4
    assert abs(expected_maximum(scores, 10, report)) < 0.3


@settings(deadline=None)
@given(finished_runs(), st.randoms(use_true_random=False), st.integers(-3, 3))
def test_neither_order_nor_the_scale_of_the_selecting_score_matters(runs, random, shift):
    _, scores, report = runs
    order = random.sample(range(len(scores)), len(scores))
    for n in range(1, len(scores) + 1):
        value = expected_maximum(scores, n, report)
        assert expected_maximum(np.exp(scores[order]), n, report[order]) == pytest.approx(value, abs=1e-12)
        assert expected_maximum(scores, n, report + shift) == pytest.approx(value + shift, abs=1e-12)


@pytest.mark.parametrize("n", [0, 4, 1.5, [1, 4]])
def test_more_runs_than_there_are_none_and_parts_of_runs_are_refused(n):
    with pytest.raises(InputError, match="whole numbers from 1 to 3"):
        expected_maximum([0.1, 0.2, 0.3], n)


def test_scores_that_are_missing_are_refused():
    with pytest.raises(InputError, match="not finite; for a diverged run"):
        expected_maximum([0.1, np.nan], 1)
    for scores, report in (([], None), ([0.1, 0.2], [0.1]), ([[0.1, 0.2]], None)):
        with pytest.raises(InputError, match="need one selecting and one reported score per run"):
            expected_maximum(scores, 1, report)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("runs", [1, 4])
def test_the_chance_that_all_drawn_runs_are_among_some(runs, replace):
    for budget in range(1, runs + 1):
        draws = list(product(range(runs), repeat=budget) if replace else combinations(range(runs), budget))
        expected = [Fraction(sum(max(draw) < count for draw in draws), len(draws)) for count in range(runs + 1)]
        found = chance_among(np.arange(runs + 1), budget, runs, replace=replace)
        assert found == pytest.approx(np.array(expected, float))
        if budget > 1:
            between = chance_among(np.arange(runs + 1), budget - 0.75, runs, replace=replace)
            before = chance_among(np.arange(runs + 1), budget - 1, runs, replace=replace)
            assert between == pytest.approx(0.75 * before + 0.25 * found)


def test_the_expected_maximum_of_many_runs_does_not_overflow():
    scores = np.arange(2000) / 2000
    assert expected_maximum(scores, [1, 1000, 2000]) == pytest.approx([0.49975, 0.9990005, 0.9995], abs=1e-6)
