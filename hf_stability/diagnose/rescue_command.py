"""The `hf-stability rescue` command at the end of a report."""

from __future__ import annotations

import contextlib
import json
import shlex
from typing import Any

from ..errors import InputError
from ..methods import argument_names
from ..recipe import load_recipe
from ..recipe.arguments import argument_types
from ..recipe.schema import coerce
from ..study.job import ALARM_ARGS, RESTART_ARGS, Job
from ..training_args import StableTrainingArguments
from ..utils.batches import total_batch_size
from .files import Run
from .inputs import MAX_SEQ_LENGTH, Named


TRAINING_ARGS = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "num_train_epochs", "max_steps",
    "total_train_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_drop_last",
    "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm", "label_smoothing_factor",
    "neftune_noise_alpha",
    "train_sampling_strategy", "bf16", "fp16", "step", *argument_names(),
)  # fmt: skip
"""Arguments that change training and that a study accepts. The command names those that differ from the Trainer's
defaults."""

ALWAYS_SAID = ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size")
"""Always named: bundled tasks have other defaults, and the reader wants to see these values."""

NOT_A_RESCUES = (*ALARM_ARGS, "diagnostics", "preflight")
"""A study's arguments that a rescue leaves out: all its runs must finish, at full speed."""


def rescue_command(run: Run, named: Named, max_seq_length: int | None = None) -> str:
    """The `hf-stability rescue` command that starts from this run's known settings.

    Args:
        named: model and data. Default: those of the study's run, else `MODEL`, `TRAIN` and `DEV` to fill in.
        max_seq_length: in tokens.
    """
    job, model, tokenizer = run.job, named.model_name_or_path, named.tokenizer_name
    flags: dict[str, Any] = {"model_name_or_path": model, "tokenizer_name": tokenizer, **named.data}
    if job is not None:
        if not model:
            flags["model_name_or_path"] = job.model
            flags["tokenizer_name"] = tokenizer or (job.tokenizer if job.tokenizer != job.model else None)
        if job.task != "custom" and not any(named.data.values()):
            flags["task_name"] = job.task
    flags["model_name_or_path"] = flags["model_name_or_path"] or "MODEL"
    if not any(flags[name] for name in ("task_name", "train_file", "dataset_name")):
        flags["train_file"], flags["validation_file"] = "TRAIN", "DEV"
    flags["max_seq_length"] = max_seq_length if max_seq_length != MAX_SEQ_LENGTH else None
    flags["dtype"] = named.dtype if named.dtype != "float32" else None  # a study's default
    flags["method"] = list(job.methods) if job is not None else None
    flags |= _arguments_of_run(run) if job is None else _arguments_of_job(job)
    words = (f"--{name} {_words(value)}" for name, value in flags.items() if value not in (None, "", [], {}))
    return " ".join(["hf-stability rescue", *words])


def _is_packaged(recipe: str) -> bool:
    try:
        return load_recipe(recipe).is_packaged
    except InputError:
        return False


def _words(value: Any) -> str:
    """A value, quoted for the shell."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return " ".join(shlex.quote(json.dumps(one) if isinstance(one, dict) else str(one)) for one in values)


def _arguments_of_job(job: Job) -> dict[str, Any]:
    """A packaged recipe by name, with the flags that were given; a custom recipe by all its values."""
    packaged = _is_packaged(job.recipe) and not job.stages  # with stages, the model is already that of the last stage
    flags: dict[str, Any] = {"recipe": job.recipe} if packaged else {}
    for name, value in job.args.items():
        source = job.sources.get(name)
        if name not in (*NOT_A_RESCUES, *RESTART_ARGS) and (
            source == f"--{name}" or not (packaged or source == "study default")
        ):
            flags[name] = value
    if job.processes > 1 and not job.args.get("total_train_batch_size"):  # the rescue may have fewer processes
        flags.pop("per_device_train_batch_size", None)
        flags["total_train_batch_size"] = total_batch_size(job.args, job.processes)
    if job.mixed_precision in ("bf16", "fp16") and not job.args.get(job.mixed_precision):
        flags[job.mixed_precision] = True  # set by `accelerate launch`
    return flags


def _arguments_of_run(run: Run) -> dict[str, Any]:
    """The training arguments that differ from the Trainer's defaults, by the names of this version."""
    args = dict(run.args)
    args["warmup_steps"] = args.get("warmup_steps") or args.get("warmup_ratio")  # warmup_ratio: an older Trainer's
    if (args.get("devices") or 1) > 1 and not args.get("total_train_batch_size"):
        args["total_train_batch_size"] = total_batch_size(args, args["devices"])
    if args.get("total_train_batch_size"):
        args.pop("per_device_train_batch_size", None)  # it is derived
    if (args.get("max_steps") or -1) > 0:
        args.pop("num_train_epochs", None)
    else:
        args.pop("max_steps", None)
    if args.get("mixed_precision") in ("bf16", "fp16"):
        args[args["mixed_precision"]] = True
    defaults, types = StableTrainingArguments.__dataclass_fields__, argument_types()
    flags = {}
    for name in TRAINING_ARGS:
        value = args.get(name)
        if value is None or (value == defaults[name].default and name not in ALWAYS_SAID):
            continue
        with contextlib.suppress(ValueError):  # an old name, such as a removed optimizer's
            flags[name] = coerce(value, types[name])
    return flags
