"""The attempts of a run so far, in memory and in `attempts.json`. A killed run reads there which attempt it is in.

An abandoned attempt leaves its `steps.rec` and its log in `attempt-NUMBER/`. Its checkpoints are deleted: a resume would take
them for those of the next attempt. The file says `"is_clean": false` until that is done, so a kill in between loses nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..utils.files import finite, write_json
from ..utils.trainer_files import read_object
from .attempt import Attempt, steps_spent


FILE = "attempts.json"
SCHEMA = "hf_stability.attempts/1"
CHECKPOINT = re.compile(r"checkpoint-\d+")


class AttemptLog:
    """The attempts of one run. Every process has one; only the main process writes.

    Args:
        folder: the run's folder with `steps.rec`. None in all processes but the main one.
        output_dir: the folder with the checkpoints.
        max_restarts: how often the run may begin again.
        content: the file's content, for a resumed run. None for a new run.

    Attributes:
        attempts (list[Attempt]): the abandoned attempts; at the end the last one, too.
        settings (dict): arguments that the current attempt changed.
        seeds (dict): the current attempt's seeds.
        is_clean (bool): whether nothing of an abandoned attempt is in the way.
    """

    def __init__(
        self, folder: Path | None, output_dir: Path, max_restarts: int, content: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.output_dir, self.max_restarts = folder, output_dir, max_restarts
        found = [Attempt.from_dict(each) for each in (content or {}).get("attempts", [])]
        self.attempts = [attempt for attempt in found if attempt.was_abandoned]
        self.is_clean = (content or {}).get("is_clean", True)
        self.began = (content or {}).get("began")
        self.settings: dict[str, Any] = {}
        self.seeds: dict[str, int] = {}

    @property
    def number(self) -> int:
        """The current attempt's number; 0 for the first."""
        return sum(attempt.was_abandoned for attempt in self.attempts)

    @property
    def is_last(self) -> bool:
        """Whether the current attempt is trained to its end, whatever happens."""
        return self.number >= self.max_restarts

    @property
    def spent(self) -> int:
        """Update steps of the abandoned attempts."""
        return steps_spent(attempt for attempt in self.attempts if attempt.was_abandoned)

    def begin(self, resumed: bool = False) -> None:
        """Begin a new run: remove what an earlier run left in the folder.

        Args:
            resumed: whether it continues from a checkpoint of a run without this file. All checkpoints are then its own.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("attempt-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._write()
        if resumed:
            return
        self.began = (self.folder / FILE).stat().st_mtime  # the clock of the file system, as for the checkpoints
        self._write()

    def abandon(self, reason: str, alarm: Mapping[str, Any] | None, steps: int, total_steps: int) -> None:
        """End the current attempt. `clean` comes next.

        Args:
            reason: one of `attempt.REASONS`.
            alarm: the attempt's alarm, or None.
            steps: update steps spent.
            total_steps: update steps of the whole attempt.
        """
        self._add(reason, alarm, steps, total_steps)
        self.is_clean = False
        self._write()

    def finish(self, alarm: Mapping[str, Any] | None, steps: int, total_steps: int) -> None:
        """The run has ended with the current attempt. Arguments as in `abandon`."""
        self._add(None, alarm, steps, total_steps)
        self._write()

    def clean(self, log_history: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Move the last abandoned attempt's record and log aside, and delete its checkpoints.

        Args:
            log_history: the Trainer's log of the attempt. None if it is not known.
        """
        self.is_clean = True
        if self.folder is None:
            return
        aside = self.folder / f"attempt-{self.number - 1}"
        aside.mkdir(exist_ok=True)
        if log_history is not None:
            write_json(aside / "log_history.json", finite(list(log_history)))
        if (self.folder / "steps.rec").exists() and not (aside / "steps.rec").exists():
            os.replace(self.folder / "steps.rec", aside / "steps.rec")
        for checkpoint in self.output_dir.glob("checkpoint-*"):
            if CHECKPOINT.fullmatch(checkpoint.name) and self._is_of_this_run(checkpoint):
                shutil.rmtree(checkpoint, ignore_errors=True)
        self._write()

    def _is_of_this_run(self, checkpoint: Path) -> bool:
        """Whether a checkpoint was written since the run began: others belong to the user."""
        times = [path.stat().st_mtime for path in (checkpoint, *checkpoint.rglob("*"))]
        return self.began is None or max(times) >= self.began

    def _add(self, reason: str | None, alarm: Mapping[str, Any] | None, steps: int, total_steps: int) -> None:
        found = None if alarm is None else dict(alarm)
        values = dict(self.settings), dict(self.seeds), reason, found, steps, total_steps
        self.attempts.append(Attempt(self.number, *values))

    def _write(self) -> None:
        if self.folder is not None:
            attempts = [attempt.to_dict() for attempt in self.attempts]
            content = {"schema": SCHEMA, "began": self.began, "is_clean": self.is_clean, "attempts": attempts}
            write_json(self.folder / FILE, content)


def read_attempts(folder: Path) -> dict[str, Any] | None:
    """The content of `attempts.json` in a run's folder. None without the file.

    Raises:
        InputError: the file cannot be read, or has another version of the schema.
    """
    if not (folder / FILE).exists():
        return None
    content = read_object(folder / FILE)
    if content.get("schema") != SCHEMA:
        raise InputError(f"{folder / FILE}: schema {content.get('schema')!r}: this version reads only {SCHEMA}")
    return content
