"""The early warning at work: it looks at a run every 5% of training, and raises its alarm once, and what the user wants is done."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerControl

from .early_warning import Alarm, check, check_steps, find_alarm
from .guard import Guard
from .recorder import RECORD, Recorder


logger = logging.getLogger("hf_stability.callback")  # whose lines they are for a user

EARLY_WARNING = "the early warning"
"""The part's name in warnings."""


class Watch:
    """Looks at a run's record at the steps of `check_steps`.

    Args:
        recorder: of the training.
        guard: where our own errors end.

    Attributes:
        alarm: once it was raised; that of the steps before in a resumed run.
    """

    def __init__(self, recorder: Recorder, guard: Guard):
        self.recorder, self.guard = recorder, guard
        info = recorder.record.info
        self.steps = set(check_steps(info["warmup_steps"], info["max_steps"]))
        self.alarm: Alarm | None = of_the_main_process(
            guard.run(EARLY_WARNING, find_alarm, recorder.record.to_dict()), recorder.args
        )

    def look(self, step: int) -> tuple[float, Alarm | None]:
        """The risk after an update step, NaN where the record does not say enough, and the alarm where this is the first.

        All processes call it together, and get the same.
        """
        # In a resumed run only the main process has the steps before; all must stop, or none.
        found = self.guard.run(EARLY_WARNING, self._check, step, default=(math.nan, None))
        risk, alarm = of_the_main_process(found, self.recorder.args)
        if alarm is None or self.alarm is not None:
            return risk, None
        self.alarm = alarm
        return risk, alarm

    def _check(self, step: int) -> tuple[float, Alarm | None]:
        if RECORD in self.guard.off:
            return math.nan, None
        self._note_own_loss()
        return check(self.recorder.record.to_dict(), step, self.recorder.state.max_steps)

    def _note_own_loss(self) -> None:
        loss_check, record = self.recorder.loss_check, self.recorder.record
        own = loss_check.is_own() if loss_check is not None and not record.info.get("own_loss") else None
        if own is not None and bool(own):
            self.recorder.change(lambda: record.update_info(own_loss=True))


def respond(
    alarm: Alarm,
    on_alarm: str | Callable[[Alarm, TrainerControl], None],
    control: TrainerControl,
    args: Any,
    state: Any,
    audited: bool = False,
) -> bool:
    """Do what the user wants at an alarm. All processes call it together, with the same alarm.

    Args:
        alarm: it was just raised.
        on_alarm, audited: see [`StabilityCallback`][hf_stability.StabilityCallback].
        control: the Trainer's; stopped and saved through it.
        args: the training arguments.
        state: the Trainer's.

    Returns:
        whether this ended the training.
    """
    if on_alarm == "none":
        return False
    stopping = control.should_training_stop  # by somebody else
    if callable(on_alarm):
        on_alarm(alarm, control)
    else:
        control.should_training_stop |= on_alarm == "stop" and not audited
        if state.is_world_process_zero:
            logger.warning(alarm.sentence)
    stopped = control.should_training_stop and not stopping
    if stopped:
        control.should_save |= args.save_strategy != "no"
    return stopped


def of_the_main_process(value: Any, args: Any) -> Any:
    """The main process's value, in every process."""
    if args.world_size == 1 or not torch.distributed.is_initialized():
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values)
    return values[0]
