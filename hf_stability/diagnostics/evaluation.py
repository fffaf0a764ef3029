"""The Trainer's evaluation becomes answers that a verdict can compare with the labels.

The predictions are an array, a tuple, a dict, or a list of batches. The labels are class ids, values, token labels with
padding, or several labels per example. `answers_of` reads the forms below. It returns None for every other form, because a
verdict must not rest on a guess.

| labels | outputs | read as |
| --- | --- | --- |
| `(n,)` whole numbers | logits `(n, K)`, class ids `(n,)` | classes; also multiple choice with K choices |
| `(n,)` 0 and 1 | one logit or probability `(n,)`, `(n, 1)` | two classes, if the task is a classification |
| `(n,)` values | `(n,)`, `(n, 1)` | regression |
| `(n, T)` whole numbers, -100 for padding | `(n, T, K)`, class ids `(n, T)` | classes of the tokens without padding |
| `(n, K)`, each row sums to 1 | logits `(n, K)` | classes, unless the config says several labels |
| `(n, L)` 0 and 1 | logits or probabilities `(n, L)` | several labels per example |
| `(n, L)` values, the config says regression | `(n, L)` | regression, each column minus its mean |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..verdicts.constants import IGNORED_LABEL
from .metrics import CLASSIFICATION, FAMILY_OF, REPORTED, family
from .named_output import named_output


@dataclass
class Evaluation:
    """An evaluation, as the Trainer reports it for its (first) evaluation set.

    Args:
        metrics: keys `eval_...`, without the name of the evaluation set.
        predictions, labels: as in `EvalLoopOutput`. None if the Trainer did not keep them.
        step: the update step after which it was made. None outside of a training.
        output_names: names of the model's outputs, in order. They are needed if `predictions` is a tuple.
        is_trainers_set: whether it is certain that the Trainer's own (first) evaluation set was evaluated.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    predictions: Any = None
    labels: Any = None
    step: int | None = None
    output_names: Sequence[str] = ()
    is_trainers_set: bool = False


@dataclass(frozen=True)
class Answers:
    """A run's answers, and the labels.

    Args:
        kind: `classes`, `values` (a regression), or `several` (several labels per example).
        outputs: `(n, K)` logits or `(n,)` class ids for classes; `(n,)` for values; `(n, L)` of 0 and 1 for several labels.
        labels: `(n,)`, or `(n, L)` for `several`. Ignored labels are left out.
        num_labels: K, or L; 1 for values.
        unit: what each label is of: `examples` or `tokens`.
    """

    kind: str
    outputs: np.ndarray
    labels: np.ndarray
    num_labels: int
    unit: str = "examples"

    @property
    def classes(self) -> np.ndarray:
        """The answers as class ids, `(n,)`; for `several` as 0 and 1, `(n, L)`."""
        return self.outputs.argmax(-1) if self.outputs.ndim > self.labels.ndim else self.outputs


def answers_of(
    evaluation: Evaluation, problem_type: str | None = None, causal: bool = False, generates: bool = False
) -> Answers | None:
    """A run's answers on its evaluation set. None if their form is not in the module's table.

    Args:
        evaluation: the Trainer's.
        problem_type: from the model's config.
        causal: whether the label of a token is the next token, as in a causal language model.
        generates: whether token ids may be texts that the model generated. Their positions are not those of the labels.
    """
    batches = _batches(evaluation, causal)
    if not batches:
        return None
    batches = [_one_hot(*batch, problem_type) for batch in batches]
    if generates and any(outputs.ndim == 2 and outputs.dtype.kind in "iu" for outputs, _ in batches):
        return None
    kinds = {_kind(*batch) for batch in batches}
    if len(kinds) != 1 or None in kinds:
        return None
    kind = kinds.pop()
    flat = [_flat(kind, *batch) for batch in batches]
    if len({outputs.shape[1:] for outputs, _ in flat}) != 1:
        if kind not in ("logits", "tokens"):
            return None
        flat = [(outputs.argmax(-1), labels) for outputs, labels in flat if len(labels)]  # 2 to 5 choices
    outputs, labels = (np.concatenate(parts) for parts in zip(*flat, strict=True))
    if not len(labels):
        return None
    if kind == "several":
        return _of_several(outputs, labels, evaluation.metrics)
    if kind == "columns":
        if problem_type != "regression":
            return None
        centre = labels.mean(0)
        return Answers("values", (outputs - centre).reshape(-1), (labels - centre).reshape(-1), 1)
    if kind == "one output":
        return _of_one_output(outputs, labels, evaluation.metrics, problem_type)
    width = outputs.shape[1] if outputs.ndim == 2 else int(max(outputs.max(), labels.max())) + 1
    if labels.min() < 0 or labels.max() >= width:
        return None
    unit = "tokens" if kind == "tokens" else "examples"
    return Answers("classes", outputs, labels.astype(np.int64), width, unit)


def labels_of(evaluation: Evaluation) -> np.ndarray | None:
    """The labels, `(n,)`, for a baseline if the outputs cannot be read.

    None if an example has several labels: then a score may be a share of labels or of examples.
    """
    parts = [
        _numbers(part) for part in (evaluation.labels if isinstance(evaluation.labels, list) else [evaluation.labels])
    ]
    parts = [part[:, 0] if part is not None and part.ndim == 2 and part.shape[1] == 1 else part for part in parts]
    if any(part is None or part.ndim != 1 for part in parts):
        return None
    labels = np.concatenate(parts)
    labels = labels[labels != IGNORED_LABEL]
    return labels if len(labels) else None


def reported(metrics: Mapping[str, Any], kind: str) -> float | None:
    """The first reported score of a family in `metrics.FAMILIES`. A key with a slash, such as `top5/accuracy`, does not count."""
    found = (
        value
        for key, value in metrics.items()
        if "/" not in key and family(key) == kind and isinstance(value, (int, float))
    )
    return next(found, None)


def slim(predictions: Any, names: Sequence[str] = (), generates: bool = False) -> Any:
    """The part of the predictions that a verdict needs: the logits, or class ids for tokens.

    Args:
        predictions: the Trainer's. A list of batches stays a list.
        names: as in `named_output`.
        generates: as in `answers_of`. If True, tokens keep their logits.
    """
    if isinstance(predictions, list):
        return [slim(part, names, generates) for part in predictions]
    outputs = named_output(predictions, names)
    array = _numbers(outputs)
    if array is None:
        return predictions
    if generates or array.ndim < 3 or array.dtype.kind != "f" or not np.isfinite(array).all():
        return outputs
    return array.argmax(-1).astype(np.int32)


def agrees(reported_accuracy: float | None, accuracy: float) -> bool:
    """Whether a reported accuracy equals ours. It may be rounded or in percent. True if none was reported."""
    if reported_accuracy is None:
        return True
    return min(abs(reported_accuracy - accuracy), abs(reported_accuracy / 100 - accuracy)) <= REPORTED + 1e-9


# ---- the Trainer's containers -----------------------------------------------------------------------------------------


def _batches(evaluation: Evaluation, causal: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Outputs and labels: a pair per batch with `eval_do_concat_batches=False`, else one pair; empty if not known."""
    predictions, labels = evaluation.predictions, evaluation.labels
    if predictions is None or labels is None:
        return []
    if isinstance(predictions, list) != isinstance(labels, list):
        return []
    pairs = zip(predictions, labels, strict=False) if isinstance(predictions, list) else [(predictions, labels)]
    found = []
    for outputs, truth in pairs:
        outputs, truth = _numbers(named_output(outputs, evaluation.output_names)), _numbers(truth)
        if outputs is None or truth is None or outputs.ndim == 0 or len(outputs) != len(truth):
            return []
        if causal and truth.ndim == 2 and outputs.ndim >= 2:
            outputs, truth = outputs[:, :-1], truth[:, 1:]
        found.append((outputs, truth))
    return found


def _numbers(value: Any) -> np.ndarray | None:
    """The value as an array of numbers; None if it is anything else."""
    if isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    if value is None or isinstance(value, (tuple, list, Mapping, str)):
        return None
    if hasattr(value, "detach"):
        value = value.detach().float().cpu() if value.is_floating_point() else value.detach().cpu()
    array = np.asarray(value)
    return array if array.dtype.kind in "biuf" else None


# ---- forms -----------------------------------------------------------------------------------------------------------


def _kind(outputs: np.ndarray, labels: np.ndarray) -> str | None:
    outputs, labels = _squeezed(outputs, labels)
    whole, ids = _whole(labels), outputs.dtype.kind in "iu"
    if labels.ndim == 1 and outputs.ndim == 1:
        return "ids" if ids and whole else "one output"
    if labels.ndim == 1 and outputs.ndim == 2 and not ids:
        return "logits" if whole else None
    if labels.ndim != 2 or outputs.shape[:2] != labels.shape:
        return None
    if whole and (outputs.ndim == 3 and not ids or outputs.ndim == 2 and ids):
        return "tokens"
    if outputs.ndim == 2:
        return "several" if np.isin(labels, (0, 1, IGNORED_LABEL)).all() else "columns"
    return None


def _flat(kind: str, outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and labels that count, with examples (or tokens) on the first axis."""
    outputs, labels = _squeezed(outputs, labels)
    if kind in ("several", "columns"):
        return outputs, labels
    if kind == "one output":
        return outputs.reshape(-1), labels.reshape(-1)
    counted = labels != IGNORED_LABEL
    return outputs[counted], labels[counted]


def _one_hot(outputs: np.ndarray, labels: np.ndarray, problem_type: str | None) -> tuple[np.ndarray, np.ndarray]:
    """One-hot and soft labels become class ids. Such labels are rows without negative values that sum to 1."""
    same = labels.ndim == 2 and outputs.shape == labels.shape and labels.shape[1] > 1 and outputs.dtype.kind == "f"
    if not same or problem_type == "multi_label_classification":
        return outputs, labels
    is_share = (labels >= 0).all() and np.allclose(labels.sum(1), 1, atol=1e-3)
    return outputs, labels.argmax(-1) if is_share and problem_type != "regression" else labels


def _of_several(outputs: np.ndarray, labels: np.ndarray, metrics: Mapping[str, Any]) -> Answers | None:
    """Several labels per example. None if a reported accuracy is neither the share of right labels nor that of right rows."""
    if (labels == IGNORED_LABEL).any():
        return None
    probabilities = outputs.dtype.kind == "f" and bool(((outputs >= 0) & (outputs <= 1)).all())
    answers = (outputs > (0.5 if probabilities else 0)).astype(np.int64)
    right, score = answers == labels, reported(metrics, "accuracy")
    if not (agrees(score, float(right.mean())) or agrees(score, float(right.all(1).mean()))):
        return None
    answers = answers if np.isfinite(outputs).all() else outputs  # the verdict shall see NaN
    return Answers("several", answers, labels.astype(np.int64), labels.shape[1])


def _squeezed(outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without a last axis of length 1."""
    if labels.ndim == 2 and labels.shape[1] == 1 and outputs.ndim <= 2:
        labels = labels[:, 0]
    if outputs.ndim == 2 and outputs.shape[1] == 1 and labels.ndim == 1:
        outputs = outputs[:, 0]
    return outputs.astype(np.int64) if outputs.dtype.kind == "b" else outputs, labels


def _whole(labels: np.ndarray) -> bool:
    return labels.dtype.kind in "biu" or bool((labels == np.round(labels)).all())


def _of_one_output(
    outputs: np.ndarray, labels: np.ndarray, metrics: Mapping[str, Any], problem_type: str | None
) -> Answers | None:
    """One number per example: a regression, or two classes separated by a threshold.

    It is a classification if the labels are 0 and 1, and one of two things holds: a metric is for classification, or the
    config does not say regression. transformers itself writes "regression" into the config of such a model if the model
    computes its own loss.
    """
    two = np.unique(labels)
    is_classifiers = any(FAMILY_OF.get(_name(key)) in CLASSIFICATION for key in metrics)
    zero_and_one = np.isin(two, (0, 1)).all() and (is_classifiers or problem_type != "regression")
    if not (zero_and_one or (two.tolist() == [-1, 1] and is_classifiers)):
        return Answers("values", outputs, labels, 1)
    labels = np.maximum(labels, 0)
    score = reported(metrics, "accuracy")
    probabilities = outputs.size and 0 <= np.nanmin(outputs) and np.nanmax(outputs) <= 1
    thresholds = (0.5, 0.0) if probabilities or problem_type == "regression" else (0.0, 0.5)
    found = [(outputs > threshold).astype(np.int64) for threshold in thresholds]
    agreeing = (classes for classes in found if agrees(score, float((classes == labels).mean())))
    classes = next(agreeing, found[0])
    if not np.isfinite(outputs).all():
        return Answers("values", outputs, labels, 1)
    return Answers("classes", classes, labels.astype(np.int64), 2)


def _name(key: str) -> str:
    return key.lower().removeprefix("eval_")
