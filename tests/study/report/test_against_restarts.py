"""One recipe against restarts of another: against loops over draws, and where there is no spread."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.errors import InputError
from hf_stability.statistics import expanded_ends
from hf_stability.study.report.against_restarts import against_restarts, resample, restarts_of_draws
from hf_stability.study.report.restarts import restarts_at_budget


FEW = st.integers(0, 3).map(float)  # so that many tie


@st.composite
def two_recipes(draw, fewest=2):
    """Scores of one recipe, selecting and reported scores of the base, and a budget."""
    others, runs = draw(st.integers(fewest, 7)), draw(st.integers(fewest, 7))
    own = (np.array(draw(st.lists(FEW, min_size=n, max_size=n))) for n in (others, runs, runs))
    return *own, draw(st.floats(1, runs))


@settings(deadline=None, max_examples=50)
@given(two_recipes(), st.integers(0, 5))
def test_each_draw_has_the_restarts_of_its_runs(recipes, seed):
    _, select, report, budget = recipes
    times = resample(len(report), 20, np.random.default_rng(seed))
    for row, value in zip(times.astype(int), restarts_of_draws(times, select, budget, report), strict=True):
        expected = restarts_at_budget(np.repeat(select, row), budget, np.repeat(report, row))
        assert value == pytest.approx(float(expected), abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(two_recipes(), st.sampled_from([0.5, 0.9, 0.95]))
def test_the_interval_is_the_percentiles_of_a_loop_over_draws(recipes, confidence):
    scores, select, report, budget = recipes
    draws, rng = 30, np.random.default_rng(7)
    own, other = (
        rng.integers(len(report), size=(draws, len(report))),
        rng.integers(len(scores), size=(draws, len(scores))),
    )
    found = against_restarts(*recipes, np.random.default_rng(7), draws, confidence)
    best = float(restarts_at_budget(select, budget, report))
    drawn = np.array(
        [
            scores[o].mean() - float(restarts_at_budget(select[b], budget, report[b]))
            for o, b in zip(other, own, strict=True)
        ]
    )
    low, high = np.quantile(drawn, expanded_ends(min(len(scores), len(report)), confidence))
    assert found.restarts == pytest.approx(best) and found.difference == pytest.approx(scores.mean() - best)
    moved = found.difference - drawn.mean()
    assert (found.low, found.high) == (pytest.approx(low + moved, abs=1e-12), pytest.approx(high + moved, abs=1e-12))


def test_rare_good_runs_are_counted_exactly_and_the_interval_is_about_the_estimate():
    rare = np.where(np.arange(20) < 18, 0.5, 0.9)  # 2 of 20 runs are good
    found = against_restarts(np.full(20, 0.8), rare, rare, 7.0, np.random.default_rng(0))
    assert found.restarts == pytest.approx(0.5 + 0.4 * (1 - math.comb(18, 7) / math.comb(20, 7)))
    assert found.low < found.difference < found.high and found.high - found.low > 0.2


def test_runs_that_are_all_the_same_have_no_width():
    found = against_restarts(np.full(20, 0.9), np.full(20, 0.7), np.full(20, 0.8), 6.67, np.random.default_rng(0))
    assert (found.low, found.difference, found.high) == pytest.approx((0.1, 0.1, 0.1))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_runs(n):
    values = np.linspace(0.8, 0.9, n)
    found = against_restarts(values, values, values, 1.0, np.random.default_rng(0))
    assert found.difference == pytest.approx(0)
    if n == 1:
        assert math.isnan(found.low) and math.isnan(found.high)
    else:
        assert found.low < 0 < found.high and np.isfinite([found.low, found.high]).all()


def test_a_smaller_sample_of_either_recipe_makes_it_wider():
    rng = np.random.default_rng(0)
    many, few = rng.normal(0.9, 0.01, 40), rng.normal(0.9, 0.01, 40)[:10]
    widths = []
    for scores, base in ((many, many), (few, many), (many, few)):
        found = against_restarts(scores, base, base, 3.0, np.random.default_rng(0))
        widths.append(found.high - found.low)
    assert widths[0] < min(widths[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [0.5, np.nan]}, "not finite"),
        ({"scores": []}, "no scores"),
        ({"report": [0.5, np.inf, 0.5]}, "not finite"),
        ({"report": [0.5]}, "one selecting and one reported score"),
        ({"budget": 3.5}, "a budget of 3.5 runs: need 1 to 3"),
        ({"draws": 0}, "0 bootstrap draws"),
        ({"confidence": 95}, "confidence 95"),
    ],
)
def test_what_is_wrong_is_said(change, message):
    given_ = {"scores": [0.5, 0.6], "select": [0.5, 0.6, 0.7], "report": [0.5, 0.6, 0.7], "budget": 2.0}
    with pytest.raises(InputError, match=message):
        against_restarts(**{**given_, **change}, rng=np.random.default_rng(0))
