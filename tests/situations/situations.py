"""The situations: ways in which fine-tuning scripts use the Trainer, and the verdict that each must get.

A situation is a function that makes a script for a run that learns. If it makes sense, it also makes one for a run that is
stuck at the majority class. `SITUATIONS` has all of them, in the order of the page.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from torch import nn
from transformers import (
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
)

from hf_stability import StabilityCallback

from .examine import Script, digest, script
from .parts import (
    DEV,
    LENGTH,
    MAJORITY,
    SIGNAL,
    TRAIN,
    VOCABULARY,
    Heads,
    Rows,
    accuracy,
    bert,
    binary_accuracy,
    classes_of,
    collapse,
    dev,
    f1,
    f1_of,
    flipped,
    labels_of,
    matthews,
    misleading,
    mse,
    numbers,
    pearson,
    sentences,
    table,
    token_accuracy,
    token_rows,
    tokens,
)


@dataclass(frozen=True)
class Situation:
    """A script, and the expected verdicts of its runs.

    Args:
        name: name of the function.
        group: heading on the page.
        special: how it differs from the plain script.
        make: makes the script of a run that learns (True) or is stuck (False).
        learns, stuck: expected status of each run. Alternatives are joined by ` or `, several verdicts by commas. The text
            `None` means that there is no verdict. The value None means that there is no such run.
        learns_stable, stuck_stable: the same for StableTrainer, if it may know more: it also evaluates the last step.
        sentence: a regular expression that the verdict's sentence must match.
        warns: regular expressions. Each must match exactly one of our warnings.
        quiet: whether all other warnings of ours are errors.
        slow: whether it takes seconds, or a faster situation covers the same code.
        needs: a package that must be installed.
    """

    name: str
    group: str
    special: str
    make: Callable[[bool], Script]
    learns: str | None = "ok"
    stuck: str | None = "failed"
    learns_stable: str | None = None
    stuck_stable: str | None = None
    sentence: str = ""
    warns: tuple[str, ...] = ()
    quiet: bool = False
    slow: bool = False
    needs: str | None = None

    def allowed(self, learns: bool, kind: str) -> list[str]:
        stable = self.learns_stable if learns else self.stuck_stable
        status = (stable if kind == "stable" else None) or (self.learns if learns else self.stuck)
        return status.split(", ")


SITUATIONS: list[Situation] = []


def situation(group: str, special: str, **expected):
    def register(make: Callable[[bool], Script]) -> Callable[[bool], Script]:
        SITUATIONS.append(Situation(make.__name__, group, special, make, **expected))
        return make

    return register


HARDER = {"learning_rate": 1e-2, "num_train_epochs": 8}  # for tasks that take longer to learn


def by_steps(steps: int = 16, every: int = 4) -> dict:
    return {"max_steps": steps, "eval_strategy": "steps", "eval_steps": every}


# ---- plain scripts and their metrics ---------------------------------------------------------------------------------

METRICS = "Metrics"


@situation(METRICS, "two classes, accuracy; the callback writes all of its pictures and event files", quiet=True)
def plain(learns):
    return script(learns, callback={"heat_map": True, "tensorboard": True})


@situation(
    METRICS,
    "`StabilityCallback()` without arguments",
    learns="ok or unknown",
    stuck="failed or unknown",
    learns_stable="ok",
    stuck_stable="failed",
)
def bare_callback(learns):
    return script(learns, callback=None)


@situation(METRICS, "F1 is the only metric")
def f1_alone(learns):
    return script(learns, metric=f1, proof=("eval_f1", 0.95, 0.74))


@situation(METRICS, "Matthews correlation is the only metric", slow=True)
def matthews_alone(learns):
    return script(learns, metric=matthews, proof=("eval_matthews_correlation", 0.9, 0.0))


@situation(METRICS, "accuracy and F1; F1 chooses the best model")
def f1_chooses(learns):
    return script(
        learns,
        metric=lambda p: {**accuracy(p), **f1(p)},
        arguments={"metric_for_best_model": "f1", "greater_is_better": True},
    )


@situation(METRICS, "`eval_loss` chooses the best model", slow=True)
def eval_loss_chooses(learns):
    return script(learns, arguments={"metric_for_best_model": "eval_loss", "greater_is_better": False})


@situation(METRICS, "a metric with an unknown name: `points`, from 0 to 100")
def unknown_metric(learns):
    return script(
        learns, metric=lambda p: {"points": 100 * accuracy(p)["accuracy"]}, proof=("eval_points", 95.0, 57.6)
    )


@situation(METRICS, "the metric is an error rate, with `greater_is_better=False`", slow=True)
def error_rate(learns):
    return script(
        learns,
        metric=lambda p: {"error": 1 - accuracy(p)["accuracy"]},
        arguments={"metric_for_best_model": "error", "greater_is_better": False},
        proof=None,
    )


@situation(METRICS, "the metric is an error rate, without `greater_is_better`")
def error_rate_alone(learns):
    return script(learns, metric=lambda p: {"error_rate": 1 - accuracy(p)["accuracy"]}, proof=None)


@situation(METRICS, "the metrics are an error rate, then the accuracy", slow=True)
def error_before_accuracy(learns):
    return script(learns, metric=lambda p: {"error_rate": 1 - accuracy(p)["accuracy"], **accuracy(p)})


@situation(METRICS, "log loss is a metric, and chooses the best model", slow=True)
def log_loss(learns):
    def metric(p):
        logits = torch.tensor(p.predictions)
        return {"log_loss": float(nn.functional.cross_entropy(logits, torch.tensor(p.label_ids))), **accuracy(p)}

    return script(learns, metric=metric, arguments={"metric_for_best_model": "log_loss", "greater_is_better": False})


@situation(METRICS, "no `compute_metrics`, so there is only an `eval_loss`", learns="unknown", stuck="unknown")
def no_metric(learns):
    return script(learns, metric=None, proof=None)


@situation(METRICS, "no evaluation set", learns="unknown", stuck="unknown")
def no_dev_set(learns):
    return script(learns, dev=None, arguments={"eval_strategy": "no"}, proof=None)


@situation(
    METRICS,
    "`metric_for_best_model` without `compute_metrics`, and no evaluation",
    learns="unknown",
    stuck="unknown",
)
def best_metric_without_metrics(learns):
    values = {"eval_strategy": "no", "metric_for_best_model": "accuracy", "greater_is_better": True}
    return script(
        learns,
        metric=None,
        arguments={**values, "save_strategy": "steps", "save_steps": 8},
        proof=None,
    )


@situation(METRICS, "the accuracy is rounded to float16, and so appears above the baseline", learns=None)
def float16_accuracy(learns):
    def metric(p):
        return {"accuracy": float(np.float16(accuracy(p)["accuracy"]))}

    return script(learns, metric=metric)


@situation(METRICS, "the accuracy is a mean in float32", learns=None, slow=True)
def float32_accuracy(learns):
    def metric(p):
        return {"accuracy": (classes_of(p) == p.label_ids).astype(np.float32).mean().item()}

    return script(learns, metric=metric)


@situation(
    METRICS,
    "the run learned the training set, but is at the baseline on the development set",
    learns="failed",
    stuck=None,
)
def memorised(learns):
    return script(learns, dev=misleading(), proof=("eval_accuracy", MAJORITY, 0))


@situation(METRICS, "accuracy 1 for a long time, so that the gradients vanish", stuck=None)
def perfect_and_still(learns):
    return script(learns, arguments={"num_train_epochs": 12})


@situation(METRICS, "accuracy 1, vanishing gradients, and a custom loss", stuck=None)
def perfect_with_own_loss(learns):
    return script(learns, trainer=PopsLabels, arguments={"num_train_epochs": 12})


@situation(METRICS, "a development set with only one class", learns="failed or unknown", stuck="failed or unknown")
def dev_of_one_class(learns):
    return script(learns, dev=dev(DEV, (0.0, 1.0)), proof=("eval_accuracy", 0.95, 1.0))


@situation(METRICS, "the accuracy is in percent")
def accuracy_in_percent(learns):
    return script(
        learns, metric=lambda p: {"accuracy": 100 * accuracy(p)["accuracy"]}, proof=("eval_accuracy", 95.0, 57.6)
    )


@situation(METRICS, "the metrics are a confusion matrix, a report, then the accuracy", slow=True)
def report_before_accuracy(learns):
    def metric(p):
        predicted = classes_of(p)
        matrix = [[int(((p.label_ids == i) & (predicted == j)).sum()) for j in (0, 1)] for i in (0, 1)]
        return {"confusion": matrix, "report": {"1": f1(p)}, "note": "dev", **accuracy(p)}

    return script(learns, metric=metric)


@situation(METRICS, "the metrics are one that is NaN, then the accuracy", slow=True)
def nan_before_accuracy(learns):
    return script(learns, metric=lambda p: {"auc": float("nan"), **accuracy(p)})


@situation(METRICS, "the metrics are numpy scalars and tensors", slow=True)
def numpy_scalars(learns):
    def metric(p):
        right = classes_of(p) == p.label_ids
        return {
            "accuracy": np.float32(right.mean()),
            "right": torch.tensor(int(right.sum())),
            "n": np.int64(len(right)),
        }

    return script(learns, metric=metric)


@situation(METRICS, "`prediction_loss_only`: the metric is never called", learns="unknown", stuck="unknown")
def loss_only(learns):
    return script(learns, arguments={"prediction_loss_only": True}, proof=None)


@situation(METRICS, "the development set has no labels", learns="unknown", stuck="unknown")
def dev_without_labels(learns):
    return script(learns, dev=dev().remove_columns("labels"), proof=None)


# ---- losses ----------------------------------------------------------------------------------------------------------

LOSSES = "Losses"
WEIGHTS = (1.0, 2.0)


def weighted(logits, labels):
    return nn.functional.cross_entropy(logits, labels, weight=torch.tensor(WEIGHTS))


class PopsLabels(Trainer):
    """Class weights; the model does not get the labels."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = weighted(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


class KeepsLabels(Trainer):
    """Class weights as in the Trainer's documentation: the model also computes its own loss."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        loss = weighted(outputs.logits, inputs["labels"])
        return (loss, outputs) if return_outputs else loss


class Focal(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        losses = nn.functional.cross_entropy(outputs.logits, labels, reduction="none")
        loss = ((1 - torch.exp(-losses)) ** 2 * losses).mean()
        return (loss, outputs) if return_outputs else loss


@situation(LOSSES, "`compute_loss` with class weights removes the labels from the inputs")
def own_loss(learns):
    return script(learns, trainer=PopsLabels)


@situation(LOSSES, "`compute_loss` with class weights; the model gets the labels, too", slow=True)
def own_loss_beside_the_models(learns):
    return script(learns, trainer=KeepsLabels)


@situation(LOSSES, "`compute_loss_func` with class weights", slow=True)
def loss_function(learns):
    def loss(outputs, labels, num_items_in_batch=None):
        return weighted(outputs.logits, labels)

    return script(learns, given={"compute_loss_func": loss})


@situation(LOSSES, "label smoothing")
def label_smoothing(learns):
    return script(learns, arguments={"label_smoothing_factor": 0.1})


@situation(LOSSES, "focal loss", slow=True)
def focal_loss(learns):
    return script(learns, trainer=Focal)


class TwoCopies(Trainer):
    """Each batch twice in one forward pass, as in R-Drop."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        outputs = model(**{name: torch.cat([value, value]) for name, value in inputs.items()})
        first, second = outputs.logits.chunk(2)
        loss = outputs.loss + nn.functional.mse_loss(first, second)
        return (loss, outputs) if return_outputs else loss


@situation(LOSSES, "each batch twice in one forward pass, as in R-Drop", slow=True)
def batch_twice(learns):
    return script(learns, trainer=TwoCopies)


class WithoutLoss(Heads):
    def forward(self, input_ids=None, attention_mask=None):
        return {"logits": self.logits(input_ids, attention_mask)}


class LossOutside(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs["logits"], labels)
        return (loss, outputs) if return_outputs else loss


@situation(LOSSES, "the model takes no labels and returns no loss; the Trainer computes the loss")
def model_without_loss(learns):
    model = bert(2, WithoutLoss)
    return script(
        learns,
        model=model if learns else collapse(model),
        trainer=LossOutside,
        arguments={"remove_unused_columns": False, "label_names": ["labels"]},
    )


# ---- classes ---------------------------------------------------------------------------------------------------------

CLASSES = "Classes and labels"


class Binary(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.binary_cross_entropy_with_logits(outputs.logits.squeeze(-1), labels.float())
        return (loss, outputs) if return_outputs else loss


def one_logit(learns, **changes):
    model = bert(1)
    return script(learns, model=model if learns else collapse(model, (0.3,)), metric=binary_accuracy, **changes)


@situation(CLASSES, "one logit, binary cross entropy, labels 0 and 1")
def one_logit_int_labels(learns):
    return one_logit(learns, trainer=Binary)


def with_floats(data):
    return table(np.array(data["input_ids"]), labels=np.array(data["labels"], float))


@situation(CLASSES, "one logit, binary cross entropy, labels 0.0 and 1.0", slow=True)
def one_logit_float_labels(learns):
    return one_logit(learns, trainer=Binary, train=with_floats(sentences()), dev=with_floats(dev()))


class OneLogit(Heads):
    def forward(self, input_ids=None, attention_mask=None, labels=None):
        logits = self.logits(input_ids, attention_mask)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.squeeze(-1), labels.float())
        return {"loss": loss, "logits": logits}


@situation(CLASSES, "one logit; the model computes binary cross entropy, and its config has two labels")
def one_logit_of_the_model(learns):
    model = bert(2, OneLogit, width=1)
    return script(learns, model=model if learns else collapse(model, (0.3,)), metric=binary_accuracy)


@situation(CLASSES, "least squares on labels 0.0 and 1.0, with accuracy as the metric", slow=True)
def least_squares(learns):
    def metric(p):
        return {"accuracy": float(((p.predictions.squeeze(-1) > 0.5) == (p.label_ids > 0.5)).mean())}

    model = bert(1)
    return script(
        learns,
        model=model if learns else collapse(model, (MAJORITY,)),
        metric=metric,
        train=with_floats(sentences()),
        dev=with_floats(dev()),
        arguments=HARDER if learns else {},
    )


THREE = (0.3, 0.3, 0.4)
TEN = (*[0.09] * 9, 0.19)


@situation(CLASSES, "three classes")
def three_classes(learns):
    model = bert(3)
    return script(
        learns,
        model=model if learns else collapse(model, THREE),
        train=sentences(TRAIN, 0, THREE),
        dev=dev(DEV, THREE),
        arguments=HARDER if learns else {},
    )


@situation(CLASSES, "ten classes", slow=True)
def ten_classes(learns):
    model = bert(10)
    return script(
        learns,
        model=model if learns else collapse(model, TEN),
        train=sentences(200, 0, TEN),
        dev=dev(100, TEN),
        arguments=HARDER if learns else {},
        proof=("eval_accuracy", 0.9, 0.19),
    )


TWENTY = (*[0.045] * 19, 0.145)


@situation(CLASSES, "twenty classes", learns=None, slow=True)
def twenty_classes(learns):
    return script(
        learns,
        model=collapse(bert(20), TWENTY),
        train=sentences(100, 0, TWENTY),
        dev=dev(100, TWENTY),
    )


@situation(CLASSES, "three classes, but class 0 never occurs", slow=True)
def a_class_never_occurs(learns):
    shares = (0.0, 1 - MAJORITY, MAJORITY)
    model = bert(3)
    return script(
        learns,
        model=model if learns else collapse(model, (0.02, 0.4, 0.58)),
        train=sentences(TRAIN, 0, shares),
        dev=dev(DEV, shares),
        arguments=HARDER if learns else {},
    )


@situation(CLASSES, "each label is in a list of length one: shape `(examples, 1)`")
def labels_in_lists(learns):
    def listed(data):
        return table(np.array(data["input_ids"]), labels=np.array(data["labels"])[:, None])

    def metric(p):
        return {"accuracy": float((classes_of(p) == p.label_ids[:, 0]).mean())}

    return script(learns, train=listed(sentences()), dev=listed(dev()), metric=metric)


@situation(CLASSES, "some rows of the development set have no label (-100)")
def dev_partly_labelled(learns):
    labels = np.array(dev()["labels"])
    labels[::4] = -100
    known = labels[labels >= 0]
    baseline = float(max(known.mean(), 1 - known.mean()))
    return script(
        learns,
        dev=table(np.array(dev()["input_ids"]), labels=labels),
        metric=token_accuracy,
        proof=("eval_accuracy", 0.95, baseline),
    )


RARE = (0.93, 0.07)
SOUND = {  # faster runs fail with some seeds, because there are so few positives
    "learning_rate": 3e-3,
    "num_train_epochs": 8,
    "per_device_train_batch_size": 8,
    "warmup_steps": 0.05,
}


@situation(CLASSES, "7% positives; the run that learns raises no alarm", slow=True)
def rare_class(learns):
    model = bert()
    return script(
        learns,
        model=model if learns else collapse(model, RARE),
        train=sentences(200, 0, RARE),
        dev=dev(100, RARE),
        arguments=SOUND if learns else {"warmup_steps": 0.1},
        callback={"on_alarm": "stop"} if learns else {},
        proof=("eval_accuracy", 0.95, 0.93),
    )


class WeighsRare(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, inputs["labels"], weight=torch.tensor([1.0, 12.0]))
        return (loss, outputs) if return_outputs else loss


@situation(CLASSES, "7% positives with class weights; the run that learns raises no alarm", slow=True)
def rare_class_weighted(learns):
    model = bert()
    return script(
        learns,
        model=model if learns else collapse(model, RARE),
        trainer=WeighsRare,
        train=sentences(200, 0, RARE),
        dev=dev(100, RARE),
        arguments={"warmup_steps": 0.1},
        proof=("eval_accuracy", 0.95, 0.93),
    )


@situation(
    CLASSES,
    "7% positives; accuracy equals the majority-class baseline, F1 is clearly above its baseline",
    stuck=None,
    sentence=r"(?i)\bf1\b",
)
def rare_class_by_f1(learns):
    labels = labels_of(200, 1, RARE)
    ids = tokens(labels, 1)
    negatives = np.flatnonzero(labels == 0)[: int((labels == 1).sum())]
    ids[negatives, 1:-1] = SIGNAL + 1  # as many false positives as true ones
    return script(
        learns,
        train=sentences(200, 0, RARE),
        dev=table(ids, labels=labels),
        metric=lambda p: {**f1(p), **accuracy(p)},
        arguments={"metric_for_best_model": "f1", "greater_is_better": True},
        proof=("eval_f1", 0.6, 0),
    )


@situation(CLASSES, "3 outputs, but 2 labels in the model's config")
def more_outputs_than_labels(learns):
    model = bert(2, Heads, width=3)
    return script(
        learns,
        model=model if learns else collapse(model, THREE),
        train=sentences(TRAIN, 0, THREE),
        dev=dev(DEV, THREE),
        arguments=HARDER if learns else {},
    )


@situation(CLASSES, "2 outputs, but 5 labels in the model's config", slow=True)
def fewer_outputs_than_labels(learns):
    model = bert(5, Heads, width=2)
    return script(learns, model=model if learns else collapse(model))


@situation(CLASSES, "2 outputs, but 1 label in the model's config, which normally means regression")
def two_outputs_one_label(learns):
    model = bert(1, Heads, width=2)
    return script(learns, model=model if learns else collapse(model))


class Masks(Heads):
    """The logits of class 2 are minus infinity."""

    def logits(self, input_ids, attention_mask):
        return super().logits(input_ids, attention_mask).index_fill(-1, torch.tensor([2]), -torch.inf)


@situation(CLASSES, "the logits of one class are masked with minus infinity")
def masked_logits(learns):
    model = bert(3, Masks)
    return script(learns, model=model if learns else collapse(model, (0.4, 0.5, 0.1)))


@situation(CLASSES, "token classification, with -100 for padding")
def token_classes(learns):
    model = bert(3, BertForTokenClassification)
    return script(
        learns,
        model=model if learns else collapse(model, (0.5, 0.3, 0.2)),
        train=token_rows(),
        dev=token_rows(DEV, 1),
        metric=token_accuracy,
    )


@situation(CLASSES, "token classification with a custom loss", slow=True)
def token_classes_own_loss(learns):
    class Flat(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())
            return (loss, outputs) if return_outputs else loss

    made = token_classes(learns)
    made.trainer = Flat
    return made


def choices(n, seed, most=3, least=3):
    """Questions with `least` to `most` answers. The right answer has the token SIGNAL."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in rng.integers(least, most + 1, n):
        right = int(min(rng.choice(3, p=[0.4, 0.3, 0.3]), number - 1))
        ids = rng.integers(10, 40, (number, LENGTH))
        ids[right, 1:-1] = SIGNAL
        rows.append({"input_ids": ids.tolist(), "labels": right})
    return Rows(rows)


def collate_choices(rows):
    most = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [[0] * LENGTH] * (most - len(row["input_ids"])) for row in rows])
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def multiple_choice_script(learns, **sizes):
    model = bert(cls=BertForMultipleChoice)
    rate = {} if learns else {"learning_rate": 0.0}
    return script(
        learns,
        model=model if learns else collapse(model, (0.0,)),
        train=choices(TRAIN, 0, **sizes),
        dev=choices(DEV, 1, **sizes),
        given={"data_collator": collate_choices},
        arguments={"remove_unused_columns": False, "per_device_eval_batch_size": 4, **rate},
        proof=("eval_accuracy", 0.9, 0.5),
    )


@situation(CLASSES, "multiple choice with 3 choices")
def multiple_choice(learns):
    return multiple_choice_script(learns)


@situation(
    CLASSES,
    "multiple choice with 2 to 5 choices, so the width of the outputs differs between batches",
    learns="ok or unknown",
    stuck=None,
)
def choices_of_any_number(learns):
    return multiple_choice_script(learns, least=2, most=5)


def several_labels(n, seed):
    sets = labels_of(n, seed, (0.4, 0.2, 0.2, 0.2))  # no label, or one of three
    return table(tokens(sets, seed), labels=np.eye(4)[sets][:, 1:])


def exact_match(p):
    return {"accuracy": float(((p.predictions > 0) == (p.label_ids > 0.5)).all(-1).mean())}


@situation(CLASSES, "multi-label, three labels per example")
def multi_label(learns):
    model = bert(3, problem_type="multi_label_classification")
    return script(
        learns,
        model=model if learns else collapse(model, (0.2, 0.2, 0.2)),
        train=several_labels(TRAIN, 0),
        dev=several_labels(DEV, 1),
        metric=exact_match,
        arguments=HARDER if learns else {},
        proof=("eval_accuracy", 0.55, 0.4),
    )


@situation(CLASSES, "multi-label, with F1 over all labels as the only metric", slow=True)
def multi_label_f1(learns):
    made = multi_label(learns)
    made.metric = lambda p: {"f1": f1_of((p.predictions > 0).ravel(), (p.label_ids > 0.5).ravel())}
    made.proof = ("eval_f1", 0.45, 0.0)
    return made


def regression_script(learns, **changes):
    model = bert(1)
    values = {"train": numbers(), "dev": numbers(DEV, 1), "metric": mse, "proof": None}
    values["arguments"] = {"num_train_epochs": 8} if learns else {}
    values["arguments"].update(changes.pop("arguments", {}))
    return script(learns, **{**values, "model": model if learns else collapse(model, (0.52,)), **changes})


@situation(CLASSES, "regression, mean squared error")
def regression(learns):
    return regression_script(learns)


@situation(CLASSES, "regression; the smallest mean squared error chooses the best model", slow=True)
def regression_best_mse(learns):
    return regression_script(learns, arguments={"metric_for_best_model": "mse", "greater_is_better": False})


@situation(CLASSES, "regression, Pearson correlation (not defined for a constant)")
def regression_pearson(learns):
    return regression_script(learns, metric=pearson, proof=("eval_pearson", 0.8, 0.3))


@situation(CLASSES, "regression, mean absolute error, without `greater_is_better`", slow=True)
def regression_mae(learns):
    return regression_script(learns, metric=lambda p: {"mae": float(np.abs(p.predictions[:, 0] - p.label_ids).mean())})


@situation(CLASSES, "regression on grades; the metric is the accuracy of the rounded grade", slow=True)
def regression_rounded(learns):
    def grades(data):
        return table(np.array(data["input_ids"]), labels=3 * np.array(data["labels"]))

    made = regression_script(learns, train=grades(numbers()), dev=grades(numbers(DEV, 1)))
    made.metric = lambda p: {"accuracy": float((p.predictions[:, 0].round() == p.label_ids).mean())}
    made.proof = ("eval_accuracy", 0.5, 0.3)
    if learns:
        made.arguments.update(HARDER, num_train_epochs=12)
    else:
        collapse(made.model, (1.56,))
    return made


@situation(CLASSES, "regression on two numbers per example", learns="ok or unknown", stuck="failed or unknown")
def regression_on_two(learns):
    def pairs(data):
        labels = np.array(data["labels"])
        return table(np.array(data["input_ids"]), labels=np.stack([labels, 1 - labels], 1))

    model = bert(2, problem_type="regression")
    return regression_script(
        learns,
        model=model if learns else collapse(model, (1.6, 1.6)),  # its logarithm is near the mean
        train=pairs(numbers()),
        dev=pairs(numbers(DEV, 1)),
        metric=lambda p: {"mse": float(((p.predictions - p.label_ids) ** 2).mean())},
    )


@situation(CLASSES, "regression; the labels have another name, and a text column is called `label`", slow=True)
def regression_label_is_text(learns):
    def renamed(data):
        rows = zip(data["input_ids"], data["labels"], strict=True)
        return Rows({"input_ids": ids, "score": y, "label": "a text"} for ids, y in rows)

    def collate(rows):
        ids = torch.tensor([row["input_ids"] for row in rows])
        labels = torch.tensor([row["score"] for row in rows])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    return regression_script(
        learns,
        train=renamed(numbers()),
        dev=renamed(numbers(DEV, 1)),
        given={"data_collator": collate},
        arguments={"remove_unused_columns": False},
    )


@situation(CLASSES, "regression; a `datasets` table in which a text column is called `label`")
def regression_table_label_is_text(learns):
    def renamed(data):
        data = data.rename_column("labels", "score")
        return data.add_column("label", [f"item {i}" for i in range(len(data))])

    def collate(rows):
        ids = torch.tensor([row["input_ids"] for row in rows])
        labels = torch.tensor([row["score"] for row in rows])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    return regression_script(
        learns,
        train=renamed(numbers()),
        dev=renamed(numbers(DEV, 1)),
        given={"data_collator": collate},
        arguments={"remove_unused_columns": False},
    )


class Target(BertForSequenceClassification):
    def forward(self, input_ids=None, attention_mask=None, target=None):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=target)


@situation(CLASSES, 'the labels are called `target` (`label_names=["target"]`)')
def label_of_another_name(learns):
    model = bert(2, Target)
    return script(
        learns,
        model=model if learns else collapse(model),
        train=sentences().rename_column("labels", "target"),
        dev=dev().rename_column("labels", "target"),
        arguments={"label_names": ["target"]},
    )


def answers(n, seed):
    rng = np.random.default_rng(seed)
    ids, places = rng.integers(10, 40, (n, LENGTH)), rng.integers(1, LENGTH, n)
    ids[np.arange(n), places] = SIGNAL
    return table(ids, start_positions=places, end_positions=places)


def span_match(p):
    found = [part.argmax(-1) == labels for part, labels in zip(p.predictions, p.label_ids, strict=True)]
    return {"exact_match": float((found[0] & found[1]).mean())}


@situation(CLASSES, "question answering, with two label columns", learns="ok or unknown", stuck="failed or unknown")
def question_answering(learns):
    model = bert(cls=BertForQuestionAnswering)
    return script(
        learns,
        model=model if learns else collapse(model, (0.5, 0.5)),
        train=answers(TRAIN, 0),
        dev=answers(DEV, 1),
        metric=span_match,
        arguments={"num_train_epochs": 8} if learns else {"learning_rate": 0.0},
        proof=("eval_exact_match", 0.9, 0.1),
    )


# ---- outputs ---------------------------------------------------------------------------------------------------------

OUTPUTS = "Outputs"


class Nested(Heads):
    def forward(self, input_ids=None, attention_mask=None, labels=None):
        logits = self.logits(input_ids, attention_mask)
        return {"loss": nn.functional.cross_entropy(logits, labels), "outputs": {"logits": logits}}


@situation(OUTPUTS, "the logits are in a dict inside the outputs", learns="ok or unknown", stuck="failed or unknown")
def nested_outputs(learns):
    def metric(p):
        return {"accuracy": float((p.predictions["logits"].argmax(-1) == p.label_ids).mean())}

    model = bert(2, Nested)
    return script(learns, model=model if learns else collapse(model), metric=metric)


@situation(OUTPUTS, "the outputs are a tuple (`return_dict=False`)", slow=True)
def tuple_outputs(learns):
    model = bert(return_dict=False)
    return script(learns, model=model if learns else collapse(model))


class FeaturesFirst(Heads):
    """Outputs `loss`, `features` and `logits`, in this order."""

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        features = self.bert(input_ids, attention_mask=attention_mask).pooler_output
        logits = self.head(features)
        return {"loss": nn.functional.cross_entropy(logits, labels), "features": features, "logits": logits}


@situation(OUTPUTS, "the features come before the logits")
def features_first(learns):
    def metric(p):
        return {"accuracy": float((p.predictions[1].argmax(-1) == p.label_ids).mean())}

    model = bert(2, FeaturesFirst)
    return script(learns, model=model if learns else collapse(model), metric=metric)


@situation(OUTPUTS, "the outputs include hidden states (`output_hidden_states`)", slow=True)
def hidden_states(learns):
    model = bert(output_hidden_states=True)
    return script(learns, model=model if learns else collapse(model))


@situation(OUTPUTS, "the evaluation leaves hidden states out (`ignore_keys_for_eval`)", slow=True)
def ignored_keys(learns):
    model = bert(output_hidden_states=True)
    return script(
        learns,
        model=model if learns else collapse(model),
        play=lambda bench: bench.trainer().train(ignore_keys_for_eval=["hidden_states", "attentions"]),
    )


class LossOnly(Heads):
    def forward(self, input_ids=None, attention_mask=None, labels=None):
        return {"loss": nn.functional.cross_entropy(self.logits(input_ids, attention_mask), labels)}


@situation(OUTPUTS, "the model returns only a loss", learns="unknown", stuck="unknown")
def loss_and_nothing_else(learns):
    model = bert(2, LossOnly)
    return script(learns, model=model if learns else collapse(model), metric=None, proof=None)


class TwoTasks(Heads):
    """A head of 2 outputs and a head of 3, by the batch's task."""

    def __init__(self, config):
        super().__init__(config)
        self.heads = nn.ModuleList([nn.Linear(config.hidden_size, width) for width in (2, 3)])
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, labels=None, task=None):
        features = self.bert(input_ids, attention_mask=attention_mask).pooler_output
        logits = self.heads[int(task[0])](features)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class InOrder(Trainer):
    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def two_tasks(n, seed):
    parts = [sentences(n, seed), sentences(n, seed, THREE)]
    return Rows({**row, "task": t} for i in range(0, n, 8) for t in (0, 1) for row in parts[t].select(range(i, i + 8)))


@situation(OUTPUTS, "two tasks with 2 and 3 outputs, alternating", learns="ok or unknown", stuck=None, slow=True)
def heads_of_two_tasks(learns):
    return script(
        learns,
        model=bert(2, TwoTasks),
        trainer=InOrder,
        train=two_tasks(TRAIN, 0),
        dev=two_tasks(DEV, 1),
        arguments={
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 8,
            "gradient_accumulation_steps": 2,
            "remove_unused_columns": False,
            **HARDER,
        },
        proof=("eval_accuracy", 0.9, 0),
    )


@situation(OUTPUTS, "`preprocess_logits_for_metrics` takes the argmax")
def argmax_before_metrics(learns):
    return script(
        learns,
        metric=lambda p: {"accuracy": float((p.predictions == p.label_ids).mean())},
        given={"preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)},
    )


@situation(OUTPUTS, "`preprocess_logits_for_metrics` takes the argmax; the metric has an unknown name", slow=True)
def argmax_unknown_metric(learns):
    return script(
        learns,
        metric=lambda p: {"points": 100 * float((p.predictions == p.label_ids).mean())},
        given={"preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)},
        proof=("eval_points", 95.0, 57.6),
    )


@situation(OUTPUTS, "`preprocess_logits_for_metrics` gives probabilities", slow=True)
def softmax_before_metrics(learns):
    return script(learns, given={"preprocess_logits_for_metrics": lambda logits, labels: logits.softmax(-1)})


@situation(OUTPUTS, "the metric gets inputs and losses (`include_for_metrics`)")
def inputs_for_metrics(learns):
    def metric(p):
        return {"length": float(p.inputs.shape[1]), "mean_loss": float(p.losses.mean()), **accuracy(p)}

    return script(learns, metric=metric, arguments={"include_for_metrics": ["inputs", "loss"]})


@situation(OUTPUTS, "`eval_accumulation_steps`", slow=True)
def eval_accumulation(learns):
    return script(learns, arguments={"eval_accumulation_steps": 2})


class Running:
    """A metric of `batch_eval_metrics`: sums over batches."""

    def __init__(self):
        self.right = self.n = 0

    def __call__(self, p, compute_result=False):
        self.right += int((p.predictions.argmax(-1) == p.label_ids).sum())
        self.n += len(p.label_ids)
        if not compute_result:
            return {}
        score = self.right / self.n
        self.right = self.n = 0
        return {"accuracy": score}


def evaluates_after(bench):
    trainer = bench.trainer()
    trainer.train()
    trainer.evaluate()


@situation(OUTPUTS, "`batch_eval_metrics`: the metric sums over batches; an evaluation after training")
def metric_over_batches(learns):
    return script(learns, metric=Running(), arguments={"batch_eval_metrics": True}, play=evaluates_after)


@situation(OUTPUTS, "`batch_eval_metrics`, and the accuracy is rounded to float16", learns=None)
def float16_over_batches(learns):
    running = Running()

    def metric(p, compute_result=False):
        return {key: float(np.float16(value)) for key, value in running(p, compute_result).items()}

    return script(learns, metric=metric, arguments={"batch_eval_metrics": True})


@situation(OUTPUTS, "`eval_do_concat_batches=False`: the metric gets a list of batches")
def batches_not_joined(learns):
    def metric(p):
        pairs = zip(p.predictions, p.label_ids, strict=True)
        right = [logits.argmax(-1) == labels for logits, labels in pairs]
        return {"accuracy": float(np.concatenate(right).mean())}

    return script(learns, metric=metric, arguments={"eval_do_concat_batches": False})


class Keeps:
    """A metric that keeps its inputs and counts its calls."""

    def __init__(self):
        self.seen = []

    def __call__(self, p):
        self.seen.append(p.predictions)
        return {**accuracy(p), "calls": len(self.seen)}


@situation(OUTPUTS, "the metric keeps data between calls; an evaluation after training")
def metric_with_a_memory(learns):
    return script(learns, metric=Keeps(), play=evaluates_after)


@situation(OUTPUTS, "the metric changes the predictions in place")
def metric_that_overwrites(learns):
    def metric(p):
        scores = accuracy(p)
        p.predictions[:, 0] = 100.0
        return scores

    return script(learns, metric=metric)


@situation(
    OUTPUTS,
    "the metric replaces -100 by a class in the labels themselves",
    learns="ok or unknown",
    stuck="failed or unknown",
)
def metric_that_fills_padding(learns):
    def metric(p):
        scores = token_accuracy(p)
        p.label_ids[p.label_ids == -100] = 2
        return scores

    made = token_classes(learns)
    made.metric = metric
    return made


# ---- evaluations -----------------------------------------------------------------------------------------------------

EVALUATIONS = "Evaluations"


@situation(EVALUATIONS, "two evaluation sets: the first counts, the second is all wrong")
def two_dev_sets(learns):
    return script(
        learns,
        dev={"first": dev(), "second": flipped() if learns else dev(DEV, (0.2, 0.8))},
        arguments={"metric_for_best_model": "eval_first_accuracy", "greater_is_better": True},
        proof=None,
    )


@situation(
    EVALUATIONS, "two evaluation sets: the first is at the baseline, the second is not", learns="failed", stuck=None
)
def two_dev_sets_first_fails(learns):
    return script(learns, dev={"first": misleading(), "second": dev()}, proof=("eval_second_accuracy", 0.95, 0))


class EvaluatesAnother(TrainerCallback):
    """Evaluates at the end of each epoch, before the Trainer does. It copies the control, like the recipe in the forums."""

    def __init__(self, data, prefix):
        self.data, self.prefix = data, prefix

    def on_epoch_end(self, args, state, control, **kwargs):
        before = copy.deepcopy(control)
        self.trainer.evaluate(self.data, metric_key_prefix=self.prefix)
        return before


@situation(EVALUATIONS, "a callback evaluates the training set each epoch", learns="failed", stuck=None)
def callback_evaluates_train(learns):
    return script(
        learns,
        dev=misleading(),
        callbacks=[EvaluatesAnother(sentences(), "train")],
        proof=("eval_accuracy", MAJORITY, 0),
    )


@situation(EVALUATIONS, "a callback evaluates another set each epoch, also under the name `eval`", stuck=None)
def callback_evaluates_as_eval(learns):
    return script(learns, callbacks=[EvaluatesAnother(flipped(), "eval")], proof=None)


@situation(
    EVALUATIONS,
    "the same, with that callback before `StabilityCallback`, and the development set at the baseline",
    learns="failed",
    stuck=None,
)
def callback_evaluates_before_ours(learns):
    return script(learns, dev=misleading(), callbacks=[EvaluatesAnother(dev(), "eval")], first=False, proof=None)


class EvaluatesAtEvaluation(TrainerCallback):
    """Evaluates another set after each evaluation by the Trainer."""

    busy = False

    def __init__(self, data):
        self.data = data

    def on_evaluate(self, args, state, control, **kwargs):
        if not self.busy:
            self.busy = True
            self.trainer.evaluate(self.data, metric_key_prefix="eval")
            self.busy = False


@situation(EVALUATIONS, "a callback evaluates another set as `eval` after each evaluation", stuck=None, slow=True)
def callback_evaluates_after(learns):
    return script(learns, callbacks=[EvaluatesAtEvaluation(flipped())], proof=None)


@situation(EVALUATIONS, "the same, with that callback before `StabilityCallback`", stuck=None)
def callback_evaluates_after_before_ours(learns):
    return script(learns, callbacks=[EvaluatesAtEvaluation(flipped())], first=False, proof=None)


class Predicts(TrainerCallback):
    def on_epoch_end(self, args, state, control, **kwargs):
        self.trainer.predict(flipped())


@situation(EVALUATIONS, "a callback predicts another set each epoch")
def callback_predicts(learns):
    return script(learns, callbacks=[Predicts()])


class Validates(TrainerCallback):
    """A custom validation loop, in the middle of an epoch and right before the Trainer's evaluation."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        model.eval()
        with torch.no_grad():
            model(**flipped(8).with_format("torch")[:])
        model.train()


@situation(EVALUATIONS, "a callback runs its own validation loop on another set", slow=True)
def own_validation_loop(learns):
    return script(learns, callbacks=[Validates()])


class EvaluatesBoth(Trainer):
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        return {**metrics, **super().evaluate(self.train_dataset, ignore_keys, "train")}


@situation(
    EVALUATIONS,
    "a Trainer subclass overrides `evaluate`, and evaluates the training set, too",
    learns="failed",
    stuck=None,
    slow=True,
)
def evaluate_override(learns):
    return script(learns, trainer=EvaluatesBoth, dev=misleading(), proof=None)


class EvaluatesTrainFirst(Trainer):
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        train = super().evaluate(self.train_dataset, ignore_keys, "train")
        return {**train, **super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)}


@situation(
    EVALUATIONS,
    "a Trainer subclass overrides `evaluate`, and evaluates the training set first",
    learns="failed",
    stuck=None,
)
def evaluate_override_train_first(learns):
    return script(learns, trainer=EvaluatesTrainFirst, dev=misleading(), proof=None)


@situation(EVALUATIONS, "`evaluate` and `predict` before `train`")
def evaluate_before_train(learns):
    def plays(bench):
        trainer = bench.trainer()
        trainer.evaluate()
        trainer.predict(dev())
        trainer.train()

    return script(learns, play=plays)


@situation(EVALUATIONS, "`evaluate` on another set after `train`: the verdict stays")
def evaluate_after_train(learns):
    def plays(bench):
        trainer = bench.trainer()
        trainer.train()
        trainer.evaluate(flipped())
        trainer.predict(flipped())

    return script(learns, play=plays, proof=None)


@situation(EVALUATIONS, "the script only evaluates", learns="None", stuck=None)
def only_evaluate(learns):
    def plays(bench):
        trainer = bench.trainer()
        trainer.evaluate()
        trainer.predict(dev())

    return script(learns, play=plays, proof=None)


@situation(EVALUATIONS, "early stopping by accuracy; the best model is loaded", slow=True)
def early_stopping(learns):
    values = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "save_strategy": "epoch"}
    return script(
        learns,
        callbacks=[EarlyStoppingCallback(2)],
        arguments={**values, "num_train_epochs": 8 if learns else 4},
    )


class Spoils(TrainerCallback):
    """In the last epoch, makes the bias of the head so large that the model always gives one answer."""

    def on_epoch_begin(self, args, state, control, model=None, **kwargs):
        if state.epoch >= args.num_train_epochs - 1:
            with torch.no_grad():
                model.classifier.weight.zero_()
                model.classifier.bias.copy_(torch.tensor([0.0, 30.0]))


@situation(
    EVALUATIONS,
    "an earlier model is the best one and is loaded; the last epoch was at the baseline",
    learns="failed",
    stuck=None,
)
def best_is_earlier(learns):
    values = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "save_strategy": "epoch"}
    return script(learns, callbacks=[Spoils()], arguments=values, proof=("eval_accuracy", MAJORITY, 0))


@situation(EVALUATIONS, 'checkpoints of the best models only (`save_strategy="best"`)', slow=True)
def save_the_best(learns):
    values = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "save_strategy": "best"}
    return script(learns, arguments={**values, "greater_is_better": True})


@situation(EVALUATIONS, "`eval_on_start`", slow=True)
def evaluation_on_start(learns):
    return script(learns, arguments={"eval_on_start": True})


@situation(
    EVALUATIONS,
    "only `eval_on_start`: an evaluation of the untrained model decides nothing",
    learns="unknown",
    stuck="unknown",
    learns_stable="ok or unknown",
    stuck_stable="failed or unknown",
)
def evaluation_on_start_only(learns):
    return script(learns, arguments={"eval_on_start": True, "eval_strategy": "no"}, proof=None)


@situation(EVALUATIONS, "`eval_delay`", slow=True)
def evaluation_delay(learns):
    return script(learns, arguments={"eval_delay": 1})


@situation(
    EVALUATIONS,
    'an evaluation set, but `eval_strategy="no"`',
    learns="unknown",
    stuck="unknown",
    learns_stable="ok or unknown",
    stuck_stable="failed or unknown",
)
def never_evaluated(learns):
    return script(learns, arguments={"eval_strategy": "no", "save_strategy": "epoch"}, proof=None)


@situation(
    EVALUATIONS,
    "an evaluation every 7 of 24 steps",
)
def evaluation_not_at_the_end(learns):
    return script(learns, arguments=by_steps(24, 7) if learns else by_steps(8, 7), proof=("eval_accuracy", 0.95, 0.58))


@situation(EVALUATIONS, "an evaluation every 7 of 24 steps; the best model is loaded at the end", slow=True)
def best_model_not_at_the_end(learns):
    values = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 7, "logging_strategy": "epoch"}
    values.update(by_steps(24, 7) if learns else by_steps(8, 7))
    return script(learns, arguments={**values, "metric_for_best_model": "eval_loss"}, proof=None)


class RaisesAtTheEnd(Trainer):
    """Its evaluation raises: the evaluation set is for another use."""

    def evaluate(self, *args, **kwargs):
        raise RuntimeError("this cluster's nodes have no evaluation data")


@situation(EVALUATIONS, 'evaluation would raise, but `eval_strategy` is "no"', learns="unknown", stuck="unknown")
def evaluation_that_raises(learns):
    values = {"eval_strategy": "no", "save_strategy": "epoch"}
    return script(learns, trainer=RaisesAtTheEnd, arguments=values, proof=None)


@situation(
    EVALUATIONS,
    "the script calls `evaluate` after a training without evaluations",
    learns="unknown",
    stuck="unknown",
    learns_stable="ok or unknown",
    stuck_stable="failed or unknown",
    slow=True,
)
def evaluated_by_hand(learns):
    return script(learns, arguments={"eval_strategy": "no"}, play=evaluates_after, proof=None)


class Stops(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 14:
            control.should_training_stop = True


@situation(
    EVALUATIONS,
    "a callback of the user stops the training after 14 of 32 steps",
    learns="ok or stopped early or unknown",
    stuck="failed or stopped early or unknown",
)
def stopped_by_the_user(learns):
    return script(learns, callbacks=[Stops()], arguments={"num_train_epochs": 8}, proof=None)


@situation(EVALUATIONS, "both data sets are streamed, with `max_steps`")
def streamed(learns):
    return script(
        learns,
        train=sentences().to_iterable_dataset(),
        dev=dev().to_iterable_dataset(),
        arguments=by_steps() if learns else by_steps(8),
    )


@situation(EVALUATIONS, "regression with a streamed training set")
def streamed_regression(learns):
    return regression_script(
        learns, train=numbers().to_iterable_dataset(), arguments=by_steps(32, 8) if learns else by_steps(8)
    )


@situation(EVALUATIONS, "the last incomplete batch of the evaluation is dropped (`dataloader_drop_last`)", slow=True)
def drop_last(learns):
    return script(learns, dev=dev(44), arguments={"dataloader_drop_last": True}, proof=("eval_accuracy", 0.95, 0.7))


# ---- training --------------------------------------------------------------------------------------------------------

TRAINING = "Training"


@situation(TRAINING, "gradient accumulation, with an incomplete last step", slow=True)
def accumulation(learns):
    values = {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4}
    return script(learns, arguments=values)


@situation(TRAINING, "no clipping (`max_grad_norm=0`); every step is logged")
def no_clipping(learns):
    return script(learns, arguments={"max_grad_norm": 0.0, "logging_strategy": "steps", "logging_steps": 1})


@situation(TRAINING, "clipping at every step; every step is logged", quiet=True)
def clipped(learns):
    values = {"max_grad_norm": 0.01, "logging_strategy": "steps", "logging_steps": 1}
    return script(learns, arguments=values)


@situation(TRAINING, "gradient checkpointing", slow=True)
def checkpointing(learns):
    return script(learns, arguments={"gradient_checkpointing": True})


@situation(TRAINING, "bfloat16 autocast (`bf16`)")
def autocast(learns):
    return script(learns, arguments={"bf16": True})


@situation(TRAINING, "`torch_compile`", slow=True)
def compiled(learns):
    torch._dynamo.reset()
    return script(learns, arguments={"torch_compile": True, "torch_compile_backend": "aot_eager"})


@situation(TRAINING, "NEFTune noise, which uses a hook of the Trainer", slow=True)
def neftune(learns):
    return script(learns, arguments={"neftune_noise_alpha": 1.0})


@situation(TRAINING, "a scheduler that follows the evaluation (`reduce_lr_on_plateau`)", slow=True)
def plateau(learns):
    return script(learns, arguments={"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "accuracy"})


def lora(learns, **values):
    import peft

    model = bert() if learns else collapse(bert())
    lora_config = peft.LoraConfig(r=4, target_modules=["query", "value", "dense"], **values)
    rate = {"learning_rate": 2e-2, "num_train_epochs": 6} if learns else {}
    return script(learns, model=peft.get_peft_model(model, lora_config), arguments={"label_names": ["labels"], **rate})


@situation(TRAINING, "LoRA, with a trained head", needs="peft")
def lora_with_head(learns):
    return lora(learns, task_type="SEQ_CLS")


@situation(TRAINING, "LoRA, with a frozen head (`task_type` is missing)", needs="peft", slow=True)
def lora_frozen_head(learns):
    return lora(learns)


@situation(TRAINING, "the embeddings and the lower layer are frozen", slow=True)
def frozen_layers(learns):
    model = bert() if learns else collapse(bert())
    for part in (model.bert.embeddings, model.bert.encoder.layer[0]):
        part.requires_grad_(False)
    return script(learns, model=model, arguments=HARDER if learns else {})


class Unfreezes(TrainerCallback):
    def on_epoch_begin(self, args, state, control, model=None, **kwargs):
        if state.epoch >= 1:
            model.requires_grad_(True)


@situation(TRAINING, "the encoder is unfrozen after an epoch")
def unfreezing(learns):
    model = bert() if learns else collapse(bert())
    model.bert.requires_grad_(False)
    rate = 5e-3 if learns else 1e-6
    return script(
        learns,
        model=model,
        callbacks=[Unfreezes()],
        arguments={"num_train_epochs": 6, "logging_strategy": "steps", "logging_steps": 1},
        given={"optimizers": (torch.optim.AdamW(model.parameters(), lr=rate), None)},
    )


class Freezes(TrainerCallback):
    def on_epoch_begin(self, args, state, control, model=None, **kwargs):
        model.bert.embeddings.requires_grad_(state.epoch < 1)
        model.bert.encoder.layer[0].requires_grad_(state.epoch < 2)


@situation(TRAINING, "the embeddings are frozen after an epoch, the lower layer after two")
def freezing(learns):
    values = {**HARDER, "num_train_epochs": 6} if learns else {"num_train_epochs": 4}
    return script(learns, callbacks=[Freezes()], arguments=values)


@situation(TRAINING, "two parameter groups; the learning rate of the head is ten times the encoder's", slow=True)
def parameter_groups(learns):
    model = bert() if learns else collapse(bert())
    rate = 2e-3 if learns else 1e-6
    groups = [
        {"params": model.bert.parameters(), "lr": rate},
        {"params": model.classifier.parameters(), "lr": 10 * rate},
    ]
    values = {"num_train_epochs": 8} if learns else {}
    return script(learns, model=model, given={"optimizers": (torch.optim.AdamW(groups), None)}, arguments=values)


@situation(TRAINING, "Adafactor (`optim`)", slow=True)
def adafactor(learns):
    return script(learns, arguments={"optim": "adafactor"})


@situation(TRAINING, "a custom SGD optimizer, without a schedule", slow=True)
def own_sgd(learns):
    model = bert() if learns else collapse(bert())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3 if learns else 1e-6, momentum=0.9)
    values = {"num_train_epochs": 12} if learns else {}
    return script(learns, model=model, given={"optimizers": (optimizer, None)}, arguments=values)


@situation(TRAINING, "a custom optimizer with a constant schedule", slow=True)
def own_schedule(learns):
    model = bert() if learns else collapse(bert())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3 if learns else 1e-6)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    return script(learns, model=model, given={"optimizers": (optimizer, schedule)})


@situation(TRAINING, "`model_init` instead of a model")
def model_init(learns):
    return script(learns, model=None, given={"model_init": lambda: bert() if learns else collapse(bert())})


@situation(TRAINING, "a Trainer subclass overrides `training_step` and `log`")
def own_training_step(learns):
    class Mine(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            return super().training_step(model, inputs, num_items_in_batch)

        def log(self, logs, start_time=None):
            super().log({**logs, "eval_length" if "eval_loss" in logs else "length": float(LENGTH)}, start_time)

    return script(learns, trainer=Mine, arguments={"logging_strategy": "epoch"})


@situation(TRAINING, "a Trainer subclass overrides `evaluation_loop`, and returns only metrics")
def own_evaluation_loop(learns):
    class Mine(Trainer):
        def evaluation_loop(self, *args, **kwargs):
            output = super().evaluation_loop(*args, **kwargs)
            return output._replace(predictions=None, label_ids=None)

    return script(learns, trainer=Mine)


@situation(TRAINING, "a Trainer subclass overrides `prediction_step`", slow=True)
def own_prediction_step(learns):
    class Mine(Trainer):
        def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
            loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
            return loss, logits.float().clone(), labels

    return script(learns, trainer=Mine)


@situation(TRAINING, "a custom collator with `remove_unused_columns=False`; the data set has no columns", slow=True)
def own_collator(learns):
    def rows(data):
        return Rows({**row, "text": "a text"} for row in data)

    def collate(rows):
        names = ("input_ids", "attention_mask", "labels")
        return {name: torch.tensor([row[name] for row in rows]) for name in names}

    return script(
        learns,
        train=rows(sentences()),
        dev=rows(dev()),
        given={"data_collator": collate},
        arguments={"remove_unused_columns": False},
    )


@situation(TRAINING, "custom data loaders", slow=True)
def own_data_loaders(learns):
    class Mine(Trainer):
        def get_train_dataloader(self):
            return torch.utils.data.DataLoader(self.train_dataset, 16, shuffle=True, collate_fn=self.data_collator)

        def get_eval_dataloader(self, eval_dataset=None):
            data = self.eval_dataset if eval_dataset is None else eval_dataset
            return torch.utils.data.DataLoader(data, 7, collate_fn=self.data_collator)

    return script(learns, trainer=Mine)


@situation(TRAINING, "a data loader with a worker process", slow=True)
def worker_process(learns):
    return script(learns, arguments={"dataloader_num_workers": 1})


@situation(TRAINING, "a checkpoint per epoch, of which one is kept")
def saves(learns):
    return script(learns, arguments={"save_strategy": "epoch", "save_total_limit": 1})


@situation(TRAINING, "a batch without labels: its loss is NaN, its gradients are finite")
def loss_of_nothing(learns):
    made = token_classes(learns)
    made.train, made.trainer = token_rows(TRAIN, 0, without=16), InOrder
    return made


@situation(TRAINING, "a learning rate of 1e30", learns="diverged", stuck=None)
def diverges(learns):
    return script(learns, arguments={"learning_rate": 1e30, "num_train_epochs": 2}, proof=None)


@situation(TRAINING, "a learning rate of 1e30, and no `compute_metrics`", learns="diverged", stuck=None, slow=True)
def diverges_unseen(learns):
    values = {"learning_rate": 1e30, "num_train_epochs": 2}
    return script(learns, metric=None, arguments=values, proof=None)


@situation(
    TRAINING,
    "the weights are bfloat16",
    sentence=r"(?s)bfloat16.*accuracy",
    warns=(r"bfloat16",),
    learns="ok or failed",
)
def bfloat16_weights(learns):
    model = (bert() if learns else collapse(bert())).to(torch.bfloat16)
    return script(learns, model=model, proof=None)


@situation(
    TRAINING,
    "the weights are float16",
    sentence=r"(?s)float16",
    warns=(r"float16",),
    learns=None,
    stuck="failed or diverged",
    slow=True,
)
def float16_weights(learns):
    return script(learns, model=collapse(bert()).half(), proof=None)


# ---- models ----------------------------------------------------------------------------------------------------------

MODELS = "Models"


class Plain(nn.Module):
    """A module without a config."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, 32)
        self.middle = nn.Linear(32 * LENGTH, 32)
        self.head = nn.Linear(32, 2)

    def forward(self, input_ids, labels=None):
        logits = self.head(self.middle(self.embed(input_ids).flatten(1)).tanh())
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return (logits,) if loss is None else (loss, logits)


@situation(MODELS, "a plain `nn.Module` without a config")
def plain_module(learns):
    return script(learns, model=Plain() if learns else collapse(Plain()))


@situation(MODELS, "a model without source code (made by `exec`)")
def model_without_source(learns):
    names = {"Base": BertForSequenceClassification}
    arguments = "input_ids=None, attention_mask=None, labels=None"
    passed = "input_ids=input_ids, attention_mask=attention_mask, labels=labels"
    exec(
        f"class Made(Base):\n    def forward(self, {arguments}):\n        return super(Made, self).forward({passed})",
        names,
    )
    model = bert(2, names["Made"])
    return script(learns, model=model if learns else collapse(model))


# fmt: off
class Documented(BertForSequenceClassification):
    def forward(self, input_ids=None, attention_mask=None, labels=None):
        """Classify a batch.

Args:
    input_ids: tokens, in a docstring that begins at the margin.
        """
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
# fmt: on


@situation(MODELS, "the docstring of `forward` is not indented", slow=True)
def docstring_at_the_margin(learns):
    model = bert(2, Documented)
    return script(learns, model=model if learns else collapse(model))


class Averages(TrainerCallback):
    """Keeps a mean of the weights, and predicts with it."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.average = torch.optim.swa_utils.AveragedModel(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.average.update_parameters(model)

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        batch = flipped(8).with_format("torch")[:]
        with torch.no_grad():
            self.average.eval()(**batch)
            self.average.train()(**batch)


@situation(MODELS, "a callback keeps a mean of the weights (`AveragedModel`)")
def averaged_model(learns):
    return script(learns, callbacks=[Averages()], callback={"tensorboard": True})


class CopiesAndSaves(TrainerCallback):
    """Keeps a copy of the model, and saves it to a file."""

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.copy = copy.deepcopy(model)
        torch.save(model, f"{args.output_dir}/model.pt")
        again = torch.load(f"{args.output_dir}/model.pt", weights_only=False)
        batch = flipped(8).with_format("torch")[:]
        with torch.no_grad():
            for other in (self.copy, again):
                other(**batch)


@situation(MODELS, "a callback copies and saves the whole model at each evaluation (`copy.deepcopy`, `torch.save`)")
def copied_and_saved(learns):
    return script(learns, callbacks=[CopiesAndSaves()], callback={"tensorboard": True})


class AsTeacher(Trainer):
    """A second forward pass of the same model in each step, as for a consistency loss."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        with torch.no_grad():
            other = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        outputs = model(**inputs)
        loss = outputs.loss + 0.1 * nn.functional.mse_loss(outputs.logits, other)
        return (loss, outputs) if return_outputs else loss


@situation(MODELS, "the loss has two forward passes", slow=True)
def two_forward_passes(learns):
    return script(learns, trainer=AsTeacher)


@situation(MODELS, "images: a ViT with `pixel_values`", slow=True)
def pictures(learns):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=2, **sizes)
    )

    def drawn(n, seed):
        labels = labels_of(n, seed)
        noise = np.random.default_rng(seed).normal(size=(n, 1, 8, 8)).astype(np.float32)
        pixels = torch.tensor(noise + 4 * labels[:, None, None, None].astype(np.float32))
        return Rows({"pixel_values": pixel, "labels": int(label)} for pixel, label in zip(pixels, labels, strict=True))

    model = model if learns else collapse(model)
    return script(learns, model=model, train=drawn(TRAIN, 0), dev=drawn(DEV, 1))


def language_model(learns, **changes):
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    rows = [sentences().remove_columns("labels"), dev().remove_columns("labels")]
    train, evaluated = (data.add_column("labels", data["input_ids"]) for data in rows)
    return script(learns, model=model, train=train, dev=evaluated, **{"metric": None, "proof": None, **changes})


@situation(MODELS, "a causal language model, with only `eval_loss`", learns="unknown", stuck="unknown")
def causal_language_model(learns):
    return language_model(learns)


@situation(
    MODELS, "a causal language model, with perplexity as the metric", learns="ok or unknown", stuck=None, slow=True
)
def perplexity(learns):
    return language_model(
        learns,
        metric=lambda p: {"perplexity": float(np.exp(p.losses.mean()))},
        arguments={
            "include_for_metrics": ["loss"],
            "metric_for_best_model": "perplexity",
            "greater_is_better": False,
        },
    )


@situation(
    MODELS,
    "Seq2SeqTrainer with generated predictions",
    learns="ok or unknown",
    stuck="failed or unknown",
    learns_stable="ok or unknown",
)
def generates(learns):
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 1, "num_heads": 2}
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**sizes, decoder_start_token_id=0, tie_word_embeddings=False)
    )

    def written(n, seed):
        labels = labels_of(n, seed)
        return table(tokens(labels, seed), labels=np.stack([SIGNAL + labels, np.ones_like(labels)], 1))

    def metric(p):
        return {"exact_match": float((p.predictions[:, 1] == p.label_ids[:, 0]).mean())}

    values = {"predict_with_generate": True, "generation_max_length": 4}
    return script(
        learns,
        model=model,
        trainer=transformers.Seq2SeqTrainer,
        arguments_class=transformers.Seq2SeqTrainingArguments,
        train=written(TRAIN, 0),
        dev=written(DEV, 1),
        metric=metric,
        arguments={**values, "learning_rate": 1e-2, "num_train_epochs": 8} if learns else values,
        proof=("eval_exact_match", 0.9, 0.1),
    )


# ---- several trainings, and accidents --------------------------------------------------------------------------------

ACCIDENTS = "Several trainings, and accidents"


@situation(ACCIDENTS, "`StabilityCallback` is the last callback of the list")
def ours_last(learns):
    return script(
        learns,
        first=False,
        callbacks=[EarlyStoppingCallback(9)],
        arguments={"metric_for_best_model": "accuracy", "load_best_model_at_end": True, "save_strategy": "epoch"},
    )


@situation(ACCIDENTS, "two StabilityCallbacks at once", learns="ok, ok", stuck="failed, failed")
def two_callbacks(learns):
    made = script(learns, number=2)
    return made


@situation(
    ACCIDENTS,
    "the class is passed instead of an object (`callbacks=[StabilityCallback]`)",
    learns="ok or unknown",
    stuck="failed or unknown",
    slow=True,
)
def class_of_callback(learns):
    def plays(bench):
        bench.trainer(ours=[StabilityCallback]).train()

    return script(learns, play=plays)


@situation(ACCIDENTS, "one StabilityCallback for two trainings of two models", slow=True)
def callback_twice(learns):
    def plays(bench):
        first = bench.trainer(model=bert() if not learns else collapse(bert()))
        first.train()
        bench.trainer(ours=list(bench.callbacks[:1]), arguments={"output_dir": str(bench.folder / "second")}).train()

    return script(learns, play=plays)


@situation(ACCIDENTS, "`train` is called twice on one Trainer", slow=True)
def train_twice(learns):
    def plays(bench):
        trainer = bench.trainer()
        trainer.train()
        trainer.train()

    return script(learns, play=plays)


class Interrupts(TrainerCallback):
    def __init__(self, step, error=KeyboardInterrupt):
        self.step, self.error = step, error

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise self.error


def held(bench) -> list[str]:
    """The batches to which a callback of an earlier training still has references."""
    problems = []
    for callback in bench.callbacks[: -bench.script.number]:
        found = [name for name, value in vars(callback).items() if _batches(value)]
        if found:
            problems.append(f"the interrupted training's callback holds batches: {found}")
    return problems


def _batches(value, depth=6) -> bool:
    """Whether a value contains a tensor with a row for each example of a batch."""
    if isinstance(value, torch.Tensor):
        return value.ndim > 0 and len(value) in (16, 20)
    if type(value).__module__.startswith("hf_stability"):
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    return depth > 0 and isinstance(value, (list, tuple)) and any(_batches(item, depth - 1) for item in value)


@situation(ACCIDENTS, "a training is interrupted (Ctrl-C); then the same model is trained again")
def interrupted(learns):
    def plays(bench):
        with contextlib.suppress(KeyboardInterrupt):
            bench.trainer(callbacks=[Interrupts(5)]).train()
        bench.trainer(arguments={"output_dir": str(bench.folder / "second")}).train()

    return script(learns, play=plays, check=held, callback={"tensorboard": True})


@situation(ACCIDENTS, "a training is interrupted in an evaluation; then the same Trainer trains again", slow=True)
def interrupted_in_evaluation(learns):
    class Once(TrainerCallback):
        done = False

        def on_prediction_step(self, args, state, control, **kwargs):
            if not self.done:
                self.done = True
                raise KeyboardInterrupt

    def plays(bench):
        trainer = bench.trainer()
        with contextlib.suppress(KeyboardInterrupt):
            trainer.train()
        trainer.train()

    return script(learns, callbacks=[Once()], play=plays)


@situation(ACCIDENTS, "the metric raises at the last evaluation", learns="None or crashed or unknown", stuck=None)
def metric_raises(learns):
    calls = []

    def metric(p):
        calls.append(1)
        if len(calls) == 4:
            raise ValueError("no such class")
        return accuracy(p)

    return script(learns, metric=metric, proof=None)


@situation(ACCIDENTS, 'the metric raises, but `eval_strategy` is "no"', learns="unknown", stuck="unknown")
def metric_raises_unasked(learns):
    def metric(p):
        raise ValueError("nobody asked for this metric")

    values = {"eval_strategy": "no", "save_strategy": "epoch"}
    return script(learns, metric=metric, arguments=values, proof=None)


@situation(ACCIDENTS, "a resume in the middle of an epoch, after an interrupt")
def resumed(learns):
    def plays(bench):
        with contextlib.suppress(KeyboardInterrupt):
            bench.trainer(callbacks=[Interrupts(7)]).train()
        model = bert() if learns else collapse(bert())
        bench.trainer(model=model, callbacks=[]).train(resume_from_checkpoint=True)

    return script(learns, play=plays, arguments={"save_strategy": "steps", "save_steps": 3})


@situation(ACCIDENTS, "a resume after the encoder was unfrozen", learns="ok or unknown", stuck="failed or unknown")
def resumed_unfrozen(learns):
    def made():
        model = bert() if learns else collapse(bert())
        model.bert.requires_grad_(False)
        return {
            "model": model,
            "optimizers": (torch.optim.AdamW(model.parameters(), lr=5e-3 if learns else 1e-6), None),
        }

    def plays(bench):
        with contextlib.suppress(KeyboardInterrupt):
            bench.trainer(callbacks=[Interrupts(9)], **made()).train()
        again = made()
        again["model"].requires_grad_(True)
        bench.trainer(**again, callbacks=[]).train(resume_from_checkpoint=True)

    values = {"save_strategy": "epoch", "num_train_epochs": 6}
    return script(learns, play=plays, model=None, arguments=values, proof=("eval_accuracy", 0.9, 0.58))


class OutOfMemory(Trainer):
    """Its first step runs out of memory."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        if len(inputs["input_ids"]) > 12:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1.00 TiB")
        return loss


@situation(ACCIDENTS, "`auto_find_batch_size`: the first step is out of memory", slow=True)
def smaller_batches(learns):
    values = {"auto_find_batch_size": True, "per_device_train_batch_size": 16}
    return script(learns, trainer=OutOfMemory, arguments=values)


class Logger(TrainerCallback):
    """Accepts the Trainer's numbers, and raises when it gets ours."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if any("/" in key for key in logs):
            raise ConnectionError("the server does not know this key")


@situation(ACCIDENTS, "a logger raises when it gets the callback's numbers", warns=(r"ConnectionError",))
def logger_raises(learns):
    def plays(bench):
        trainer = bench.trainer()
        for callback in bench.callbacks:
            callback.attach(trainer)
        trainer.train()

    return script(learns, callbacks=[Logger()], play=plays, arguments={"logging_strategy": "epoch"})


@situation(ACCIDENTS, "the folder of the record is a file", warns=(r"^Writing to the folder is off",))
def folder_is_a_file(learns):
    def plays(bench):
        (bench.folder / "out").mkdir(parents=True)
        (bench.folder / "out" / "stability").write_text("a file")
        bench.trainer().train()

    return script(learns, play=plays)


class KeepsWeights(TrainerCallback):
    """After a search the trainer has no model."""

    def __init__(self, bench):
        self.bench = bench

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        self.bench.weights.append(digest(model.state_dict()))


@situation(
    ACCIDENTS,
    "a search by optuna; the second of three trials is pruned",
    learns="ok, stopped, ok",
    stuck=None,
    needs="optuna",
)
def search(learns):
    import optuna

    class Second(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number == 1

    def plays(bench):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        bench.trainer(callbacks=[KeepsWeights(bench)]).hyperparameter_search(
            hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 5e-3, 5e-3)},
            n_trials=3,
            direction="maximize",
            backend="optuna",
            pruner=Second(),
        )

    def verdicts(bench):
        found = {}
        for path in bench.folder.rglob("verdict.json"):
            run = re.search(r"run-(\d+)", str(path))
            found[int(run[1]) if run else -1] = json.loads(path.read_text())["status"]
        return [found[number] for number in sorted(found)]

    given = {"model_init": lambda: bert()}
    return script(learns, model=None, given=given, play=plays, verdicts=verdicts, proof=None)
