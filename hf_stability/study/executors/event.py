"""Events of jobs, as executors tell them. An executor is a function `execute(jobs, folders, listen, ...)`.

It runs every job, and calls `listen(event)` for each `Event`. The same job gives the same bits with every executor.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..job import Job
from ..records import RunRecord


@dataclass(frozen=True)
class Event:
    """Something that happened to a job.

    Args:
        job: the job.
        kind: "progress", "looked" (a job that trains only until its look), "finished", "crashed", or "again" (it crashed, and
            will be run again).
        steps, total: with "progress": update steps done, and of the whole training.
        loss: with "progress": the train loss of the last recorded update step, in nats; None before the first.
        risk: with "progress": the last risk of the early warning, in [0, 1]; None before the first.
        attempt: with "progress": which training of a run that restarts, `attempt 2 of 3`; else empty.
        run: with "looked" and "finished": the run's record.
        error: with "crashed" and "again": the error in one line. The run's `error.txt` has the traceback.
    """

    job: Job
    kind: str
    steps: int = 0
    total: int = 0
    loss: float | None = None
    risk: float | None = None
    attempt: str = ""
    run: RunRecord | None = None
    error: str = ""


Listen = Callable[[Event], None]


REPORT_EVERY = 0.2
"""Seconds between two reports of a run in another process. Each costs both processes a little."""


def throttled(report: Callable[..., Any], seconds: float = REPORT_EVERY) -> Callable[..., None]:
    """A function `report(steps, total, ...)` that passes on the first report, the last, and at most one per `seconds` between."""
    last = -float("inf")

    def passes(steps: int, total: int, *more: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= seconds or steps >= total:
            last = now
            report(steps, total, *more)

    return passes


def ending(job: Job) -> str:
    """The kind of the event at a job's regular end."""
    return "looked" if job.until_look else "finished"


def write_error(folder: Path, error: Exception) -> str:
    """Write the traceback into the run's folder, if possible; return its last line."""
    lines = traceback.format_exception(error)
    with contextlib.suppress(OSError):  # a full disk, or a file in the folder's place; the last line tells it
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text("".join(lines), encoding="utf-8")
    return lines[-1].strip().splitlines()[0]
