"""The timeline of attempts: a line per run, a bar per attempt, coloured by how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...diagnostics.attempt import ALARM
from ...verdicts.verdict import NOT_OK
from ..attempts import attempts_of
from ..records import RunRecord, seed_text
from .plots import FAILED, OK, plain


if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS: dict[str, tuple[str, str, str]] = {
    "ok": (OK, "", "trained to its end: ok"),
    "failed": (FAILED, "", "trained to its end: failed"),
    "alarm": ("#e6c35c", "", "ended by its alarm"),
    "not finite": ("#737373", "////", "loss or gradients not finite"),
    "other": ("#e6e6e6", "", "trained to its end: unknown"),
}
"""How an attempt ended -> colour, hatch and words of its bar."""


@dataclass(frozen=True)
class Bar:
    """An attempt.

    Args:
        start, steps: update steps of the attempts before it, and its own.
        end: a key of `LOOKS`.
        alarm: update step of its alarm, counted from the run's beginning; None without one.
    """

    start: int
    steps: int
    end: str
    alarm: int | None = None


@dataclass(frozen=True)
class TimelineLine:
    """A run.

    Args:
        name: `3`, its seed.
        bars: its attempts, in their order.
    """

    name: str
    bars: tuple[Bar, ...]


def timeline_lines(runs: Sequence[RunRecord]) -> list[TimelineLine]:
    """A line per run that tells its attempts, by seed."""
    lines = []
    for run in sorted(runs, key=lambda run: (run.seed, run.name)):
        bars, start = [], 0
        for attempt in attempts_of(run):
            if attempt.was_abandoned:
                end = "alarm" if attempt.reason == ALARM else "not finite"
            else:
                end = "failed" if run.status in NOT_OK else "ok" if run.status == "ok" else "other"
            alarm = None if attempt.alarm is None else start + attempt.alarm["step"]
            bars.append(Bar(start, attempt.steps, end, alarm))
            start += attempt.steps
        if bars:
            lines.append(TimelineLine(seed_text(run.seed), tuple(bars)))
    return lines


def plot_timeline(ax: Axes, lines: Mapping[str, Sequence[TimelineLine]]) -> Axes:
    """Draw the lines of each recipe below each other, with a gap and the recipe's name between recipes.

    Args:
        ax: what to draw on.
        lines: recipe -> its runs.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    place, ticks, used = 0.0, [], dict.fromkeys(LOOKS, False)
    for recipe, own in lines.items():
        ax.text(0, place, plain(recipe), va="center", ha="left", fontsize="small", fontweight="bold")
        for line in own:
            place += 1.0
            ticks.append((place, line.name))
            for bar in line.bars:
                color, hatch, _ = LOOKS[bar.end]
                used[bar.end] = True
                look: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.8}
                ax.barh(place, bar.steps, left=bar.start, height=0.72, **look)
                if bar.alarm is not None:
                    ax.plot(bar.alarm, place, marker="v", color="black", markersize=4, clip_on=False)
        place += 1.5
    handles: list[Patch | Line2D] = [
        Patch(facecolor=color, hatch=hatch, edgecolor="white", label=words)
        for end, (color, hatch, words) in LOOKS.items()
        if used[end]
    ]
    if any(bar.alarm is not None for own in lines.values() for line in own for bar in line.bars):
        handles.append(Line2D([], [], marker="v", color="black", linestyle="none", markersize=4, label="alarm"))
    ax.set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize="x-small")
    ax.set_ylim(max(place - 0.7, 1), -0.7)
    ax.set_xlim(left=0)
    ax.set_ylabel("seed")
    ax.set_xlabel("update steps of all attempts")
    ax.figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize="small")
    return ax
