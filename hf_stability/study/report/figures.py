"""A study's figures, drawn from its runs' files. The plots themselves are in `plots.py`."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...diagnostics.plots import own_style, window_medians
from ...diagnostics.step_record import read_steps
from ...errors import InputError
from ...utils.files import write_bytes
from ...verdicts.constants import label_entropy
from ...verdicts.verdict import CENSORED, NOT_OK
from ..attempts import MARK, attempts_of, has_attempts
from ..folder import read_runs
from ..records import RunRecord
from .plots import plain, plot_gradient_norms, plot_score_against_train_loss, plot_scores
from .timeline import plot_timeline, timeline_lines


if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_LINES = 60  # of a timeline; with more, it has only the runs that began again
MOST_IN_A_ROW = 14  # boxes of scores, each wide enough for its name
WINDOWS = 100  # a panel of gradient norms is too small to show more points
METADATA = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


@dataclass(frozen=True)
class StepSummary:
    """The step records of one recipe's runs, summarised for the figures.

    Args:
        steps: update step in the middle of each window, `(windows,)`.
        norms: layer -> median norm in each window, `(runs, windows)`; NaN if a run has no finite norm there.
        failed: `(runs,)`.
        warmup_steps: update steps.
        window: update steps in a window.
        label_counts: training examples of each class, counted each time they are used, `(classes,)`; empty for a regression.
    """

    steps: np.ndarray
    norms: dict[str, np.ndarray]
    failed: np.ndarray
    warmup_steps: float
    window: int
    label_counts: np.ndarray


def draw_figures(
    folder: str | os.PathLike,
    recipes: Sequence[str] | None = None,
    seeds: Collection[int] | None = None,
    into: str | os.PathLike | None = None,
    only: Collection[str] | None = None,
) -> list[Path]:
    """Draw the figures of a study from its folder, as PNG and SVG. Repeated calls write the same bytes.

    | in `<folder>/figures` | content |
    | --- | --- |
    | `scores` | scores over seeds, a box for each recipe |
    | `gradient_norms` | norms of some layers over update steps, failed runs against ok ones, a row for each recipe |
    | `score_against_train_loss` | score at the end of training against train loss |
    | `attempts` | only with `--on_alarm restart`: the attempts of each run, one after the other |

    Diverged runs count as failed, as in the tables. No plot has stopped runs, because how they would have ended is unknown;
    the recipe's name gives their number.

    Args:
        folder: the study's folder.
        recipes: recipes to draw, in this order. Default: all, sorted.
        seeds: seeds to draw. Default: all.
        into: where to write them, instead of `<folder>/figures`.
        only: names of figures to draw. Default: all.

    Returns:
        the files.

    Raises:
        InputError: the folder has none of these runs, or a run's `steps.rec` cannot be read.
    """
    folder = Path(folder)
    runs = [run for run in read_runs(folder) if seeds is None or run.seed in seeds]
    names = sorted({run.recipe for run in runs}) if recipes is None else list(dict.fromkeys(recipes))
    by_recipe = {name: [run for run in runs if run.recipe == name] for name in names}
    if not any(by_recipe.values()):
        chosen = "" if recipes is None and seeds is None else " of these recipes and seeds"
        raise InputError(f"{folder}: no finished run{chosen} to draw; give a study's folder")
    every = by_recipe
    by_recipe = finished_runs(by_recipe)
    summaries = {name: read_step_summary(folder, own) for name, own in by_recipe.items()}
    steps = {name: summary for name, summary in summaries.items() if summary is not None}
    with own_style():
        makers = {
            "scores": lambda: scores_figure(by_recipe),
            "gradient_norms": lambda: gradient_norms_figure(steps, _first(by_recipe, "task")),
            "score_against_train_loss": lambda: train_loss_figure(by_recipe, steps),
        }
        figures = {name: make() for name, make in makers.items() if only is None or name in only}
        if only is None or "attempts" in only:
            timeline = timeline_figure(every)
            if not isinstance(timeline, str):
                figures["attempts"] = timeline[0]
        target = folder / "figures" if into is None else Path(into)
        target.mkdir(exist_ok=True)
        return [path for name, figure in figures.items() for path in write_figure(figure, target, name)]


# ---- the figures ----------------------------------------------------------------------------------------------------


def scores_figure(
    by_recipe: dict[str, list[RunRecord]], in_a_row: int = MOST_IN_A_ROW, narrowest: float = 6.5
) -> Figure:
    """`plot_scores` of a study, with at most `in_a_row` recipes per row, at least `narrowest` inches wide."""
    names = list(by_recipe)
    rows = [names[i : i + in_a_row] for i in range(0, len(names), in_a_row)]
    figure = empty_figure(max(narrowest, 1 + 1.1 * len(rows[0])), 4.4 * len(rows), _first(by_recipe, "task"))
    metric, constant = _first(by_recipe, "metric"), _first(by_recipe, "baseline")
    for ax, own in zip(figure.subplots(len(rows), sharey=True, squeeze=False)[:, 0], rows, strict=True):
        runs = {name: by_recipe[name] for name in own}
        plot_scores(ax, _values(runs, "last"), _failed(runs), metric or "score", constant)
    return figure


def train_loss_figure(
    by_recipe: dict[str, list[RunRecord]], steps: dict[str, StepSummary], width: float = 6.5
) -> Figure:
    """`plot_score_against_train_loss` of a study, `width` inches wide."""
    by_recipe = {name: runs for name, runs in by_recipe.items() if runs}
    counts = [summary.label_counts for summary in steps.values() if summary.label_counts.sum() > 0]
    figure = empty_figure(width, 4.4 + 0.17 * max(0, len(by_recipe) - 3), _first(by_recipe, "task"))
    plot_score_against_train_loss(
        figure.subplots(),
        _values(by_recipe, "train_loss"),
        _values(by_recipe, "last"),
        _failed(by_recipe),
        _first(by_recipe, "metric") or "score",
        _first(by_recipe, "baseline"),
        float(label_entropy(np.sum(counts, axis=0))) if counts else None,
    )
    return figure


def timeline_figure(by_recipe: dict[str, list[RunRecord]], width: float = 6.5) -> tuple[Figure, int] | str:
    """`plot_timeline` of a study with restarts, `width` inches wide, and the number of runs that are left out.

    With more than `MOST_LINES` runs, those that did not begin again are left out. A str: why there is no figure.
    """
    runs = {name: own for name, own in by_recipe.items() if any(attempts_of(run) for run in own)}
    if not runs:
        return "no run tells its attempts"
    lines = {name: timeline_lines(own) for name, own in runs.items()}
    number = sum(map(len, lines.values()))
    if number > MOST_LINES:
        shown = {name: [line for line in own if len(line.bars) > 1] for name, own in lines.items()}
        lines = shown if any(shown.values()) else {name: own[:MOST_LINES] for name, own in lines.items()}
    left = sum(map(len, lines.values()))
    figure = empty_figure(width, 1.2 + 0.17 * left + 0.25 * len(lines), _first(by_recipe, "task"))
    plot_timeline(figure.subplots(), lines)
    return figure, number - left


def gradient_norms_figure(steps: dict[str, StepSummary], task: str | None) -> Figure:
    """A row of `plot_gradient_norms` per recipe, with a panel for each of some layers. All norms have one scale.

    Failed runs are compared with ok runs of the same recipe, because recipes train for different numbers of steps.
    """
    layers = pick_layers(max((list(summary.norms) for summary in steps.values()), key=len, default=[]))
    if not layers:
        figure = empty_figure(6.5, 2, task)
        figure.text(0.5, 0.5, "no gradient norms were recorded", ha="center", va="center")
        return figure
    figure = empty_figure(9.5, 0.9 + (2.0 if len(steps) > 1 else 2.5) * len(steps), task)
    rows = figure.subfigures(len(steps), 1, squeeze=False)[:, 0]
    top_left = None
    for row, (recipe, summary) in zip(rows, steps.items(), strict=True):
        panels = row.subplots(1, len(layers), sharex=True, sharey=True, squeeze=False)[0]
        if top_left is None:
            top_left = panels[0]
        else:
            panels[0].sharey(top_left)
        failed = summary.failed
        for ax, layer in zip(panels, layers, strict=True):
            norms = summary.norms.get(layer, np.full((len(failed), len(summary.steps)), np.nan))
            plot_gradient_norms(
                ax, summary.steps, norms[failed], norms[~failed], layer.replace("_", " "), summary.warmup_steps, True
            )
            ax.tick_params(labelsize="small")
        handles, labels = panels[0].get_legend_handles_labels()
        row.legend(
            handles, labels, loc="outside upper left", ncols=len(labels), title=plain(recipe), alignment="left",
            frameon=False, fontsize="small", title_fontproperties={"weight": "bold"},
        )  # fmt: skip
    note = "thin: a run, thick: median over runs"
    shortest, longest = (bound(summary.window for summary in steps.values()) for bound in (min, max))
    if longest > 1:
        note += f"; each point: median of {shortest if shortest == longest else f'{shortest} to {longest}'} steps"
    figure.supxlabel(f"update step ({note})", fontsize="medium")
    figure.supylabel("gradient norm of the layer", fontsize="medium")
    return figure


def pick_layers(layers: Sequence[str]) -> list[str]:
    """Layers to draw, from input to output: embeddings, the first, middle and last encoder layer, pooler, classifier.

    Args:
        layers: names as in `layers_of`. For other names, at most six layers are picked, evenly spaced.
    """
    numbered = [name for name in layers if re.search(r"layer_\d+$", name)]
    chosen = {"embeddings", "pooler", "classifier"}
    if numbered:
        chosen |= {numbered[0], numbered[len(numbered) // 2], numbered[-1]}
    picked = [name for name in layers if name in chosen]
    if picked:
        return picked
    return [layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, 6).round().astype(int))] if layers else []


# ---- data of the figures --------------------------------------------------------------------------------------------


def finished_runs(by_recipe: dict[str, list[RunRecord]]) -> dict[str, list[RunRecord]]:
    """The runs that were not stopped, by recipe; a recipe with stopped runs is named `a (5 stopped)`, one with restarts `a†`."""
    named = {}
    for name, runs in by_recipe.items():
        finished = [run for run in runs if run.status not in CENSORED]
        stopped = len(runs) - len(finished)
        if has_attempts(runs) and not name.endswith(MARK):
            name += MARK
        early = " early" if any(run.status == "stopped early" for run in runs) else ""
        named[f"{name} ({stopped} stopped{early})" if stopped else name] = finished
    return named


def read_step_summary(folder: Path, runs: Sequence[RunRecord]) -> StepSummary | None:
    """Read the step records of one recipe's runs in a study's folder; None if no run has one.

    A run's steps are cut into at most 100 windows, the same for all runs.
    """
    paths = {run.name: folder / "runs" / run.name / "steps.rec" for run in runs}
    runs = [run for run in runs if paths[run.name].is_file()]
    if not runs:
        return None
    total = max(1, *(run.steps for run in runs))
    window = -(-total // WINDOWS)
    norms: dict[str, np.ndarray] = {}
    counts, warmup_steps = [], 0
    for number, run in enumerate(runs):
        record = read_steps(paths[run.name])
        medians = window_medians(record["step"], record["layer_norms"], window, -(-total // window))
        for layer, values in zip(record["layers"], medians.T, strict=True):
            norms.setdefault(layer, np.full((len(runs), len(values)), np.nan))[number] = values
        counts.append(np.nansum(record["labels"], axis=0))
        warmup_steps = record["info"].get("warmup_steps", warmup_steps)
    return StepSummary(
        steps=(np.arange(-(-total // window)) + 0.5) * window + 0.5,
        norms=norms,
        failed=np.array([run.status in NOT_OK for run in runs]),
        warmup_steps=warmup_steps,
        window=window,
        label_counts=np.sum(counts, axis=0),
    )


# ---- small things ---------------------------------------------------------------------------------------------------


def _values(by_recipe: dict[str, list[RunRecord]], name: str) -> dict[str, np.ndarray]:
    """A field of each run, `(runs,)`; NaN for None."""
    return {
        recipe: np.array([np.nan if (value := getattr(run, name)) is None else value for run in runs], dtype=float)
        for recipe, runs in by_recipe.items()
    }


def _failed(by_recipe: dict[str, list[RunRecord]]) -> dict[str, np.ndarray]:
    return {recipe: np.array([run.status in NOT_OK for run in runs]) for recipe, runs in by_recipe.items()}


def _first(by_recipe: dict[str, list[RunRecord]], name: str) -> Any:
    """A value that all runs of a study share, from the first run that has it."""
    values = (getattr(run, name) for runs in by_recipe.values() for run in runs)
    return next((value for value in values if value not in (None, "")), None)


def empty_figure(width: float, height: float, task: str | None) -> Figure:
    """An empty figure, in inches. It avoids pyplot, which would keep the figure and may look for a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(task or "", x=0.01, ha="left", fontsize="large", fontweight="bold")
    return figure


def write_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write the figure as PNG and SVG, each atomically, as the study's other files."""
    paths = []
    for kind, metadata in METADATA.items():
        content = BytesIO()
        figure.savefig(content, format=kind, dpi=150, facecolor="white", metadata=metadata)
        figure.set_layout_engine("none")  # the next format keeps this layout, at no cost
        path = folder / f"{name}.{kind}"
        write_bytes(path, content.getvalue())
        paths.append(path)
    return paths
