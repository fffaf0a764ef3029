"""A live Trainer: its run so far, its data and its model. The Trainer is not changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer

from ..callback import StabilityCallback
from ..utils.optimizers import encoder_group, inner_optimizer, peak_rate
from .files import Run
from .inputs import Inputs, columns_of, label_column, labels_of
from .model_values import class_names, model_values, token_values, tokenizer_values


def read_trainer(trainer: Trainer) -> Run:
    """A run from a live Trainer, with the record of its StabilityCallback if it has one."""
    run = Run(f"a live {type(trainer).__name__}")
    run.args = {**trainer.args.to_dict(), "mixed_precision": getattr(trainer.args, "mixed_precision", "no")}
    run.args["devices"] = trainer.args.world_size * max(1, trainer.args.n_gpu)
    optimizer = inner_optimizer(trainer.optimizer)
    if optimizer is not None:
        run.args["bias_correction"] = all(group.get("bias_correction", True) for group in optimizer.param_groups)
        run.args["optimizer"] = type(optimizer).__name__.lower()  # perhaps the user's own
        _read_rates(run, optimizer, trainer.model)
    run.history = list(trainer.state.log_history)
    run.step, run.total_steps = trainer.state.global_step or None, max(trainer.state.max_steps, 0) or None
    callback = next((c for c in trainer.callback_handler.callbacks if isinstance(c, StabilityCallback)), None)
    if callback is not None:
        run.verdict = callback.verdict
        try:
            record = callback.record
        except RuntimeError:  # not trained yet
            record = None
        run.record = record if record is not None and len(record["step"]) else None
    return run


def _read_rates(run: Run, optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> None:
    """Take the encoder's peak rate from the optimizer, because it may differ from the arguments' rate."""
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    if not all(isinstance(rate, (int, float)) for rate in rates) or not any(rates):
        return
    run.group_rates = list(map(peak_rate, optimizer.param_groups))
    run.args["learning_rate"] = run.group_rates[encoder_group(optimizer.param_groups, model)]
    run.certain.add("learning_rate")


def live_inputs(trainer: Trainer) -> Inputs:
    """The data and the model of a live Trainer."""
    model, train, dev = trainer.model, trainer.train_dataset, trainer.eval_dataset
    dev_set, dev = next(iter(dev.items()), (None, None)) if isinstance(dev, dict) else (None, dev)
    values = {
        **model_values(model),
        "train_labels": labels_of(train),
        "dev_labels": labels_of(dev),
        "dev_set": dev_set,
        "train_names": _feature_names(train),
        "dev_names": _feature_names(dev),
        "model_names": class_names(getattr(model, "config", None)),
    }
    tokenizer = trainer.processing_class
    if hasattr(tokenizer, "all_special_ids"):
        values |= tokenizer_values(tokenizer)
    inputs = Inputs(values, collator=trainer.data_collator, device=trainer.args.device)
    columns = columns_of(train)
    if "input_ids" in columns:
        values |= token_values(train, getattr(tokenizer, "unk_token_id", None))
        inputs.train, inputs.labels = train, label_column(train)
        values["frozen_parts"] |= _frozen_new_tokens(values, getattr(tokenizer, "vocab_size", None))
    if {"label", "labels"} & set(columns) and inputs.labels is None:
        inputs.no_memorize = "examples with one label each (a class id or a value)"
    if trainer.model_init is not None:
        inputs.make_model = trainer.call_model_init
    elif isinstance(model, PreTrainedModel):
        inputs.make_model, inputs.trained_before = lambda: _copy_of(model), trainer.state.global_step
    return inputs


def _copy_of(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of a live model; without its hooks if these cannot be copied, for example because they have a lock."""
    try:
        return copy.deepcopy(model)
    except Exception:  # a hook is the user's code
        hooks = [
            value
            for module in model.modules()
            for name, value in vars(module).items()
            if name.startswith(("_forward_", "_backward_")) and isinstance(value, dict)
        ]
        return copy.deepcopy(model, {id(value): type(value)() for value in hooks})


def _frozen_new_tokens(values: Mapping[str, Any], vocabulary: int | None) -> dict[str, str]:
    """Frozen embeddings, if the data contain tokens that were added to the tokenizer's vocabulary."""
    added = vocabulary is not None and (values.get("largest_id") or 0) >= vocabulary
    frozen = [name for name, origin in values["frozen_parts"].items() if origin == "kept" and "pooler" not in name]
    return dict.fromkeys(frozen, "new tokens") if added else {}


def _feature_names(rows: Any) -> list[str] | None:
    features = getattr(rows, "features", None) or {}
    return getattr(features.get("labels") or features.get("label"), "names", None)
