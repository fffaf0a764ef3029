"""Constant predictions: the baseline that a run has to beat.

A constant prediction is the same answer for every example. The best score that one reaches is the baseline. For accuracy
it is the majority-class baseline: always predict the most frequent class.

Shapes: `n` examples, `K` classes; `...` are leading axes, for example seeds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InputError


IGNORED_LABEL = -100
"""Examples with this label do not count, as in torch's cross entropy."""

MOST_CONSTANTS = 100
"""With more classes, only classes that occur among the labels are tried as constant predictions."""

SAME_SCORE = 1e-6
"""Scores with a smaller relative difference count as equal: one of them may have been computed in float32."""


def at_or_below(score: float, baseline: float, examples: int | None = None, smaller_is_better: bool = False) -> bool:
    """Whether a score is no better than its baseline. Scores that differ only in precision count as equal.

    Args:
        score, baseline: values of the same metric.
        examples: n, if both are shares of n examples. Then they are compared as whole numbers of examples.
        smaller_is_better: for errors. Then a score is no better if it is at or above the baseline.
    """
    if examples and math.isfinite(score):
        score, baseline = round(score * examples), round(baseline * examples)
    elif math.isclose(score, baseline, rel_tol=SAME_SCORE, abs_tol=1e-9):
        return True
    return score >= baseline if smaller_is_better else score <= baseline


def label_entropy(counts: np.ndarray) -> np.ndarray:
    """Label entropy: the lowest cross-entropy loss of a model that ignores its input.

    `H = -sum_k p_k ln p_k` with `p = counts / sum(counts)`, in nats. For two equally frequent classes it is ln 2 = 0.693.

    Args:
        counts: (..., K), number of examples of each class. Their sum is at least 1.

    Returns:
        (...), each in [0, ln K].
    """
    counts = np.asarray(counts, dtype=float)
    total = counts.sum(-1, keepdims=True)
    if (counts < 0).any() or not (total > 0).all():
        raise InputError(f"label counts {counts.tolist()}: none may be negative, and their sum must be at least 1")
    p = counts / total
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.maximum(-(p * logs).sum(-1), 0.0)


def constant_accuracy(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """Accuracy of each constant prediction: the share of each class among the labels.

    Args:
        labels: (..., n), ints in 0..K-1. `IGNORED_LABEL` does not count.
        num_labels: K.

    Returns:
        (..., K), in [0, 1].
    """
    counts = class_counts(int_labels(labels, num_labels), num_labels)
    return counts / counts.sum(-1, keepdims=True)


def majority_accuracy(labels: np.ndarray) -> np.ndarray:
    """The majority-class baseline: the share of the most frequent class among `labels` (..., n), shape (...)."""
    labels = int_labels(labels)
    return constant_accuracy(labels, int(labels.max()) + 1).max(-1)


def best_constant_set(labels: np.ndarray) -> tuple[float, list[int]]:
    """The best constant set of labels: the micro-F1 of always predicting the same labels, of an example with several.

    With `c_l` examples that have label l, a set S has `F1(S) = 2 sum_{l in S} c_l / (n |S| + sum_l c_l)`. Among the sets of
    one size the most frequent labels are best, because only the upper sum depends on which labels they are. So the L sets
    of the most frequent labels are enough, of all 2^L.

    Args:
        labels: (n, L), 0 or 1.

    Returns:
        the score in [0, 1], and the ids of its labels; of equally good sets the smallest. 0 and no labels if no example has
            any.
    """
    counts = np.asarray(labels).sum(0)
    order = np.argsort(-counts, kind="stable")
    sizes = np.arange(1, len(counts) + 1)
    scores = 2 * counts[order].cumsum() / (len(labels) * sizes + counts.sum())
    best = int(scores.argmax())
    return float(scores[best]), sorted(order[: best + 1].tolist()) if counts.any() else []


def mean_label_entropy(labels: np.ndarray) -> float:
    """The lowest binary cross-entropy loss of a model that ignores its input, with several labels per example, in nats.

    It is the mean over labels of the entropy of "has it, or not", as `BCEWithLogitsLoss` takes the mean over labels.

    Args:
        labels: (n, L), 0 or 1.
    """
    on = np.asarray(labels).sum(0)
    return float(label_entropy(np.stack([on, len(labels) - on], -1)).mean())


def r_squared(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Share of the labels' variance that the predictions explain: `1 - SSE / SST`.

    Args:
        predictions: (..., n).
        labels: (..., n).

    Returns:
        (...), at most 1. Always predicting the mean label gives 0, any other constant prediction less. If all labels are
        equal it is 0: no prediction is better than their mean.
    """
    predictions, labels = np.asarray(predictions, dtype=float), np.asarray(labels, dtype=float)
    if predictions.shape != labels.shape or labels.shape[-1:] in ((), (0,)):
        raise InputError(
            f"predictions of shape {predictions.shape}, labels of shape {labels.shape}: they need the same shape, with n >= 1"
        )
    residual = ((labels - predictions) ** 2).sum(-1)
    total = ((labels - labels.mean(-1, keepdims=True)) ** 2).sum(-1)
    return 1 - np.divide(residual, total, out=np.ones_like(total), where=total > 0)


def best_constant_score(
    compute_metrics: Callable[[Any], dict],
    predictions: Any,
    labels: np.ndarray,
    num_labels: int,
    metric: str,
    regression: bool = False,
) -> dict[str, float | int]:
    """The best score over all constant predictions, from the user's own `compute_metrics`.

    `compute_metrics` is called once per constant prediction. The caller keeps the result. Each call gets predictions in the
    form of the run's own predictions:

    - float logits (n, ..., K) become one-hot logits of the same shape and dtype;
    - ints become the class id, in the same shape;
    - values of a regression become the mean label;
    - in a tuple the first element is replaced, and the others stay.

    A NaN score counts as 0: the correlation of a constant is undefined.

    Args:
        compute_metrics: takes a `transformers.EvalPrediction` and returns a dict of scores. Its exceptions pass through.
        predictions: the predictions that the run gave to `compute_metrics`.
        labels: the `label_ids` that the run gave to it.
        num_labels: K. If it is above 100, only classes that occur among the labels are tried.
        metric: key of the score, with or without `eval_`. Greater is better.
        regression: whether predictions are values instead of classes.

    Returns:
        `{"score": float, "constant": class id or mean label}`. If several classes are equally good, the lowest id.

    Raises:
        InputError: `metric` is not among the scores, or the predictions have an unknown shape.
    """
    from transformers import EvalPrediction

    outputs = first_output(predictions)
    best: dict[str, float | int] = {}
    for constant in _constants(labels, num_labels, regression):
        fake: Any = _constant_outputs(outputs, constant, num_labels, regression)
        if isinstance(predictions, tuple):
            fake = (fake, *predictions[1:])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # metrics warn about constant predictions; here they are intended
            scores = compute_metrics(EvalPrediction(predictions=fake, label_ids=labels))
        score = defined(_pick_metric(scores, metric))
        if not best or score > best["score"]:
            best = {"score": score, "constant": constant}
    return best


def _constants(labels: np.ndarray, num_labels: int, regression: bool) -> list[float] | list[int]:
    if regression:
        return [float(np.mean(np.asarray(labels, dtype=float)))]
    if num_labels > MOST_CONSTANTS:
        present = np.unique(int_labels(labels, num_labels))
        return present[present != IGNORED_LABEL].tolist()
    return list(range(num_labels))


def _constant_outputs(outputs: np.ndarray, constant: float | int, num_labels: int, regression: bool) -> np.ndarray:
    if regression or np.issubdtype(outputs.dtype, np.integer):
        return np.full_like(outputs, constant)
    if outputs.ndim < 2 or outputs.shape[-1] != num_labels:
        raise InputError(
            f"predictions of shape {outputs.shape} and type {outputs.dtype}: need logits (n, {num_labels}) or class ids "
            "(n,) of an integer type. For a regression set regression=True"
        )
    fake = np.zeros_like(outputs)
    fake[..., int(constant)] = 1
    return fake


def _pick_metric(scores: dict, metric: str) -> float:
    bare = metric.removeprefix("eval_")
    for key in (metric, bare, f"eval_{bare}"):
        if key in scores:
            return float(scores[key])
    raise InputError(f"metric {metric!r}: compute_metrics did not return it, only {', '.join(map(str, scores))}")


def defined(score: float) -> float:
    """The score, with 0 for NaN: the correlation of a constant is NaN in some libraries and 0 in others."""
    return 0.0 if math.isnan(score) else float(score)


def first_output(predictions: Any) -> np.ndarray:
    """The logits: the first element of a tuple, because hidden states may follow them."""
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)


def int_labels(labels: np.ndarray, num_labels: int | None = None) -> np.ndarray:
    """`labels` as ints. They must be whole numbers in 0..K-1 or `IGNORED_LABEL`, and each row needs one that counts."""
    given = np.asarray(labels)
    if given.ndim < 1 or given.shape[-1] == 0:
        raise InputError(f"labels of shape {given.shape}: need at least one example")
    ints = given.astype(np.int64)
    counted = ints != IGNORED_LABEL
    if (ints != given).any():
        raise InputError("class labels must be whole numbers. For a regression set regression=True")
    if not counted.any(-1).all():
        raise InputError(f"all labels are {IGNORED_LABEL}, the label of ignored examples: give at least one other")
    wrong = ints[counted & ((ints < 0) | (ints >= (math.inf if num_labels is None else num_labels)))]
    if wrong.size:
        top = "K-1" if num_labels is None else num_labels - 1
        raise InputError(
            f"label {wrong[0]}: must be one of the classes 0..{top} (test sets with hidden labels often have -1)"
        )
    return ints


def class_counts(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """Number of labels of each class: (..., n) ints to (..., K) counts. `IGNORED_LABEL` does not count."""
    flat = labels.reshape(-1, labels.shape[-1])
    counts = [np.bincount(row[(row >= 0) & (row < num_labels)], minlength=num_labels) for row in flat]
    return np.stack(counts).reshape(*labels.shape[:-1], num_labels)
