"""Permutations: all of them where they are few, else random ones, with the observed one first."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from hf_stability.errors import InputError
from hf_stability.statistics.permutation import permutation_p, signs, splits


@pytest.mark.parametrize(("n_a", "n_b"), [(2, 3), (3, 3), (1, 4)])
def test_few_splits_are_all_there_once_and_the_observed_one_is_first(n_a, n_b):
    ways = splits(n_a, n_b, 99, 0)
    assert len({tuple(way) for way in ways}) == len(ways) == comb(n_a + n_b, n_a)
    assert (ways.sum(1) == n_a).all() and (ways[0] == [1] * n_a + [0] * n_b).all()


def test_few_exchanges_are_all_there_once_and_the_first_exchanges_none():
    ways = signs(4, 16, 0)
    assert len({tuple(way) for way in ways}) == 16 and (ways[0] == 1).all()


def test_many_ways_are_drawn_fairly_with_the_observed_one_first():
    ways = splits(10, 20, 4000, 0)
    assert ways.shape == (4001, 30) and (ways.sum(1) == 10).all() and (ways[0] == [1] * 10 + [0] * 20).all()
    assert ways.mean(0) == pytest.approx(np.full(30, 1 / 3), abs=0.04)
    pairs = signs(20, 4000, 0)
    assert pairs.shape == (4001, 20) and pairs.mean(0) == pytest.approx(np.zeros(20), abs=0.08)
    assert not np.array_equal(ways, splits(10, 20, 4000, 1))
    with pytest.raises(ValueError, match="read-only"):
        ways[0, 0] = 5


def test_p_counts_ties_and_is_never_0():
    assert permutation_p(np.array([3.0, 1, 2, 4])) == 0.5
    assert permutation_p(np.array([3.0, 3 * (1 - 1e-12), 2, 1])) == 0.5  # a tie, except for rounding
    assert permutation_p(np.array([np.inf, 1, np.inf, 1])) == 0.5
    assert permutation_p(np.array([0.0, 1, 2, 0])) == 1
    with pytest.raises(InputError, match="0 permutations"):
        splits(2, 2, 0, 0)
