"""The verdict on a run, from its record and its last evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..verdicts.constants import IGNORED_LABEL, best_constant_score, mean_label_entropy
from ..verdicts.sentence import NOTHING_RECORDED
from ..verdicts.verdict import Verdict, judge
from .evaluation import Answers, Evaluation, agrees, answers_of, labels_of, reported
from .metrics import (
    MOST_CLASSES,
    constant_score,
    family,
    lead_over_constant,
    several_baseline,
    smaller_is_better,
)
from .step_record import training_evidence


logger = logging.getLogger(__name__)

NOT_SCORES = ("runtime", "samples_per_second", "steps_per_second", "epoch", "model_preparation_time")
HIGHER_HEADLINES = ("f1", "matthews")
"""Families of metrics that may clear a run with the accuracy of the majority-class baseline."""


@dataclass(frozen=True)
class RunFacts:
    """Facts on a run that a verdict needs, besides the record and the evaluation.

    Args:
        metric: the headline metric that the user chose; None for no choice.
        greater_is_better: from the training arguments.
        metric_for_best_model: from the training arguments.
        problem_type: from the model's config.
        num_labels: from the model's config; 0 if it has none.
        label_names: names of the classes, by id.
        causal: whether the model is a causal language model.
        generates: whether the model may generate texts (an encoder-decoder). Their positions are not those of the labels.
        baseline: the user's own score; or `compute_metrics`, to call it on constant predictions; None to use the labels.
        compute_metrics: the Trainer's.
        saw_loss: whether the model returned a loss in training.
        train_dataset: the training data, for the variance of a regression's labels.
        eval_dataset: the evaluation data, for its labels if the Trainer does not keep them.
        half_precision: a sentence on weights in half precision; empty for none.
    """

    metric: str | None = None
    greater_is_better: bool | None = None
    metric_for_best_model: str | None = None
    problem_type: str | None = None
    num_labels: int = 0
    label_names: Mapping[int, str] | None = None
    causal: bool = False
    generates: bool = False
    baseline: float | str | None = None
    compute_metrics: Callable | None = None
    saw_loss: bool = True
    train_dataset: Any = None
    eval_dataset: Any = None
    half_precision: str = ""


def judge_run(
    record: Mapping[str, Any] | None, evaluation: Evaluation, facts: RunFacts
) -> tuple[Verdict, dict[str, Any] | None]:
    """The verdict on a run, and its baseline.

    Args:
        record: as `read_steps` returns it; None if there is no reliable record.
        evaluation: the Trainer's last evaluation of its evaluation set.
        facts: see `RunFacts`.

    Returns:
        the verdict; the baseline of the headline metric, `{"score", "constant"}`, or None if it is not known.
    """
    answers = answers_of(evaluation, facts.problem_type, facts.causal, facts.generates)
    answers = answers if answers is None or _as_reported(answers, evaluation) else None
    metric, score = headline(evaluation.metrics, facts.metric or facts.metric_for_best_model)
    constant = _baseline(metric, score, evaluation, answers, facts)
    evidence = _training(record, answers, facts)
    evidence |= _of_evaluation(evaluation, answers, facts)
    if isinstance(facts.baseline, (int, float)):  # the user's baseline decides, not the predictions
        evidence |= dict.fromkeys(("eval_labels", "eval_predictions", "headline_lead"))
        evidence.pop("score", None)
    if "score" not in evidence:
        smaller = smaller_is_better(metric, _greater_is_better(metric, facts))
        evidence |= {"metric": metric, "score": score, "smaller_is_better": smaller}
        evidence["baseline"] = None if constant is None else constant["score"]
    if record is None and all(evidence.get(key) is None for key in ("eval_labels", "baseline")):
        return Verdict("unknown", NOTHING_RECORDED), constant
    try:
        verdict = judge(**evidence, half_precision=facts.half_precision)
    except InputError as error:  # an unforeseen form of outputs or labels
        logger.warning(f"The verdict does not use the predictions of the evaluation: {error}")
        evidence |= dict.fromkeys(("eval_labels", "eval_predictions", "headline_lead"))
        verdict = judge(**evidence, half_precision=facts.half_precision)
    return verdict, constant


def headline(metrics: Mapping[str, Any], wanted: str | None = None) -> tuple[str | None, float | None]:
    """Key (without `eval_`) and value of the headline metric: the wanted one, else accuracy, else the first.

    Args:
        metrics: from an evaluation. Keys with or without `eval_`.
        wanted: `metric_for_best_model`. A loss does not count as a score.
    """
    scores = {key: value for key, value in scores_of(metrics).items() if not key.endswith("loss")}
    wanted = (wanted or "").removeprefix("eval_")
    for key in (wanted, "accuracy", *scores):
        if key in scores:
            return key, float(scores[key])
    return None, None


def scores_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation, with its loss, but without times and epoch. Keys without `eval_`."""
    return {
        key.removeprefix("eval_"): value
        for key, value in metrics.items()
        if not key.endswith(NOT_SCORES) and isinstance(value, (int, float))
    }


def _greater_is_better(metric: str | None, facts: RunFacts) -> bool | None:
    """`greater_is_better` of the training arguments, if it is about this metric."""
    about = (facts.metric_for_best_model or "").removeprefix("eval_")
    return facts.greater_is_better if metric is not None and about == metric else None


def _training(record: Mapping[str, Any] | None, answers: Answers | None, facts: RunFacts) -> dict[str, Any]:
    if record is None:
        return {}
    evidence = training_evidence(record)
    if not facts.saw_loss:
        evidence["losses"] = None
    regression = answers.kind == "values" if answers else facts.num_labels == 1
    if record["info"].get("own_loss"):  # the record has the model's own loss, but another one was minimised
        evidence["losses"] = None
    if regression:
        labels = label_column(facts.train_dataset)
        evidence["constant_loss"] = None if labels is None else float(np.var(labels))
    elif answers is not None and answers.kind == "several":
        labels = label_column(facts.train_dataset, "several")
        evidence["constant_loss"] = None if labels is None else mean_label_entropy(labels)
    elif answers is not None and answers.unit == "tokens":  # the record counts labels of examples only
        labels = label_column(facts.train_dataset, "tokens")
        if labels is not None and len(labels) and labels.min() >= 0:
            evidence["train_label_counts"] = np.bincount(labels.astype(np.int64))
    return evidence


def label_column(dataset: Any, kind: str = "one") -> np.ndarray | None:
    """The labels of a data set, if it has a column of numbers for them; else None.

    Args:
        dataset: the user's.
        kind: `one` label per example, `(n,)`; `several`, `(n, L)`; or `tokens`, those of all tokens without padding, `(n,)`.
    """
    names = getattr(dataset, "column_names", None) or ()
    name = next((name for name in ("labels", "label") if name in names), None)
    if name is None or not hasattr(dataset, "__len__"):  # a streamed data set would be read to its end
        return None
    try:
        labels = dataset[name]
        labels = np.concatenate([np.asarray(one) for one in labels]) if kind == "tokens" else np.asarray(labels)
    except Exception:  # the user's own data set
        return None
    if labels.ndim != (2 if kind == "several" else 1) or labels.dtype.kind not in "biuf":
        return None
    return (labels[labels != IGNORED_LABEL] if kind == "tokens" else labels).astype(float)


def _as_reported(answers: Answers, evaluation: Evaluation) -> bool:
    """Whether the classes have the reported accuracy. If not, the metric reads the outputs in another way than we do."""
    if answers.kind != "classes":
        return True
    return agrees(reported(evaluation.metrics, "accuracy"), float((answers.classes == answers.labels).mean()))


def _of_evaluation(evaluation: Evaluation, answers: Answers | None, facts: RunFacts) -> dict[str, Any]:
    """Keywords of `judge` on the evaluation: the run's answers, or the reported accuracy if the answers are not known."""
    if answers is None:
        return _of_reported_accuracy(evaluation, _labels(evaluation, facts))
    if answers.kind == "values":
        if np.ptp(answers.labels) == 0:  # always predicting the mean is right everywhere
            return {}
        return {"eval_labels": answers.labels, "eval_predictions": answers.outputs, "regression": True}
    if answers.kind == "several":
        parts = {"eval_labels": answers.labels, "eval_predictions": answers.outputs}
        return parts | {"several": True, "label_names": _names(answers.num_labels, facts.label_names)}
    return {
        "eval_labels": answers.labels,
        "eval_predictions": answers.outputs,
        "num_labels": answers.num_labels,
        "label_names": _names(answers.num_labels, facts.label_names),
        "unit": answers.unit,
        "headline_lead": _lead(evaluation, answers, facts),
    }


def _labels(evaluation: Evaluation, facts: RunFacts) -> np.ndarray | None:
    """The labels of the evaluation, or of its data set if the Trainer kept none (`batch_eval_metrics`)."""
    if evaluation.labels is not None:
        return labels_of(evaluation)
    sets = facts.eval_dataset
    return label_column(next(iter(sets.values())) if isinstance(sets, dict) else sets)


def _of_reported_accuracy(evaluation: Evaluation, labels: np.ndarray | None) -> dict[str, Any]:
    """The reported accuracy and its majority-class baseline, to be compared in whole examples."""
    score = reported(evaluation.metrics, "accuracy")
    if score is None or labels is None or not np.isfinite(labels).all():
        return {}
    ids = np.unique(labels, return_inverse=True)[1]  # classes may be -1 and 1
    constant = constant_score("accuracy", ids)
    if constant is None:
        return {}
    score = score / 100 if score > 1 else score
    return {"metric": "accuracy", "score": score, "baseline": constant["score"], "examples": len(labels)}


def _lead(evaluation: Evaluation, answers: Answers, facts: RunFacts) -> dict[str, Any] | None:
    """The headline metric's lead over its baseline, if it is an F1 or a Matthews correlation."""
    scores = scores_of(evaluation.metrics)
    wanted = (facts.metric or facts.metric_for_best_model or "").removeprefix("eval_")
    names = [wanted] if wanted in scores and not wanted.endswith("loss") else list(scores)
    metric = next((name for name in names if family(name) in HIGHER_HEADLINES), None)
    if metric is None:
        return None
    score = float(scores[metric])
    score = score / 100 if score > 1 else score
    right, counts = int((answers.classes == answers.labels).sum()), np.bincount(answers.labels)
    if right > counts.max() or answers.num_labels > MOST_CLASSES:  # no need to clear the run, or too many classes
        return None
    lead = lead_over_constant(metric, answers.labels, answers.classes, answers.num_labels, score)
    return None if lead is None else {"metric": metric, **lead}


def _baseline(
    metric: str | None, score: float | None, evaluation: Evaluation, answers: Answers | None, facts: RunFacts
) -> dict[str, Any] | None:
    """The baseline in the headline metric: the best score of a constant prediction."""
    if metric is None:
        return None
    if facts.baseline == "compute_metrics":
        return _from_compute_metrics(metric, evaluation, facts)
    if facts.baseline is not None:
        return {"score": float(facts.baseline)}
    labels = answers.labels if answers is not None else _labels(evaluation, facts)
    if family(metric) in ("matthews", "correlation", "r2"):
        return constant_score(metric, np.array([]) if labels is None else labels)
    if labels is None:
        return None
    if answers is not None and answers.kind == "several":
        return None if score is None else several_baseline(metric, answers.labels, answers.outputs, score)
    classified = answers is not None and answers.kind == "classes"
    classes, num_labels = (answers.classes, answers.num_labels) if classified else (None, None)
    return constant_score(metric, labels, classes, num_labels, score)


def _from_compute_metrics(metric: str, evaluation: Evaluation, facts: RunFacts) -> dict[str, Any] | None:
    if facts.compute_metrics is None or evaluation.predictions is None or evaluation.labels is None:
        return None
    try:
        outputs = evaluation.predictions, evaluation.labels
        return best_constant_score(facts.compute_metrics, *outputs, facts.num_labels, metric, facts.num_labels == 1)
    except Exception as error:  # the user's own function
        logger.warning(f"No baseline: compute_metrics raised {type(error).__name__} on a constant prediction: {error}")
        return None


def _names(num_labels: int, names: Mapping[int, str] | None) -> Sequence[str] | None:
    return [str(names[k]) for k in range(num_labels)] if names and set(names) >= set(range(num_labels)) else None
