"""The values that users read from a callback: those of the current training, or of the last one."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from ..verdicts.verdict import Verdict
from .attempt import Attempt
from .attempt_log import AttemptLog
from .early_warning import Alarm
from .evaluation import Evaluation
from .gradients import GradientMeter
from .guard import Guard
from .monitor import Monitor
from .recorder import Recorder


def _reading(path: str, doc: str) -> Any:
    """A property that reads and writes a nested attribute, such as `monitor.verdict`."""
    owner, _, name = path.rpartition(".")
    return property(attrgetter(path), lambda self, value: setattr(attrgetter(owner)(self), name, value), doc=doc)


class Readings:
    """Reads a callback's monitor. `StabilityCallback` documents the public values.

    Attributes:
        monitor: the training's monitor. Empty before the first training.
    """

    monitor: Monitor
    restarts: AttemptLog | None = None  # set by a trainer that restarts runs

    alarm: Alarm | None = _reading("monitor.alarm", "The early warning's alarm. None before one.")
    constant: dict[str, Any] | None = _reading(
        "monitor.constant", "The baseline, after training. None if it is not known."
    )
    evaluation: Evaluation = _reading(
        "monitor.evaluations.last", "The last evaluation that counts. Empty before the first."
    )
    guard: Guard = _reading(
        "monitor.guard", "Catches errors of the callback. `guard.off` names the parts that raised."
    )
    recorder: Recorder | None = _reading("monitor.recorder", "Records the training. None before the first.")
    stopped: bool = _reading("monitor.stopped", "Whether the alarm ended the training.")
    verdict: Verdict | None = _reading(
        "monitor.verdict", "The verdict after training. None before, and in all processes but the main one."
    )

    @property
    def record(self) -> dict[str, Any]:
        """The rows so far, as arrays: see `read_steps`.

        During training all processes must read it together.

        Raises:
            RuntimeError: the callback's trainer has not trained.
        """
        if self.recorder is None:
            raise RuntimeError(
                "record: there is no record yet, because the callback's trainer has not trained. Call trainer.train() first."
            )
        self.monitor.flush()
        return self.recorder.record.to_dict()

    @property
    def attempts(self) -> list[Attempt]:
        """The attempts of a run with `on_alarm="restart"`, see `Attempt`. During training those before the current one."""
        return list(self.restarts.attempts) if self.restarts is not None else []

    @property
    def meter(self) -> GradientMeter | None:
        """Measures the gradients of the current training. None without a training."""
        return self.recorder.meter if self.recorder is not None else None

    @property
    def _micro_batches(self) -> list:
        """Batches that are kept in memory: those of the current update step, else none."""
        return self.recorder.micro_batches if self.recorder is not None else []

    _eval_batches = ()  # none are kept: the Trainer makes the evaluations
