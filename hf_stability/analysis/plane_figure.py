"""The figure of a loss surface: contours of the loss and of the gradient norm, three points, and the runs' paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..study.report.plots import FAILED, OK


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LEVELS = 14
FLOOR = 1e-12
"""0 has no logarithm: smaller values are drawn as this one."""

MARKS = {"start": ("s", "white"), "failed": ("X", FAILED), "ok": ("o", OK)}
"""The mark and the colour of a point's kind."""


def plot_plane(
    ax: Axes,
    grid: tuple[Sequence[float], Sequence[float]],
    values: np.ndarray,
    label: str,
    points: Mapping[str, tuple[float, float]],
    paths: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Axes:
    """Filled contours of values on a plane, evenly spaced in their logarithm.

    Args:
        ax: where to draw.
        grid: the coordinates (a, b), of lengths A and B. a goes to the right.
        values: positive, `(A, B)`. NaN and Inf stay blank.
        label: of the colour bar.
        points: kind of a point, as in `MARKS` -> its coordinates.
        paths: kind of a run -> the coordinates of its path.
    """
    from matplotlib.colors import LogNorm

    shown = np.ma.masked_invalid(np.maximum(values, FLOOR))
    lowest, highest = float(shown.min()), float(shown.max())
    highest = max(highest, lowest * 1.001)
    levels = np.geomspace(lowest, highest, LEVELS)
    norm: Any = LogNorm(lowest, highest)
    image = ax.contourf(grid[0], grid[1], shown.T, levels=levels, norm=norm, cmap="viridis", extend="both")
    ax.contour(grid[0], grid[1], shown.T, levels=levels, norm=norm, colors="black", linewidths=0.3)
    ax.set_facecolor("0.85")
    ticks = np.geomspace(lowest, highest, 6)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.02, ticks=ticks)
    bar.ax.set_yticklabels([f"{tick:.2g}" for tick in ticks])
    bar.ax.minorticks_off()
    bar.set_label(label)
    for kind, path in (paths or {}).items():
        along, across = np.asarray(path, dtype=float).reshape(-1, 2).T
        ax.plot(along, across, color=MARKS[kind][1], linewidth=1.2, marker=".", markersize=3, zorder=3)
    for kind, (a, b) in points.items():
        mark, color = MARKS[kind]
        ax.plot(a, b, mark, color=color, markeredgecolor="black", markersize=8, linestyle="none", label=kind, zorder=4)
    ax.set_xlabel("a: from the start to the failed run's end")
    ax.set_ylabel("b: from the start to the ok run's end")
    return ax


def plane_figure(numbers: Mapping[str, Any]) -> Figure:
    """Both surfaces beside each other, from the numbers of `loss-surface` alone."""
    from matplotlib.figure import Figure

    grid = (numbers["a"], numbers["b"])
    points = {point["point"]: (point["a"], point["b"]) for point in numbers["tables"]["points"]}
    paths = {
        kind: [(row["a"], row["b"]) for row in numbers["tables"]["paths"] if row["point"] == kind]
        for kind in ("failed", "ok")
    }
    paths = {kind: path for kind, path in paths.items() if path}
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    title = f"{numbers['task']}: start, {numbers['failed']} (failed), {numbers['ok']} (ok); n = {numbers['examples']} examples"
    figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", fontsize="medium")
    for ax, (key, label) in zip(
        figure.subplots(1, 2), {"loss": "loss", "gradient_norm": "gradient norm"}.items(), strict=True
    ):
        plot_plane(ax, grid, np.array(numbers[key], dtype=float), label, points, paths)
    figure.axes[0].legend(loc="upper right", fontsize="small")
    return figure
