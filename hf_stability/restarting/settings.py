"""The changes when a run begins again: its seeds, and the arguments that `--restart_with` names.

The settings of restart n (1, 2 ...) are made from the first attempt's arguments:

    seed        no argument changes
    gentle      learning rate / 3^n; bias correction on; warmup over at least 10% of the update steps
    RECIPE      the recipe's values for this model type; what it does not set stays

The seeds are those of a new run with the seed

    SeedSequence((init, data, dropout), spawn_key=(RESTART_STREAM, n)).generate_state(1)[0]

where init, data and dropout are the first attempt's seeds. So `--seed` with this number repeats a restart as a run of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from ..errors import InputError
from ..methods import check_methods, methods_of
from ..recipe import load_recipe
from ..recipe.arguments import GENTLE, SEED
from ..recipe.resolve import resolve, resolve_model_config
from ..training_args import seed_streams
from ..utils.batches import derived_batch_size


RESTART_STREAM = 101
"""Spawn key of the restarts' random stream. The first keys are those of training, 100 is that of a study's audits."""

RATE_FACTOR = 1 / 3
"""`gentle`: the learning rate's factor at each restart."""

WARMUP = 0.1
"""`gentle`: the smallest warmup, as a share of the update steps."""

CONSTANT = {"constant": "constant_with_warmup"}
"""`gentle`: schedules without a warmup, and the same ones with it."""

READ_ONCE = (
    "label_smoothing_factor", "neftune_noise_alpha", "fp16", "bf16", "use_liger_kernel", "torch_compile", "deepspeed", "fsdp",
    "report_to", "use_cpu", "label_names", "remove_unused_columns",
)  # fmt: skip
"""Arguments that a Trainer reads only when it is made. A restart of the same Trainer cannot change them."""


def fixed_arguments(settings: Mapping[str, Any]) -> list[str]:
    """The names of a restart's settings that the same Trainer cannot change."""
    return [name for name in READ_ONCE if name in settings]


def seeds_of(args: TrainingArguments) -> dict[str, int]:
    """The seeds of a run's three random streams: `init`, `data` and `dropout`."""
    if getattr(args, "seed_streams", False):
        return {name: int(getattr(args, f"{name}_seed")) for name in ("init", "data", "dropout")}
    return {"init": args.seed, "data": args.seed if args.data_seed is None else args.data_seed, "dropout": args.seed}


def restart_seed(args: TrainingArguments, number: int) -> int:
    """The seed of a restart, 32 bits; see the module's docstring.

    Args:
        args: the first attempt's arguments.
        number: of the attempt. Attempt 0 has the run's own seed.
    """
    if number == 0:
        return args.seed
    stream = np.random.SeedSequence(tuple(seeds_of(args).values()), spawn_key=(RESTART_STREAM, number))
    return int(stream.generate_state(1)[0])


def restart_settings(
    args: TrainingArguments, number: int, restart_with: str, total_steps: int = 0, model_type: str | None = None
) -> dict[str, Any]:
    """The arguments that attempt `number` changes, without the seeds: name -> value.

    Args:
        args: the first attempt's arguments.
        number: of the attempt. Attempt 0 changes nothing.
        restart_with: `seed`, `gentle` or a recipe's name.
        total_steps: update steps of the first attempt. They tell how long its warmup is.
        model_type: `model.config.model_type`; selects a recipe's values.

    Raises:
        InputError: no such recipe, a recipe with stages, or one with arguments that `args` does not have.
    """
    if number == 0 or restart_with == SEED:
        return {}
    wanted = gentle(args, number, total_steps) if restart_with == GENTLE else _recipe(args, restart_with, model_type)
    return {name: value for name, value in wanted.items() if getattr(args, name) != value}


def gentle(args: TrainingArguments, number: int, total_steps: int) -> dict[str, Any]:
    """The arguments of restart `number` with `gentle`. A third of the rate at the first, a ninth at the second, and so on."""
    wanted: dict[str, Any] = {"learning_rate": args.learning_rate * RATE_FACTOR**number}
    if not getattr(args, "bias_correction", True) and not getattr(args, "lr_bias_correction", False):
        wanted["bias_correction"] = True
    if args.get_warmup_steps(total_steps) < WARMUP * total_steps:
        wanted["warmup_steps"] = WARMUP
    schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if schedule in CONSTANT:
        wanted["lr_scheduler_type"] = CONSTANT[schedule]
    return wanted


def _recipe(args: TrainingArguments, name: str, model_type: str | None) -> dict[str, Any]:
    recipe = load_recipe(name)
    if recipe.stages:
        raise InputError(f"--restart_with {name}: this recipe has stages, which only a study trains; give another one")
    wanted = {key: resolved.value for key, resolved in resolve(recipe, model_type).items()}
    unknown = sorted(wanted.keys() - {field.name for field in fields(args)})
    if unknown:
        raise InputError(
            f"--restart_with {name}: {type(args).__name__} has no {', '.join(unknown)}; use StableTrainer with "
            "StableTrainingArguments, or give seed or gentle"
        )
    if "num_train_epochs" in wanted:
        wanted.setdefault("max_steps", -1)  # else the Trainer would ignore the recipe's number of epochs
    return wanted


def changed_arguments(args: TrainingArguments, number: int, settings: dict[str, Any]) -> TrainingArguments:
    """A copy of training arguments with an attempt's settings and seeds. `args` stays as it is.

    Args:
        args: the first attempt's arguments.
        number: of the attempt.
        settings: as `restart_settings` returns them.

    Raises:
        InputError: a value is out of its range, or contradicts another argument.
    """
    new = copy.copy(args)
    for name, value in settings.items():
        setattr(new, name, value)
    if "lr_scheduler_type" in settings:
        new.lr_scheduler_type = SchedulerType(new.lr_scheduler_type)
    if "optim" in settings:
        new.optim = OptimizerNames(new.optim)
    if {"total_train_batch_size", "gradient_accumulation_steps"} & settings.keys():
        total, devices = getattr(new, "total_train_batch_size", None), new.world_size * max(1, new.n_gpu)
        if total is not None:
            new.per_device_train_batch_size = derived_batch_size(total, devices, new.gradient_accumulation_steps, None)
    check_methods(vars(new), methods_of(new))
    if number:
        new.seed = restart_seed(args, number)
        streams = seed_streams(new.seed)
        if getattr(new, "seed_streams", False):
            for name, seed in streams.items():
                setattr(new, name, seed)
        elif args.data_seed is not None:
            new.data_seed = streams["data_seed"]
    return new


def recipe_model_config(restart_with: str, model_type: str | None) -> dict[str, Any]:
    """The values that `--restart_with` wants in the model's config. Empty unless it names a recipe."""
    if restart_with in (SEED, GENTLE):
        return {}
    found = resolve_model_config(load_recipe(restart_with), model_type)
    return {name: resolved.value for name, resolved in found.items()}
