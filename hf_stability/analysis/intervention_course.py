"""The course of changed runs: how large their updates are, and how much the [CLS] states of inputs differ, before and after the change.

A window is a twentieth of training. A number of a window is the median over its update steps and over runs. Saved runs and runs that
fail again are apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..study.records import RunRecord
from ..verdicts.verdict import NOT_OK
from .finished_study import FinishedStudy


if TYPE_CHECKING:
    from matplotlib.figure import Figure


WINDOWS = 20
SAVED, FAILED = "saved", "failed"
PANELS = {
    "correction_on": "bias correction on from a step",
    "correction_off": "on for the first steps only",
    "collapsed": "change of collapsed runs",
}
"""Kind of an arm -> title of its panels."""
QUANTITIES = {
    "update_ratio": "update / weights,\nmedian over layers",
    "cls_variance": "variance of [CLS]\nover inputs",
}
"""Column -> label."""


def median_of(values: np.ndarray) -> float | None:
    """The median of the finite values; None without one."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None


def by_end(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs by their end: saved or failed. Runs without a verdict are left out, and so is an end without runs."""
    found = {
        SAVED: [run for run in runs if run.status == "ok"],
        FAILED: [run for run in runs if run.status in NOT_OK],
    }
    return {end: own for end, own in found.items() if own}


def course(records: Sequence[Mapping[str, Any]], planned_steps: int, windows: int = WINDOWS) -> list[dict[str, Any]]:
    """A row per window of training, of runs with the same end.

    Args:
        records: step records of the runs, see `read_steps`, with the diagnostics `update_ratio` and `cls_variance`.
        planned_steps: update steps of the whole training. A run that diverged has fewer.
        windows: of equal length, up to one update step.

    Returns:
        rows with `from_step` and `to_step` (both in the window), `n` (runs with an update step in it), `cls_variance`,
        `update_ratio` (median over layers too), and `update_ratio/LAYER` for each layer. None where there is no number.
    """
    edges = np.unique(np.round(np.linspace(0, planned_steps, windows + 1)).astype(int))
    layers = list(records[0]["layers"]) if records else []
    rows = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = [(record["step"] > low) & (record["step"] <= high) for record in records]
        ratios = [np.asarray(record["update_ratio"])[own] for record, own in zip(records, inside, strict=True)]
        joined = np.concatenate([ratio for ratio in ratios if ratio.shape[1] == len(layers)] or [np.empty((0, 0))])
        variances = [
            np.asarray(r["cls_variance"])[own] for r, own in zip(records, inside, strict=True) if "cls_variance" in r
        ]
        rows.append(
            {
                "from_step": int(low) + 1,
                "to_step": int(high),
                "n": sum(bool(own.any()) for own in inside),
                "cls_variance": median_of(np.concatenate(variances or [np.array([])])),
                "update_ratio": median_of(joined.ravel()),
                **{
                    f"update_ratio/{layer}": median_of(joined[:, place]) if joined.shape[1] else None
                    for place, layer in enumerate(layers)
                },
            }
        )
    return rows


def arm_course(
    study: FinishedStudy, runs: Sequence[RunRecord], head: Mapping[str, Any], planned_steps: int
) -> list[dict[str, Any]]:
    """The rows of an arm: those of `course`, for saved and for failed runs.

    Args:
        study: it has the runs' files.
        runs: of the arm.
        head: the arm's own columns, such as its name.
        planned_steps: of the whole training.
    """
    rows = []
    for end, own in by_end(runs).items():
        records = [record for run in own if (record := study.steps(run)) is not None]
        if records:
            rows += [{**head, "end": end, **row} for row in course(records, planned_steps)]
    return rows


def draw_course(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Updates and variance over training: a column per kind of arm, a colour per arm; saved runs are solid, failed ones dashed.

    A dot is the first window after the change.

    Args:
        rows: the table `course`: rows of `arm_course` with `arm`, `kind` and `step`.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    kinds = [kind for kind in PANELS if any(row["kind"] == kind for row in rows)] or list(PANELS)[:1]
    figure = Figure(figsize=(1 + 3.6 * len(kinds), 6.4), layout="constrained")
    axes = figure.subplots(len(QUANTITIES), len(kinds), squeeze=False, sharex=True, sharey="row")
    for place, kind in enumerate(kinds):
        arms = list(dict.fromkeys((row["arm"], row["step"]) for row in rows if row["kind"] == kind))
        colors = colormaps["turbo"](np.linspace(0.05, 0.9, len(arms)))
        unchanged = [(row["arm"], row["step"]) for row in rows if row["kind"] not in PANELS][:1]
        for line, (quantity, label) in enumerate(QUANTITIES.items()):
            ax = axes[line, place]
            for arm, color in [*((arm, "black") for arm in unchanged), *zip(arms, colors, strict=True)]:
                own = [row for row in rows if (row["arm"], row["step"]) == arm]
                name = str(arm[1]) if kind != "collapsed" and arm[1] is not None else arm[0].replace("_", " ")
                for end, style in ((SAVED, "-"), (FAILED, "--")):
                    _line(ax, [row for row in own if row["end"] == end], quantity, color, style)
                ax.plot([], [], color=color, label=name)
            ax.set_yscale("log")
            ax.spines[["top", "right"]].set_visible(False)
            if place == 0:
                ax.set_ylabel(label)
        axes[0, place].set_title(PANELS[kind], fontsize="medium")
        axes[0, place].legend(frameon=False, fontsize="x-small", ncols=2, handlelength=1)
        axes[-1, place].set_xlabel("update step")
    figure.suptitle(
        "solid: saved runs; dashed: runs that fail again; dot: first window after the change", fontsize="small"
    )
    return figure


def _line(ax: Any, rows: Sequence[Mapping[str, Any]], quantity: str, color: Any, style: str) -> None:
    known = [row for row in rows if row[quantity]]  # a log scale has no 0
    ax.plot([_middle(row) for row in known], [row[quantity] for row in known], style, color=color, linewidth=1.2)
    after = [row for row in known if row["step"] is not None and row["to_step"] > row["step"]][:1]
    ax.plot([_middle(row) for row in after], [row[quantity] for row in after], "o", color=color, markersize=4)


def _middle(row: Mapping[str, Any]) -> float:
    return (row["from_step"] + row["to_step"]) / 2
