"""The early warning during training: it looks at the run every 5% of training, raises at most one alarm, and responds to it."""

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


logger = logging.getLogger("hf_stability.callback")  # the name that a user knows

EARLY_WARNING = "the early warning"
"""The part's name in warnings."""


class Watch:
    """Looks at a run's record at the steps of `check_steps`.

    Args:
        recorder: the training's recorder.
        guard: catches errors of the parts.

    Attributes:
        steps: update steps after which it looks.
        alarm: the alarm, once it was raised. In a resumed run, also an alarm of the steps before.
    """

    def __init__(self, recorder: Recorder, guard: Guard) -> None:
        self.recorder, self.guard = recorder, guard
        info = recorder.record.info
        self.steps = set(check_steps(info["warmup_steps"], info["max_steps"]))
        self.alarm: Alarm | None = of_the_main_process(
            guard.run(EARLY_WARNING, find_alarm, recorder.record.to_dict()), recorder.args
        )

    def look(self, step: int) -> tuple[float, Alarm | None]:
        """Look at the run after an update step. All processes must call this together; they get the same result.

        Returns:
            the risk, NaN if the record is not sufficient; and the alarm, if this is the first one, else None.
        """
        # In a resumed run only the main process has the steps before. All processes must stop, or none.
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
    """Respond to an alarm as the user wants. All processes must call this together, with the same alarm.

    Args:
        alarm: the alarm, just raised.
        on_alarm: see `StabilityCallback`.
        control: the Trainer's control, through which training is stopped and a checkpoint saved.
        args: the training arguments.
        state: the Trainer's state.
        audited: see `StabilityCallback`.

    Returns:
        whether the response ended the training.
    """
    if on_alarm == "none":
        return False
    stopping = control.should_training_stop  # already, for another reason
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
