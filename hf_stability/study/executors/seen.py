"""Files that another machine has written. A network file system may show them late."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ..checkpoints import unfinished_job_id
from ..job import Job
from ..records import LOOK


SHARED_DELAY_S = 60.0
"""Seconds in which a network file system must show a file that another machine has written."""

POLL_S = 0.3
"""Seconds between two looks."""


def wait_until_seen(path: Path) -> None:
    """Wait for a file or folder that another machine has written.

    Raises:
        FileNotFoundError: it does not show up in `SHARED_DELAY_S`.
    """
    deadline = time.monotonic() + SHARED_DELAY_S
    while not _is_seen(path):
        if time.monotonic() > deadline:
            raise FileNotFoundError(f"{path} was written on another machine, but does not show up here")
        time.sleep(POLL_S)


def wait_for_record(job: Job, folder: Path) -> None:
    """Wait for the record of a run that has ended on another machine, at its look or at its end."""
    wait_until_seen(folder / (LOOK if job.until_look else "run.json"))


def needed_files(job: Job, folder: Path) -> tuple[list[str], list[str]]:
    """The files that another machine must see before it runs a job. Without them the run would begin anew, or crash.

    Returns:
        names in the run's folder from which the run goes on, and names in the encoder of the job's stage.
    """
    start: list[Path] = []
    if unfinished_job_id(folder) == job.id:
        start = [*folder.glob("config.json"), *folder.glob(LOOK), *folder.glob("checkpoint-*/*")]
    encoder = Path(job.model).glob("*") if job.stages else ()
    return sorted(path.relative_to(folder).as_posix() for path in start), sorted(path.name for path in encoder)


def wait_for_files(job: Job, folder: Path, start: Sequence[str], encoder: Sequence[str]) -> None:
    """Wait for the files that `needed_files` found on another machine."""
    for path in (*(folder / name for name in start), *(Path(job.model) / name for name in encoder)):
        wait_until_seen(path)


def _is_seen(path: Path) -> bool:
    """Listing its folder makes a network file system look again. The folder itself may show up late too."""
    try:
        return path.name in os.listdir(path.parent)
    except FileNotFoundError:
        return False
