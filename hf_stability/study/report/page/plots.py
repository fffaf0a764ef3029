"""Plots of a report that a study does not draw: each takes an `ax` and numbers, draws, and returns the `ax`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..plots import COLORS, FAILED, GREY, MARKERS, OK, plain, wrap_name


if TYPE_CHECKING:
    from matplotlib.axes import Axes


NAME_WIDTH = 26
"""Characters of a recipe's name per line."""

MANY_COSTS = 300
"""From this ratio of the largest to the smallest cost on, only powers of ten have a label, because more would overlap."""


def plot_failed_shares(
    ax: Axes,
    recipes: Sequence[str],
    failed: Sequence[int],
    runs: Sequence[int],
    lows: Sequence[float],
    highs: Sequence[float],
) -> Axes:
    """Failed shares with their intervals, a line per recipe, the first on top.

    Args:
        recipes: names, `(recipes,)`.
        failed, runs: numbers of runs, `(recipes,)`; at least one run each.
        lows, highs: limits of the intervals, in [0, 1], `(recipes,)`.
    """
    places = np.arange(len(recipes))[::-1]
    shares = np.asarray(failed, dtype=float) / np.asarray(runs, dtype=float)
    ax.hlines(places, lows, highs, color=GREY, linewidth=2)
    ax.scatter(shares, places, 42, FAILED, zorder=3)
    for place, count, n, high in zip(places, failed, runs, highs, strict=True):
        ax.annotate(
            f"{count} of {n}", (high, place), xytext=(8, 0), textcoords="offset points", va="center", fontsize="small"
        )
    ax.set_yticks(places, ["\n".join(map(plain, wrap_name(name, NAME_WIDTH))) for name in recipes], fontsize="small")
    ax.set_ylim(-0.7, len(recipes) - 0.3)
    ax.set_xlim(-0.04, 1.27)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_xlabel("share of failed runs, with its 95% interval")
    _tidy(ax)
    return ax


def plot_expected_maximum(
    ax: Axes,
    costs_by_recipe: Mapping[str, Sequence[float] | np.ndarray],
    scores_by_recipe: Mapping[str, Sequence[float] | np.ndarray],
    metric: str,
    unit: str,
) -> Axes:
    """Expected best score of n runs, against what n runs cost. Both ends of each line are marked.

    Args:
        costs_by_recipe: recipe -> costs of 1 ... N runs, `(N,)`, above 0. The axis has a log scale.
        scores_by_recipe: recipe -> expected best scores of so many runs, `(N,)`.
        metric: name of the score.
        unit: of the costs.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    for number, (recipe, scores) in enumerate(scores_by_recipe.items()):
        color, marker = COLORS[number % 8], MARKERS[(number + number // 8) % 8]
        ax.plot(
            costs_by_recipe[recipe], scores, marker=marker, color=color, markersize=4, linewidth=1.4,
            markevery=[0, -1] if len(scores) > 1 else None, label=plain(recipe),
        )  # fmt: skip
    ax.set_xscale("log")
    smallest, largest = min(map(min, costs_by_recipe.values())), max(map(max, costs_by_recipe.values()))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if largest < MANY_COSTS * smallest else (1,)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(f"cost of n = 1, 2, ... runs, in {unit}")
    ax.set_ylabel(f"expected best {metric.replace('_', ' ')}\nof n runs")
    ax.margins(0.06)
    _tidy(ax)
    return ax


def plot_bands(
    ax: Axes, steps: Sequence[float] | np.ndarray, failed: np.ndarray, ok: np.ndarray, log: bool = False
) -> Axes:
    """A quantity over training, failed runs against ok ones: the median over runs, and a band between its quartiles.

    With fewer than four runs in a group, each run has a thin line instead of the band.

    Args:
        steps: update steps, `(points,)`.
        failed, ok: `(runs, points)`; without runs `(0, points)`. NaN and Inf are left out.
        log: a log scale; values of 0 and below are left out.
    """
    steps = np.asarray(steps, dtype=float)
    if log:
        ax.set_yscale("log", nonpositive="clip")
        ax.minorticks_off()  # they take most of a small figure's time and size
    for name, values, color, style in (("ok", ok, OK, "-"), ("failed", failed, FAILED, "--")):
        values = np.asarray(values, dtype=float).reshape(-1, len(steps))
        values = np.where(np.isfinite(values) & ((values > 0) | (not log)), values, np.nan)
        if not len(values) or np.isnan(values).all():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # at points where all are NaN
            low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=0)
        if len(values) < 4:
            for run in values:
                ax.plot(steps, run, color=color, alpha=0.4, linewidth=0.7)
        else:
            ax.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        marker = "." if len(steps) < 3 else None
        ax.plot(steps, middle, style, color=color, linewidth=1.6, marker=marker, label=f"{name} ({len(values)})")
    ax.set_xlim(0, 1.03 * steps.max(initial=1))
    ax.locator_params(axis="x", nbins=4, integer=True)
    ax.tick_params(labelsize="small")
    _tidy(ax)
    return ax


def _tidy(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
