"""Sinks: where a run's numbers go as it trains. One file each: TensorBoard, the Trainer's other loggers, the files at the end.

To add one: subclass [`Sink`], override the events it wants, and add a line to `Monitor._make_sinks`.
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


POINTS = 1000  # a curve's points; TensorBoard shows no more, and other loggers get no more


class Sink:
    """Takes a run's numbers, in the main process. Each event does nothing unless a subclass overrides it.

    In this order: `open`; then `numbers`, `flush`, `evaluation` and `alarm` as they come; `end` at the end of training (not
    of one that was interrupted); `close`. A sink that raises is warned of once and gets no more; the training goes on.

    Attributes:
        name: with its article, for that warning.
    """

    name = "a sink"

    def open(self, columns: list[str]) -> None:
        """At the beginning of training.

        Args:
            columns: of the record.
        """

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of an update step.

        Args:
            values: tag -> number: a row of the record (see [`curves`][hf_stability.diagnostics.dashboard.curves]), or the
                early warning's risk.
            step: the update step. Rows come in blocks, each row once, the steps in order; of a long run at most 1000 rows.
        """

    def flush(self) -> None:
        """After a block of rows."""

    def evaluation(self, metrics: Mapping[str, float], step: int) -> None:
        """Scores of an evaluation in mid-training, the user's own included.

        Args:
            metrics: keys `eval_...`, as the Trainer has them.
            step: the update step.
        """

    def alarm(self, alarm: Alarm) -> None:
        """The early warning's alarm, once."""

    def end(self, outcome: Outcome) -> None:
        """At the end of training: the verdict, the final scores, the record."""

    def close(self, abandoned: bool = False) -> None:
        """Let go of files. A second time it does nothing.

        Args:
            abandoned: the training was interrupted, or raised.
        """


class Sinks:
    """All sinks of a training, in the order in which they get each event.

    Args:
        sinks: each a [`Sink`].
        guard: where their errors end.
        max_steps: update steps of the training.
        label_counts: `(classes,)` examples of each class in the record so far, a resumed run's.
    """

    def __init__(self, sinks: Sequence[Sink], guard: Guard, max_steps: int = 0, label_counts: Any = 0.0):
        self.sinks, self.guard, self.max_steps, self.label_counts = list(sinks), guard, max_steps, label_counts

    def tell(self, event: str, *values: Any) -> None:
        """Call this method of each sink."""
        for sink in self.sinks:
            self.guard.run(sink.name, getattr(sink, event), *values)

    def rows(self, columns: Sequence[str], rows: np.ndarray) -> None:
        """Send a block of the record as `numbers`.

        Args:
            columns: of the record.
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
        """Close each of them, also one that raised before, and let go of them."""
        sinks, self.sinks = self.sinks, []
        for sink in sinks:
            self.guard.run(f"closing {sink.name}", sink.close, abandoned)
