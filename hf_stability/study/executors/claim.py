"""The owner of a run on a file system that several machines see: a small file beside the run's folder.

The driver writes the claim before it submits the run. A task that does not see it is on a machine without this folder. Each
attempt then writes itself into the claim. So an attempt that was taken for lost, or a task of a dead driver, learns that
another has taken over, and ends before it can disturb the files.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from pathlib import Path

from ...errors import InputError
from ...utils.files import write_text


BEAT_S = 1.0
"""Seconds between two looks at the claim."""

GRACE_S = 3 * BEAT_S
"""Seconds in which an earlier attempt surely looks at its claim, and ends."""

NOBODY = "-"
"""In the place of an attempt: the run was not started yet."""


def claim_path(folder: Path) -> Path:
    """The claim of a run's folder, beside it, because the folder may be deleted when the run starts."""
    return folder.with_name(f".{folder.name}.claim")


def drop_claims(study_folder: Path) -> None:
    """Delete what a driver that was killed has left. Its tasks may still train: they see it, and end.

    Every study begins with this, wherever it executes its runs. No other command may run in the folder.
    """
    left = [path for pattern in ("runs/*/.*.claim", "stages/.*.claim") for path in study_folder.glob(pattern)]
    for path in left:
        path.unlink(missing_ok=True)
    if left:
        time.sleep(GRACE_S)


def open_claim(folder: Path, driver: str) -> None:
    """The driver's part, before a run is submitted."""
    path = claim_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f"{driver} {NOBODY}\n")


def close_claim(folder: Path) -> None:
    """The driver's part, after a run has ended. An attempt that still trains ends."""
    claim_path(folder).unlink(missing_ok=True)


class Claim:
    """The attempt's part: `with Claim(folder, driver):` around the training.

    If another attempt or another driver takes the run, this process ends at once, without any cleaning up.

    Args:
        folder: the run's.
        driver: the driver's token.

    Raises:
        InputError: another command has taken the study's folder.
    """

    def __init__(self, folder: Path, driver: str):
        self.path, self.text = claim_path(folder), f"{driver} {uuid.uuid4().hex}\n"
        self.over = threading.Event()
        owner, _, attempt = self.path.read_text(encoding="utf-8").strip().partition(" ")
        if owner != driver:
            raise InputError(f"{folder}: another command has started this run; this one leaves it alone")
        write_text(self.path, self.text)
        if attempt != NOBODY:  # it may still train
            time.sleep(GRACE_S)

    def __enter__(self) -> Claim:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.over.set()

    def _watch(self) -> None:
        while not self.over.wait(BEAT_S):
            if not self.holds() and not self.over.is_set():
                os._exit(1)  # an exception would reach only this thread

    def holds(self) -> bool:
        """Whether the claim still names this attempt. A file system that does not answer takes nothing away."""
        try:
            return self.path.read_text(encoding="utf-8") == self.text
        except FileNotFoundError:
            return False
        except OSError:
            return True
