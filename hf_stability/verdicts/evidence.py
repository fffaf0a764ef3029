"""The evidence of a verdict: losses, gradient norms, predictions and labels become a dict of numbers.

Each function returns its part of the dict. [`judge`][hf_stability.verdicts.verdict.judge] lists the keys.

Shapes: `n` evaluation examples, `K` classes, `T` recorded update steps, `L` layers; `...` are leading axes, for example seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .constants import (
    IGNORED_LABEL,
    at_or_below,
    best_constant_set,
    class_counts,
    constant_accuracy,
    defined,
    first_output,
    int_labels,
    label_entropy,
    r_squared,
)


N_BOOT = 500
"""Draws of a bootstrap over examples."""


# ---- predictions ----------------------------------------------------------------------------------------------------


def predicted_classes(predictions: Any) -> np.ndarray:
    """Class ids of a run's outputs, (...): the argmax of float logits (..., K); ints stay. A tuple counts by its first element."""
    outputs = first_output(predictions)
    if np.issubdtype(outputs.dtype, np.integer):
        return outputs
    if outputs.ndim < 2 or outputs.shape[-1] < 2:
        raise InputError(
            f"predictions of shape {outputs.shape} and type {outputs.dtype} have one float per example: set "
            "regression=True, or give class ids of an integer type"
        )
    return outputs.argmax(-1)


def one_class_share(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class that is predicted most often, and its share of the predictions.

    Args:
        classes: (..., n), predicted class ids.

    Returns:
        share (...) in (0, 1], 1 if a run predicts only one class; class id (...), the lowest if several are equally frequent.
    """
    classes = int_labels(classes)
    counts = class_counts(classes, int(classes.max()) + 1)
    return counts.max(-1) / classes.shape[-1], counts.argmax(-1)


def mcnemar_exact(correct_a: np.ndarray, correct_b: np.ndarray) -> np.ndarray:
    """Exact McNemar test: are two predictors equally often right on the same examples?

    Only the examples on which they differ count: A alone is right on b of them, B alone on c. Under the null hypothesis
    b ~ Binomial(b + c, 1/2). So `p = min(1, 2 P(X <= min(b, c)))`, as in `scipy.stats.binomtest`.

    Args:
        correct_a, correct_b: (..., n), bool, for the same examples in the same order.

    Returns:
        two-sided p (...); 1 if they never differ.
    """
    from scipy.stats import binom

    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape:
        raise InputError(f"McNemar's test needs the same examples twice, not arrays of shapes {a.shape} and {b.shape}")
    only_a, only_b = (a & ~b).sum(-1), (b & ~a).sum(-1)
    return np.minimum(1.0, 2 * binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5))


def finite_outputs(outputs: np.ndarray) -> bool:
    """Whether outputs have no NaN and no +Inf. -Inf is allowed beside a finite output of the same example: a masked class."""
    if np.isfinite(outputs).all():
        return True
    masked = np.isneginf(outputs)
    finite = np.isfinite(outputs) | masked
    return bool(finite.all() and outputs.ndim > 1 and np.isfinite(outputs).any(-1).all())


# ---- parts of the evidence ------------------------------------------------------------------------------------------


def check_steps(
    steps: np.ndarray | None, losses: np.ndarray | None, layer_norms: np.ndarray | None
) -> np.ndarray | None:
    """The update steps of the records, `(T,)`: 1..T if no steps are given; None without records.

    Raises:
        InputError: losses, gradient norms and steps differ in length.
    """
    lengths = {len(x) for x in (losses, layer_norms) if x is not None}
    if not lengths:
        return None
    steps = np.arange(1, max(lengths) + 1) if steps is None else np.asarray(steps)
    if lengths != {len(steps)}:
        raise InputError(
            f"{len(steps)} steps, but losses or gradient norms of length {sorted(lengths)}: need one row per step"
        )
    return steps


def nonfinite_evidence(
    steps: np.ndarray | None,
    losses: np.ndarray | None,
    norms: np.ndarray | None,
    weights_finite: bool | None,
    outputs_finite: bool | None,
) -> dict[str, Any]:
    """Where NaN or Inf came up. The key `nonfinite` means that the run diverged: see [`judge`][hf_stability.verdicts.verdict.judge].

    Args:
        steps: (T,), update steps.
        losses: (T,), or None.
        norms: (T, L), or None.
        weights_finite: whether all weights were finite at the end of training; None if unknown.
        outputs_finite: `finite_outputs` of the last evaluation; None without an evaluation.
    """
    evidence: dict[str, Any] = {}
    what: list[str] = []
    first: list[int] = []
    if losses is not None and not np.isfinite(losses).all():
        bad = ~np.isfinite(losses)
        evidence["nonfinite_losses"] = int(bad.sum())
        if norms is not None:  # with finite gradients: a batch without labels, or a loss that the model did not return
            bad &= _bad_norms(norms)[0]
        if bad.any():
            what.append("train loss")
            first.append(int(steps[bad.argmax()]))
    if norms is not None:
        cleared = (losses is None or np.isfinite(losses[-1])) and (weights_finite is True or outputs_finite is True)
        cleared = cleared and weights_finite is not False and outputs_finite is not False
        bad, tail = _bad_norms(norms)
        if tail > 1 or (tail == 1 and not cleared):
            what.append("gradient norms")
            first.append(int(steps[len(steps) - tail]))
        elif bad.any():
            evidence["overflowed_norms"] = int(bad.sum())
    if outputs_finite is False:
        what.append("eval outputs")
    if weights_finite is False:
        what.append("weights")
    if what:
        evidence |= {"nonfinite": what, "first_nonfinite_step": min(first, default=None)}
    return evidence


def _bad_norms(norms: np.ndarray) -> tuple[np.ndarray, int]:
    """Which rows of (T, L) have NaN or Inf, and how many such rows are at the end.

    A layer is frozen before its first finite norm and after its last one. NaN does not count there, unless no layer of the
    row has a finite norm.
    """
    finite = np.isfinite(norms)
    live = finite.any(0)
    finite = finite[:, live] if live.any() else finite
    trained = np.logical_or.accumulate(finite) & np.logical_or.accumulate(finite[::-1])[::-1]
    bad = (~finite & (trained | ~finite.any(1, keepdims=True))).any(1)
    return bad, int(np.logical_and.accumulate(bad[::-1]).sum())


def accuracy_evidence(
    outputs: np.ndarray,
    labels: np.ndarray,
    num_labels: int | None,
    alpha: float,
    one_class_at: float,
) -> dict[str, Any]:
    """The accuracy, its majority-class baseline, and the share of the class that is predicted most.

    Args:
        outputs: (n, K) logits or (n,) class ids.
        labels: (n,) class ids. `IGNORED_LABEL` does not count.
        num_labels: K; None for the highest class seen, plus 1.
        alpha: level of McNemar's test.
        one_class_at: a run predicts one class if the share of that class is at least this.
    """
    classes, labels = predicted_classes(outputs), np.asarray(labels)
    if classes.shape != labels.shape:
        raise InputError(
            f"evaluation predictions of shape {outputs.shape} do not fit evaluation labels of shape {labels.shape}"
        )
    if num_labels is None:
        num_labels = int(max(labels.max(), classes.max())) + 1
    labels = int_labels(labels.reshape(-1), num_labels)
    counted = labels != IGNORED_LABEL
    classes, labels = classes.reshape(-1)[counted], labels[counted]

    correct = classes == labels
    share, predicted = one_class_share(classes)
    accuracy = correct.sum() / len(labels)
    constants = constant_accuracy(labels, num_labels)
    best = np.flatnonzero(constants == constants.max())
    p = max(float(mcnemar_exact(correct, labels == k)) for k in best)
    return {
        "examples": len(labels),
        "accuracy": accuracy,
        "constant_accuracy": constants.max(),
        # if several constants are equally good, name the class that the run predicts most
        "constant_class": predicted if predicted in best else best[0],
        "mcnemar_p": p,
        "within_noise": p >= alpha,
        "predicted_class": predicted,
        "predicted_share": share,
        "one_class": share >= one_class_at,
    }


def label_set_evidence(outputs: np.ndarray, labels: np.ndarray, alpha: float) -> dict[str, Any]:
    """With several labels per example: the micro-F1, and its baseline, that of the best constant set of labels.

    The interval of their difference has the percentiles of a paired bootstrap over examples, with the constant set fixed.

    Args:
        outputs: (n, L), 0 and 1, or logits: an example gets the labels with a logit above 0.
        labels: (n, L), 0 or 1.
        alpha: 1 minus the level of the interval.
    """
    labels = np.asarray(labels)
    if outputs.shape != labels.shape or labels.ndim != 2 or not np.isin(labels, (0, 1)).all():
        raise InputError(
            f"evaluation predictions of shape {outputs.shape}, labels of shape {labels.shape}: several labels per example need "
            "(n, L) each, with labels of 0 and 1"
        )
    answers, labels = outputs > 0, labels.astype(bool)
    baseline, constant = best_constant_set(labels)
    hits = (answers & labels).sum(1), labels[:, constant].sum(1)
    given, positives = answers.sum(1), labels.sum(1)
    parts = np.stack([*hits, given, positives], -1)

    def scores(sums: np.ndarray) -> np.ndarray:
        """F1 of the run, and of the constant set, from sums over n examples `(..., 4)`."""
        below = np.stack([sums[..., 2], np.full(sums.shape[:-1], len(labels) * len(constant))], -1) + sums[..., 3:]
        return 2 * sums[..., :2] / np.maximum(below, 1)

    random = np.random.default_rng(0)
    draws = np.stack([parts[random.integers(len(parts), size=len(parts))].sum(0) for _ in range(N_BOOT)])
    own, fixed = scores(draws).T
    low, high = np.quantile(own - fixed, [alpha / 2, 1 - alpha / 2])
    return {
        "examples": len(labels),
        "labels": labels.shape[1],
        "micro_f1": scores(parts.sum(0))[0],
        "constant_micro_f1": baseline,
        "constant_labels": constant,
        "lead": [low, high],
        "within_noise": low <= 0,
        "one_answer": bool((answers == answers[0]).all()),
    }


def regression_evidence(outputs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """R2, and whether the run predicts one value: the std of its outputs is below 1% of the labels' std.

    Args:
        outputs: (n,) or (n, 1), values.
        labels: (n,), values.
    """
    values, labels = outputs.reshape(-1).astype(float), np.asarray(labels, dtype=float).reshape(-1)
    if not np.isfinite(labels).all():
        raise InputError("the evaluation labels have NaN or Inf: remove these examples")
    if values.shape != labels.shape:
        raise InputError(
            f"evaluation predictions of shape {outputs.shape} do not fit {len(labels)} evaluation labels: need one value each"
        )
    with np.errstate(over="ignore"):  # squares of very large values overflow: R2 is -inf
        one_value = values.std() < 0.01 * labels.std()
        return {"examples": len(labels), "r2": r_squared(values, labels), "one_value": one_value}


def headline_evidence(
    score: float | None, baseline: float | None, metric: str | None, smaller: bool, examples: int | None
) -> dict[str, Any]:
    """The headline metric's name, score and baseline, as far as they are known. NaN counts as 0.

    Args:
        score: the last value.
        baseline: the best score of a constant prediction.
        metric: the name.
        smaller: whether a smaller score is better.
        examples: n, if score and baseline are shares of n examples.
    """
    evidence: dict[str, Any] = {} if metric is None else {"metric": metric.removeprefix("eval_")}
    if smaller:
        evidence["smaller_is_better"] = True
    if examples is not None:
        evidence["examples"] = examples
    values = (("score", score), ("baseline", baseline))
    return evidence | {name: defined(value) for name, value in values if value is not None}


def loss_evidence(
    losses: np.ndarray | None,
    label_counts: np.ndarray | None,
    constant_loss: float | None,
    stuck_at: float,
    learned_at: float,
    fitted_at: float,
) -> dict[str, Any]:
    """The train loss at the end (mean over the last 10% of the recorded steps), and its level relative to the baseline's loss.

    Args:
        losses: (T,), NaN for a step without labels; or None.
        label_counts: (K,), number of train labels of each class. Their entropy is the baseline's loss.
        constant_loss: the baseline's loss, if it is not this entropy.
        stuck_at, learned_at, fitted_at: fractions of that loss; see [`judge`][hf_stability.verdicts.verdict.judge].
    """
    if losses is None:
        return {}
    last = losses[-math.ceil(0.1 * len(losses)) :]
    last = last[~np.isnan(last)]  # steps without labels
    if not len(last):
        return {}
    evidence: dict[str, Any] = {"train_loss": float(last.mean())}
    if constant_loss is None and label_counts is not None:
        constant_loss = float(label_entropy(label_counts))
    if not constant_loss:  # unknown, or 0 because there is a single class: no loss to compare with
        return evidence
    share = evidence["train_loss"] / constant_loss
    levels = (("fitted", fitted_at), ("learned", learned_at), ("between", stuck_at))
    optimisation = next((name for name, bound in levels if share < bound), "stuck")
    return evidence | {"constant_loss": constant_loss, "optimisation": optimisation}


def train_class_evidence(
    predicted_counts: np.ndarray | None, label_counts: np.ndarray | None, one_class_at: float
) -> dict[str, Any]:
    """The class that is predicted most in the last part of training, and whether it is the only one.

    Args:
        predicted_counts: (K,), number of predictions of each class. None or all 0 if they are not known.
        label_counts: (K,), number of train labels of each class.
        one_class_at: a run predicts one class if the share of that class is at least this. If a class has a higher share of
            the labels, that share replaces it.
    """
    predicted = np.zeros(0) if predicted_counts is None else np.asarray(predicted_counts, dtype=float)
    if not predicted.sum() > 0:  # none counted, or NaN: not known
        return {}
    share = predicted.max() / predicted.sum()
    if label_counts is not None:  # if nearly all labels are of one class, good predictions are too
        one_class_at = max(one_class_at, np.max(label_counts) / np.sum(label_counts))
    return {
        "train_predicted_class": predicted.argmax(),
        "train_predicted_share": share,
        "train_one_class": share >= one_class_at,
    }


# ---- questions about the evidence -----------------------------------------------------------------------------------------


def labels_of_one_class(evidence: dict[str, Any]) -> bool:
    """Whether all evaluation labels are of one class, or all examples have the same labels. Then no score shows a failure."""
    return evidence.get("constant_accuracy") == 1 or evidence.get("constant_micro_f1") in (0, 1)


def explains_variance(evidence: dict[str, Any]) -> bool:
    """Whether R2 is above 0 by more than the rounding of the mean."""
    return bool(evidence["r2"] > 1e-9)


def headline_relation(basis: str, evidence: dict[str, Any]) -> str:
    """The headline score relative to its baseline: `better`, `same` or `worse`.

    If the verdict rests on a reported accuracy, whole examples are compared; see
    `at_or_below`.
    """
    score, baseline, smaller = evidence["score"], evidence["baseline"], evidence.get("smaller_is_better", False)
    examples = evidence.get("examples") if basis == "baseline" else None
    if not at_or_below(score, baseline, examples, smaller):
        return "better"
    return "same" if at_or_below(score, baseline, examples, not smaller) else "worse"


def loss_above_constant(evidence: dict[str, Any]) -> bool:
    """Whether the train loss at the end is above the baseline's loss by more than a tenth."""
    return bool(evidence["train_loss"] > 1.1 * evidence["constant_loss"])


def trained_evidence(info: Mapping[str, Any], layers: Sequence[str]) -> dict[str, Any] | None:
    """The trained parts, if not everything was trained all the time: `trained` of `judge`.

    Args:
        info: of a record.
        layers: all layers of the record.
    """
    found = {key: info[key] for key in ("since", "until") if info.get(key)}
    if not found and not info.get("trained"):
        return None
    return {"adapters": None, "layers": list(layers), **(info.get("trained") or {}), **found}


def total_counts(counts: np.ndarray) -> np.ndarray | None:
    """Sum over steps `(steps, classes) -> (classes,)`. None if nothing was counted."""
    total = np.nansum(counts, axis=0)
    return total if total.size and total.sum() > 0 else None
