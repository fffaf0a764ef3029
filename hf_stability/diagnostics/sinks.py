"""Sinks: they take a run's numbers while it trains.

Each sink has its own file: TensorBoard, the Trainer's other loggers, the files at the end. To add a sink, subclass `Sink`,
override the events that it needs, and add a line to `Monitor._make_sinks`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .dashboard import curves
from .early_warning import Alarm
from .guard import Guard
from .outcome import Outcome


POINTS = 1000  # points per curve: TensorBoard shows no more, and other loggers get no more


class Sink:
    """Takes a run's numbers while it trains, in the main process. An event does nothing unless a subclass overrides it.

    The events come in this order: `open`; then `numbers`, `flush`, `evaluation` and `alarm` as they occur; `end` when
    training ends, unless it was interrupted; and `close`. A sink that raises gives one warning and gets no more events.
    Training continues.

    Attributes:
        name (str): the name in that warning, with its article.
    """

    name: str = "a sink"

    def open(self, columns: list[str]) -> None:
        """Called at the beginning of training.

        Args:
            columns: names of the record's columns.
        """

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Called with the numbers of an update step.

        Rows come in blocks, each row once, in the order of the steps. A long run sends at most 1000 rows.

        Args:
            values: tag -> number: a row of the record as curves, or the early warning's risk.
            step: the update step.
        """

    def flush(self) -> None:
        """Called after a block of rows."""

    def evaluation(self, metrics: Mapping[str, float], step: int) -> None:
        """Called with the scores of each evaluation during training, also one that the user's code makes.

        Args:
            metrics: the Trainer's metrics, with keys `eval_...`.
            step: the update step.
        """

    def alarm(self, alarm: Alarm) -> None:
        """Called once, if the early warning raises its alarm.

        Args:
            alarm: the alarm: its step, risk and sentence.
        """

    def end(self, outcome: Outcome) -> None:
        """Called at the end of training.

        Args:
            outcome: the verdict, the final scores, the record.
        """

    def close(self, abandoned: bool = False) -> None:
        """Close files. A second call does nothing.

        Args:
            abandoned: whether the training was interrupted or raised.
        """


class Sinks:
    """All sinks of a training, in the order in which they get each event.

    Args:
        sinks: the sinks.
        guard: catches their errors.
        max_steps: update steps of the training.
        label_counts: `(classes,)` examples of each class in the record so far, for a resumed run.
    """

    def __init__(self, sinks: Sequence[Sink], guard: Guard, max_steps: int = 0, label_counts: Any = 0.0) -> None:
        self.sinks, self.guard, self.max_steps, self.label_counts = list(sinks), guard, max_steps, label_counts

    def tell(self, event: str, *values: Any) -> None:
        """Call this method of each sink."""
        for sink in self.sinks:
            self.guard.run(sink.name, getattr(sink, event), *values)

    def rows(self, columns: Sequence[str], rows: np.ndarray) -> None:
        """Send a block of the record as `numbers`.

        Args:
            columns: names of the record's columns.
            rows: `(steps, columns)`.
        """
        if any(type(sink).numbers is not Sink.numbers for sink in self.sinks):
            self.guard.run("the curves", self._send, columns, rows)

    def _send(self, columns: Sequence[str], rows: np.ndarray) -> None:
        drawn = curves(columns, rows, self.label_counts)
        self.label_counts = self.label_counts + np.nansum(rows[:, [c.startswith("labels/") for c in columns]], axis=0)
        every = math.ceil(self.max_steps / POINTS)
        for i in np.flatnonzero((rows[:, 0] - 1) % every == 0):
            self.tell("numbers", {tag: float(values[i]) for tag, values in drawn.items()}, int(rows[i, 0]))
        self.tell("flush")

    def close(self, abandoned: bool) -> None:
        """Close each sink, even if it raised before, and drop it."""
        sinks, self.sinks = self.sinks, []
        for sink in sinks:
            self.guard.run(f"closing {sink.name}", sink.close, abandoned)
