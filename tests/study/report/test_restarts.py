"""Restarts and the early stopping of bad seeds, against a list of all that could have been drawn."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.errors import InputError
from hf_stability.statistics import expected_maximum
from hf_stability.study.report.restarts import (
    affordable,
    early_stopping_cost,
    expected_early_stopping,
    jackknife_standard_error,
    restarts_at_budget,
    tabulate,
)
from tests.statistics.test_scores import best_of, finished_runs, mean


# ---- restarts -------------------------------------------------------------------------------------------------------


def test_many_runs_do_not_overflow():
    scores = np.arange(2000) / 2000
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
