"""The model of a run: its config, its pretrained weights, and the encoder that a stage saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig

from ..errors import InputError, nearest
from ..tasks.task import Task
from ..trainer import StableTrainer
from ..utils.adapters import adapter_kind, merged


def model_config(model: str, task: Task, values: dict[str, Any]) -> PretrainedConfig:
    """The pretrained model's config for a task, with a recipe's values.

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
    kind = "multi_label_classification" if task.multi_label else "single_label_classification"
    config.update({**values, **labels, "problem_type": "regression" if names is None else kind})
    return config


def load_model(model: str, config: PretrainedConfig, dtype: str = "float32", **more: Any) -> Any:
    """A classifier with the pretrained weights, by default in float32.

    Without a `dtype`, transformers 5 loads weights in the precision in which they were saved. In half precision training
    fails, see `diagnostics/precision.py`.

    Args:
        model: a folder or a name on the hub.
        config: the model's, with the task's labels.
        dtype: "float32", "bfloat16", "float16", or "auto": as the checkpoint was saved.
        more: keywords of `from_pretrained`.
    """
    return AutoModelForSequenceClassification.from_pretrained(
        model,
        config=config,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        ignore_mismatched_sizes=True,  # for a head with other labels; pretrained.py checks the rest
        **more,
    )


def set_padding(tokenizer: Any, config: PretrainedConfig) -> None:
    """Let a decoder be trained in batches: pad with the end of text if the tokenizer has no padding, and tell the model."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id


def save_model(trainer: StableTrainer, folder: Path) -> None:
    """Save the model after its last update step, with its tokenizer.

    With adapters (PEFT) it is saved twice: merged, as a plain model that needs no PEFT, and the adapters with the head alone in
    `adapter/`. Afterwards the trainer's model is the merged one.
    """
    model: Any = trainer.model
    if adapter_kind(model) is None:
        trainer.save_model(str(folder))
    elif trainer.args.should_save:
        model.save_pretrained(folder / "adapter")
        merged(model).save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)


def save_encoder(trainer: StableTrainer, model: str, folder: Path) -> None:
    """Save the trained model without its head, and its tokenizer, for a later training.

    The head is everything outside the base model. BERT's and ALBERT's poolers are part of the base model. RoBERTa has no
    pooler, and both layers of its head are drawn anew. The config is that of `model`, before the recipe's dropout and the
    task's labels were set. Only the main process writes.
    """
    if trainer.args.should_save:
        encoder: Any = merged(trainer.model).base_model
        encoder.save_pretrained(folder)
        config = AutoConfig.from_pretrained(model)
        config.architectures, config.dtype = [type(encoder).__name__], encoder.dtype  # not the checkpoint's dtype
        config.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
