"""Pocock's level: against his published table, scipy's multivariate normal, and a slow simulation of random walks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from hf_stability.errors import InputError
from hf_stability.statistics import pocock_level


@pytest.mark.parametrize(("looks", "level"), [(1, 0.05), (2, 0.0294), (3, 0.0221), (4, 0.0182), (5, 0.0158)])
def test_it_is_the_published_level(looks, level):
    """Pocock 1977, Biometrika 64, table 1: equal steps, two-sided 0.05."""
    assert pocock_level([7 * k for k in range(1, looks + 1)]) == pytest.approx(level, abs=5e-5)


def test_five_looks_at_an_uncorrected_level_find_too_much():
    """Armitage, McPherson & Rowe 1969, table 2: 4 looks at 0.05 each find something in 0.126 of all studies."""
    assert pocock_level([5, 10, 15, 20], alpha=0.126) == pytest.approx(0.05, abs=2e-4)


@settings(max_examples=5, deadline=None)
@given(st.sets(st.integers(2, 60), min_size=2, max_size=3).map(sorted), st.sampled_from([0.05, 0.01]))
def test_the_chance_of_a_crossing_is_that_of_the_multivariate_normal(looks, alpha):
    z = norm.isf(pocock_level(looks, alpha) / 2)
    smaller, larger = np.minimum.outer(looks, looks), np.maximum.outer(looks, looks)
    normal = multivariate_normal(cov=np.sqrt(smaller / larger))
    within = normal.cdf(np.full(len(looks), z), lower_limit=np.full(len(looks), -z))
    assert 1 - within == pytest.approx(alpha, abs=2e-4)


def test_the_chance_of_a_crossing_is_that_of_random_walks():
    looks, walks = [4, 9, 10, 31], 40_000
    steps = np.random.default_rng(0).standard_normal((walks, looks[-1]))
    z = steps.cumsum(1)[:, np.array(looks) - 1] / np.sqrt(looks)
    crossed = (np.abs(z) > norm.isf(pocock_level(looks) / 2)).any(1).mean()
    assert crossed == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / walks))


def test_looks_one_run_apart_count_nearly_as_one():
    one, near, far = pocock_level([1000]), pocock_level([999, 1000]), pocock_level([10, 1000])
    assert one == 0.05 and 0.048 < near < one and 0.0253 < far < 0.026  # independent: 1 - sqrt(0.95) = 0.0253


@pytest.mark.parametrize("looks", [[], [5, 5], [10, 5], [0, 5]])
def test_looks_that_do_not_increase_are_refused(looks):
    with pytest.raises(InputError, match="looks .*: need increasing numbers"):
        pocock_level(looks)


@pytest.mark.parametrize("alpha", [0, 1, -0.1])
def test_a_level_outside_its_range_is_refused(alpha):
    with pytest.raises(InputError, match="level .*: need a number between 0 and 1"):
        pocock_level([5, 10], alpha)
