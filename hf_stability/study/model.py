"""The model of a run: its config, its pretrained weights, and the encoder that a stage leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig

from ..errors import InputError, nearest
from ..tasks.task import Task
from ..trainer import StableTrainer


def model_config(model: str, task: Task, values: dict[str, Any]) -> PretrainedConfig:
    """The pretrained model's config for a task, with a recipe's values put in.

    Raises:
        InputError: the config has no such field.
    """
    config = AutoConfig.from_pretrained(model)
    for name in values:
        if not hasattr(config, name):
            known = list(config.to_dict())
            raise InputError(
                f"model_config.{name}: the config of a {config.model_type} model has no such field{nearest(name, known)}"
            )
    names = task.label_names
    labels = (
        {"num_labels": 1}
        if names is None
        else {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    )
    config.update(
        {**values, **labels, "problem_type": "regression" if names is None else "single_label_classification"}
    )
    return config


def load_model(model: str, config: PretrainedConfig, dtype: str = "float32", **more: Any) -> Any:
    """A classifier with the pretrained weights, in float32 unless told otherwise: left alone, transformers 5 loads what was
    saved in half precision in half precision, and training fails (see diagnostics/precision.py).

    Args:
        model: a folder or a name on the hub.
        config: the model's, with the task's labels.
        dtype: "float32", "bfloat16" or "float16"; "auto": as the checkpoint was saved.
        more: for `from_pretrained`.
    """
    return AutoModelForSequenceClassification.from_pretrained(
        model,
        config=config,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        ignore_mismatched_sizes=True,  # the head of a model fine-tuned on other labels; prepare.py checks the rest
        **more,
    )


def save_encoder(trainer: StableTrainer, model: str, folder: Path) -> None:
    """Leave the trained model without its head, and its tokenizer, in `folder`: what a later training starts from.

    The head is all that is not in the base model: BERT's and ALBERT's poolers are, RoBERTa has none and draws both layers
    of its head anew. The config is that of `model`, from which the training started, without its recipe's dropout and its
    task's labels. Only the main process writes.
    """
    if trainer.args.should_save:
        encoder: Any = trainer.model.base_model
        encoder.save_pretrained(folder)
        config = AutoConfig.from_pretrained(model)
        config.architectures, config.dtype = [type(encoder).__name__], encoder.dtype  # not the checkpoint's dtype
        config.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
