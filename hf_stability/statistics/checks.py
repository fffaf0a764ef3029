"""Checks of the input that several files of this room share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError


ROUNDING = 1e-12
"""Scores that differ by less than this fraction of the largest differ only by rounding."""


def check_confidence(confidence: float) -> None:
    """Raises InputError for a confidence outside (0, 1)."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence}: need a number between 0 and 1, for example 0.95")


def finite(scores: ArrayLike) -> np.ndarray:
    """The scores as floats. Raises InputError if one is not finite."""
    scores = np.asarray(scores, dtype=float)
    if not np.isfinite(scores).all():
        raise InputError("some scores are not finite; for a diverged run, give the score of its predictions")
    return scores


def runs_or_tasks(scores: ArrayLike) -> np.ndarray:
    """Finite scores (runs,) or (runs, tasks), at least one. Raises InputError for other shapes."""
    scores = finite(scores)
    if scores.ndim not in (1, 2) or not scores.size:
        raise InputError(f"scores of shape {scores.shape}: need (runs,) or (runs, tasks), with at least one score")
    return scores


def score_per_run(scores: ArrayLike) -> np.ndarray:
    """(runs,): the scores, or each run's mean over its tasks, in which every task counts equally."""
    scores = runs_or_tasks(scores)
    return scores.mean(1) if scores.ndim == 2 else scores
