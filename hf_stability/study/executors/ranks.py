"""`--parallel seeds`: under a launcher with several processes, each process (rank) trains its own runs.

The ranks talk through the key-value store that the launcher gives to all of them. To accelerate, each rank is a single process:
its jobs have the same ids and the same bytes as without a launcher.

Rank 0, the main rank, owns the study: the folder, the tables, what is printed. It publishes a round of jobs at a time. Every rank,
the main one too, takes the next job of the round when it is free. The main rank waits until all jobs of a round have ended. The
other ranks tell it by events. At the end of the study it publishes how it ended.

| key | who sets it | what |
| --- | --- | --- |
| `alive/RANK` | each rank | a counter, raised every `SIGN` seconds |
| `STUDY/round/N` | the main rank | the jobs of round N, or how the study ended |
| `STUDY/next/N` | each rank | number of jobs of round N that were taken |
| `STUDY/taken/N/I` | the rank that takes job I | its number |
| `STUDY/lost/N/I` | the main rank | job I has another rank now: leave it |
| `STUDY/event/RANK/K` | each other rank | its event K; the main rank deletes it |
| `STUDY/stop` | the main rank | the study ended early: leave your run |
| `STUDY/bye/N` | each other rank | number of ranks that know the end |

`STUDY` counts the studies of these processes: no study sees what an earlier one has left.

No rank waits for one that is dead: a rank that gives no sign for `SILENCE` seconds is given up. The launcher itself ends all ranks
if one of them dies. Should a rank that was given up wake, it leaves its run at the next update step.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...tasks.load import is_saved
from ...utils.launcher import Place
from ...utils.text import error_line
from ..job import Job
from ..records import RunRecord
from ..stop import stop_if_asked
from .event import Event, Listen, throttled
from .in_process import execute_in_process
from .seen import needed_files, wait_for_files, wait_for_record


POLL = 0.1  # seconds between two looks at the store
SIGN = 5.0
"""Seconds between two signs of life."""

SILENCE = 180.0
"""Seconds without a sign of life after which a rank counts as dead."""

GOODBYE = 20.0
"""Seconds that the main rank waits at the end for the others to know it. The store may end with the main rank."""

SHARED = 60.0
"""Seconds that a rank waits to see the study's data: a network file system may show new files late."""

ENDS = ("looked", "finished", "crashed")


class _Leave(BaseException):
    """Ends the run that this rank trains, without an event. An Exception would count as the run's crash."""

    def __init__(self, error: Exception):
        self.error = error


class Ranks:
    """The ranks of a launcher, from one of them.

    Args:
        store: of `torch.distributed`; all ranks have the same.
        here: this rank's place.
        gpus: number of GPUs that the ranks of this machine share.

    Attributes:
        sharing: number of ranks on this rank's GPU, or on its machine if that has none.
    """

    def __init__(self, store: Any, here: Place, gpus: int = 0) -> None:
        self.rank, self.size = here.rank, here.size
        self.sharing = math.ceil(here.local_size / gpus) if gpus else here.local_size
        self.study = self.round = 0
        self.plan = ""
        self.active = self.busy = False
        self._whole_store = self.store = store
        self._told = 0  # events of this rank
        self._heard = dict.fromkeys(range(self.size), 0)  # events of each rank
        self._looked = 0.0
        self._signs: dict[int, tuple[int, float]] = {}
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        atexit.register(self.leave)

    def leave(self) -> None:
        """End the signs of life. Their thread must not use the store of a process that ends."""
        self._left.set()
        self._thread.join(SIGN)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    # ---- the main rank -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def leading(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        """Run a study in this block. At its end, tell the other ranks how it ended.

        Args:
            jobs: all runs and stages of the study.

        Yields:
            a dict for what to tell them at a regular end.
        """
        self._begin(jobs)
        told: dict[str, Any] = {}
        try:
            yield told
        except BaseException as error:
            self._end({"end": type(error).__name__, "message": str(error)})
            raise
        self._end({"end": "done", **told})

    def execute(self, jobs: Sequence[Job], folders: Sequence[Path], listen: Listen) -> None:
        """Run the jobs on all ranks, and return when all have ended.

        Raises:
            InputError: a rank has other jobs, or does not see the study's folder.
        """
        if not jobs:
            return
        self.round += 1
        by_name = {job.name: (job, folder) for job, folder in zip(jobs, folders, strict=True)}
        running = set(by_name)
        given = [
            [job.name, job.until_look, *needed_files(job, folder)] for job, folder in zip(jobs, folders, strict=True)
        ]
        self._set(f"round/{self.round}", {"plan": self.plan, "jobs": given})

        def hear(event: Event) -> None:
            if event.job.name in running or event.kind not in ENDS:  # a rank that was given up may still end its job
                if event.kind in ENDS:
                    running.discard(event.job.name)
                listen(event)

        def hear_here(event: Event) -> None:
            hear(event)
            if time.monotonic() - self._looked > POLL:
                try:
                    hear_the_others()
                except Exception as error:  # not of the run that this rank trains
                    raise _Leave(error) from None

        def hear_the_others() -> None:
            self._looked = time.monotonic()
            for message in self._messages():
                if message["kind"] == "refused":
                    raise InputError(message["error"])
                if message["round"] == self.round:  # else its rank was given up in an earlier one
                    job, folder = by_name[message["job"]]
                    hear(_if_seen(_event(job, message), folder))
            for rank in self._gone():
                for number, job in enumerate(jobs):
                    if job.name in running and self._is_lost(number, rank, len(jobs)):
                        self.store.set(f"lost/{self.round}/{number}", "1")
                        hear(Event(job, "crashed", error=f"process {rank} of {self.size} is gone: no sign of life"))

        try:
            while (number := self._take(len(jobs))) is not None:
                execute_in_process([jobs[number]], [folders[number]], hear_here)
        except _Leave as left:
            raise left.error from None
        while running:
            stop_if_asked()
            hear_the_others()
            time.sleep(POLL)

    def _messages(self) -> Iterator[dict[str, Any]]:
        """The other ranks' messages since the last call."""
        for rank in range(1, self.size):
            while self.store.check([key := f"event/{rank}/{self._heard[rank]}"]):
                self._heard[rank] += 1
                yield json.loads(self.store.get(key))
                self.store.delete_key(key)

    def _gone(self) -> list[int]:
        return [rank for rank in range(1, self.size) if self._silent(rank)]

    def _is_lost(self, number: int, rank: int, jobs: int) -> bool:
        """Whether a rank that is gone took a job of this round. It may have died before it could tell."""
        key = f"taken/{self.round}/{number}"
        if self.store.check([key]):
            return int(self.store.get(key)) == rank
        return self.store.add(f"next/{self.round}", 0) >= jobs

    def _end(self, content: Mapping[str, Any]) -> None:
        self.round, self.active = self.round + 1, False
        with contextlib.suppress(RuntimeError):  # the store may be gone
            if content["end"] != "done":
                self.store.set("stop", "1")
            self._set(f"round/{self.round}", content)
            interrupted = content["end"] == "KeyboardInterrupt"  # then the launcher ends the others too
            until = time.monotonic() + (0 if interrupted else GOODBYE)
            while time.monotonic() < until and self.store.add(f"bye/{self.round}", 0) < self.size - 1:
                time.sleep(POLL)

    # ---- the other ranks -----------------------------------------------------------------------------------------------

    def serve(self, jobs: Sequence[Job], folders: Sequence[Path]) -> dict[str, Any]:
        """Run the main rank's jobs until it ends the study.

        Args:
            jobs, folders: all runs and stages of the study as this rank planned them, and the folder of each.

        Returns:
            how the study ended: `{"end": "done", ...}` with what the main rank told, or `{"end": NAME OF THE ERROR, "message":
            TEXT}`.

        Raises:
            InputError, KeyboardInterrupt: as in the main rank.
            SystemExit: the main rank is gone.
        """
        planned = {job.name: (job, folder) for job, folder in zip(jobs, folders, strict=True)}
        self._begin(jobs)
        try:
            while "end" not in (message := self._next_round()):
                if error := self._refusal(message, planned):
                    self._tell({"kind": "refused", "error": error})
                    continue
                self._work(message["jobs"], planned)
            self.active = False  # from here on, the store may end with the main rank
            self.store.add(f"bye/{self.round}", 1)
        except RuntimeError as error:  # torch's errors of the store
            raise SystemExit(
                f"process {self.rank} of {self.size}: the main process is gone ({error_line(error, first=True)})"
            ) from None
        finally:
            self.active = False
        if message["end"] == "InputError":
            raise InputError(message["message"])
        if message["end"] == "KeyboardInterrupt":
            raise KeyboardInterrupt
        return message

    def _next_round(self) -> dict[str, Any]:
        self.round += 1
        while not self.store.check([key := f"round/{self.round}"]):
            stop_if_asked()
            time.sleep(POLL)
        return json.loads(self.store.get(key))

    def _refusal(self, message: Mapping[str, Any], planned: Mapping[str, tuple[Job, Path]]) -> str:
        """Why this rank cannot take part; empty if it can."""
        who = f"process {self.rank} on {socket.gethostname()}"
        if message["plan"] != self.plan:
            return f"--parallel seeds: {who} planned other runs; start all processes with the same command, files and versions"
        until = time.monotonic() + SHARED
        for data in {Path(planned[name][0].data_folder) for name, *_ in message["jobs"]}:
            while not is_saved(data):
                if time.monotonic() > until:
                    return f"--parallel seeds: {who} does not see {data}; give an --output_dir on a file system that all machines share"
                time.sleep(POLL)
        return ""

    def _work(self, jobs: Sequence[Sequence[Any]], planned: Mapping[str, tuple[Job, Path]]) -> None:
        while (number := self._take(len(jobs))) is not None:
            name, until_look, *needed = jobs[number]
            job, folder = planned[name]
            self.busy = True
            try:
                self._run(replace(job, until_look=until_look), folder, needed, f"lost/{self.round}/{number}")
            finally:
                self.busy = False

    def _run(self, job: Job, folder: Path, needed: Sequence[Sequence[str]], lost: str) -> None:
        """Run one job, unless it is lost to another rank."""

        def progress(steps: int, total: int, event: Event) -> None:
            if self.store.check([lost]):
                raise _Leave(TimeoutError("another rank has this run"))
            self._tell(_message(event))

        report = throttled(progress)

        def listen(event: Event) -> None:
            if event.kind == "progress":
                report(event.steps, event.total, event)
            else:
                self._tell(_message(event))

        try:
            wait_for_files(job, folder, *needed)
        except FileNotFoundError as error:
            listen(Event(job, "crashed", error=error_line(error, kind=True)))
            return
        with contextlib.suppress(_Leave):
            execute_in_process([job], [folder], listen)

    def _tell(self, message: Mapping[str, Any]) -> None:
        self._set(f"event/{self.rank}/{self._told}", {**message, "round": self.round})
        self._told += 1

    # ---- every rank ----------------------------------------------------------------------------------------------------

    def _begin(self, jobs: Sequence[Job]) -> None:
        """Begin a study: from here on all keys are its own."""
        from torch.distributed import PrefixStore

        self.study += 1
        self.store = PrefixStore(str(self.study), self._whole_store)
        self.round = self._told = 0
        self._heard = dict.fromkeys(range(self.size), 0)
        self.plan, self.active = fingerprint(jobs), True

    def _take(self, jobs: int) -> int | None:
        """The number of the next job of this round; None if all are taken."""
        number = self.store.add(f"next/{self.round}", 1) - 1
        if number >= jobs:
            return None
        self.store.set(f"taken/{self.round}/{number}", str(self.rank))
        return number

    def _set(self, key: str, content: Mapping[str, Any]) -> None:
        self.store.set(key, json.dumps(content))

    def _live(self) -> None:
        """A thread: give signs of life, and end this rank if the main one is gone or gave up."""
        while not self._left.is_set():
            try:
                self._whole_store.add(f"alive/{self.rank}", 1)
                alone = not self.is_main and (self._silent(0) or (self.busy and self.store.check(["stop"])))
            except RuntimeError:
                alone = True
            if alone and self.active:
                os.kill(os.getpid(), signal.SIGTERM)  # the command takes it for Ctrl-C
            self._left.wait(SIGN)

    def _silent(self, rank: int) -> bool:
        """Whether a rank gave no sign for too long, by this rank's clock."""
        count, now = self._whole_store.add(f"alive/{rank}", 0), time.monotonic()
        known, since = self._signs.get(rank, (-1, now))
        if count != known:
            self._signs[rank] = (count, now)
            return False
        return now - since > SILENCE


def fingerprint(jobs: Sequence[Job]) -> str:
    """A hash of the jobs' names and ids."""
    return hashlib.sha256(json.dumps(sorted([job.name, job.id] for job in jobs)).encode()).hexdigest()


def _message(event: Event) -> dict[str, Any]:
    run = event.run.to_dict() if event.run is not None else None
    content = {name: getattr(event, name) for name in ("kind", "steps", "total", "loss", "risk", "attempt", "error")}
    return {**content, "job": event.job.name, "run": run}


def _event(job: Job, message: Mapping[str, Any]) -> Event:
    content = {name: value for name, value in message.items() if name not in ("job", "run", "round")}
    return Event(job, run=RunRecord(**message["run"]) if message["run"] else None, **content)


def _if_seen(event: Event, folder: Path) -> Event:
    """Another rank's event, once this machine sees the record of a run that has ended."""
    try:
        if event.run is not None:
            wait_for_record(event.job, folder)
    except FileNotFoundError as error:
        return Event(event.job, "crashed", error=error_line(error, kind=True))
    return event
