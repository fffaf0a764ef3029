"""What users read off a callback: each of the training that goes on, or of the last one."""

from __future__ import annotations

from typing import Any

from ..verdicts.verdict import Verdict
from .early_warning import Alarm
from .evaluation import Evaluation
from .gradients import GradientMeter
from .guard import Guard
from .monitor import Monitor
from .recorder import Recorder


class Readings:
    """Reads a callback's monitor. [`StabilityCallback`][hf_stability.StabilityCallback] says what the public ones are.

    Attributes:
        monitor: of the training; before the first one it is empty.
    """

    monitor: Monitor

    @property
    def record(self) -> dict[str, Any]:
        """The rows so far, as arrays: see [`read_steps`]. In mid-training, a call for all processes together."""
        if self.recorder is None:
            raise RuntimeError("nothing is recorded yet: the callback's trainer has not trained")
        self.monitor.flush()
        return self.recorder.record.to_dict()

    @property
    def recorder(self) -> Recorder | None:
        """Records the training; None before the first."""
        return self.monitor.recorder

    @property
    def meter(self) -> GradientMeter | None:
        """Measures the gradients of the training that is going on."""
        return self.recorder.meter if self.recorder is not None else None

    @property
    def guard(self) -> Guard:
        """Where our own errors end; `guard.off` names the parts that raised."""
        return self.monitor.guard

    @property
    def evaluation(self) -> Evaluation:
        """The last evaluation that counts."""
        return self.monitor.evaluations.last

    @property
    def alarm(self) -> Alarm | None:
        """The alarm, once it was raised."""
        return self.monitor.alarm

    @property
    def stopped(self) -> bool:
        """Whether the alarm ended the training."""
        return self.monitor.stopped

    @property
    def verdict(self) -> Verdict | None:
        """The verdict after training."""
        return self.monitor.verdict

    @property
    def constant(self) -> dict[str, Any] | None:
        """The baseline after training."""
        return self.monitor.constant

    @property
    def _micro_batches(self) -> list:
        """Batches of the model that are held: those of the update step that is going on, else none."""
        return self.recorder.micro_batches if self.recorder is not None else []

    _eval_batches = ()  # none: evaluations are the Trainer's own
