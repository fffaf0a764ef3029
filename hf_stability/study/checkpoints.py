"""A run's folder before training: an earlier attempt is continued from a checkpoint, or deleted."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers

from ..diagnostics.attempt import Attempt
from ..diagnostics.attempt_log import read_attempts
from ..diagnostics.step_record import missing_steps
from ..diagnostics.watch import of_the_main_process
from ..errors import InputError
from ..training_args import StableTrainingArguments
from ..utils.files import write_bytes, write_json
from ..version import __version__
from .attempts import restarts
from .job import Job
from .look import look_step
from .records import LOOK
from .saving import checkpoints_in, is_complete


logger = logging.getLogger(__name__)


def prepare_folder(job: Job, folder: Path, args: StableTrainingArguments) -> str | bool | None:
    """Make the folder ready for a run, or for what is left of it.

    Returns:
        the checkpoint to resume from. True: from the beginning of a later attempt, see `is_in_a_later_attempt`. None: from the
        beginning.

    Raises:
        InputError: a file is in the folder's place.
    """
    if os.path.lexists(folder) and not folder.is_dir():  # every process sees it and ends; none waits for another
        raise InputError(f"{folder} is a file, but the run needs a folder there; move it away")
    unfinished = unfinished_job_id(folder) == job.id
    checkpoint: str | bool | None = _where_to_resume(job, folder) if unfinished and args.should_save else None
    if unfinished and checkpoint is None and args.should_save and restarts(job.args) and is_in_a_later_attempt(folder):
        checkpoint = True
    checkpoint = of_the_main_process(checkpoint, args)
    args.distributed_state.wait_for_everyone()  # no process deletes before all have looked
    if args.should_save:
        look = (
            (folder / LOOK).read_bytes() if unfinished and not job.until_look and (folder / LOOK).is_file() else None
        )
        if checkpoint is None:
            shutil.rmtree(folder, ignore_errors=True)
        for passed_over in _newer_checkpoints(
            folder, checkpoint if isinstance(checkpoint, str) else None
        ):  # the Trainer would write into their folders
            shutil.rmtree(passed_over, ignore_errors=True)
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


def unfinished_job_id(folder: Path) -> str | None:
    """The id of the job that an earlier call has started in this folder; None if there is none."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_in_a_later_attempt(folder: Path) -> bool:
    """Whether an unfinished run has begun again before. Without a checkpoint it continues at the beginning of its last attempt:
    earlier ones are on record, and would be the same."""
    try:
        content = read_attempts(folder)
        return any(Attempt.from_dict(each).was_abandoned for each in (content or {}).get("attempts", []))
    except (InputError, TypeError, AttributeError):  # damaged, or of another version
        return False


def _where_to_resume(job: Job, folder: Path) -> str | None:
    """The checkpoint from which an unfinished run continues; None: from its beginning."""
    checkpoint = newest_whole_checkpoint(folder, job.policy["look_at"] if job.until_look else None)
    if checkpoint is not None and _has_lost_steps(folder, checkpoint):
        logger.error(
            f"{folder}: the record lacks update steps; the run starts again from the beginning"
        )  # an error, because `quiet` hides warnings
        return None
    return checkpoint


def _has_lost_steps(folder: Path, checkpoint: str) -> bool:
    """Whether the record lacks update steps before the checkpoint, after a power cut or in a damaged file."""
    return missing_steps(folder / "steps.rec", _read_state(Path(checkpoint))["global_step"]) > 0


def newest_whole_checkpoint(folder: Path, before: float | None = None) -> str | None:
    """The newest checkpoint from which a run continues as if it had never stopped; None if there is none.

    Only checkpoints that match their manifest count, see `saving.is_complete`. Files with any other content are passed over.

    Args:
        folder: the run's.
        before: take only checkpoints before the look, which comes after this fraction of the update steps.
    """
    for checkpoint in reversed(checkpoints_in(folder)):
        if is_complete(checkpoint) and (before is None or _is_before(checkpoint, before)):
            return str(checkpoint)
    return None


def _newer_checkpoints(folder: Path, checkpoint: str | None) -> list[Path]:
    found = checkpoints_in(folder)
    return found if checkpoint is None else found[found.index(Path(checkpoint)) + 1 :]


def _is_before(checkpoint: Path, look: float) -> bool:
    state = _read_state(checkpoint)
    return state["global_step"] < look_step(look, state["max_steps"])


def _read_state(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))


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
