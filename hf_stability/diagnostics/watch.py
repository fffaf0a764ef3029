"""The early warning at work: it looks at a run every 5% of training, and raises its alarm once."""

from __future__ import annotations

import math
from typing import Any

import torch

from .early_warning import Alarm, check, check_steps, find_alarm
from .guard import Guard
from .recorder import RECORD, Recorder


EARLY_WARNING = "the early warning"
"""The part's name in warnings."""


class Watch:
    """Looks at a run's record at the steps of [`check_steps`][hf_stability.diagnostics.early_warning.check_steps].

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


def of_the_main_process(value: Any, args: Any) -> Any:
    """The main process's value, in every process."""
    if args.world_size == 1 or not torch.distributed.is_initialized():
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values)
    return values[0]
