"""From what a user asks for to a list of jobs: model, data and recipes are looked at once, before anything is written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ..errors import InputError
from ..recipe import Recipe, Resolved, resolve, resolve_model_config
from ..tasks.load import TokenizedData
from .plan import Job
from .run import model_config


# What a study sets that the Trainer would not; a recipe, a task and the command line go over these.
STUDY_DEFAULTS = {
    "eval_strategy": "epoch",  # the best of a run is comparable between recipes with equal numbers of evaluations only
    "save_strategy": "no",
    "logging_steps": 50,
    "per_device_eval_batch_size": 32,
}

# A study sets these itself.
OWN_ARGS = {
    "seed": "give --seeds",
    "data_seed": "give --seeds; each seed's three random streams are made from it",
    "init_seed": "give --seeds; each seed's three random streams are made from it",
    "dropout_seed": "give --seeds; each seed's three random streams are made from it",
    "load_best_model_at_end": "a study reports the last and the best evaluation of each run itself",
    "metric_for_best_model": "a study takes the task's headline metric",
    "push_to_hub": "a study keeps its models in its folder; see --keep_model",
    "resume_from_checkpoint": "run the same command again: it goes on where it stopped",
}

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def check_given(given: Mapping[str, Any]) -> None:
    """Refuse training arguments that a study sets itself."""
    for name, way_out in OWN_ARGS.items():
        if name in given:
            raise InputError(f"--{name} {given[name]}: not in a study: {way_out}")


def load_config(model: str):
    """The config of a pretrained model, in a folder or on the hub.

    Raises:
        InputError: no such folder, nothing in it, or neither network nor local copy.
    """
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"--model_name_or_path {model}: no config.json in this folder; save_pretrained makes one")
        if not any((folder / name).is_file() for name in WEIGHTS):
            raise InputError(
                f"--model_name_or_path {model}: no weights in this folder (looked for {', '.join(WEIGHTS)})"
            )
    elif folder.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise InputError(f"--model_name_or_path {model}: no such folder")
    try:
        return transformers.AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        if folder.is_dir():
            raise InputError(f"--model_name_or_path {model}: {_first_line(error)}") from None
        raise InputError(
            f"--model_name_or_path {model}: not to be had from the hub ({_first_line(error)}) and no folder; give a "
            "folder made by save_pretrained"
        ) from None


def load_tokenizer(model: str):
    """The tokenizer of a pretrained model. Raises InputError where there is none."""
    try:
        return transformers.AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"--tokenizer_name {model}: no tokenizer there ({_first_line(error)})") from None


def fingerprint_model(model: str, config) -> str:
    """SHA-256 over a model's pretrained weights, wherever they are; a new head, which is drawn anew, left out.

    Raises:
        InputError: the weights cannot be loaded.
    """
    try:
        loaded, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            model, config=config, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"--model_name_or_path {model}: the weights do not load: {_first_line(error)}") from None
    new = set(info["missing_keys"]) | {key for key, *_ in info.get("mismatched_keys", ())}
    pretrained = {name: tensor for name, tensor in loaded.state_dict().items() if name not in new}
    if not any(name.startswith(loaded.base_model_prefix) for name in pretrained):
        raise InputError(f"--model_name_or_path {model}: none of its weights is a {type(loaded).__name__}'s")
    digest = hashlib.sha256()
    for name, tensor in sorted(pretrained.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint_tokens(data: TokenizedData) -> str:
    """SHA-256 over token ids, token types and labels of all splits: data, tokenizer and length, as the model sees them."""
    digest = hashlib.sha256()
    for name, split in (("train", data.train), *data.validation.items()):
        digest.update(f"{name} {split.column_names} {len(split)}".encode())
        for batch in split.iter(batch_size=1000):
            for column in sorted(batch):
                rows = batch[column]
                if isinstance(rows[0], (list, tuple)):
                    digest.update(np.array([len(row) for row in rows], "<i8"))
                    rows = [value for row in rows for value in row]
                digest.update(np.asarray(rows, "<f8"))
    return digest.hexdigest()


def resolved_settings(
    recipe: Recipe, model_type: str, preset: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Resolved], dict[str, Resolved]]:
    """Training arguments and model config values of a recipe on a study, with where each came from."""
    args = resolve(recipe, model_type, preset, "task preset", given, base=STUDY_DEFAULTS)
    return args, resolve_model_config(recipe, model_type)


def make_jobs(
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    model: str,
    config,
    data: TokenizedData,
    data_folder: str | os.PathLike,
    preset: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
    tokenizer: str = "",
    keep_model: str = "none",
    threads: int = 1,
    processes: int = 1,
    device: str = "cpu",
) -> list[Job]:
    """The jobs of a study, recipe by recipe.

    Args:
        recipes, seeds: what is crossed.
        model, config: as given, and as loaded by [`load_config`].
        data, data_folder: the tokenised data, and where the jobs will find them.
        preset, given: the task's and the command line's training arguments.
        tokenizer, keep_model, threads, processes, device: see [`Job`].

    Raises:
        InputError: a setting that no run could start with.
    """
    weights = fingerprint_model(model, config)
    tokens = fingerprint_tokens(data)
    jobs = []
    for recipe in recipes:
        args, model_values = resolved_settings(recipe, config.model_type, preset or {}, given or {})
        values = {name: r.value for name, r in model_values.items()}
        model_config(model, data.task, values)  # speaks up now, not in every run
        sources = {name: r.source for name, r in args.items()}
        sources.update({f"model_config.{name}": r.source for name, r in model_values.items()})
        jobs += [
            Job(
                recipe=recipe.name,
                seed=seed,
                task=data.task.name,
                args={name: getattr(r.value, "value", r.value) for name, r in args.items()},
                model_config=values,
                model_fingerprint=weights,
                data_fingerprint=tokens,
                threads=threads,
                processes=processes,
                device=device,
                model=model,
                tokenizer=tokenizer,
                data_folder=str(data_folder),
                keep_model=keep_model,
                sources=sources,
            )
            for seed in seeds
        ]
    return jobs


def parse_seeds(words: Sequence[str]) -> list[int]:
    """`25` -> 1 ... 25; `3 7 9` -> these; `1000-1019` -> this range; ranges and numbers can be mixed.

    Raises:
        InputError: not a number, none, negative, or one twice.
    """
    seeds: list[int] = []
    for word in words:
        first, dash, last = word.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise InputError(f"--seeds {word}: give a count (25), seeds (3 7 9), or a range (1000-1019)")
        if dash and int(last) < int(first):
            raise InputError(f"--seeds {word}: the range is empty")
        seeds += range(int(first), int(last) + 1) if dash else [int(first)]
    if len(words) == 1 and "-" not in words[0]:
        seeds = list(range(1, seeds[0] + 1))
    if not seeds:
        raise InputError(f"--seeds {' '.join(words)}: no run; give 1 or more")
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise InputError(f"--seeds {' '.join(words)}: {twice[0]} is there twice; every seed is a run of its own")
    return seeds


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
