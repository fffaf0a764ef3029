"""Gradient norms over training as numbers: windows and phases, quartiles over runs, failed against ok runs.

Pure functions of arrays, for `gradients.py`. Shapes: `R` runs, `T` recorded update steps, `L` layers, `W` windows of training.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence

import numpy as np

from ..statistics.comparison import probability_of_superiority


PHASES = ("warmup", "first third", "second third", "last third")
"""Phases of training: the warmup, and thirds of the rest."""


def lower_layers(layers: Sequence[str]) -> list[str]:
    """The lower layers of a model: the embeddings and the lower third of the encoder's layers, at least one of them.

    Args:
        layers: names from input to output, as in `layers_of`. Without numbered names: the lower third of all.
    """
    numbered = [name for name in layers if re.search(r"layer_\d+$", name)]
    lower = numbered[: max(1, len(numbered) // 3)] if numbered else list(layers)[: max(1, len(layers) // 3)]
    return [name for name in layers if name in lower or name == "embeddings"]


def windowed(steps: np.ndarray, norms: np.ndarray, total: int, windows: int) -> np.ndarray:
    """Median norm in each of W equal parts of training, without NaN and Inf. NaN for a part without a finite norm.

    Args:
        steps: (T,), update steps from 1.
        norms: (T, L).
        total: update steps of the whole training.
        windows: W, at most `total`.

    Returns:
        (W, L).
    """
    parts = ((np.asarray(steps, dtype=np.int64) - 1) * windows) // total
    return _medians_by(parts, norms, windows)


def phase_medians(steps: np.ndarray, norms: np.ndarray, warmup: float, total: int) -> np.ndarray:
    """Median norm in each of `PHASES`, without NaN and Inf. NaN for a phase without a finite norm.

    Args:
        steps: (T,), update steps from 1.
        norms: (T, L).
        warmup: update steps of warmup; 0 for none.
        total: update steps of the whole training.

    Returns:
        (4, L).
    """
    steps = np.asarray(steps, dtype=np.int64)
    rest = np.clip((steps - warmup - 1) * 3 // max(total - warmup, 1), 0, 2).astype(np.int64)
    return _medians_by(np.where(steps <= warmup, 0, 1 + rest), norms, len(PHASES))


def _medians_by(parts: np.ndarray, norms: np.ndarray, number: int) -> np.ndarray:
    """Medians over the rows of each part: parts (T,) and norms (T, L) to (number, L)."""
    finite = np.where(np.isfinite(norms), norms, np.nan).astype(float)
    found = np.full((number, finite.shape[1]), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a part without a finite norm is NaN
        for part in np.unique(parts[(parts >= 0) & (parts < number)]):
            found[part] = np.nanmedian(finite[parts == part], axis=0)
    return found


def quartiles(norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First quartile, median and third quartile over runs, without NaN, and the number of runs that have a norm.

    Args:
        norms: (R, ...).

    Returns:
        (3, ...), NaN without runs; and n (...).
    """
    n = np.isfinite(norms).sum(0)
    if not len(norms):
        return np.full((3, *norms.shape[1:]), np.nan), n
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanquantile(norms, [0.25, 0.5, 0.75], axis=0), n


def first_lasting(below: np.ndarray) -> int | None:
    """Index of the first True after which all are True: (W,) -> an index, or None if the last one is False."""
    ends = np.flatnonzero(~np.asarray(below, dtype=bool))
    first = int(ends[-1]) + 1 if len(ends) else 0
    return first if first < len(below) else None


def stays_below(norms: np.ndarray, reference: np.ndarray, factor: float) -> int | None:
    """The first window from which norms stay below `factor` times the reference; None if they do not.

    Args:
        norms: (W,).
        reference: (W,). Windows in which either is NaN are passed over.
        factor: for example 0.1.
    """
    known = np.flatnonzero(np.isfinite(norms) & np.isfinite(reference))
    first = first_lasting(norms[known] < factor * reference[known])
    return None if first is None else int(known[first])


def separation(ok: np.ndarray, failed: np.ndarray) -> tuple[float, float, float]:
    """Probability that an ok run's norm is above a failed run's, with its 95% interval: `probability_of_superiority`.

    NaN without runs of either kind.
    """
    ok, failed = (np.asarray(norms, dtype=float) for norms in (ok, failed))
    ok, failed = ok[np.isfinite(ok)], failed[np.isfinite(failed)]
    if not len(ok) or not len(failed):
        return math.nan, math.nan, math.nan
    return probability_of_superiority(ok, failed)
