"""Plots of many runs: each takes an `ax` and numbers, draws, and returns the `ax`.

Colours are Okabe and Ito's, which colour-blind readers tell apart. Marks and lines differ too, not colour alone.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np


if TYPE_CHECKING:
    from matplotlib.axes import Axes


OK, FAILED = "#0072B2", "#D55E00"  # blue, vermilion
# Grey replaces the palette's yellow, which cannot be seen on white.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "0.45"


def plot_scores(
    ax: Axes,
    scores_by_recipe: Mapping[str, Sequence[float] | np.ndarray],
    failed_by_recipe: Mapping[str, Sequence[bool] | np.ndarray],
    metric: str,
    constant: float | None = None,
) -> Axes:
    """Scores over seeds: a box per recipe and a mark per run, as Figure 1 of Mosbach et al. (ICLR 2021).

    The box covers all runs, also failed ones. It goes from the first to the third quartile, its whiskers to the last run
    within 1.5 times that range. Marks are moved sideways so that equal scores are visible, the same way each time.

    Args:
        scores_by_recipe: recipe -> scores at the end of training, `(runs,)`. A run without a score is NaN: it is counted, but
            not drawn. Recipes are drawn in this order.
        failed_by_recipe: recipe -> whether each of these runs failed, `(runs,)`.
        metric: name of the score.
        constant: score of the best constant predictor, if known.
    """
    places = range(len(scores_by_recipe))
    for place, (recipe, scores) in zip(places, scores_by_recipe.items(), strict=True):
        scores, failed = np.asarray(scores, dtype=float), np.asarray(failed_by_recipe[recipe], dtype=bool)
        known = np.isfinite(scores)
        if known.any():
            _draw_box(ax, place, scores[known], failed[known])
    if constant is not None:
        ax.axhline(constant, color="black", linestyle="--", linewidth=1, zorder=1.8, label="best constant predictor")
        right: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": "small"}
        ax.annotate(f"{constant:.3f}", (1, constant), xycoords=("axes fraction", "data"), **right)
    slots = max(len(places), 3)  # one or two boxes are no wider than three would be
    width = _characters(ax, ax.get_position().width) // slots - 2
    names = [
        "\n".join([*map(plain, wrap_name(recipe, width)), _count_failed(failed_by_recipe[recipe], scores)])
        for recipe, scores in scores_by_recipe.items()
    ]
    ax.set_xticks(places, names, fontsize="small")
    ax.tick_params(axis="x", length=0)
    middle = (len(places) - 1) / 2
    ax.set_xlim(middle - slots / 2, middle + slots / 2)
    ax.set_ylabel(_score_label(metric))
    ax.margins(y=0.08)
    _tidy(ax, "y")
    _legend_above(ax)
    return ax


def _draw_box(ax: Axes, place: int, scores: np.ndarray, failed: np.ndarray) -> None:
    x, size = place + sideways(scores), 26 if len(scores) <= 30 else 14
    ax.scatter(
        x[~failed], scores[~failed], size, OK, alpha=0.75, linewidths=0.4, edgecolors="white", zorder=3,
        label="ok run",
    )  # fmt: skip
    ax.scatter(x[failed], scores[failed], size, FAILED, marker="x", linewidths=1.3, zorder=3, label="failed run")
    line = {"color": GREY, "linewidth": 1}
    mean = {"marker": "D", "markersize": 7.5, "markerfacecolor": "white", "markeredgecolor": "black", "zorder": 2.5}
    ax.boxplot(
        [scores],
        positions=[place],
        widths=0.62,
        showfliers=False,
        showmeans=True,
        patch_artist=True,
        boxprops={"facecolor": "0.94", "edgecolor": GREY, "linewidth": 1},
        whiskerprops=line,
        capprops=line,
        medianprops={"color": "black", "linewidth": 2, "zorder": 2, "label": "median"},
        meanprops={**mean, "label": "mean"},
        manage_ticks=False,
        zorder=1.5,
    )
    best = scores.argmax()
    ax.annotate(
        f"max {scores[best]:.3f}", (place, scores[best]), xytext=(0, 5), textcoords="offset points", ha="center",
        va="bottom", fontsize="small", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )  # fmt: skip


def sideways(scores: np.ndarray, width: float = 0.5) -> np.ndarray:
    """Sideways positions of a recipe's runs, `(runs,)` in `[-width / 2, width / 2]`, that keep similar scores apart.

    They are multiples of the golden ratio's fraction, by rank. So neighbours in rank are spread over the whole width.
    """
    ranks = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    return ((0.5 + ranks * (5**0.5 - 1) / 2) % 1 - 0.5) * width


def plot_gradient_norms(
    ax: Axes,
    steps: Sequence[float] | np.ndarray,
    norms_failed: np.ndarray,
    norms_ok: np.ndarray,
    label: str = "",
    warmup_steps: float | None = None,
    panel: bool = False,
) -> Axes:
    """Gradient norm of one layer over training, failed runs against successful ones: Mosbach et al., section 5.1.

    A thin line per run, and a thick one for the median over a group's runs: solid for ok runs, dashed for failed ones.

    Args:
        steps: update steps, `(points,)`.
        norms_failed, norms_ok: `(runs, points)`; without runs `(0, points)`. NaN and Inf leave a gap and are not in the
            median. Norms of 0 are below the plot.
        label: the layer's name.
        warmup_steps: update steps of warmup; a dotted line marks their end.
        panel: this is one of several panels; the figure has the legend and the names of the axes.
    """
    steps = np.asarray(steps, dtype=float)
    norms_failed, norms_ok = (
        np.asarray(norms, dtype=float).reshape(-1, len(steps)) for norms in (norms_failed, norms_ok)
    )
    known = np.concatenate([norms[np.isfinite(norms)] for norms in (norms_failed, norms_ok)])
    drawable = bool((known > 0).any())
    ax.set_yscale("log", nonpositive="clip")  # before the lines, so that panels with a shared axis agree on its limits
    for name, norms, color, style in (("ok", norms_ok, OK, "-"), ("failed", norms_failed, FAILED, "--")):
        norms = np.where(np.isfinite(norms) & drawable, norms, np.nan)
        count = f"{len(norms)} run{'s' * (len(norms) > 1)}" if len(norms) else "none"
        for run in norms:
            ax.plot(steps, run, color=color, alpha=0.25, linewidth=0.6, zorder=2)
        ax.plot(
            steps, _median(norms), style, color=color, linewidth=1.7, zorder=3, label=f"{name} ({count})",
            marker="." if len(steps) == 1 else None,
        )  # fmt: skip
    if warmup_steps:
        ax.axvline(warmup_steps, color="black", linestyle=":", linewidth=1, zorder=1, label="end of warmup")
    if not drawable:
        text = "all norms are 0" if len(known) else "no norms"
        ax.text(0.5, 0.5, text, ha="center", va="center", color=GREY, transform=ax.transAxes)
    ax.locator_params(axis="x", integer=True)
    ax.set_xlim(0, 1.03 * steps.max(initial=1))  # the whole training, although a diverged run's norms end earlier
    _tidy(ax, "y")
    ax.tick_params(which="minor", length=2)
    if panel:
        ax.set_title(label, fontsize="medium")
    else:
        ax.set_xlabel("update step")
        ax.set_ylabel("gradient norm")
        _legend_above(ax, label)
    return ax


def _median(norms: np.ndarray) -> np.ndarray:
    """Median over runs, `(runs, points)` -> `(points,)`, without NaN; NaN if no run has a norm."""
    if not len(norms):
        return np.full(norms.shape[1], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # if all are NaN
        return np.nanmedian(norms, axis=0)


def plot_score_against_train_loss(
    ax: Axes,
    losses_by_recipe: Mapping[str, Sequence[float] | np.ndarray],
    scores_by_recipe: Mapping[str, Sequence[float] | np.ndarray],
    failed_by_recipe: Mapping[str, Sequence[bool] | np.ndarray],
    metric: str,
    constant: float | None = None,
    label_entropy: float | None = None,
) -> Axes:
    """Score on the development set against train loss, a mark per run: Mosbach et al., section 5.2.

    Each recipe has a colour and a marker. Failed runs are hollow. The loss has a log scale if it spans more than a decade.

    Args:
        losses_by_recipe: recipe -> train losses at the end of training (nats for a classification), `(runs,)`.
        scores_by_recipe, failed_by_recipe: recipe -> scores, and whether each run failed, `(runs,)`. Runs without a finite
            loss or score (NaN) are not drawn; the legend has their number.
        metric: name of the score.
        constant: score of the best constant predictor, if known: a dashed line.
        label_entropy: train loss of the best constant prediction, if known: a dotted line.
    """
    missing, drawn, any_failed = 0, [], False
    for number, (recipe, scores) in enumerate(scores_by_recipe.items()):
        scores, losses = np.asarray(scores, dtype=float), np.asarray(losses_by_recipe[recipe], dtype=float)
        failed = np.asarray(failed_by_recipe[recipe], dtype=bool)
        known = np.isfinite(scores) & np.isfinite(losses)
        missing += int((~known).sum())
        drawn.append(losses[known])
        any_failed |= bool(failed[known].any())
        color, marker = _color_and_marker(number)
        label = f"{plain(recipe)} ({failed.sum()}/{len(failed)} failed)"  # marks may cover each other
        ax.plot([], [], marker, color=color, label=label)  # filled in the legend, even if all runs failed
        for chosen, face in ((known & ~failed, color), (known & failed, "none")):
            ax.scatter(
                losses[chosen], scores[chosen], 34, marker=marker, facecolors=face, edgecolors=color, linewidths=1.2,
                alpha=0.8, zorder=3,
            )  # fmt: skip
    shown = np.concatenate([*drawn, [] if label_entropy is None else [label_entropy]])
    if len(shown) and shown.min() > 0 and shown.max() > 10 * shown.min():
        ax.set_xscale("log")
    if any_failed:
        ax.plot([], [], "o", markerfacecolor="none", color=GREY, label="hollow: failed")
    if constant is not None:
        text = f"best constant predictor ({constant:.3f})"
        ax.axhline(constant, color="black", linestyle="--", linewidth=1, zorder=1, label=text)
    if label_entropy is not None:
        text = f"label entropy, train loss of a constant prediction ({label_entropy:.3f})"
        ax.axvline(label_entropy, color="black", linestyle=":", linewidth=1, zorder=1, label=text)
    if missing:
        runs = "1 run" if missing == 1 else f"{missing} runs"
        ax.plot([], [], " ", label=f"not drawn: {runs} without loss or score")
    ax.set_xlabel("train loss, mean over the last 10% of update steps")
    ax.set_ylabel(_score_label(metric))
    ax.margins(0.06)
    _tidy(ax, "both")
    _legend_above(ax)
    return ax


def plot_restarts(
    ax: Axes,
    without: Sequence[float] | np.ndarray,
    replaced: Sequence[float] | np.ndarray,
    costs: Sequence[float] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    rule_costs: Sequence[float] | np.ndarray,
    rule_scores: Sequence[float] | np.ndarray,
    metric: str,
    label: str = "",
    panel: bool = False,
) -> Axes:
    """Expected score of the run that is kept, against the budget: restarts, and early stopping of bad seeds.

    Args:
        without, replaced: expected maximum of n = 1 ... N runs, drawn without and with replacement, `(N,)`.
        costs, scores: spent budgets, in runs, and expected scores of early stoppings, `(policies,)`; drawn as marks.
        rule_costs, rule_scores: the same for early stoppings by one rule, `(budgets,)`; drawn as a line. May be empty.
        metric: name of the score.
        label: the recipe's name.
        panel: this is one of several panels; the figure has the legend and the names of the axes.
    """
    n = np.arange(1, len(without) + 1)
    ax.plot(n, without, "-o", color=COLORS[0], markersize=3.5, linewidth=1.5, label="best of n, without replacement")
    ax.plot(n, replaced, ":s", color=GREY, markersize=3, linewidth=1.2, label="best of n, with replacement")
    if len(rule_costs):
        line: dict[str, Any] = {
            "color": COLORS[4],
            "markersize": 4,
            "linewidth": 1.2,
            "label": "early stopping by the rule",
        }
        ax.plot(rule_costs, rule_scores, "--^", **line)
    if len(costs):
        marks: dict[str, Any] = {"marker": "x", "color": COLORS[2], "linewidths": 1, "zorder": 3}
        ax.scatter(costs, scores, 18, label="early stoppings of the table", **marks)
    ax.locator_params(axis="x", integer=True)
    ax.margins(0.06)
    _tidy(ax, "y")
    if panel:
        ax.set_title(plain(label), fontsize="medium")
    else:
        ax.set_xlabel("budget, runs")
        ax.set_ylabel(f"expected {metric.replace('_', ' ')} of the best run")
        _legend_above(ax, plain(label))
    return ax


# ---- shared helpers -------------------------------------------------------------------------------------------------


def plain(name: str) -> str:
    """A recipe's name, escaped for matplotlib: `$` would begin a formula, and a legend leaves out `_name`."""
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _score_label(metric: str) -> str:
    """Label of an axis of scores."""
    return f"{metric.replace('_', ' ')} on the\ndevelopment set, end of training"


def _count_failed(failed: Sequence[bool] | np.ndarray, scores: Sequence[float] | np.ndarray) -> str:
    """`3 of 25 failed`, and in a second line the number of runs without a score."""
    missing = int((~np.isfinite(np.asarray(scores, dtype=float))).sum())
    text = f"{int(np.sum(failed))} of {len(failed)} failed" if len(failed) else "no runs"
    return f"{text}\n({missing} without score)" if missing else text


def _color_and_marker(number: int) -> tuple[str, str]:
    """Colour and marker of a recipe by its position, from 0; 64 pairs differ."""
    return COLORS[number % 8], MARKERS[(number + number // 8) % 8]


def name_parts(name: str, width: int) -> list[str]:
    """A recipe's name in parts of at most `width` characters, cut after `_-,+=` and at spaces, not inside of `4e-5`."""
    parts = re.split(r"(?<=[_,+= ])|(?<=-)(?<!\de-)", name)
    return [part[i : i + width] for part in parts for i in range(0, len(part), width)]


def wrap_name(name: str, width: int) -> list[str]:
    """A recipe's name in lines of at most `width` characters, cut as in `name_parts` where possible."""
    width = max(width, 8)
    lines = [""]
    for piece in name_parts(name, width):
        if len(lines[-1] + piece) > width:
            lines.append(piece)
        else:
            lines[-1] += piece
    return [line.strip() for line in lines]


def _characters(ax: Axes, share: float) -> int:
    """About how many small characters fit on this share of the figure's width."""
    figure: Any = ax.figure
    return int(16 * share * figure.get_size_inches()[0])


def _tidy(ax: Axes, grid: Literal["both", "x", "y"]) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)


def _legend_above(ax: Axes, title: str = "") -> None:
    """A legend above the plot, outside the data; each label once."""
    handles, labels = ax.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if not once:
        return
    labels, room = list(once), _characters(ax, 1 - ax.get_position().x0)

    def width(columns: int) -> int:
        return sum(max(map(len, column)) + 5 for column in np.array_split(labels, columns))

    fitting = [n for n in range(1, len(labels) + 1) if width(n) <= room]
    ax.legend(
        once.values(), labels, loc="lower left", bbox_to_anchor=(0, 1.01), frameon=False,
        ncols=max(fitting, default=1), title=title, alignment="left", title_fontproperties={"weight": "bold"},
        fontsize="small", borderaxespad=0,
        handlelength=1.6, columnspacing=1.2,
    )  # fmt: skip
