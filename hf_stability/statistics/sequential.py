"""Several looks at a growing study: the level of each look that keeps the chance of a false decision.

Tests after 5, 10, 15 and 20 seeds, each at 0.05, find a difference that is not there in 13% of all studies. So the level of each
look must be lower.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError


NODES = 100
"""Points of an integral, for looks that are far apart. Near looks take more. A level is then exact to 1e-9."""


def pocock_level(looks: Sequence[int], alpha: float = 0.05) -> float:
    """Level of a two-sided test at each look, the same for all, with which the chance of any false decision is alpha.

    Pocock 1977, Biometrika 64, p. 191, for looks at any numbers of runs. The statistics Z_1 ... Z_K are normal, and

        corr(Z_i, Z_j) = sqrt(n_i / n_j)    for i <= j,        P(|Z_k| > z for any k) = alpha

    gives z, and the level 2 (1 - Phi(z)). The looks must be set before the first result. For m comparisons take
    `alpha / m` (Bonferroni). It holds for large n. `benchmarks/until.py` measures it with Fisher's exact test and the
    permutation test at 5 to 20 runs.

    Args:
        looks: numbers of runs per recipe at the looks, increasing, at least 1.
        alpha: chance of any false decision over all looks, in (0, 1).

    Returns:
        In (0, alpha]; alpha for one look.

    Raises:
        InputError: no looks, they do not increase, or alpha is outside (0, 1).
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr, ndtri

    numbers = np.asarray(looks, dtype=float)
    if not numbers.size or numbers[0] < 1 or (np.diff(numbers) <= 0).any():
        raise InputError(f"looks {list(looks)}: need increasing numbers of runs, for example 5 10 15 20")
    if not 0 < alpha < 1:
        raise InputError(f"level {alpha}: need a number between 0 and 1, for example 0.05")
    if len(numbers) == 1:
        return float(alpha)
    low, high = -ndtri(alpha / 2), -ndtri(alpha / 2 / len(numbers))  # one look; Bonferroni over the looks
    z = brentq(lambda limit: _crossing_chance(limit, numbers) - alpha, low, high, xtol=1e-10)
    return float(2 * ndtr(-z))


def _crossing_chance(z: float, looks: np.ndarray) -> float:
    """P(|Z_k| > z for any k). The sum S_k = sqrt(n_k) Z_k grows by independent normal steps of variance n_k - n_(k-1), so
    that the density of S_k, among studies that go on, is an integral over the one before (Armitage, McPherson & Rowe 1969,
    JRSS A 132, p. 235)."""
    from scipy.special import ndtr

    # The steps between near looks are small against the range of S_k: two points or more fall into a standard deviation.
    points = NODES + 12 * np.sqrt((looks[1:] / np.diff(looks)).max())
    nodes, weights = np.polynomial.legendre.leggauss(int(points))
    limit = z * np.sqrt(looks[0])
    places, weights_here = limit * nodes, limit * weights
    density = _normal(places, np.sqrt(looks[0]))
    for before, now in zip(looks[:-2], looks[1:-1], strict=True):
        limit = z * np.sqrt(now)
        step = _normal(limit * nodes[:, None] - places, np.sqrt(now - before))
        density = step @ (density * weights_here)
        places, weights_here = limit * nodes, limit * weights
    limit, step = z * np.sqrt(looks[-1]), np.sqrt(looks[-1] - looks[-2])
    within = ndtr((limit - places) / step) - ndtr((-limit - places) / step)
    return float(1 - within @ (density * weights_here))


def _normal(x: np.ndarray, std: float) -> np.ndarray:
    return np.exp(-0.5 * (x / std) ** 2) / (std * np.sqrt(2 * np.pi))
