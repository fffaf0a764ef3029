"""How far a study is, from its folder alone. It needs no lock, and nothing from the process that runs the study."""

from __future__ import annotations

import socket
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from ..errors import InputError
from ..utils.processes import is_running
from ..utils.text import shortened
from ..verdicts.verdict import CENSORED, NOT_OK
from .folder import TABLES, read_runs
from .live import NARROWEST_RECIPE, Line, counts_text, table_lines
from .owner import OWNER, read_owner
from .progress_file import PROGRESS, Snapshot, read_progress


STATUS_SCHEMA = "hf_stability.status/1"

SILENCE = 10.0
"""Seconds. A study on another machine runs if its `progress.json` changes within this time."""

CLOCK_SLACK = 60.0
"""Seconds. A process that began so much later than the study is another one with the same number."""

NAMED = 3
"""Number of crashed runs that the text names."""


@dataclass(frozen=True)
class RecipeCount:
    """The runs of one recipe: `stopped` are censored, `left` are neither finished nor crashed."""

    recipe: str
    finished: int = 0
    failed: int = 0
    stopped: int = 0
    crashed: int = 0
    left: int = 0


@dataclass(frozen=True)
class Status:
    """A study's status.

    Args:
        folder: the study's.
        state: `running`; `ended`; `interrupted`; `not running` (the command is gone without a word: killed, or its machine
            went down); `waiting` (it is not known yet, because the command is on another machine); `unknown` (there is no
            `progress.json`, as in studies of earlier versions).
        snapshot: what `progress.json` tells, with the counts of the runs on disk.
        recipes: a count for each recipe, in the order of the plan.
    """

    folder: Path
    state: str
    snapshot: Snapshot
    recipes: tuple[RecipeCount, ...] = ()

    @property
    def left(self) -> int:
        """Number of runs that are neither finished nor crashed."""
        return sum(recipe.left for recipe in self.recipes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        own = {"schema": STATUS_SCHEMA, "folder": str(self.folder), "state": self.state}
        counts = {"left": self.left, "recipes": [asdict(recipe) for recipe in self.recipes]}
        told = self.snapshot.to_dict()
        return {
            **own,
            **{key: value for key, value in told.items() if key not in ("schema", "state", "beat")},
            **counts,
        }


class StatusReader:
    """Reads a study's status again and again.

    Args:
        folder: the study's.
        clock: seconds of a clock that never jumps.

    Raises:
        InputError: the folder does not exist, or is no study's.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic):
        self.folder, self.clock = folder, clock
        self.began = clock()
        self._last: tuple[str, int] | None = None
        self._changed: float | None = None
        if folder.is_file():
            raise InputError(f"status {folder}: this is a file; give a study's folder, its --output_dir")
        if not folder.is_dir():
            raise InputError(f"status {folder}: no such folder; give a study's folder, its --output_dir")
        parts = ("runs", "stages", PROGRESS, OWNER, *TABLES)
        if not any((folder / name).exists() for name in parts):
            raise InputError(
                f"status {folder}: no study in this folder (no runs, no {PROGRESS}); give a study's --output_dir"
            )

    def read(self) -> Status:
        """The status at this moment.

        Raises:
            InputError: a run's record is of another version.
        """
        snapshot, owner = read_progress(self.folder), read_owner(self.folder)
        if owner is not None and owner.is_running and (snapshot is None or owner.process != snapshot.process):
            new = Snapshot(host=owner.host, process=owner.process, since=owner.since)
            return _counted(self.folder, "running", new)  # a new command that has not come to its runs yet
        if snapshot is None:
            return _counted(self.folder, "unknown", Snapshot())
        return _counted(self.folder, self._state(snapshot), snapshot)

    def wait(self) -> Status:
        """The status, once the state is known: after at most `SILENCE` seconds."""
        status = self.read()
        while status.state == "waiting":
            time.sleep(0.5)
            status = self.read()
        return status

    def _state(self, snapshot: Snapshot) -> str:
        if snapshot.state != "running":
            return snapshot.state
        lives = _lives(snapshot)
        if lives is not None:
            return "running" if lives else "not running"
        return self._changes((snapshot.since, snapshot.beat))

    def _changes(self, now: tuple[str, int]) -> str:
        """Whether the file changes, by this process's clock alone: two machines' clocks may differ."""
        if self._last not in (None, now):
            self._changed = self.clock()
        self._last = now
        if self._changed is not None and self.clock() - self._changed < SILENCE:
            return "running"
        return "waiting" if self.clock() - self.began < SILENCE else "not running"


def _lives(snapshot: Snapshot) -> bool | None:
    """Whether the process of a study lives; None if this machine cannot tell."""
    if snapshot.host != socket.gethostname():
        return None
    if not is_running(snapshot.process):
        return False
    try:
        began = psutil.Process(snapshot.process).create_time()
    except psutil.Error:
        return None
    try:
        since = datetime.strptime(snapshot.since, "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=timezone.utc)
    except ValueError:
        return True
    # Began later: the number was given anew, or the clock was set. Then only a change of the file tells.
    return True if began <= since.timestamp() + CLOCK_SLACK else None


def _counted(folder: Path, state: str, snapshot: Snapshot) -> Status:
    """The status with the runs on disk counted."""
    finished = {run.name: run for run in read_runs(folder)}
    crashed = {name: error for name, error in snapshot.crashed.items() if name not in finished}
    planned = dict.fromkeys(snapshot.planned if snapshot.kind == "run" else ())
    if state not in ("running", "waiting"):
        for path in sorted(folder.glob("runs/*/*/error.txt")):
            name = f"{path.parent.parent.name}/{path.parent.name}"
            if name not in finished:
                crashed.setdefault(name, _reason(path))
    begun = {f"{path.parent.name}/{path.name}" for path in folder.glob("runs/*/*") if path.is_dir()}
    names = {**planned, **dict.fromkeys(sorted({*finished, *crashed, *begun} - {*planned}))}
    counts: dict[str, RecipeCount] = {}
    for name in names:
        recipe = name.rpartition("/")[0]
        count, run = counts.get(recipe, RecipeCount(recipe)), finished.get(name)
        if run is not None:
            failed, stopped = run.status in NOT_OK, run.status in CENSORED
            counts[recipe] = replace(
                count, finished=count.finished + 1, failed=count.failed + failed, stopped=count.stopped + stopped
            )
        elif name in crashed:
            counts[recipe] = replace(count, crashed=count.crashed + 1)
        else:
            counts[recipe] = replace(count, left=count.left + 1)
    recipes = tuple(counts.values())
    if snapshot.kind == "run":
        snapshot = replace(
            snapshot,
            planned=tuple(names),
            finished=len(finished),
            failed=sum(recipe.failed for recipe in recipes),
            crashed=crashed,
        )
    if state not in ("running", "waiting"):
        snapshot = replace(snapshot, running=(), again=0, seconds_left=None)
    return Status(folder, state, snapshot, recipes)


def _reason(path: Path) -> str:
    """The error in one line, from a traceback."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    after = [number for number, line in enumerate(lines[:-1], 1) if line.startswith("  ")]
    return lines[after[-1] if after else -1].strip() if lines else ""


# ---- text -----------------------------------------------------------------------------------------------------------


def status_lines(status: Status, width: int, height: int = 0) -> list[Line]:
    """The status as text.

    Args:
        status: the study's.
        width: characters per line; longer sentences are wrapped.
        height: the most lines; 0 for as many as there are.
    """
    head = _wrapped(_first_sentence(status), width, "bold")
    foot = [line for sentence in _next(status) for line in _wrapped(sentence, width)]
    table = _recipe_lines(status, width)
    if height:
        table = table[: max(height - len(head) - len(foot) - 10, 2)]
    room = max(height - len(head) - len(foot) - len(table) - 2, 4) if height else 0
    live = table_lines(status.snapshot, width, room) if status.state in ("running", "waiting") else []
    if not live:
        live = _wrapped(counts_text(status.snapshot), width)
    parts = [part for part in ([*head, *live], table, foot) if part]
    return [line for number, part in enumerate(parts) for line in (*([Line("")] if number else []), *part)]


def status_text(status: Status, width: int) -> str:
    """`status_lines` as one text."""
    return "\n".join(line.text for line in status_lines(status, width))


def _wrapped(sentence: str, width: int, style: str = "") -> list[Line]:
    parts = textwrap.wrap(sentence, width, break_long_words=False, break_on_hyphens=False)
    return [Line(part, style) for part in parts]


def _first_sentence(status: Status) -> str:
    told = status.snapshot
    where = f"process {told.process} on {told.host}"
    seen = f"last seen {told.written}" if told.written else "never seen at work"
    return f"{status.folder}: " + {
        "running": f"running, {where}, since {told.since}",
        "waiting": f"not known yet whether it runs: {where}, last seen {told.written}",
        "ended": f"ended at {told.written}{f', {told.decided}' if told.decided else ''}",
        "interrupted": f"interrupted at {told.written}",
        "not running": f"not running: {where} is gone, {seen}",
        "unknown": f"no {PROGRESS}: the study is of an earlier version, or has not begun",
    }.get(status.state, status.state)


def _recipe_lines(status: Status, width: int) -> list[Line]:
    stopped = any(recipe.stopped for recipe in status.recipes)
    names = ["finished", "failed", *(["stopped"] if stopped else []), "crashed", "left"]
    if not status.recipes:
        return []
    widest = max(len("recipe"), *(len(recipe.recipe) for recipe in status.recipes))
    first = min(widest, max(width - sum(len(name) + 2 for name in names), NARROWEST_RECIPE))
    lines = [Line("  ".join(["recipe".ljust(first), *names])[:width], "bold")]
    for recipe in status.recipes:
        cells = (str(getattr(recipe, name)).rjust(len(name)) for name in names)
        lines.append(Line("  ".join([shortened(recipe.recipe, first).ljust(first), *cells])[:width]))
    return lines


def _next(status: Status) -> list[str]:
    """Where to look next."""
    folder, told = status.folder, status.snapshot
    lines = [f"crashed: {name}: {error}" for name, error in list(told.crashed.items())[:NAMED]]
    if told.crashed:
        more = len(told.crashed) - NAMED
        lines += [f"... and {more} more crashed"] if more > 0 else []
        where = folder / ("stages" if told.kind == "stage" else "runs") / next(iter(told.crashed)) / "error.txt"
        lines.append(f"Traceback: {where}")
    if status.state in ("running", "waiting"):
        lines.append(f"Curves: tensorboard --logdir {folder / 'runs'}")
    elif status.left or told.crashed:
        lines.append("To continue, run the study's command again. Finished runs are kept.")
    if (folder / TABLES[0]).is_file() and status.state not in ("running", "waiting"):
        lines.append(f"Tables: {folder / TABLES[0]}")
    return lines
