"""Restarts and the early stopping of bad seeds, against a list of all that could have been drawn."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.errors import InputError
from hf_stability.study.report.restarts import (
    affordable,
    chance_among,
    early_stopping_cost,
    expected_early_stopping,
    expected_maximum,
    jackknife_standard_error,
    restarts_at_budget,
    tabulate,
)


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


# ---- restarts -------------------------------------------------------------------------------------------------------


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
    """Of runs that are all the same but for noise, the best's report score is the mean, its selecting one is above."""
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


def test_many_runs_do_not_overflow():
    scores = np.arange(2000) / 2000
    assert expected_maximum(scores, [1, 1000, 2000]) == pytest.approx([0.49975, 0.9990005, 0.9995], abs=1e-6)
    look = np.arange(1200) // 400  # two of the top 400 are finished
    assert expected_early_stopping(look, scores[:1200], 600, 2) == pytest.approx((800 + 802 / 3 - 1) / 2000)


def test_plain_restarts_are_linear_between_whole_numbers():
    scores = [0.1, 0.2, 0.6, 0.7]
    two, three = expected_maximum(scores, [2, 3])
    assert restarts_at_budget(scores, [2, 2.25, 3]) == pytest.approx([two, 0.75 * two + 0.25 * three, three])
    assert restarts_at_budget(scores, 4) == pytest.approx(0.7)
    for budget in (0.5, 4.1, np.nan):
        with pytest.raises(InputError, match="need 1 to 4"):
            restarts_at_budget(scores, budget)


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


# ---- early stopping of bad seeds ------------------------------------------------------------------------------------


def early_stopping_by_enumeration(look, scores, started, finished, report):
    """Mean over all subsets; of each over all that may be finished: none of the others was better at the look."""
    values = []
    for subset in combinations(range(len(scores)), started):
        kept = [
            k
            for k in combinations(subset, finished)
            if all(look[i] >= look[j] for i in k for j in set(subset) - set(k))
        ]
        values.append(mean(best_of(k, scores, report) for k in kept))
    return mean(values)


@settings(deadline=None, max_examples=60)
@given(finished_runs())
def test_early_stopping_is_the_mean_over_all_subsets(runs):
    look, scores, report = runs
    for started in range(1, len(scores) + 1):
        for finished in range(1, started + 1):
            expected = early_stopping_by_enumeration(look, scores, started, finished, report)
            value = expected_early_stopping(look, scores, started, finished, report)
            assert value == pytest.approx(float(expected), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(finished_runs(most=8))
def test_a_look_that_tells_all_nothing_or_is_not_used(runs):
    _, scores, report = runs
    for started in range(1, len(scores) + 1):
        best = float(expected_maximum(scores, started, report))
        blind = np.zeros_like(scores)
        assert expected_early_stopping(blind, scores, started, started, report) == pytest.approx(best, abs=1e-12)
        for finished in range(1, started + 1):
            of_finished = float(expected_maximum(scores, finished, report))
            assert expected_early_stopping(scores, scores, started, finished, report) == pytest.approx(best, abs=1e-12)
            assert expected_early_stopping(blind, scores, started, finished, report) == pytest.approx(of_finished)


def test_the_cost_of_early_stopping():
    assert early_stopping_cost(10, 0.25, 4) == pytest.approx(5.5)
    assert early_stopping_cost(4, 0.25, 4) == 4
    for bad in ((3, 0.5, 4), (3, 0.5, 0), (3, 0, 1), (3, 1, 1), (3, 20, 1)):
        with pytest.raises(InputError, match="need"):
            early_stopping_cost(*bad)


@settings(deadline=None)
@given(st.integers(10, 80), st.sampled_from([1, 2, 3, 5, 9]), st.integers(1, 30))
def test_affordable_starts_as_many_as_the_budget_allows(tenths, look, runs):
    budget, f = Fraction(tenths, 10), Fraction(look, 10)
    expected = []
    for p in range(1, runs + 1):
        paid = [t for t in range(p + 1, runs + 1) if t * f + p * (1 - f) <= budget]
        expected += [(max(paid), float(f), p)] if paid else []
    assert affordable(float(budget), [float(f)], runs) == expected


def test_a_table_of_all_that_a_budget_allows():
    rng = np.random.default_rng(0)
    good = np.array([1.0] * 6 + [0.0] * 6)
    scores, report = 0.5 + 0.2 * good + rng.normal(0, 0.01, (2, 12))
    looks = np.stack([rng.normal(size=12), good + rng.normal(0, 0.1, 12)], 1)  # tells nothing, tells all failures
    rows = tabulate(3, [0.1, 0.5], looks, scores, report)
    assert [(row.started, row.fraction, row.finished) for row in rows] == affordable(3, [0.1, 0.5], 12)
    for row in rows:
        look = looks[:, 0 if row.fraction == 0.1 else 1]
        assert row.budget == early_stopping_cost(row.started, row.fraction, row.finished) <= 3
        assert row.score == expected_early_stopping(look, scores, row.started, row.finished, report)
        assert row.restarts == restarts_at_budget(scores, row.budget, report)
        assert row.gain == row.score - row.restarts
        assert (row.gain_se is None) == (row.started == 12)
    assert max(row.gain for row in rows if row.fraction == 0.5) > 0
    bare = tabulate(3, [0.1, 0.5], looks, scores, report, standard_errors=False)
    assert [row.score for row in bare] == [row.score for row in rows] and bare[-1].gain_se is None
    assert tabulate(1, [0.5], looks[:, :1], scores) == []


def test_a_table_of_other_runs_looks_or_budgets_is_refused():
    with pytest.raises(InputError, match=r"looks of shape \(2, 1\): need \(3, 1\)"):
        tabulate(2, [0.5], [[0.1], [0.2]], [0.1, 0.2, 0.3])
    with pytest.raises(InputError, match="need 1 to 3"):
        tabulate(4, [0.5], [[0.1], [0.2], [0.3]], [0.1, 0.2, 0.3])
    for budget in (0.9, np.nan):
        with pytest.raises(InputError, match="need at least 1"):
            affordable(budget, [0.5], 3)
    with pytest.raises(InputError, match="1 <= finished <= started <= 2"):
        expected_early_stopping([0.1, 0.2], [0.1, 0.2], 3, 1)


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_the_jackknife_of_a_mean_is_the_standard_error_of_the_mean(scores):
    expected = np.std(scores, ddof=1) / np.sqrt(len(scores))
    assert jackknife_standard_error(np.mean, np.array(scores)) == pytest.approx(expected, abs=1e-12)


def test_the_jackknife_of_the_gain_is_not_too_small_on_average():
    """12 runs, two fifths of which fail: 100 standard errors against the gain of 500 samples."""
    rng = np.random.default_rng(0)

    def sample():
        good = rng.random(12) < 0.6
        score = np.where(good, 0.7 + 0.02 * rng.normal(size=12), 0.5)
        look = np.where(good, 0.6, 0.5) + 0.05 * rng.normal(size=12)
        return look, *(score + 0.02 * rng.normal(size=(2, 12)))

    def gain(look, scores, report):
        early = expected_early_stopping(look, scores, 8, 2, report)
        return early - float(restarts_at_budget(scores, early_stopping_cost(8, 0.25, 2), report))

    gains = [gain(*sample()) for _ in range(500)]
    errors = [jackknife_standard_error(gain, *sample()) for _ in range(100)]
    assert 1 < np.sqrt(np.mean(np.square(errors))) / np.std(gains) < 2


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
