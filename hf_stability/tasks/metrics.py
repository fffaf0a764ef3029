"""A task's metrics from a Trainer's predictions, by the metric script in `glue_metric`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .task import Task


if TYPE_CHECKING:
    from transformers import EvalPrediction


METRIC_FOLDER = Path(__file__).parent / "glue_metric"


def build_compute_metrics(task: Task) -> Callable[[EvalPrediction], dict[str, float]]:
    """A `compute_metrics` for the Trainer. It returns `task.metrics` as floats, in that order; greater is better.

    `evaluate` loads the metric script from this package, without network. Many processes can share Hugging Face's modules
    cache: the script is copied there under a file lock, and predictions stay in memory.

    Returns:
        A function of `EvalPrediction`. Predictions are logits of shape (num_examples, num_labels), or class ids of shape
        (num_examples,). For a regression they are scores of shape (num_examples, 1) or (num_examples,). With several labels
        per example a logit above 0 means that the example has the label. A tuple or list with one of these first is fine
        too. Undefined correlations (of constant predictions) are 0.0, never NaN.

    Raises:
        RuntimeError: `evaluate` cannot load the script, for example because a killed process left half a copy in the
            cache.
    """
    import evaluate

    config_name = "multi_label" if task.multi_label else "regression" if task.is_regression else "classification"
    try:
        metric = evaluate.load(str(METRIC_FOLDER), config_name, keep_in_memory=True)
    except Exception as error:
        cache = Path(evaluate.config.HF_MODULES_CACHE) / "evaluate_modules" / "metrics" / METRIC_FOLDER.name
        raise RuntimeError(
            f"the metric script cannot be loaded ({type(error).__name__}: {error}); a copy in the cache may be damaged: "
            f"delete {cache} and run again"
        ) from error

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        predictions, labels = to_predictions(task, prediction.predictions), np.asarray(prediction.label_ids)
        labels = labels.astype(np.int64) if task.multi_label else labels.reshape(-1)
        if predictions.shape != labels.shape:
            raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels of task {task.name}")
        return metric.compute(predictions=predictions, references=labels, metrics=task.metrics)

    return compute_metrics


def to_predictions(task: Task, predictions: Any) -> np.ndarray:
    """Class ids (int64) or scores (float64) of shape (num_examples,) from a model's output; 0 and 1 for each of several labels.

    Args:
        task: the task.
        predictions: see `build_compute_metrics`. A row of NaN logits (a diverged run) counts as class 0, or as no label.

    Raises:
        ValueError: another shape, for example from a classifier with another number of labels.
    """
    if isinstance(predictions, (tuple, list)):
        predictions = predictions[0]
    predictions = np.asarray(predictions)
    if task.is_regression:
        if predictions.ndim == 1 or predictions.ndim == 2 and predictions.shape[1] == 1:
            return predictions.reshape(-1).astype(np.float64)
    elif task.multi_label:
        if predictions.ndim == 2 and predictions.shape[1] == task.num_labels:
            return (predictions > 0).astype(np.int64)
    elif predictions.ndim == 1 and np.issubdtype(predictions.dtype, np.integer):
        return predictions.astype(np.int64)
    elif predictions.ndim == 2 and predictions.shape[1] == task.num_labels:
        return predictions.argmax(axis=1).astype(np.int64)
    raise ValueError(
        f"predictions of shape {predictions.shape} and type {predictions.dtype} do not fit task {task.name}: expected "
        f"(num_examples, {task.num_labels})"
    )
