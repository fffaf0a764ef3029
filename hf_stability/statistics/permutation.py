"""The permutations of permutation tests. All are listed if they are few; otherwise some are drawn.

The observed arrangement is among them. So p is the share of arrangements with a statistic at least as large as the observed one,
and never 0. If all are listed, p is exact. If B are drawn, p is (1 + count) / (1 + B) (Phipson & Smyth 2010, Statistical
Applications in Genetics and Molecular Biology 9, article 39).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations, product
from math import comb

import numpy as np

from ..errors import InputError


TIED = 1e-9
"""Statistics that differ by less than this fraction differ only by rounding."""


@lru_cache(maxsize=2)
def splits(n_a: int, n_b: int, permutations: int, seed: int) -> np.ndarray:
    """Ways to divide n_a + n_b runs into two groups of these sizes. The first one is the observed one.

    Args:
        n_a, n_b: sizes of the groups, at least 1.
        permutations: largest number of ways; if there are more, so many random ones are drawn besides the observed one.
        seed: of the random draws.

    Returns:
        (ways, n_a + n_b), read-only: 1 if the run is in the first group, else 0.
    """
    _check(permutations)
    runs = n_a + n_b
    if comb(runs, n_a) <= permutations:
        chosen = np.array(list(combinations(range(runs), n_a)))
        ways = np.zeros((len(chosen), runs))
        np.put_along_axis(ways, chosen, 1.0, axis=1)
    else:
        drawn = np.random.default_rng(seed).random((permutations, runs)).argsort(axis=1) < n_a
        ways = np.concatenate([(np.arange(runs) < n_a)[None], drawn]).astype(float)
    ways.flags.writeable = False
    return ways


@lru_cache(maxsize=2)
def signs(n: int, permutations: int, seed: int) -> np.ndarray:
    """Ways to exchange the two scores of each of n pairs: (ways, n), read-only, of 1 and -1. The first one exchanges none.

    Args:
        n: number of pairs, at least 1.
        permutations, seed: as for `splits`.
    """
    _check(permutations)
    if 2**n <= permutations:
        ways = np.array(list(product((1.0, -1.0), repeat=n)))
    else:
        drawn = np.random.default_rng(seed).choice((1.0, -1.0), size=(permutations, n))
        ways = np.concatenate([np.ones((1, n)), drawn])
    ways.flags.writeable = False
    return ways


def permutation_p(statistics: np.ndarray) -> float:
    """Share of the ways with a statistic at least as large as the first one, which is the observed one.

    Args:
        statistics: (ways,), at least 0; may be infinite.
    """
    return float((statistics >= statistics[0] * (1 - TIED)).mean())


def _check(permutations: int) -> None:
    if permutations < 1:
        raise InputError(f"{permutations} permutations: need at least 1, better 999 or more")
