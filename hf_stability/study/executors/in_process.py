"""Runs jobs in this process, one after the other."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..job import Job
from ..stop import stop_if_asked
from .event import Event, Listen, ending, write_error


def execute_in_process(jobs: Sequence[Job], folders: Sequence[Path], listen: Listen) -> None:
    """Run the jobs in this process, one after the other. Processes that train each run together have no other way."""
    from ..run import run_job

    for job, folder in zip(jobs, folders, strict=True):

        def report(*done: Any, job: Job = job) -> None:
            listen(Event(job, "progress", *done))

        stop_if_asked()  # also after the import
        try:
            run = run_job(job, folder, report)
        except Exception as error:
            if job.processes > 1:
                raise  # otherwise the other processes would wait for this one for ever
            listen(Event(job, "crashed", error=write_error(folder, error)))
        else:
            listen(Event(job, ending(job), run=run))
        gc.collect()  # a Trainer is part of reference cycles: without this the memory of all runs adds up
