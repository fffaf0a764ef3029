"""Shows how far a study is: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..diagnostics.early_warning import THRESHOLD
from ..utils.text import decimal, duration_text, joined, loss_text, shortened
from .progress_file import RunningRun, Snapshot


MINUTE = 60.0
"""Seconds between two plain lines about the running runs."""

NAMED = 4
"""Number of running runs that a plain line names."""

WIDEST_BAR = 40
NARROWEST_RECIPE = 8


class Line(NamedTuple):
    """A line of the table, and its style for rich."""

    text: str
    style: str = ""


# ---- text -----------------------------------------------------------------------------------------------------------


def table_lines(snapshot: Snapshot, width: int, height: int = 0) -> list[Line]:
    """The running runs, then what is finished and what is left.

    Args:
        snapshot: the study's.
        width: characters per line. No line is longer.
        height: the most lines; runs that do not fit are counted. 0: as many as there are runs.
    """
    lines = [Line(line, "red" if snapshot.crashed else "") for line in textwrap.wrap(counts_text(snapshot), width)]
    lines.append(Line(_bar(snapshot, width)))
    room = max(height - len(lines) - 1, 1) if height else len(snapshot.running)
    shown = snapshot.running if len(snapshot.running) <= room else snapshot.running[: room - 1]
    rows = [_cells(run) for run in shown]
    if not rows:
        return [Line(line.text[:width], line.style) for line in lines]
    header = ("recipe", "seed", "step", "loss", "risk")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    # Columns of numbers keep their width while the numbers grow.
    widths[2] = max(widths[2], *(len(f"{run.total}/{run.total}") for run in shown))
    widths[3] = max(widths[3], len("3e-05"))
    widths[0] = min(widths[0], max(width - sum(widths[1:]) - 2 * (len(widths) - 1), NARROWEST_RECIPE))
    body = [Line(_row(header, widths), "bold")]
    for run, cells in zip(shown, rows, strict=True):
        alarmed = run.risk is not None and run.risk >= THRESHOLD
        body.append(Line(_row(cells, widths), "yellow" if alarmed else ""))
    if len(shown) < len(snapshot.running):
        body.append(Line(f"... and {len(snapshot.running) - len(shown)} more"))
    return [Line(line.text[:width].rstrip(), line.style) for line in (*body, *lines)]


def _cells(run: RunningRun) -> tuple[str, str, str, str, str]:
    loss = "-" if run.loss is None else loss_text(run.loss)
    step = ", ".join(filter(None, [run.attempt, f"{run.steps}/{run.total}"]))
    return run.recipe, run.seed, step, loss, decimal(run.risk, 2)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = shortened(cells[0], widths[0]).ljust(widths[0])
    return "  ".join([first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))])


def counts_text(snapshot: Snapshot) -> str:
    """`12 of 300 runs finished (1 failed), 2 crashed; 4 running`."""
    kind = f"{snapshot.kind}s" if len(snapshot.planned) != 1 else snapshot.kind
    parts = [f"{snapshot.finished} of {len(snapshot.planned)} {kind} finished"]
    parts[0] += f" ({snapshot.failed} failed)" if snapshot.failed else ""
    parts += [f"{len(snapshot.crashed)} crashed"] if snapshot.crashed else []
    parts += [f"{snapshot.again} to be run again"] if snapshot.again else []
    return ", ".join(parts) + (f"; {len(snapshot.running)} running" if snapshot.running else "")


def time_left(snapshot: Snapshot) -> str:
    """`2 h 10 min left`; empty where the time is unknown. After their last steps, runs are still evaluated."""
    if snapshot.seconds_left is None:
        return ""
    return f"{duration_text(snapshot.seconds_left)} left" if snapshot.seconds_left >= 1 else "evaluating"


def minute_text(snapshot: Snapshot) -> str:
    """The study in one line: `12 of 300 runs finished; 2 running: devlin2019 seed 7 step 340/1000 loss 0.41, ...`."""
    named = []
    for run in snapshot.running[:NAMED]:
        words = [run.recipe, f"seed {run.seed}" if run.seed else "", run.attempt, f"step {run.steps}/{run.total}"]
        words += [f"loss {loss_text(run.loss)}"] if run.loss is not None else []
        words += [f"risk {decimal(run.risk, 2)}"] if run.risk is not None else []
        named.append(" ".join(filter(None, words)))
    if len(snapshot.running) > NAMED:
        named.append(f"{len(snapshot.running) - NAMED} more")
    text = counts_text(snapshot) + (f": {joined(named)}" if named else "")
    return "; ".join(filter(None, [text, time_left(snapshot)]))


def _bar(snapshot: Snapshot, width: int) -> str:
    numbers = f"{int(100 * snapshot.share):3d}%"
    left = time_left(snapshot)
    room = min(width - len(numbers) - len(left) - 6, WIDEST_BAR)
    done = int(room * snapshot.share)
    bar = f"[{'=' * done}{' ' * (room - done)}]" if room >= 5 else ""
    return "  ".join(filter(None, [bar, numbers, left]))


# ---- displays -------------------------------------------------------------------------------------------------------


class PlainLines:
    """Prints lines to standard output, and once a minute a line about the running runs.

    Args:
        clock: seconds of a clock that never jumps.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock, self.next = clock, clock() + MINUTE

    def print(self, line: str) -> None:
        """Print a line. If standard output is gone, the study goes on without it."""
        try:
            print(line, flush=True)
        except (OSError, ValueError):
            return

    def draw(self, snapshot: Snapshot) -> None:
        """Print the line of this minute, if it is due."""
        now = self.clock()
        if now >= self.next:
            self.next = now + MINUTE
            self.print(minute_text(snapshot))

    def close(self) -> None:
        """Nothing is open."""


class LiveTable:
    """A table at the bottom of the terminal that is drawn again and again; lines scroll above it.

    Args:
        console: rich's console of the terminal.
    """

    def __init__(self, console: Any):
        from rich.live import Live

        self.console = console
        # The table is gone at the end: the study's summary has its place.
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.live.start()

    def print(self, line: str) -> None:
        """Print a line above the table. The terminal wraps it, so that it can be copied whole."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def draw(self, snapshot: Snapshot, now: bool = True) -> None:
        """Draw the table anew; with `now=False` when the next line is printed."""
        self.draw_lines(lambda width, height: table_lines(snapshot, width, height), now)

    def draw_lines(self, make: Callable[[int, int], Sequence[Line]], now: bool = True) -> None:
        """Draw other lines: `make(width, height)` returns as many as fit."""
        from rich.text import Text

        width, height = self.console.size
        lines = make(width - 1, height - 1)
        text = Text("\n", no_wrap=True, overflow="crop").join(Text(line.text, style=line.style) for line in lines)
        self.live.update(text, refresh=now)

    def close(self) -> None:
        """Remove the table, and show the cursor again."""
        try:
            self.live.stop()
        finally:
            self.console.show_cursor(True)


def terminal() -> Any:
    """rich's console where standard output is a terminal that can draw a table; else None: a file, a pipe, a notebook."""
    try:
        if not sys.stdout.isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
            return None
        from rich.console import Console

        console = Console(soft_wrap=True)
        return console if console.is_interactive and not console.is_jupyter else None
    except Exception:  # a standard output without isatty, or closed; whatever it is, lines will do
        return None
