"""The loop over the attempts of a run, for `StableTrainer` and for the stock Trainer alike."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import TrainOutput, get_last_checkpoint

from ..callback import StabilityCallback
from ..diagnostics.attempt import ALARM
from ..diagnostics.attempt_log import AttemptLog, read_attempts
from ..diagnostics.begin_again import RunAbandoned, begins_again
from ..diagnostics.watch import of_the_main_process
from ..errors import InputError


logger = logging.getLogger("hf_stability.callback")  # the name that a user knows

Checkpoint = str | bool | None

Prepare = Callable[[AttemptLog], Any]
"""Makes the trainer of the current attempt ready, and returns it. It sets the log's `settings` and `seeds`."""

Train = Callable[[Any, Checkpoint], TrainOutput]
"""Trains a trainer once, from a checkpoint or from update step 0."""


def train_in_attempts(
    trainer: Any, prepare: Prepare, train: Train, max_restarts: int, checkpoint: Checkpoint = None
) -> tuple[Any, TrainOutput]:
    """Train a run until an attempt reaches its end. All processes call this together.

    Args:
        trainer: the trainer of the first attempt.
        prepare: see `Prepare`. It is called for each attempt.
        train: see `Train`.
        max_restarts: how often the run may begin again.
        checkpoint: `resume_from_checkpoint`.

    Returns:
        the trainer of the last attempt, and its output.
    """
    refuse(trainer)
    log = open_log(trainer, max_restarts, checkpoint)
    if not log.is_clean:  # the run was killed between two attempts
        clean(log, trainer)
        checkpoint = None
    if log.number and checkpoint is True and get_last_checkpoint(trainer.args.output_dir) is None:
        checkpoint = None  # the attempt was killed before its first checkpoint
    states = callback_states(trainer)
    while True:
        trainer = prepare(log)
        if log.number:
            begin_callbacks_again(trainer.callback_handler.callbacks, states)
        callback = callback_of(trainer)
        callback.restarts = log
        try:
            output = train(trainer, checkpoint)
        except RunAbandoned as found:
            ended = found.reason, found.step, found.total_steps  # not the exception: it would keep the old model alive
        else:
            log.finish(_alarm_of(callback), trainer.state.global_step, trainer.state.max_steps)
            return trainer, output
        reason, steps, total_steps = ended
        log.abandon(reason, _alarm_of(callback) if reason == ALARM else None, steps, total_steps)
        clean(log, trainer)
        checkpoint = None
        if trainer.args.should_log:
            logger.warning(begins_again(reason, steps, total_steps, log.number, log.max_restarts))
        del trainer, callback  # a new trainer's model may need their memory


def open_log(trainer: Any, max_restarts: int, checkpoint: Checkpoint) -> AttemptLog:
    """The log of a run that begins, or that continues from a checkpoint. All processes get the same one.

    Raises:
        InputError: `attempts.json` cannot be read. All processes raise it.
    """
    args, callback = trainer.args, callback_of(trainer)
    main = trainer.is_world_process_zero()
    folder = Path(args.output_dir, "stability") if callback.output_dir is None else Path(callback.output_dir)
    content, fault = None, None
    elsewhere = None
    if checkpoint and checkpoint is not True and Path(checkpoint).parent.resolve() != Path(args.output_dir).resolve():
        elsewhere = Path(checkpoint).parent  # the run began with another output_dir
    if main and checkpoint:
        try:
            content = read_attempts(folder if elsewhere is None else elsewhere / "stability")
        except InputError as error:
            fault = str(error)
    content, fault = of_the_main_process((content, fault), args)
    if fault is not None:  # in all processes: the others would wait for the main one
        raise InputError(fault)
    log = AttemptLog(folder if main else None, Path(args.output_dir), max_restarts, content)
    if content is None or elsewhere is not None:
        log.begin(resumed=bool(checkpoint) and elsewhere is None)
    return log


def clean(log: AttemptLog, trainer: Any) -> None:
    """Clear the way for the next attempt. No process goes on before that is done."""
    if trainer.args.push_to_hub:
        trainer._finish_current_push()
    log.clean(trainer.state.log_history)
    trainer.args.distributed_state.wait_for_everyone()


def callback_of(trainer: Any, on_alarm: str | None = None) -> StabilityCallback:
    """The trainer's StabilityCallback. One with this `on_alarm` is added if there is none."""
    found = [each for each in trainer.callback_handler.callbacks if isinstance(each, StabilityCallback)]
    if not found:
        found = [StabilityCallback(on_alarm=on_alarm)]
        trainer.add_callback(found[0])
    return found[0]


def callback_states(trainer: Any) -> list[tuple[Any, dict[str, Any]]]:
    """The callbacks that export their state, each with a copy of it."""
    found = [each for each in trainer.callback_handler.callbacks if isinstance(each, ExportableState)]
    return [(each, copy.deepcopy(each.state().get("attributes", {}))) for each in found]


def begin_callbacks_again(callbacks: list[Any], states: list[tuple[Any, dict[str, Any]]]) -> None:
    """Give callbacks the state again that they had when training began, and close progress bars.

    Only callbacks that export their state have it in `states`. Others must begin anew in their `on_train_begin`.
    """
    for callback in callbacks:
        for name, value in next((own for known, own in states if known is callback), {}).items():
            setattr(callback, name, copy.deepcopy(value))
        bar = getattr(callback, "training_bar", None)
        if bar is not None and hasattr(bar, "close"):
            bar.close()


def refuse(trainer: Any) -> None:
    """Raises InputError for a trainer that cannot begin again."""
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise InputError(
            "--on_alarm restart: does not work with DeepSpeed or FSDP, where the early warning has no gradient norms; give warn"
        )


def _alarm_of(callback: StabilityCallback) -> dict[str, Any] | None:
    return None if callback.alarm is None else callback.alarm.to_dict()
