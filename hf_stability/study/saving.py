"""Checkpoints of a study's runs: when one is saved, and how a complete one is told from a torn one.

The Trainer does not write a checkpoint atomically. After it has written all files, `complete.json` is written into the
checkpoint: a manifest with the size and the CRC-32 of every file. A checkpoint that does not match its manifest, or has none,
is passed over.

The checksum is CRC-32, because sizes alone do not show blocks of zeros after a power cut. It runs at 3 GB per second on one core
(Intel Xeon), so it takes about 1.3 s for the 4 GB of bert-large with AdamW. BLAKE2b takes 4.6 s and shows no more of such damage.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..diagnostics.watch import of_the_main_process
from ..utils.files import write_json


logger = logging.getLogger(__name__)

MANIFEST = "complete.json"
MANIFEST_SCHEMA = "hf_stability.checkpoint/1"

PARTS = 10
"""By default a checkpoint may be saved after each tenth of the training."""

WORTH = 100
"""Seconds of training for each second of saving. So saving takes less than 1% of the time."""

ASSUMED_SPEED = 100e6
"""Bytes per second of the first save, before one was measured. Few disks are slower."""

BLOCK = 2**20
"""Bytes that are read at a time."""

Clock = Callable[[], float]


# ---- which checkpoints are complete ------------------------------------------------------------------------------------------


def checkpoints_in(folder: Path) -> list[Path]:
    """The Trainer's checkpoints in a run's folder, complete or not, by their update step."""
    found = [(re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-([0-9]+)", path.name), path) for path in folder.glob("*")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match and path.is_dir())]


def write_manifest(checkpoint: Path, processes: int = 1) -> bool:
    """Mark a checkpoint as complete, once all its files were written and are on the disk.

    A checkpoint that no run could continue from gets no manifest: optimizer, scheduler or a random state is missing, for
    example with `--save_only_model`.

    Args:
        checkpoint: its folder.
        processes: number of processes that train the run together. Each has a random state.

    Returns:
        whether it got one.
    """
    states = {"rng_state.pth"} if processes == 1 else {f"rng_state_{rank}.pth" for rank in range(processes)}
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST)
    if not {"optimizer.pt", "scheduler.pt", "trainer_state.json", *states} <= {path.name for path in paths}:
        return False
    for path in paths:
        sync(path)
    files = {path.relative_to(checkpoint).as_posix(): size_and_checksum(path) for path in paths}
    write_json(checkpoint / MANIFEST, {"schema": MANIFEST_SCHEMA, "files": files})
    for path in (checkpoint / MANIFEST, checkpoint, checkpoint.parent):
        sync(path)
    return True


def is_complete(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is as its manifest says. False for any damage; nothing is raised."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files = {checkpoint / name: tuple(expected) for name, expected in manifest["files"].items()}
        return (
            manifest["schema"] == MANIFEST_SCHEMA
            and len(files) > 0
            and all(path.stat().st_size == size for path, (size, _) in files.items())  # at once, before all is read
            and all(size_and_checksum(path) == expected for path, expected in files.items())
        )
    except Exception:  # whatever is in the file
        return False


def size_and_checksum(path: Path) -> tuple[int, int]:
    """A file's size in bytes and its CRC-32."""
    size = checksum = 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BLOCK):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return size, checksum


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk. Some file systems cannot do this for folders."""
    if path.is_dir():
        with contextlib.suppress(OSError):
            _fsync(path, os.O_RDONLY)
    else:
        _fsync(path, os.O_RDWR)  # Windows needs a file that is open for writing


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def pass_over(checkpoint: Path) -> None:
    """Let no run continue from this checkpoint."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)


def delete_older(folder: Path, limit: int) -> None:
    """Delete a run's checkpoints except the newest complete ones.

    Args:
        folder: the run's.
        limit: number of checkpoints to keep; 0 or less keeps all. If none is complete, the newest are kept.
    """
    found = checkpoints_in(folder)
    complete = [checkpoint for checkpoint in found if (checkpoint / MANIFEST).is_file()]
    kept = (complete or found)[-limit:] if limit > 0 else found
    for checkpoint in found:
        if checkpoint not in kept:
            shutil.rmtree(checkpoint, ignore_errors=True)


# ---- when one is saved -------------------------------------------------------------------------------------------------------


def save_strategy(args: Mapping[str, Any]) -> str | None:
    """The save strategy that a job's training arguments ask for; None: the default of a study."""
    default = "steps" if args.get("save_steps") is not None else None
    return args.get("save_strategy") or default


def save_limit(args: Mapping[str, Any]) -> int:
    """Number of checkpoints to keep; 0 or less keeps all. Default: 1."""
    limit = args.get("save_total_limit")
    return 1 if limit is None else limit


def saving_sentence(args: Mapping[str, Any]) -> str:
    """When runs with these training arguments save checkpoints, for `--dry_run`."""
    strategy, limit = save_strategy(args), save_limit(args)
    if strategy == "no":
        return "checkpoints: none; an interrupted run starts again from its beginning"
    when = {
        "steps": f"every {args.get('save_steps') or TrainingArguments.save_steps:g} update steps",
        "epoch": "after each epoch",
        "best": "after each evaluation that is the best so far",
        None: "after each tenth of a long training, if saving takes less than 1% of the time",
    }[strategy]
    kept = "all are kept" if limit < 1 else "the newest is kept" if limit == 1 else f"the newest {limit} are kept"
    return f"checkpoints: {when}; {kept} until the run ends"


def tenths(max_steps: int) -> set[int]:
    """The update steps after which a run may be saved by default: each tenth of the training, rounded up, but not its end."""
    return {math.ceil(part * max_steps / PARTS) for part in range(1, PARTS)} - {max_steps}


def is_worth(seconds: float, cost: float) -> bool:
    """Whether a run has trained long enough for a save.

    Args:
        seconds: since the last save, or since the training began.
        cost: of a save, in seconds.
    """
    return seconds >= WORTH * cost


def bytes_to_write(model: torch.nn.Module, optimizer: Any) -> int:
    """Size of a checkpoint: weights, buffers and optimizer state. In a sharded training, only this process's part."""
    weights = [*model.parameters(), *model.buffers()]
    states = [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    return sum(tensor.nbytes for tensor in (*weights, *states))


class SavingCallback(TrainerCallback):
    """Decides when a run is saved by default, completes each checkpoint, and deletes older ones afterwards.

    It must come before the other callbacks of a study. They see its decision at the step's end, and write the step's record
    before the checkpoint.

    Args:
        at_tenths: save after tenths of the training, see `tenths`, if it is worth the time. All other saves are the Trainer's or
            another callback's.
        limit: see `delete_older`.
        clock: seconds, never set back.

    Attributes:
        has_begun: whether the training has begun its first update step. An earlier checkpoint was loaded by then.
        cost: seconds of the last save; None before the first.
    """

    def __init__(self, at_tenths: bool, limit: int = 1, clock: Clock = time.monotonic):
        self.at_tenths, self.limit, self.clock = at_tenths, limit, clock
        self.has_begun = False
        self.cost: float | None = None
        self._is_useful, self._waits = True, False
        self._last_save = self._before_save = clock()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.compute_steps(args, state.max_steps)  # else a resumed run has the `save_steps` of the checkpoint's call
        self._last_save = self._before_save = self.clock()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.has_begun = True

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        self._waits, self._before_save = False, self.clock()
        if control.should_training_stop:  # the results come next, and then the checkpoints are deleted
            control.should_save = False
            return
        if self.at_tenths and state.global_step in tenths(state.max_steps):
            worth = args.should_save and self._is_worth(Path(args.output_dir), model, optimizer)
            control.should_save |= of_the_main_process(worth, args)  # each process has its own clock
        if control.should_save and not control.should_evaluate and float(state.epoch).is_integer():
            # The epoch's evaluation draws from the random state. A run resumed from before it would not make it.
            control.should_save, self._waits = False, True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._before_save = self.clock()
        control.should_save |= self._waits
        control.should_save &= not control.should_training_stop

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self._before_save = self.clock()

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._before_save = self.clock()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        args.distributed_state.wait_for_everyone()  # each process has written its random state
        if args.should_save and not control.should_training_stop:  # a resumed run would not stop
            self._complete(Path(args.output_dir), state.global_step, args.world_size)
        self._last_save = self.clock()
        self.cost = self._last_save - self._before_save

    def _complete(self, folder: Path, step: int, processes: int) -> None:
        checkpoint = folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        try:
            for name in ("config.json", "steps.rec"):  # without them the checkpoint is of no use
                if (folder / name).is_file():
                    sync(folder / name)
            self._is_useful = write_manifest(checkpoint, processes)
        except OSError as error:  # the run goes on; an error, because `quiet` hides warnings
            logger.error(f"{checkpoint} is not complete ({error}); the run goes on without it")
        delete_older(folder, self.limit)

    def _is_worth(self, folder: Path, model: Any, optimizer: Any) -> bool:
        size = bytes_to_write(model, optimizer)
        cost = size / ASSUMED_SPEED if self.cost is None else self.cost
        worth = self._is_useful and is_worth(self.clock() - self._last_save, cost)
        return worth and shutil.disk_usage(folder).free > 2 * size  # a full disk would end the run
