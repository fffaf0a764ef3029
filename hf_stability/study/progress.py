"""A study's progress while it runs: on standard output, and in the study's `progress.json`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .executors.event import Event
from .job import Job
from .live import LiveTable, PlainLines, terminal
from .policies.early_stopping import look_sentence
from .progress_file import WRITE_EVERY, Snapshot, read_progress, write_progress
from .records import RunRecord
from .tally import Tally


DRAW_EVERY = 0.5
"""Seconds between two drawings of the live table."""


class Progress:
    """Tells how far a study is.

    On a terminal a table shows the running runs, and a line above it each finished run. Elsewhere (a file, a pipe, a notebook)
    there are only lines: one per finished run, and one per minute. A thread draws and writes, so that a study goes on if
    either fails, and so that the table is right while no event comes.

    Args:
        jobs: the runs that are missing.
        found: the records of the planned runs that are kept.
        quiet: print nothing.
        say: a function that takes each line about a finished run. Default: print it. There is no line per minute then.
        kind: "run", or "stage".
        folder: the study's, for `progress.json`. None: write none.
        clock: seconds of a clock that never jumps.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        found: Sequence[RunRecord] = (),
        quiet: bool = False,
        say: Callable[[str], None] | None = None,
        kind: str = "run",
        folder: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.quiet, self.custom_say, self.folder, self.clock = quiet, say, folder, clock
        self.found, self.anything = len(found), bool(jobs)
        self.tally = Tally(jobs, found, kind, clock)
        self.display: LiveTable | PlainLines = PlainLines(clock)
        self.next_write = clock()
        self._counting, self._drawing = threading.RLock(), threading.RLock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Progress:
        if self.found:
            self.say(f"{self.found} finished {self.tally.kind}{'s' * (self.found > 1)} found, kept")
        if self.anything and not self.quiet and (console := terminal()) is not None:
            with contextlib.suppress(Exception):
                self.display = LiveTable(console)
        if self.anything and (self.folder is not None or not self.quiet):
            if self.folder is not None:
                with contextlib.suppress(OSError):  # later it is not made again: it may have been moved
                    self.folder.mkdir(parents=True, exist_ok=True)
            self.tick()
            self._thread = threading.Thread(target=self._tick_until_over, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._over.set()
        try:
            if self._thread is not None:
                self._thread.join(timeout=5)  # it may hang in a write to a terminal that is on hold
        finally:  # a second Ctrl-C must not leave a terminal without cursor
            self._plain()
        if kind is not None:
            self._write("interrupted")
        elif self.tally.kind == "run" or self.tally.crashed or self.tally.failed:  # else the runs follow the stages
            self._write("ended")

    # ---- what happens --------------------------------------------------------------------------------------------------

    def say(self, line: str) -> None:
        """Print a line, above the table if there is one."""
        if self.quiet:
            return
        if self.custom_say is not None:
            self.custom_say(line)
            return
        with self._drawing:
            try:
                if isinstance(self.display, LiveTable):  # a run that this line ends is not in the table any more
                    self.display.draw(self._snapshot(), now=False)
                self.display.print(line)
            except Exception:
                self._plain()
                self.display.print(line)

    def show(self, event: Event) -> None:
        """Count an event; print a line unless the run goes on."""
        with self._counting:
            self.tally.take(event)
        if event.kind == "progress":
            return
        name = event.job.name
        if event.kind == "again":
            self.say(f"{name}: crashed: {event.error}; it will be run again")
        elif event.kind == "looked":
            self.say(f"{name}: at its look, {look_sentence(event.run)}")
        else:
            sentence = event.run.sentence if event.run else f"crashed: {event.error}"
            self.say(f"{'stage ' if event.job.is_stage else ''}{name}: {sentence}")

    def end(self, run: RunRecord, sentence: str) -> None:
        """Count a run that ended without training further, and print how."""
        with self._counting:
            self.tally.end(run)
        self.say(f"{run.name}: {sentence}")

    def leave_out(self, names: Sequence[str], why: str) -> None:
        """Take runs out of the plan, because a policy does not need them any more.

        Args:
            names: of jobs that have not begun.
            why: in a few words, for `status`.
        """
        with self._counting:
            self.tally.leave_out(names, why)

    # ---- drawing and writing -------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Draw, and write `progress.json` if it is due."""
        if self.clock() >= self.next_write:
            self._write()
        if self.quiet or (self.custom_say is not None and isinstance(self.display, PlainLines)):
            return
        with self._drawing:
            try:
                self.display.draw(self._snapshot())
            except Exception:  # a drawing must never end a study
                self._plain()

    def _tick_until_over(self) -> None:
        while not self._over.wait(DRAW_EVERY):
            self.tick()

    def _snapshot(self, state: str = "running") -> Snapshot:
        with self._counting:
            return self.tally.snapshot(state)

    def _plain(self) -> None:
        """Remove the table. From now on there are only lines."""
        table, self.display = self.display, PlainLines(self.clock)
        with contextlib.suppress(Exception):
            table.close()

    def _write(self, state: str = "running") -> None:
        """Write `progress.json`, if possible. A call without runs only corrects the state that a killed call has left."""
        if self.folder is None:
            return
        self.next_write = self.clock() + WRITE_EVERY
        with contextlib.suppress(OSError):  # a full disk
            if not self.anything:
                left = read_progress(self.folder)
                if left is None or left.state == "ended":
                    return
            write_progress(self.folder, self._snapshot(state))
