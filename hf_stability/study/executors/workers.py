"""Runs jobs in local worker processes, each job in a new one."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ..devices import count_gpus, gpu_of_slot, visible_ids
from ..job import Job
from ..records import LOOK, read_run
from .event import Event, Listen, ending, write_error


# Modules that the server imports once for all workers. Python ignores a misspelt name in silence; a test checks them.
PRELOAD = [
    "transformers.trainer",  # saves 3-7 s per job
    "hf_stability.study.run",
    "datasets",  # from here on, together 1 s per job
    "evaluate",
    "sklearn.metrics",
    "torch.utils.tensorboard",
]


def execute_in_workers(jobs: Sequence[Job], folders: Sequence[Path], listen: Listen, workers: int) -> None:
    """Run the jobs in up to `workers` processes at a time, each job in a new process.

    The processes are forked from a server that has imported `transformers.trainer` once. So a job starts in hundredths of a
    second, and its end frees its memory. On a machine with GPUs, each worker sees only one of them, see `gpu_of_slot`.

    If a worker dies (killed, out of memory), its job has crashed. On Ctrl-C, or when this process is killed, all workers end.
    """
    # An import may ask CUDA whether there is a GPU. That would make CUDA unusable in the server's forks; NVML does not.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with _safe_path():
        multiprocessing.forkserver.ensure_running()
    pending = list(zip(jobs, folders, strict=True))[::-1]
    running: dict[Any, tuple] = {}  # by the end of its pipe
    errors: dict[Any, str] = {}
    receiver: Any
    free_slots = list(range(workers))[::-1]
    on_gpus = any(job.device == "cuda" for job in jobs)  # asked here: a worker that has started CUDA cannot choose
    gpus = visible_ids(os.environ.get("CUDA_VISIBLE_DEVICES"), count_gpus) if on_gpus else []
    try:
        while pending or running:
            while pending and free_slots:
                job, folder = pending.pop()
                receiver, sender = context.Pipe(duplex=False)
                slot = free_slots.pop()
                gpu = gpu_of_slot(slot, gpus) if gpus and job.device == "cuda" else None
                process = context.Process(target=_work, args=(job, folder, sender, gpu))
                process.start()
                sender.close()
                running[receiver] = (job, folder, process, slot)
            for receiver in wait(list(running)):
                job, folder, process, slot = running[receiver]
                try:
                    kind, *content = receiver.recv()
                except (EOFError, OSError):  # the worker is gone
                    process.join()
                    del running[receiver]
                    receiver.close()
                    free_slots.append(slot)
                    listen(_last_event(job, folder, process.exitcode, errors.pop(receiver, None)))
                    continue
                if kind == "error":
                    errors[receiver] = content[0]
                else:
                    listen(Event(job, kind, *content))
    finally:
        for _, _, process, _ in running.values():
            process.terminate()
        for _, _, process, _ in running.values():
            process.join(timeout=10)
            if process.is_alive():
                process.kill()


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Keep the server from importing a user's `evaluate.py` or `datasets.py` in the working folder (from Python 3.11 on)."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _last_event(job: Job, folder: Path, exitcode: int | None, error: str | None) -> Event:
    run = read_run(folder, LOOK) if job.until_look else read_run(folder)
    if run is not None:  # the run is whole, however the process ended afterwards
        return Event(job, ending(job), run=run)
    if error is not None:
        return Event(job, "crashed", error=error)
    how = f"killed by {signal.Signals(-exitcode).name}" if exitcode and exitcode < 0 else f"exit code {exitcode}"
    return Event(job, "crashed", error=f"the worker process ended: {how}")


def _work(job: Job, folder: Path, sender: Connection, gpu: str | None) -> None:
    """The worker process: one job, on one GPU if there are some."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    threading.Thread(target=_end_with_parent, daemon=True).start()

    from ..run import run_job

    try:
        run_job(job, folder, lambda *done: sender.send(("progress", *done)))
    except Exception as error:
        sender.send(("error", write_error(folder, error)))
        raise SystemExit(1) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
