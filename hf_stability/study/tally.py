"""Counts what has happened to a study's runs, and estimates the time that is left."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..utils.batches import total_batch_size
from ..utils.text import utc_now
from ..verdicts.verdict import NOT_OK
from .executors.event import Event
from .job import Job
from .progress_file import RunningRun, Snapshot
from .records import RunRecord


EARLIEST = 10.0
"""Seconds after the first update step. An earlier estimate of the time left would be a guess."""


@dataclass
class _Pace:
    """A running run: its last event, and where and when its training began in this call."""

    event: Event
    first_steps: int
    first_time: float


class Tally:
    """Counts runs and work. Work is in shares of the planned runs' whole work.

    Args:
        jobs: the runs that are missing at the start.
        found: the records of the planned runs that are kept from an earlier call.
        kind: "run" or "stage".
        clock: seconds of a clock that never jumps.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        found: Sequence[RunRecord] = (),
        kind: str = "run",
        clock: Callable[[], float] = time.monotonic,
    ):
        self.kind, self.clock = kind, clock
        work = {job.name: _work(job) for job in jobs}
        self.shares = {name: amount / sum(work.values()) for name, amount in work.items()}
        self.fractions = dict.fromkeys(self.shares, 0.0)
        self.planned = (*(run.name for run in found), *self.shares)
        self.finished = len(found)
        self.failed = sum(run.status in NOT_OK for run in found)
        self.crashed: dict[str, str] = {}
        self.again: set[str] = set()
        self.running: dict[str, _Pace] = {}
        self.began: float | None = None  # the first update step: imports come once
        self.work_here = 0.0
        self.since, self.beat = utc_now(), 0
        self.decided = ""

    def take(self, event: Event) -> None:
        """Count an event."""
        name = event.job.name
        if event.kind == "progress":
            self._advance(event)
        elif event.kind == "again":
            self.running.pop(name, None)
            self.fractions[name] = 0.0
            self.again.add(name)
        elif event.kind == "looked":
            self.running.pop(name, None)
        elif event.run is not None:
            self.end(event.run, name)
        else:
            self.crashed[name] = event.error
            self._over(name)

    def end(self, run: RunRecord, name: str = "") -> None:
        """Count a run as finished.

        Args:
            run: its record.
            name: the job's name. Default: the record's.
        """
        if run.status != "waiting":  # such a run goes on in a later call
            self.finished += 1
            self.failed += run.status in NOT_OK
        self._over(name or run.name)

    def leave_out(self, names: Sequence[str], why: str) -> None:
        """Take jobs out of the plan that have not begun; `why` is for the snapshot."""
        self.decided = why
        for name in names:
            del self.shares[name], self.fractions[name]
        self.planned = tuple(name for name in self.planned if name not in names)
        left = sum(self.shares.values())
        self.shares = {name: share / left for name, share in self.shares.items()}

    def _over(self, name: str) -> None:
        self.running.pop(name, None)
        self.again.discard(name)
        self.fractions[name] = 1.0

    def _advance(self, event: Event) -> None:
        name, done = event.job.name, event.steps / max(event.total, 1)
        pace = self.running.get(name)
        if pace is not None and pace.event.attempt != event.attempt:  # its steps begin at 0 again
            pace.first_steps, pace.first_time = event.steps, self.clock()
        if pace is None:
            now = self.clock()
            # A resumed run had its first steps before. They are no work of this call. Nor is the step that starts the clock.
            first = event.steps - (self.began is not None)
            self.began = now if self.began is None else self.began
            pace = self.running[name] = _Pace(event, first, now)
            self.again.discard(name)
            self.fractions[name] = first / max(event.total, 1)
        self.work_here += self.shares.get(name, 0.0) * max(done - self.fractions[name], 0.0)
        self.fractions[name] = done
        pace.event = event

    @property
    def share(self) -> float:
        """Done share of the work of the jobs, in [0, 1]; 1 without jobs."""
        if not self.shares:
            return 1.0
        return min(sum(share * self.fractions[name] for name, share in self.shares.items()), 1.0)

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the work done in this call, and at least what the slowest running run needs. None if unknown."""
        now = self.clock()
        if self.began is None or now - self.began < EARLIEST or self.work_here <= 0:
            return None
        left = (1.0 - self.share) * (now - self.began) / self.work_here
        for pace in self.running.values():
            steps, seconds = pace.event.steps - pace.first_steps, now - pace.first_time
            if steps > 1 and seconds >= EARLIEST:
                left = max(left, (pace.event.total - pace.event.steps) * seconds / steps)
        return left

    def snapshot(self, state: str = "running") -> Snapshot:
        """The counts at this moment."""
        self.beat += 1
        return Snapshot(
            state=state,
            kind=self.kind,
            host=socket.gethostname(),
            process=os.getpid(),
            since=self.since,
            written=utc_now(),
            beat=self.beat,
            planned=self.planned,
            running=tuple(_running(pace.event) for pace in self.running.values()) if state == "running" else (),
            finished=self.finished,
            failed=self.failed,
            again=len(self.again),
            crashed=dict(self.crashed),
            share=self.share,
            seconds_left=self.seconds_left if state == "running" else None,
            decided=self.decided,
        )


def _running(event: Event) -> RunningRun:
    job = event.job
    numbers = event.steps, event.total, event.loss, event.risk
    return RunningRun(job.name, job.recipe, seed_text(job), *numbers, event.attempt)


def seed_text(job: Job) -> str:
    """A job's seed in a table: `7`; of two-way seeds `i2 o1 d1`; of a stage nothing."""
    if job.is_stage:
        return ""
    return str(job.seed) if job.cell is None else " ".join(f"{name[0]}{number}" for name, number in job.cell.items())


def _work(job: Job) -> float:
    """A job's amount of work, relative to other jobs: update steps, or epochs / batch size if epochs are given."""
    if job.args.get("max_steps", -1) > 0:
        return job.args["max_steps"]
    return job.args.get("num_train_epochs", 3.0) / total_batch_size(job.args, job.processes)
