"""From a user's settings to a list of jobs. Model, data and recipes are checked once, before anything is written."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers.integrations import get_available_reporting_integrations

from ..errors import InputError
from ..methods import METHODS, Method, argument_names, load_method, source_hash
from ..packed.support import PACKED, check_config
from ..recipe import Recipe, Resolved, load_recipe, recipe_names
from ..recipe.arguments import GENTLE, SEED, argument_types
from ..recipe.resolve import resolve, resolve_model_config
from ..restarting.settings import fixed_arguments, restart_settings
from ..tasks.load import TokenizedData
from ..tasks.task import Task
from ..training_args import StableTrainingArguments, arguments_class
from ..utils.batches import derived_batch_size
from ..utils.text import joined
from .attempts import restarts
from .job import Job
from .model import model_config
from .pretrained import fingerprint_model


logger = logging.getLogger(__name__)

# A study's own defaults. A recipe, a task and the command line override them.
STUDY_DEFAULTS = {
    "eval_strategy": "epoch",  # best scores are comparable only between equal numbers of evaluations
    "logging_steps": 50,
    "per_device_eval_batch_size": 32,
}

# A study sets these itself.
OWN_ARGS = {
    "seed": "give --seeds",
    "data_seed": "give --seeds; a study makes each run's three random streams from its seed",
    "init_seed": "give --seeds; a study makes each run's three random streams from its seed",
    "dropout_seed": "give --seeds; a study makes each run's three random streams from its seed",
    "load_best_model_at_end": "leave it out; a study reports the last and the best evaluation of each run",
    "metric_for_best_model": "leave it out; a study uses the task's headline metric",
    "push_to_hub": "leave it out; use --keep_model now, and hf-stability card FOLDER --push USER/NAME after the study",
    "hub_token": "it would be written into the runs' config.json; log in with `hf auth login`",
    "resume_from_checkpoint": "run the same command again: finished runs are kept, and unfinished ones continue from their last checkpoint",
}

MAX_SEEDS = 100_000  # more is a mistake: a large seed, taken for a count


def check_given(given: Mapping[str, Any]) -> None:
    """Refuse training arguments that a study sets itself."""
    for name, way_out in OWN_ARGS.items():
        if name in given:
            value = "" if name == "hub_token" else f" {given[name]}"
            raise InputError(f"--{name}{value}: not allowed in a study: {way_out}")


def check_settings(settings: Mapping[str, Resolved]) -> None:
    """Refuse resolved training arguments that would otherwise fail only in the runs, or make a job's id incomplete.

    Raises:
        InputError: evaluation by steps without `eval_steps` (the Trainer would take `logging_steps`, which is not in a job's
            id); a size below 1, a learning rate below 0, no training at all, a logger that is not installed.
    """
    values = {name: r.value for name, r in settings.items()}
    if getattr(values["eval_strategy"], "value", values["eval_strategy"]) == "steps" and not values.get("eval_steps"):
        raise InputError(
            "--eval_strategy steps: also give --eval_steps, the number of update steps between evaluations"
        )
    for name in ("gradient_accumulation_steps", "per_device_train_batch_size", "per_device_eval_batch_size"):
        if values.get(name, 1) < 1:
            raise InputError(f"--{name} {values[name]}: give 1 or more")
    if not 0 <= values.get("learning_rate", 0) < math.inf:
        raise InputError(f"--learning_rate {values['learning_rate']}: give a number of 0 or more")
    if restarts(values):
        _check_restarts(values.get("restart_with", SEED))
    _check_loggers(values.get("report_to"))
    if values.get("save_steps", 1) <= 0:
        raise InputError(
            f"--save_steps {values['save_steps']}: give a number above 0; --save_strategy no saves nothing"
        )
    if values.get("max_steps", -1) < 1 and values.get("num_train_epochs", 3) <= 0:
        raise InputError(
            f"--num_train_epochs {values['num_train_epochs']}: trains nothing; give more than 0, or --max_steps"
        )


def _check_restarts(restart_with: str) -> None:
    """Refuse what only a restart would find, or what makes a job's id incomplete: a file may change, a packaged recipe does not."""
    if restart_with in (SEED, GENTLE):
        return
    if not set(restart_with.split("+")) <= set(recipe_names()):
        raise InputError(f"--restart_with {restart_with}: in a study give seed, gentle or a packaged recipe")
    if load_recipe(restart_with).stages:
        raise InputError(
            f"--restart_with {restart_with}: a restart trains no stages; give seed, gentle or another recipe"
        )


def _check_changes(args: StableTrainingArguments, model_type: str) -> None:
    """Refuse a restart that changes what a Trainer reads only once: it would crash in the runs."""
    changes = restart_settings(args, 1, args.restart_with, model_type=model_type)
    fixed = fixed_arguments(changes)
    if fixed:
        raise InputError(
            f"--restart_with {args.restart_with}: a restart cannot change {', '.join(fixed)}; give seed, gentle or another recipe"
        )


def _check_loggers(report_to: str | Sequence[str] | None) -> None:
    available = get_available_reporting_integrations()
    for name in [report_to] if isinstance(report_to, str) else report_to or []:
        if name not in ("none", "all", *available):
            raise InputError(
                f"--report_to {name}: not installed, or unknown to the Trainer; available: {', '.join(available)}"
            )


def fingerprint_tokens(data: TokenizedData) -> str:
    """SHA-256 over token ids, token types and labels of all splits: everything of the data that the model sees."""
    digest = hashlib.sha256()
    for name, split in (("train", data.train), *data.validation.items()):
        digest.update(f"{name} {split.column_names} {len(split)}".encode())
        for batch in split.iter(batch_size=1000):
            for column in sorted(batch):
                rows = batch[column]
                if isinstance(rows[0], (list, tuple)):
                    digest.update(np.array([len(row) for row in rows], "<i8").tobytes())
                    rows = [value for row in rows for value in row]
                digest.update(np.asarray(rows, "<f8").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class RecipeSettings:
    """A recipe's settings in a study, resolved once, and their consequences on this machine.

    Args:
        recipe: the recipe.
        args: the training arguments that are set anywhere, each with its source.
        processes, device, mixed_precision: see `Job`; `accelerate launch` can set the last one too.
        methods: the user's own methods for this recipe, by name.
    """

    recipe: Recipe
    args: dict[str, Resolved]
    processes: int
    device: str
    mixed_precision: str
    methods: dict[str, type[Method]] = field(default_factory=dict)


def own_methods(recipe: Recipe, given: Mapping[str, Any], methods: Sequence[str]) -> tuple[dict, dict[str, Any]]:
    """The user's own methods for a recipe, by name, and the training arguments without those of other recipes' methods.

    Args:
        recipe: may name methods, too.
        given: training arguments.
        methods: names of the methods for all recipes.
    """
    by_class = {load_method(name): name for name in dict.fromkeys((*methods, *recipe.methods))}  # each once
    own = {name: method for method, name in by_class.items()}
    known = argument_types(tuple(own.values()))
    return own, {name: value for name, value in given.items() if name in known}


def resolved_settings(
    recipe: Recipe,
    model_type: str,
    preset: Mapping[str, Any],
    given: Mapping[str, Any],
    methods: Sequence[str] = (),
) -> RecipeSettings:
    """A recipe's training arguments in a study. They are built once here, so that errors come before the runs.

    Args:
        recipe, model_type: the recipe, and the model's `config.model_type`.
        preset, given: the task's and the user's training arguments.
        methods: see `own_methods`.

    Raises:
        InputError: see `check_settings` and `made_arguments`; or a grid varies the epochs, but `max_steps` overrides
            them.
    """
    own, given = own_methods(recipe, given, methods)
    args = resolve(recipe, model_type, preset, "task preset", given, base=STUDY_DEFAULTS)
    check_settings(args)
    if "num_train_epochs" in recipe.point and "max_steps" in args and args["max_steps"].value > 0:
        raise InputError(
            f"--max_steps {args['max_steps'].value}: the {args['num_train_epochs'].source} varies num_train_epochs, but "
            "--max_steps overrides it; leave out one of them"
        )
    made = made_arguments(args, f"--recipe {recipe.name}: ", own.values())
    if restarts(vars(made)):
        _check_changes(made, model_type)
    return RecipeSettings(recipe, args, made.world_size, made.device.type, made.mixed_precision, own)


def make_jobs(
    settings: Sequence[RecipeSettings],
    seeds: Sequence[int],
    model: str,
    config: Any,
    data: TokenizedData,
    data_folder: str | os.PathLike,
    tokenizer: str = "",
    keep_model: str = "none",
    threads: int = 1,
    dtype: str = "float32",
    device: str = "",
) -> list[Job]:
    """The jobs of a study, recipe by recipe.

    Args:
        settings: each recipe's, from `resolved_settings`.
        seeds: of each recipe.
        model, config: the model as given, and its config from `load_config`.
        data, data_folder: the tokenised data, and their folder.
        tokenizer, keep_model, threads: see `Job`.
        dtype: see `Job` and `weights_dtype`.
        device: where the runs train, if it is not this machine's device.

    Raises:
        InputError: the model cannot have a recipe's values.
    """
    weights = fingerprint_model(model, model_config(model, data.task, {}))
    tokens = fingerprint_tokens(data)
    jobs = []
    for own in settings:
        values = job_values(own.recipe, model, config, data.task, own.args, own.methods)
        jobs += [
            Job(
                recipe=own.recipe.name,
                seed=seed,
                task=data.task.name,
                **values,
                model_fingerprint=weights,
                data_fingerprint=tokens,
                threads=threads,
                processes=own.processes,
                device=job_device(own.args, own.device, device),
                mixed_precision=own.mixed_precision,
                dtype=dtype,
                model=model,
                tokenizer=tokenizer,
                data_folder=str(data_folder),
                keep_model=keep_model,
            )
            for seed in seeds
        ]
    return jobs


def job_device(settings: Mapping[str, Resolved], here: str, elsewhere: str) -> str:
    """The device that a job trains on: `elsewhere`, if other machines will train it and `use_cpu` is not set."""
    use_cpu = "use_cpu" in settings and settings["use_cpu"].value
    return here if use_cpu or not elsewhere else elsewhere


def job_values(
    recipe: Recipe,
    model: str,
    config: Any,
    task: Task,
    settings: Mapping[str, Resolved],
    methods: Mapping[str, type[Method]] | None = None,
) -> dict[str, Any]:
    """The fields of a job that come from its recipe: `args`, `model_config`, `sources`, and the user's own methods that are on.

    Args:
        recipe, model, config: see `make_jobs`.
        task: what is trained on.
        settings: the training arguments, resolved.
        methods: the user's own, by name.

    Raises:
        InputError: the model cannot have these values.
    """
    model_values = _known_to(config, recipe, resolve_model_config(recipe, config.model_type))
    values = {name: r.value for name, r in model_values.items()}
    own_config = model_config(model, task, values)  # raises its errors now, not in every run
    given, methods = {name: r.value for name, r in settings.items()}, methods or {}
    active = {name: method for name, method in methods.items() if method.from_arguments(given).is_on}
    _check_methods_on(own_config, task, given, [*METHODS, *active.values()])
    if given.get("step") == PACKED:
        check_config(own_config)
    off = argument_names([method for name, method in methods.items() if name not in active])
    settings = {name: r for name, r in settings.items() if name not in off}  # the arguments of methods that are off
    sources = {name: r.source for name, r in settings.items()}
    sources.update({f"model_config.{name}": r.source for name, r in model_values.items()})
    args = {name: getattr(r.value, "value", r.value) for name, r in settings.items()}
    hashes = tuple(source_hash(method) for method in active.values())
    own = {"methods": tuple(active), "method_hashes": hashes}
    return {"args": args, "model_config": values, "sources": sources, **own}


def _check_methods_on(config: Any, task: Task, args: Mapping[str, Any], methods: Sequence[type[Method]]) -> None:
    """Give the methods' errors and warnings about the model now, not in every run."""
    for method in methods:
        made = method.from_arguments(args)
        if made.is_on:
            made.check_model(config, task)


def made_arguments(
    settings: Mapping[str, Resolved], where: str = "", methods: Iterable[type[Method]] = ()
) -> StableTrainingArguments:
    """The training arguments, built once before any run, so that errors come now.

    Args:
        settings: the training arguments, resolved.
        where: beginning of an error that names no flag.
        methods: the user's own.

    Raises:
        InputError: a value is refused.
    """
    values = {name: r.value for name, r in settings.items()}
    total = values.pop("total_train_batch_size", None)  # this process may see more GPUs than a run will
    per_device = values.pop("per_device_train_batch_size", None) if total is not None else None
    try:
        args = arguments_class(tuple(methods))(**{**values, "output_dir": tempfile.gettempdir()})
    except InputError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(where + " ".join(str(error).split())) from None
    if total is not None:
        derived_batch_size(total, args.world_size, args.gradient_accumulation_steps, per_device)
    return args


def _known_to(config: Any, recipe: Recipe, values: dict[str, Resolved]) -> dict[str, Resolved]:
    """For model types without a part of their own, keep the common values for fields that exist; warn about the rest.

    Without any part by type in the file, or for values that a grid varies, a missing field stays an error.
    """
    without = [part for part in recipe.files if part.model_types and config.model_type not in part.model_types]
    names = {name for part in without for name in part.model_config}
    unknown = [name for name in values if name in names and not hasattr(config, name)]
    if unknown:
        logger.warning(
            f"--recipe {recipe.name} has no part for {config.model_type}, and this config has no field {joined(unknown)}. "
            "The model's own values stay; set the equivalent fields"
        )
    return {name: r for name, r in values.items() if name not in unknown}


def common_values_notes(recipes: Sequence[Recipe], model_type: str) -> list[str]:
    """A line for each recipe that has values for some model types, but none for this one."""
    without = [recipe.name for recipe in recipes if recipe.model_types and model_type not in recipe.model_types]
    return [f"{name} has no values for {model_type} models: its common ones count" for name in without]


def parse_seeds(words: Sequence[str]) -> list[int]:
    """`25` -> 1 ... 25; `3 7 9` -> these; `1000-1019` -> this range; ranges and numbers can be mixed.

    Raises:
        InputError: not a number, none, negative, or one twice.
    """
    ranges = []
    for word in words:
        first, dash, last = word.partition("-")
        if not re.fullmatch("[0-9]+(-[0-9]+)?", word):
            raise InputError(f"--seeds {word}: give a count (25), seeds (3 7 9), or a range (1000-1019)")
        if dash and int(last) < int(first):
            raise InputError(f"--seeds {word}: the range is empty")
        ranges.append(range(int(first), int(last or first) + 1))
    if len(words) == 1 and "-" not in words[0]:
        ranges = [range(1, ranges[0].start + 1)]
    together = " ".join(words)
    if sum(map(len, ranges)) > MAX_SEEDS:
        raise InputError(
            f"--seeds {together}: means {sum(map(len, ranges))} runs per recipe; for one seed give a range (7-7)"
        )
    seeds = [seed for part in ranges for seed in part]
    if not seeds:
        raise InputError(f"--seeds {together}: means no run; give 1 or more")
    if max(seeds) >= 2**32:
        raise InputError(f"--seeds {together}: {max(seeds)} is too large; the largest seed is {2**32 - 1}")
    twice = [seed for seed, count in Counter(seeds).items() if count > 1]
    if twice:
        raise InputError(f"--seeds {together}: {min(twice)} is given twice; give each seed once")
    return seeds
