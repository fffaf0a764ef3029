"""A sink: where a run's numbers go as it trains. One file each: TensorBoard, the Trainer's other loggers."""

from __future__ import annotations

from collections.abc import Mapping

from ..verdicts.verdict import Verdict
from .early_warning import Alarm


class Sink:
    """Takes a run's numbers. A sink that raises is warned of once and gets no more; the training goes on.

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
        """Numbers of an update step, by their tags: see [`curves`][hf_stability.diagnostics.dashboard.curves]."""

    def flush(self) -> None:
        """After a block of steps."""

    def evaluation(self, metrics: Mapping[str, float], step: int) -> None:
        """An evaluation's scores, keys `eval_...`."""

    def alarm(self, alarm: Alarm) -> None:
        """The early warning's alarm."""

    def end(self, verdict: Verdict, final: Mapping[str, float], step: int, picture: bytes | None) -> None:
        """At the end of training.

        Args:
            verdict: on the run.
            final: `final/<metric>`, `final/failed`.
            step: the last update step.
            picture: the heat map, a PNG; None without one.
        """

    def close(self, abandoned: bool = False) -> None:
        """Let go of files. A second time it does nothing.

        Args:
            abandoned: the training was interrupted, or raised.
        """
