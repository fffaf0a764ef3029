"""Models, data and metrics that the situations' scripts are made of. Everything is seeded, and made anew for each run.

The tokens from position 1 on give the label away, so that a few epochs reach accuracy 1. A model that is `stuck` always
predicts the majority class: its head's weights are 0, its bias is the log prior of the labels.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedModel


VOCABULARY = 61
SIGNAL = 41  # token of class 0; class k has SIGNAL + k
LENGTH = 6
TRAIN, DEV = 64, 40
MAJORITY = 0.575  # 23 of 40: in float16 it is 0.5752, which is above it


# ---- models ----------------------------------------------------------------------------------------------------------


def config(num_labels: int = 2, **values) -> BertConfig:
    """A BERT of two layers."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertConfig(vocab_size=VOCABULARY, max_position_embeddings=16, num_labels=num_labels, **sizes, **values)


def bert(num_labels: int = 2, cls=BertForSequenceClassification, **values):
    """A BERT with random weights."""
    torch.manual_seed(0)
    return cls(config(num_labels, **values))


def collapse(model, prior=(1 - MAJORITY, MAJORITY)):
    """The model, changed to predict the largest of `prior` for any input: a run that is stuck.

    Args:
        model: its head is the last linear layer.
        prior: a probability for each output; of one output the number that is predicted.
    """
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor(prior if len(prior) == 1 else [math.log(p) for p in prior]))
    return model


class Heads(PreTrainedModel):
    """A BERT body with a custom head, for tasks that Hugging Face's classes do not cover.

    Args:
        config: BERT's. `width`, where it is set, is the number of outputs, instead of `num_labels`.
    """

    config_class = BertConfig

    def __init__(self, config):
        super().__init__(config)
        self.bert = BertModel(config)
        self.head = nn.Linear(config.hidden_size, getattr(config, "width", config.num_labels))
        self.post_init()

    def logits(self, input_ids, attention_mask):
        return self.head(self.bert(input_ids, attention_mask=attention_mask).pooler_output)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        logits = self.logits(input_ids, attention_mask)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}


# ---- data ------------------------------------------------------------------------------------------------------------


def labels_of(n: int, seed: int, shares=(1 - MAJORITY, MAJORITY)) -> np.ndarray:
    """`(n,)` class ids with exactly these shares, up to rounding, in a random order. The last class gets the rest."""
    counts = [round(share * n) for share in shares[:-1]]
    counts.append(n - sum(counts))
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(seed).permutation(labels)


def tokens(labels: np.ndarray, seed: int) -> np.ndarray:
    """`(n, LENGTH)` token ids, with the labels' signal after the first."""
    ids = np.random.default_rng(seed + 100).integers(10, 40, (len(labels), LENGTH))
    ids[:, 1:-1] = SIGNAL + labels[:, None]
    return ids


def table(ids: np.ndarray, **columns) -> Dataset:
    rows = {"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist()}
    return Dataset.from_dict({**rows, **{name: np.asarray(column).tolist() for name, column in columns.items()}})


@cache
def sentences(n: int = TRAIN, seed: int = 0, shares=(1 - MAJORITY, MAJORITY)) -> Dataset:
    """Rows with one class each, in the column `labels`."""
    labels = labels_of(n, seed, shares)
    return table(tokens(labels, seed), labels=labels)


@cache
def dev(n: int = DEV, shares=(1 - MAJORITY, MAJORITY)) -> Dataset:
    """Another sample of `sentences`."""
    return sentences(n, 1, shares)


@cache
def misleading(n: int = DEV, shares=(1 - MAJORITY, MAJORITY)) -> Dataset:
    """A development set with the signal of the majority class in every row. A model that has learned is exactly at the baseline."""
    labels = labels_of(n, 1, shares)
    ids = tokens(labels, 1)
    ids[:, 1:-1] = SIGNAL + int(np.argmax(shares))
    return table(ids, labels=labels)


@cache
def flipped(n: int = DEV) -> Dataset:
    """A development set in which every row has the signal of the other class. A model that has learned has accuracy 0."""
    labels = labels_of(n, 1)
    return table(tokens(1 - labels, 1), labels=labels)


@cache
def numbers(n: int = TRAIN, seed: int = 0) -> Dataset:
    """A regression: labels from 0 to 1 in four steps, mean about 0.5."""
    steps = labels_of(n, seed, (0.25, 0.25, 0.25, 0.25))
    return table(tokens(steps, seed), labels=steps / 3)


@cache
def token_rows(n: int = TRAIN, seed: int = 0, without: int = 0) -> Dataset:
    """Three classes of tokens, with padding (-100) in the first position. The first `without` rows have no label."""
    rng = np.random.default_rng(seed)
    ids = rng.choice([10, 11, 12], (n, LENGTH), p=[0.5, 0.3, 0.2])
    labels = ids - 10
    labels[:, 0] = -100
    labels[:without] = -100
    return table(ids, labels=labels)


class Rows(torch.utils.data.Dataset):
    """Rows in a list: a data set without columns."""

    def __init__(self, rows):
        self.rows = list(rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


# ---- metrics ---------------------------------------------------------------------------------------------------------


def classes_of(prediction) -> np.ndarray:
    outputs = prediction.predictions
    outputs = outputs[0] if isinstance(outputs, tuple) else outputs
    return outputs.argmax(-1)


def accuracy(prediction) -> dict[str, float]:
    return {"accuracy": float((classes_of(prediction) == prediction.label_ids).mean())}


def f1_of(predicted: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1."""
    true = ((predicted == 1) & (labels == 1)).sum()
    return float(2 * true / max(1, (predicted == 1).sum() + (labels == 1).sum()))


def f1(prediction) -> dict[str, float]:
    return {"f1": f1_of(classes_of(prediction), prediction.label_ids)}


def matthews(prediction) -> dict[str, float]:
    predicted, labels = classes_of(prediction), prediction.label_ids
    if predicted.std() == 0:
        return {"matthews_correlation": 0.0}
    return {"matthews_correlation": float(np.corrcoef(predicted, labels)[0, 1])}


def mse(prediction) -> dict[str, float]:
    return {"mse": float(((prediction.predictions.squeeze(-1) - prediction.label_ids) ** 2).mean())}


def pearson(prediction) -> dict[str, float]:
    with np.errstate(all="ignore"):
        return {"pearson": float(np.corrcoef(prediction.predictions.squeeze(-1), prediction.label_ids)[0, 1])}


def token_accuracy(prediction) -> dict[str, float]:
    known = prediction.label_ids != -100
    return {"accuracy": float((classes_of(prediction) == prediction.label_ids)[known].mean())}


def binary_accuracy(prediction) -> dict[str, float]:
    """Accuracy of one logit."""
    predicted = prediction.predictions.squeeze(-1) > 0
    return {"accuracy": float((predicted == (prediction.label_ids > 0.5)).mean())}
