"""The models of a study's runs: where each started, where it ended, and the command that keeps them."""

from __future__ import annotations

import contextlib
import random
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import InputError
from ..study.job import Job
from ..study.records import RunRecord
from ..study.report.card.rerun import BUNDLED, is_bundled, rerun_command
from ..study.report.card.source import pretrained_model
from ..utils.adapters import merged
from ..utils.text import error_line


if TYPE_CHECKING:
    from ..trainer import StableTrainer
    from .finished_study import FinishedStudy


def with_models(study: FinishedStudy, runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs with a kept model, in the same order."""
    return [run for run in runs if study.model_folder(run) is not None]


def missing_models(study: FinishedStudy) -> list[str]:
    """Sentences on what is missing for an analysis of a failed and an ok run with their models; empty if nothing is."""
    if with_models(study, study.failed) and with_models(study, study.ok):
        return []
    counts = ", ".join(
        f"{len(runs)} {status} ({len(with_models(study, runs))} with a model)"
        for status, runs in (("failed", study.failed), ("ok", study.ok))
    )
    sentences = [f"It needs a failed run and an ok run with kept models; {study.folder} has {counts}."]
    if not study.failed or not study.ok:
        sentences.append(
            "Add a recipe, or a learning rate, that fails."
            if not study.failed
            else "Add a recipe that succeeds, such as mosbach2021."
        )
    return [*sentences, f"Make the runs with their models: {keeping_command(study)}"]


def keeping_command(study: FinishedStudy) -> str:
    """The command that makes a study's runs again with their models, into another folder."""
    runs = study.runs
    jobs = {recipe: settings_of(study, own[0]) for recipe, own in study.by_recipe.items() if own}
    job = next(iter(jobs.values()))
    model = BUNDLED if is_bundled(job.model) else shlex.quote(pretrained_model(study.folder, job) or "MODEL")
    words = [
        word for word in rerun_command(replace(job, keep_model="last"), runs, model) if "--output_dir" not in word
    ]
    recipes = " ".join(map(shlex.quote, jobs))
    words = [f"--recipe {recipes}" if word.startswith("--recipe ") else word for word in words]
    return " ".join([*words, f"--output_dir {shlex.quote(str(study.folder) + '-models')}"])


def settings_of(study: FinishedStudy, run: RunRecord) -> Job:
    """A run's job, on a CPU where there is no GPU. Raises InputError if its `config.json` cannot be read."""
    job = study.settings(run)
    return job if torch.cuda.is_available() else replace(job, device="cpu")


@contextlib.contextmanager
def starting_trainer(job: Job, run_name: str = "the run") -> Iterator[StableTrainer]:
    """The trainer of a run before its first update step: its `model` has the weights that the run started from.

    These are the pretrained weights, and the head that the run drew from its seed. With `seed_streams` that is the stream
    `init_seed`; see `training_args.seed_streams`. A method's changes (re-initialised layers) are made too. The trainer's output
    goes to a temporary folder. The global random states are the same afterwards.

    Args:
        job: the run's settings, from `settings_of`.
        run_name: for messages.

    Raises:
        InputError: the pretrained model or the data cannot be read.
    """
    from transformers import set_seed

    from ..study.run import make_trainer, quiet, training_arguments

    with tempfile.TemporaryDirectory() as place, own_random_state(), quiet():
        try:
            args = training_arguments(job, Path(place))
            trainer = make_trainer(job, args)
            set_seed(args.seed)  # as the Trainer does at the start of training
            trainer.model = merged(trainer.call_model_init().to(args.device))  # kept models are merged, too
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{run_name}: its start cannot be made again ({error_line(error)}); keep the pretrained model and the study's data/ where they were"
            ) from None
        yield trainer


def read_model(folder: Path, job: Job) -> Any:
    """A kept model or a checkpoint, in evaluation mode. Raises InputError if it cannot be read or has weights that are not finite."""
    from transformers import AutoConfig

    from ..study.model import load_model
    from ..study.run import quiet

    try:
        with quiet():
            model = load_model(str(folder), AutoConfig.from_pretrained(folder), job.dtype).eval()
    except Exception as error:  # damaged files: each library raises another error
        raise InputError(f"{folder}: this model cannot be read ({error_line(error)}); make the run again") from None
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise InputError(f"{folder}: this model has weights that are not finite; choose another run")
    return model


def read_weights(folder: Path, job: Job, like: torch.nn.Module) -> list[torch.Tensor]:
    """The weights of a kept model or a checkpoint, in the order and on the devices of another model's parameters.

    Raises:
        InputError: see `read_model`; or the models have other parameters.
    """
    found = dict(read_model(folder, job).named_parameters())
    wanted = dict(like.named_parameters())
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in wanted.items()}:
        raise InputError(f"{folder}: this model has other parameters than the run's start; choose another run")
    return [found[name].detach().to(value.device, value.dtype) for name, value in wanted.items()]


@contextlib.contextmanager
def own_random_state() -> Iterator[None]:
    """Restore the global random states of Python, numpy and torch afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def progress_bar(total: int, text: str) -> Iterator[Any]:
    """A progress bar on standard error, where it is a terminal. The value is a function that advances it by one.

    Args:
        total: number of steps.
        text: shown before the bar.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)
