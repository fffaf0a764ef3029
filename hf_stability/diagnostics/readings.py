"""What users read off a callback: each of the training that goes on, or of the last one."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from .gradients import GradientMeter
from .monitor import Monitor


def _reading(path: str, doc: str) -> property:
    """A property that stands for an attribute further down: `monitor.verdict`."""
    owner, _, name = path.rpartition(".")
    return property(attrgetter(path), lambda self, value: setattr(attrgetter(owner)(self), name, value), doc=doc)


class Readings:
    """Reads a callback's monitor. [`StabilityCallback`][hf_stability.StabilityCallback] says what the public ones are.

    Attributes:
        monitor: of the training; before the first one it is empty.
    """

    monitor: Monitor

    alarm = _reading("monitor.alarm", "The early warning's alarm; None before one.")
    constant = _reading("monitor.constant", "The baseline after training; None where it is not known.")
    evaluation = _reading(
        "monitor.evaluations.last", "The last evaluation that counts; an empty one before the first."
    )
    guard = _reading("monitor.guard", "Where our own errors end; `guard.off` names the parts that raised.")
    recorder = _reading("monitor.recorder", "Records the training; None before the first.")
    stopped = _reading("monitor.stopped", "Whether the alarm ended the training.")
    verdict = _reading(
        "monitor.verdict", "The verdict after training; None before, and in all processes but the main one."
    )

    @property
    def record(self) -> dict[str, Any]:
        """The rows so far, as arrays: see `read_steps`. In mid-training, a call for all processes together."""
        if self.recorder is None:
            raise RuntimeError("nothing is recorded yet: the callback's trainer has not trained")
        self.monitor.flush()
        return self.recorder.record.to_dict()

    @property
    def meter(self) -> GradientMeter | None:
        """Measures the gradients of the training that is going on."""
        return self.recorder.meter if self.recorder is not None else None

    @property
    def _micro_batches(self) -> list:
        """Batches of the model that are held: those of the update step that is going on, else none."""
        return self.recorder.micro_batches if self.recorder is not None else []

    _eval_batches = ()  # none: evaluations are the Trainer's own
