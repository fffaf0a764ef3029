"""Runs jobs in local worker processes.

| start method | where | a worker |
| --- | --- | --- |
| `forkserver` | Linux | is forked from a server that has the imports, and runs one job |
| `spawn` | elsewhere | imports everything itself (7 s), and runs one job after the other |

A worker gets its jobs through one pipe, and tells what happens through another. A pipe's end is the sign that the other side is
gone; this needs no signals, so it holds on every system.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from ...utils.text import error_line
from ..devices import count_gpus, gpu_of_slot, visible_ids
from ..job import Job
from ..records import LOOK, read_run
from ..stop import stop_if_asked
from .event import Event, Listen, ending, throttled, write_error
from .server import prepare_server, prepare_worker, server_environment, start_method


GRACE = 10.0
"""Seconds that a worker has to end after its last job, or when the study is interrupted. Then it is killed."""

WAKE = 1.0
"""Seconds after which a wait for the workers is left, to see whether the study still holds its folder."""

STARTS = 3
"""Attempts to start a worker. The fork server may be killed at any moment; the next attempt starts a new one."""

MOST_ON_WINDOWS = 60
"""Windows waits for at most 63 things at a time."""


def execute_in_workers(
    jobs: Sequence[Job],
    folders: Sequence[Path],
    listen: Listen,
    workers: int,
    method: str | None = None,
    gpus: Sequence[str] = (),
) -> None:
    """Run the jobs in up to `workers` processes at a time.

    On Linux each job has a new process, forked from a server that has imported `transformers.trainer` once. So a job starts in
    hundredths of a second, and its end frees its memory. Elsewhere a process runs several jobs, see `start_method`. On a
    machine with GPUs, each worker sees only one of them, see `gpu_of_slot`.

    If a worker dies (killed, out of memory), its job has crashed, and a new worker takes the next one. On Ctrl-C, or when this
    process is killed, all workers end.

    Args:
        jobs, folders, listen: see `executors/event.py`.
        workers: processes at a time.
        method: "forkserver" or "spawn"; None for `start_method()`. The results are the same.
        gpus: entries of `CUDA_VISIBLE_DEVICES` for workers on GPUs. Default: all that are visible.
    """
    method = method or start_method()
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        prepare_server(context)
    if sys.platform == "win32":
        workers = min(workers, MOST_ON_WINDOWS)
    pending = deque(zip(jobs, folders, strict=True))
    running: dict[Any, _Worker] = {}  # by the end of its pipe of events
    free_slots = list(range(workers))[::-1]
    on_gpus = any(job.device == "cuda" for job in jobs)  # asked here: a worker that has started CUDA cannot choose
    gpus = (gpus or visible_ids(os.environ.get("CUDA_VISIBLE_DEVICES"), count_gpus)) if on_gpus else ()
    try:
        while pending or running:
            while pending and free_slots:
                job, folder = pending.popleft()
                try:
                    slot = free_slots[-1]
                    worker = _start(context, slot, gpu_of_slot(slot, gpus) if gpus else None)
                except (OSError, EOFError) as error:
                    listen(
                        Event(
                            job, "crashed", error=f"no worker process could be started: {error_line(error, kind=True)}"
                        )
                    )
                    continue
                free_slots.pop()
                worker.give(job, folder)
                running[worker.events] = worker
            for events in wait(list(running), _seconds_left(running.values())) if running else ():
                worker = running[events]
                told = worker.hear()
                if told is None:  # the worker is gone
                    worker.end(GRACE)
                    del running[events]
                    free_slots.append(worker.slot)
                    if worker.job is not None:
                        listen(_last_event(worker.job, worker.folder, worker.process.exitcode))
                    continue
                kind, *content = told
                job, folder = worker.job, worker.folder
                if kind == "progress":
                    listen(Event(job, kind, *content))
                    continue
                if kind == "done" and method == "spawn" and pending:
                    worker.give(*pending.popleft())
                else:
                    worker.release()
                listen(Event(job, "crashed", error=content[0]) if kind == "error" else _last_event(job, folder, 0))
            for events, worker in list(running.items()):
                if worker.is_overdue():
                    worker.end(0)
                    del running[events]
                    free_slots.append(worker.slot)
            stop_if_asked()
    finally:
        for worker in running.values():
            worker.interrupt()
        for worker in running.values():
            worker.end(GRACE)


class _Worker:
    """A worker process, from this side: its two pipes, and the job that it runs."""

    def __init__(self, context: Any, slot: int, gpu: str | None) -> None:
        """Start the process. Raises OSError or EOFError if that fails."""
        their_jobs, self.jobs = context.Pipe(duplex=False)
        self.events, their_events = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(their_jobs, their_events, gpu, constants.HF_HUB_OFFLINE))
        try:
            self.process.start()
        finally:  # the worker has its own copies
            their_jobs.close()
            their_events.close()
        self.slot = slot
        self.job: Any = None  # a Job; None when it has none to run
        self.folder = Path()
        self.deadline: float | None = None

    def give(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        with contextlib.suppress(OSError):  # it is dead; its pipe of events tells
            self.jobs.send((job, folder))

    def release(self) -> None:
        """Let the process end by itself. A thread that a user's method left behind may keep it from that."""
        self.job, self.deadline = None, time.monotonic() + GRACE
        with contextlib.suppress(OSError):
            self.jobs.send(None)

    def hear(self) -> tuple | None:
        """The worker's next message; None if it is gone. A kill may leave half a message."""
        try:
            return self.events.recv()
        except (EOFError, OSError):
            return None

    def is_overdue(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    def interrupt(self) -> None:
        """End the process. Without its fork server it gets no signal: then the end of its pipe ends it."""
        self.process.terminate()
        self.jobs.close()

    def end(self, seconds: float) -> None:
        """Wait these seconds for the process to end, then kill it."""
        until = time.monotonic() + seconds
        with contextlib.suppress(EOFError, OSError):
            while self.events.poll(max(0.0, until - time.monotonic())):
                self.events.recv()
        self.events.close()
        self.jobs.close()
        self.process.join(max(0.0, until - time.monotonic()))
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _start(context: Any, slot: int, gpu: str | None, attempts: int = STARTS) -> _Worker:
    try:
        with server_environment():
            return _Worker(context, slot, gpu)
    except (OSError, EOFError):
        if attempts == 1:
            raise
    time.sleep(0.1)  # a killed server is not gone at once
    return _start(context, slot, gpu, attempts - 1)


def _seconds_left(workers: Iterable[_Worker]) -> float:
    """Until the next worker is overdue, at most `WAKE`."""
    deadlines = [worker.deadline for worker in workers if worker.deadline is not None]
    return max(0.0, min([time.monotonic() + WAKE, *deadlines]) - time.monotonic())


def _last_event(job: Job, folder: Path, exitcode: int | None) -> Event:
    run = read_run(folder, LOOK) if job.until_look else read_run(folder)
    if run is not None:  # the run is whole, however the process ended afterwards
        return Event(job, ending(job), run=run)
    return Event(job, "crashed", error=f"the worker process ended: {_how(exitcode)}")


def _how(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        return f"killed by {signal.Signals(-exitcode).name}"
    except ValueError:  # a real-time signal
        return f"killed by signal {-exitcode}"


# --- in the worker ---------------------------------------------------------------------------------------------------


def _work(jobs: Connection, events: Connection, gpu: str | None, offline: bool) -> None:
    """The worker process: one job after the other, until it gets None. It sees only this GPU, or with None all."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    prepare_worker(offline)
    given: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(jobs, given), daemon=True).start()

    def tell(*told: Any) -> None:
        try:
            events.send(told)
        except OSError:
            os._exit(1)  # the parent is gone

    while (item := given.get()) is not None:
        job, folder = item
        from ..run import run_job

        try:
            run_job(job, folder, throttled(lambda *done: tell("progress", *done)))
        except Exception as error:
            tell("error", write_error(folder, error))
            raise SystemExit(1) from None
        tell("done")
        gc.collect()  # see `execute_in_process`


def _receive(jobs: Connection, given: queue.SimpleQueue) -> None:
    """A thread: take what the parent sends. The pipe ends early if the parent is gone or gives up; then end at once."""
    try:
        while (item := jobs.recv()) is not None:
            given.put(item)
    except (EOFError, OSError):
        os._exit(1)
    given.put(None)
