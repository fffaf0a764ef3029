"""Small models and data for tests: random, seeded, made in memory."""

from __future__ import annotations

import copy
import functools

import numpy as np
import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, set_seed

from hf_stability import StabilityCallback


VOCABULARY = 60
SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
CONFIGS = {
    "bert": transformers.BertConfig(**SIZE),
    "roberta": transformers.RobertaConfig(**SIZE),
    "albert": transformers.AlbertConfig(**SIZE, embedding_size=8),
    "distilbert": transformers.DistilBertConfig(vocab_size=VOCABULARY, dim=16, n_layers=3, n_heads=2, hidden_dim=32),
    "electra": transformers.ElectraConfig(**SIZE, embedding_size=8),
    "deberta": transformers.DebertaV2Config(**SIZE, relative_attention=True, pos_att_type=["p2c", "c2p"]),
}


def config(architecture: str = "bert", **values):
    """A small config; classifier with two labels unless told otherwise."""
    return type(CONFIGS[architecture]).from_dict({**CONFIGS[architecture].to_dict(), **values})


def model(architecture: str = "bert", seed: int = 0, **values):
    """A small classifier with random weights."""
    set_seed(seed)
    return AutoModelForSequenceClassification.from_config(config(architecture, **values))


def data(rows: int, seed: int = 0, length: int = 10, regression: bool = False) -> Dataset:
    """Token ids, and labels that depend on the first of them (so that they can be learned)."""
    return copy.copy(_data(rows, seed, length, regression))  # a format that a test sets is of its own copy


@functools.cache
def _data(rows: int, seed: int, length: int, regression: bool) -> Dataset:
    """Made once: it takes a tenth of a small training's time."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, VOCABULARY, (rows, length))
    labels = ids[:, 1] / VOCABULARY if regression else (ids[:, 1] > VOCABULARY // 2).astype(int)
    return Dataset.from_dict({"input_ids": ids.tolist(), "label": labels.tolist()})


def accuracy(prediction) -> dict[str, float]:
    """A `compute_metrics`."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def weights(trainer_or_model) -> torch.Tensor:
    """All parameters in one vector."""
    found = getattr(trainer_or_model, "model", trainer_or_model)
    return torch.cat([parameter.detach().flatten() for parameter in found.parameters()])


def callback_of(trainer) -> StabilityCallback:
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, StabilityCallback))


TWO_PROCESSES = "-m torch.distributed.run --nproc_per_node 2 --rdzv_backend c10d --rdzv_endpoint localhost:0".split()
"""What follows `python`: gloo processes, at a free port."""

QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "log_level": "error"}


def train(trainer_class, args, callbacks=None, resume=None, architecture="bert", init=True, **arguments):
    """Train a small model; `init=False` passes the model in ready."""
    regression = arguments.pop("regression", False)
    values = {"num_labels": 1, "problem_type": "regression"} if regression else {}
    made = {"model_init": lambda: AutoModelForSequenceClassification.from_config(config(architecture, **values))}
    if not init:
        made = {"model": model(architecture, **values)}
    given = {
        "train_dataset": data(64, regression=regression),
        "eval_dataset": data(40, seed=1, regression=regression),
        "compute_metrics": accuracy,
        **made,
        **arguments,
    }
    trainer = trainer_class(args=args, callbacks=callbacks, **given)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return trainer
