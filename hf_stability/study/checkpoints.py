"""A run's folder before training: an earlier attempt is continued from a checkpoint, or deleted."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.trainer_utils import IntervalStrategy

from ..diagnostics.step_record import missing_steps
from ..errors import InputError
from ..training_args import StableTrainingArguments
from ..utils.files import write_bytes, write_json
from ..version import __version__
from .job import Job
from .look import look_step
from .records import LOOK


logger = logging.getLogger(__name__)


def prepare_folder(job: Job, folder: Path, args: StableTrainingArguments) -> str | None:
    """Make the folder ready, and return the checkpoint to resume from, if any. Raises InputError for a file in its place."""
    if os.path.lexists(folder) and not folder.is_dir():  # every process sees it and ends; none waits for another
        raise InputError(f"{folder} is a file, but the run needs a folder there; move it away")
    unfinished = _unfinished_job_id(folder) == job.id
    before = job.policy["look_at"] if job.until_look else None
    checkpoint = (
        newest_whole_checkpoint(folder, IntervalStrategy(args.eval_strategy).value, before) if unfinished else None
    )
    if checkpoint is not None and _has_lost_steps(folder, checkpoint):
        logger.error(
            f"{folder}: the record lacks update steps; the run starts again from the beginning"
        )  # an error, because `quiet` hides warnings
        checkpoint = None
    args.distributed_state.wait_for_everyone()  # no process deletes before all have looked
    if args.should_save:
        look = (
            (folder / LOOK).read_bytes() if unfinished and not job.until_look and (folder / LOOK).is_file() else None
        )
        if checkpoint is None:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        if look is not None:  # the choice of runs rests on it, even without the checkpoint
            write_bytes(folder / LOOK, look)
        for leftover in ("run.json", "error.txt"):
            (folder / leftover).unlink(missing_ok=True)
        streams = {name: getattr(args, name) for name in ("init_seed", "data_seed", "dropout_seed")}
        config = {
            "id": job.id,
            "job": job.to_dict(),
            "streams": streams,
            "versions": versions(),
            "args": args.to_dict(),
        }
        write_json(folder / "config.json", config)
    args.distributed_state.wait_for_everyone()
    return checkpoint


def _unfinished_job_id(folder: Path) -> str | None:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _has_lost_steps(folder: Path, checkpoint: str) -> bool:
    """Whether the record lacks update steps before the checkpoint, after a power cut or in a damaged file."""
    state = json.loads(Path(checkpoint, "trainer_state.json").read_text(encoding="utf-8"))
    return missing_steps(folder / "steps.rec", state["global_step"]) > 0


def newest_whole_checkpoint(folder: Path, eval_strategy: str = "epoch", before: float | None = None) -> str | None:
    """The newest of the Trainer's checkpoints from which a run continues as if it had never stopped; None if there is none.

    The Trainer does not write checkpoints atomically, but it writes `trainer_state.json` last. If that file can be read, the
    checkpoint is taken for whole.

    Args:
        folder: the run's.
        eval_strategy: the run's.
        before: take only checkpoints before the look, which comes after this fraction of the update steps.
    """
    found = {}
    for path in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            early = before is None or state["global_step"] < look_step(before, state["max_steps"])
            if early and _can_go_on(state, eval_strategy) and _has_training_state(path.parent):
                found[state["global_step"]] = str(path.parent)
        except (OSError, ValueError, KeyError):
            continue
    return found[max(found)] if found else None


def _has_training_state(checkpoint: Path) -> bool:
    """False if only the model was saved (`--save_only_model`)."""
    files = [file.name for file in checkpoint.iterdir()]
    return {"optimizer.pt", "scheduler.pt"} <= set(files) and any(name.startswith("rng_state") for name in files)


def _can_go_on(state: dict[str, Any], eval_strategy: str) -> bool:
    """Whether a run can continue from a checkpoint with this state.

    It cannot if an evaluation was still to come: after the last step, or at an epoch that ends with this step.
    `--save_strategy steps` saves before that evaluation. The evaluation, and what it draws from the random state, would be
    missing. Nor can it if an alarm had stopped the run: it would train to its end.
    """
    step = state["global_step"]
    evaluated = any(
        entry["step"] == step and any(key.startswith("eval_") for key in entry) for entry in state["log_history"]
    )
    at_epoch_end = float(state["epoch"]).is_integer()
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    whole = evaluated or not at_epoch_end or eval_strategy != "epoch"
    return step < state["max_steps"] and whole and not control.get("should_training_stop", False)


def versions() -> dict[str, str]:
    """Versions and hardware, which can change a result's last digits."""
    import accelerate
    import datasets

    modules = (torch, transformers, accelerate, datasets, np)
    found = {module.__name__: module.__version__ for module in modules}
    return {
        "hf_stability": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": str(os.cpu_count()),
        **found,
    }
