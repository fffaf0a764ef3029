"""Differences between runs that were trained alike, example by example: pure functions of their predictions.

Two runs with the same accuracy can be wrong on different examples. A standard deviation of scores does not show this. The
three measures of agreement are from Du & Nguyen ("Measuring the Instability of Fine-Tuning", 2023, arXiv 2302.07778, section
3). They differ from the authors' released code in one point: see `fleiss_kappa`.

Shapes: R runs, n examples, K classes. Predictions are class ids (R, n), probabilities and logits are (R, n, K), labels are
(n,). A figure that is undefined is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError


ONE = 1e-3
"""Probabilities of an example may differ from a sum of 1 by this much: they may come from half precision."""


# ---- agreement ------------------------------------------------------------------------------------------------------


def pairwise_disagreement(predictions: ArrayLike) -> float:
    """Share of the examples on which two runs predict different classes, as a mean over all pairs of runs.

        1 - mean_i sum_k c_ik (c_ik - 1) / (R (R - 1))

    with c_ik the number of runs that predict class k for example i. This is the mean over pairs of `mean(a != b)`, without
    a loop over pairs (Du & Nguyen 2023, section 3).

    Args:
        predictions: (R, n), class ids.

    Returns:
        In [0, 1]. 0: all runs predict the same. NaN for fewer than two runs.
    """
    predictions = _class_ids(predictions)
    return 1 - _agreement(vote_counts(predictions, int(predictions.max(initial=0)) + 1))


def fleiss_kappa(predictions: ArrayLike, classes: int) -> float:
    """Fleiss' kappa: agreement of all runs beyond the agreement that their class frequencies alone would give.

        kappa = (P - P_e) / (1 - P_e)

    P is the share of agreeing pairs of runs, `1 - pairwise_disagreement`. P_e is the sum over classes of p_k squared, with
    p_k the share of class k among all R n predictions (Fleiss 1971, Psychological Bulletin 76, p. 378).

    Du & Nguyen report 1 - kappa, so that larger means less stable. Their released code takes the sum for p_k along the other
    axis. So its P_e is always 1 / n, and its 1 - kappa is the pairwise disagreement times n / (n - 1). This function follows
    Fleiss.

    Args:
        predictions: (R, n), class ids below `classes`.
        classes: K. Classes that no run predicts change nothing.

    Returns:
        At most 1. 1: all runs predict the same. 0: they agree as often as by chance. NaN for fewer than two runs, and if
        all predictions are of one class, because kappa is 0 / 0 then.
    """
    counts = vote_counts(predictions, classes)
    by_class, total = counts.sum(0), counts.sum()
    if total == 0 or by_class.max() == total:
        return float("nan")
    by_chance = float(((by_class / total) ** 2).sum())
    return (_agreement(counts) - by_chance) / (1 - by_chance)


def jensen_shannon(probabilities: ArrayLike) -> float:
    """Jensen-Shannon divergence of two runs' predicted probabilities, as a mean over examples and all pairs of runs.

    For one example with probabilities p and q, in nats:

        JSD = H((p + q) / 2) - (H(p) + H(q)) / 2,    H(p) = -sum_k p_k ln p_k

    Its square root is the distance of `scipy.spatial.distance.jensenshannon` (Lin 1991, IEEE Transactions on Information
    Theory 37, p. 145; Du & Nguyen 2023, section 3). It also sees differences that do not change the predicted class. The cost
    grows with the square of R: give a random part of the runs if R is large.

    Args:
        probabilities: (R, n, K), each example's sum is 1.

    Returns:
        In [0, ln 2]. NaN for fewer than two runs.
    """
    p = np.asarray(probabilities, dtype=float)
    if p.ndim != 3 or not (p >= 0).all() or not (np.abs(p.sum(-1) - 1) <= ONE).all():
        raise InputError(f"probabilities of shape {p.shape}: need (runs, examples, classes), each sum over classes 1")
    runs, examples = p.shape[:2]
    if runs < 2 or examples == 0:
        return float("nan")
    own = _entropy(p)
    total = 0.0
    for apart in range(1, runs):  # all pairs of runs that are this far apart, at once
        middle = _entropy((p[apart:] + p[:-apart]) / 2)
        total += float((middle - (own[apart:] + own[:-apart]) / 2).sum())
    return max(total / (examples * runs * (runs - 1) / 2), 0.0)


def vote_counts(predictions: ArrayLike, classes: int) -> np.ndarray:
    """Number of runs that predict each class: (R, n) class ids -> (n, K). `classes` is K."""
    predictions = _class_ids(predictions, classes)
    examples = predictions.shape[1]
    cells = np.arange(examples) * classes + predictions
    return np.bincount(cells.ravel(), minlength=examples * classes).reshape(examples, classes)


# ---- examples and classes -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HardExamples:
    """Result of `hard_examples`.

    Args:
        wrong: (n,), number of runs that predict another class than the label.
        runs: R.
    """

    wrong: np.ndarray
    runs: int

    @property
    def every(self) -> np.ndarray:
        """Indices of the examples that every run gets wrong."""
        return np.flatnonzero(self.wrong == self.runs) if self.runs else np.zeros(0, dtype=int)

    @property
    def half(self) -> np.ndarray:
        """Indices of the examples that at least half of the runs get wrong."""
        return np.flatnonzero(2 * self.wrong >= self.runs) if self.runs else np.zeros(0, dtype=int)


def hard_examples(predictions: ArrayLike, labels: ArrayLike) -> HardExamples:
    """How many runs get each example wrong.

    An example that every run gets wrong may have a wrong label, or the model cannot learn it from this data. An example that
    half of the runs get wrong depends on the seed.

    Args:
        predictions: (R, n), class ids.
        labels: (n,), class ids.
    """
    predictions, labels = _with_labels(predictions, labels)
    return HardExamples((predictions != labels).sum(0), len(predictions))


def class_errors(predictions: ArrayLike, labels: ArrayLike, classes: int) -> np.ndarray:
    """Share of each class's examples that each run gets wrong: one minus its recall.

    Args:
        predictions: (R, n), class ids.
        labels: (n,), class ids below `classes`.
        classes: K.

    Returns:
        (R, K), in [0, 1]; NaN for a class without an example.
    """
    predictions, labels = _with_labels(predictions, labels)
    _class_ids(labels[None], classes)
    wrong = predictions != labels
    errors = np.full((len(predictions), classes), np.nan)
    for each in np.unique(labels):
        errors[:, each] = wrong[:, labels == each].mean(1)
    return errors


def class_failures(errors: ArrayLike, at_least: float = 0.5) -> np.ndarray:
    """Number of runs that fail on each class: they get at least this share of its examples wrong.

    A run that always predicts the majority class misses all other classes, with an error of 1. Its accuracy can be high.

    Args:
        errors: (R, K), from `class_errors`.
        at_least: share of the class's examples, in (0, 1]. Default: half of them. 1: the run misses the class.

    Returns:
        (K,); 0 for a class without an example.
    """
    if not 0 < at_least <= 1:
        raise InputError(f"at_least {at_least}: need a share above 0 and at most 1")
    return (np.asarray(errors, dtype=float) >= at_least).sum(0)


# ---- ensemble -------------------------------------------------------------------------------------------------------


def ensemble(logits: Iterable[ArrayLike]) -> np.ndarray:
    """The mean of the runs' predicted probabilities; its largest class is the ensemble's prediction.

    A deep ensemble with equal weights (Lakshminarayanan, Pritzel & Blundell 2017, arXiv 1612.01474). Runs are added one by
    one, so a generator that reads one run at a time needs the memory of one run.

    Args:
        logits: (R, n, K), or R arrays (n, K). R is at least 1.

    Returns:
        (n, K), each example's sum is 1; NaN for an example with NaN in any run.
    """
    total, runs = None, 0
    for each in logits:
        probabilities = softmax(each)
        if total is not None and total.shape != probabilities.shape:
            raise InputError(f"logits of shapes {total.shape} and {probabilities.shape}: runs need the same examples")
        total, runs = probabilities if total is None else total + probabilities, runs + 1
    if total is None:
        raise InputError("an ensemble of no runs: give at least one")
    return total / runs


def softmax(logits: ArrayLike) -> np.ndarray:
    """Probabilities from logits, over the last axis: (..., K) -> (..., K) in float64.

    A logit of -Inf beside a finite one is a masked class, with probability 0. With NaN, +Inf or only -Inf the example's
    probabilities are NaN.
    """
    values = np.asarray(logits, dtype=float)
    with np.errstate(invalid="ignore"):
        powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


# ---- parts ----------------------------------------------------------------------------------------------------------


def _agreement(counts: np.ndarray) -> float:
    """Share of the pairs of runs that agree, over all examples, from `vote_counts`."""
    runs = int(counts[0].sum()) if len(counts) else 0
    if runs < 2:
        return float("nan")
    return float((counts * (counts - 1)).sum() / (len(counts) * runs * (runs - 1)))


def _entropy(p: np.ndarray) -> np.ndarray:
    """Entropy over the last axis, in nats."""
    return -(p * np.log(p, out=np.zeros_like(p), where=p > 0)).sum(-1)


def _class_ids(predictions: ArrayLike, classes: int | None = None) -> np.ndarray:
    ids = np.asarray(predictions)
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"predictions of shape {ids.shape} and type {ids.dtype}: need class ids (runs, examples)")
    if ids.size and (ids.min() < 0 or (classes is not None and ids.max() >= classes)):
        top = "" if classes is None else f" to {classes - 1}"
        raise InputError(f"class ids {ids.min()} to {ids.max()}: need ids from 0{top}")
    return ids.astype(np.int64)


def _with_labels(predictions: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    ids, own = _class_ids(predictions), np.asarray(labels)
    if own.shape != ids.shape[1:] or not np.issubdtype(own.dtype, np.integer):
        raise InputError(
            f"labels of shape {own.shape} and type {own.dtype}: need class ids ({ids.shape[1]},), one per example"
        )
    return ids, own.astype(np.int64)
