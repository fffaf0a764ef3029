"""The figures of a report: drawn for paper as PNG and SVG, and as small SVG inside of the page.

Inside of the page a figure takes the page's colours, light or dark, and its font. Marks of runs tell seed and verdict when
the pointer rests on them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from ....diagnostics.plots import own_style
from ....errors import InputError
from ....utils.files import write_bytes
from ....utils.text import decimal
from ...attempts import MARK, has_attempts, with_marks, with_restarts
from ...records import RunRecord
from ..figures import (
    METADATA,
    StepSummary,
    empty_figure,
    finished_runs,
    pick_layers,
    read_step_summary,
    scores_figure,
    timeline_figure,
    train_loss_figure,
)
from ..plots import FAILED, OK, plain, wrap_name
from ..scores import read_scores
from .contents import seed_name
from .plots import plot_bands, plot_expected_maximum, plot_failed_shares


if TYPE_CHECKING:
    from matplotlib.figure import Figure


IN_A_ROW = 7  # boxes of scores: wider figures cannot be read on a page
NARROW = 4.7  # inches: such a figure can be read on a phone, and two stand side by side on a page
WIDE = 6.8  # inches
MANY_LINES = 6  # with more recipes, a figure with a line for each is wide
POINTS = 40  # of a curve in a panel
PANELS = 3  # panels of learning curves per row
LAYERS = 4  # panels of gradient norms per row

SVG = "{http://www.w3.org/2000/svg}"

# A colour of the plots -> the page's. The other colours of marks and lines can be seen on light and on dark.
COLORS = {
    "#000000": "var(--ink)",
    "#0072b2": "var(--blue)",  # too dark on a dark page
    "#ffffff": "var(--paper)",
    "#f0f0f0": "var(--box)",  # 0.94, boxes of scores
    "#e6e6e6": "var(--grid)",  # 0.9
    "#737373": "var(--muted)",  # 0.45
}


@dataclass(frozen=True)
class PageFigure:
    """A figure of a report.

    Args:
        name: of its files.
        title: a few words.
        caption: how to read it, with metric and n.
        figure: to write it as PNG.
        file: content of its SVG file; text is text.
        svg: for the inside of the page.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    file: str = field(repr=False)
    svg: str = field(repr=False)

    @property
    def wide(self) -> bool:
        """Whether it takes the whole width of the page."""
        return self.figure.get_size_inches()[0] > NARROW


def page_figures(
    contents: Mapping[str, Any], runs: Sequence[RunRecord], folder: Path | None
) -> tuple[list[PageFigure], list[list[str]]]:
    """The figures that these runs allow, and the others: name and reason.

    Args:
        contents: see `report_contents`.
        runs: the same runs.
        folder: the study's folder; None for runs made elsewhere, which have no step records and no evaluations over time.

    Raises:
        InputError: a run's `steps.rec` is damaged.
    """
    contents = with_marks(contents, with_restarts(contents["recipes"]))
    by_recipe = {name: [run for run in runs if run.recipe == name.removesuffix(MARK)] for name in contents["ranking"]}
    drawn: list[PageFigure] = []
    missing: list[list[str]] = []
    makers: dict[str, Callable[[], PageFigure | str]] = {
        "scores over seeds": lambda: _scores(contents, by_recipe),
        "failed shares": lambda: _failed_shares(contents),
        "expected maximum against compute": lambda: _maximum(contents),
    }
    with own_style():
        steps = {} if folder is None else _step_summaries(folder, by_recipe)
        makers |= {
            "score against train loss": lambda: _train_loss(contents, by_recipe, steps),
            "gradients of failed and ok runs": lambda: _gradients(contents, steps),
            "learning curves": lambda: _curves(contents, by_recipe, folder),
        }
        if has_attempts(runs):
            makers["attempts of each run"] = lambda: _timeline(by_recipe)
        for name, make in makers.items():
            made = make()
            if isinstance(made, str):
                missing.append([name, made])
            else:
                drawn.append(made)
    return drawn, missing


def write_figures(figures: Sequence[PageFigure], folder: Path) -> list[Path]:
    """Write them as PNG and SVG, with the same bytes each time."""
    paths = []
    with own_style():
        for figure in figures:
            content = BytesIO()
            figure.figure.savefig(content, format="png", dpi=150, facecolor="white", metadata=METADATA["png"])
            for kind, written in (("png", content.getvalue()), ("svg", figure.file.encode("utf-8"))):
                write_bytes(folder / f"{figure.name}.{kind}", written)
                paths.append(folder / f"{figure.name}.{kind}")
    return paths


# ---- one figure each: the figure, or why there is none ----------------------------------------------------------------


def _scores(contents: Mapping[str, Any], by_recipe: Mapping[str, list[RunRecord]]) -> PageFigure | str:
    shown = finished_runs(dict(by_recipe))
    if not any(run.last is not None for runs in shown.values() for run in runs):
        return "no run has a score at the end of training"
    figure = scores_figure(shown, IN_A_ROW, NARROW)
    figure.suptitle("")
    titles = [
        title
        for runs in shown.values()
        if any(run.last is not None for run in runs)
        for failed in (False, True)
        for title in [_titles(run for run in runs if run.last is not None and _failed(run) == failed)]
    ]
    metric = _words(contents)
    caption = (
        f"{metric.capitalize()} at the end of training: a mark per run, and a box per recipe over all of its runs, failed ones "
        f"included ({_counts(contents)}). As Figure 1 of Mosbach et al. (ICLR 2021)."
    )
    return _made("scores", "Scores over seeds", caption, figure, titles)


def _failed_shares(contents: Mapping[str, Any]) -> PageFigure | str:
    rows = [figures for figures in _ranked(contents) if figures["failed_share"] is not None]
    if not rows:
        return "no failed share is known: there are no verdicts, or runs were stopped"
    many = len(rows) > MANY_LINES
    figure = empty_figure(WIDE if many else NARROW, 0.9 + (0.3 if many else 0.4) * len(rows), None)
    plot_failed_shares(
        figure.subplots(),
        *([row[key] for row in rows] for key in ("recipe", "failed", "runs", "failed_share_low", "failed_share_high")),
    )
    caption = (
        "Share of failed runs: at the end of training their accuracy was not above that of the best constant prediction, or "
        "they diverged. 95% Wilson intervals."
    )
    return _made("failed_shares", "Failed shares", caption, figure)


def _maximum(contents: Mapping[str, Any]) -> PageFigure | str:
    found = {name: contents["expected_maximum"][name] for name in contents["ranking"]}
    found = {name: values for name, values in found.items() if values is not None}
    if not found:
        return "runs were stopped, or have no score"
    in_steps = all(values["cost"] is not None for values in found.values())
    costs = {name: values["cost"] if in_steps else values["n"] for name, values in found.items()}
    unit = "update steps" if in_steps else "runs (their update steps are unknown)"
    width = NARROW if len(found) <= MANY_LINES else WIDE
    figure = empty_figure(width, 3.2 + 0.17 * len(found), None)
    scores = {name: values["scores"] for name, values in found.items()}
    ax = plot_expected_maximum(figure.subplots(), costs, scores, contents["metric"], unit)
    _legend_below(ax, [len(name) for name in found])
    if all(values["on_second_half"] for values in found.values()):
        where = "on the second half of the development set, which selects nothing"
    else:
        where = "on the set that selects it"
    caption = (
        f"Expected {_words(contents)} of the best of n runs, {where}, against the cost of all n. A recipe that fails often may "
        "look good here, because failed runs are thrown away."
    )
    return _made("expected_maximum", "Best of n runs against compute", caption, figure)


def _gradients(contents: Mapping[str, Any], steps: Mapping[str, StepSummary]) -> PageFigure | str:
    layers = pick_layers(max((list(summary.norms) for summary in steps.values()), key=len, default=[]))
    if not layers:
        return "these runs have no records of gradient norms"
    layers = [layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, LAYERS).round().astype(int))]
    figure = empty_figure(WIDE, 0.7 + 1.5 * len(steps), None)
    axes = figure.subplots(len(steps), len(layers), sharey=True, sharex="row", squeeze=False)
    for row, (recipe, summary) in zip(axes, steps.items(), strict=True):
        stride = -(-len(summary.steps) // POINTS)
        for ax, layer in zip(row, layers, strict=True):
            norms = summary.norms.get(layer, np.full((len(summary.failed), len(summary.steps)), np.nan))[:, ::stride]
            plot_bands(ax, summary.steps[::stride], norms[summary.failed], norms[~summary.failed], log=True)
            if summary.warmup_steps:
                ax.axvline(summary.warmup_steps, color="black", linestyle=":", linewidth=0.8)
            if recipe == next(iter(steps)):
                ax.set_title(layer.replace("_", " "), fontsize="small")
        name = [*map(plain, wrap_name(recipe, 20)), _groups(summary.failed)]
        row[0].set_ylabel("\n".join(name), fontsize="small")
    _legend_of_groups(figure)
    figure.supxlabel("update step", fontsize="medium")
    caption = (
        "Gradient norm of some layers over training: median over runs and the band between the quartiles, failed runs against "
        "ok ones. Dotted: end of warmup. In failed runs, the lower layers' norms are small after "
        "warmup. In every run they are small before."
    )
    return _made("gradients", "Gradients, failed against ok", caption, figure)


def _timeline(by_recipe: Mapping[str, list[RunRecord]]) -> PageFigure | str:
    made = timeline_figure(dict(by_recipe), NARROW)
    if isinstance(made, str):
        return made
    figure, left_out = made
    figure.suptitle("")
    caption = (
        "Attempts of each run, one after the other: a bar per attempt, coloured by how it ended. A triangle is an alarm. A run "
        "begins again at the end of a bar, from the pretrained weights."
    )
    if left_out:
        caption += f" {left_out} runs that did not begin again are left out."
    return _made("attempts", "Attempts of each run", caption, figure)


def _train_loss(
    contents: Mapping[str, Any], by_recipe: Mapping[str, list[RunRecord]], steps: Mapping[str, StepSummary]
) -> PageFigure | str:
    shown = {name: runs for name, runs in finished_runs(dict(by_recipe)).items() if runs}
    if not any(run.train_loss is not None and run.last is not None for runs in shown.values() for run in runs):
        return "these runs have no train loss at their end"
    figure = train_loss_figure(shown, dict(steps), NARROW)
    figure.suptitle("")
    titles = [
        _titles(run for run in runs if run.last is not None and run.train_loss is not None and _failed(run) == failed)
        for runs in shown.values()
        for failed in (False, True)
    ]
    caption = (
        f"{_words(contents).capitalize()} on the development set against train loss, a mark per run. Failed runs are hollow. "
        "Runs at the label entropy have learned nothing."
    )
    return _made("score_against_train_loss", "Score against train loss", caption, figure, titles)


def _curves(
    contents: Mapping[str, Any], by_recipe: Mapping[str, list[RunRecord]], folder: Path | None
) -> PageFigure | str:
    if folder is None:
        return "runs made elsewhere: their evaluations over time were not read"
    found, reasons = {}, []
    for name, runs in by_recipe.items():
        try:
            scores = read_scores(folder, runs)
        except InputError as error:
            reasons.append(str(error))
            continue
        if len(scores.fractions):
            planned = max(run.planned_steps for run in runs)
            points = np.array([*scores.fractions, 1.0]) * planned
            failed = np.array([_failed(run) for run in scores.runs])
            found[name] = (points, np.column_stack([scores.looks, scores.scores]), failed)
    if not found:
        return reasons[0] if reasons else "these runs were evaluated only once, at their end"
    rows = -(-len(found) // PANELS)
    columns = min(PANELS, len(found))
    figure = empty_figure(WIDE if columns > 1 else NARROW, 0.7 + 2.0 * rows, None)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for ax, (name, (points, values, failed)) in zip(axes.flat, found.items(), strict=False):
        plot_bands(ax, points, values[failed], values[~failed])
        ax.set_title("\n".join([*map(plain, wrap_name(name, 26)), _groups(failed)]), fontsize="small")
        if contents["baseline"] is not None:
            ax.axhline(contents["baseline"], color="black", linestyle="--", linewidth=0.8)
    for ax in axes.flat[len(found) :]:
        ax.set_visible(False)
    _legend_of_groups(figure)
    figure.supxlabel("update step", fontsize="medium")
    figure.supylabel(_words(contents), fontsize="medium")
    caption = (
        f"{_words(contents).capitalize()} on the development set over training: median over runs and the band between the "
        "quartiles. Dashed: the best constant prediction."
    )
    return _made("learning_curves", "Learning curves", caption, figure)


# ---- data and words ---------------------------------------------------------------------------------------------------


def _step_summaries(folder: Path, by_recipe: Mapping[str, list[RunRecord]]) -> dict[str, StepSummary]:
    shown = finished_runs(dict(by_recipe))
    found = {name: read_step_summary(folder, runs) for name, runs in shown.items() if runs}
    return {name: summary for name, summary in found.items() if summary is not None}


def _failed(run: RunRecord) -> bool:
    return run.status in ("failed", "diverged")


def _titles(runs: Any) -> list[str]:
    return [f"{run.recipe}, seed {seed_name(run)}: {run.metric} {decimal(run.last)}, {run.status}" for run in runs]


def _ranked(contents: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    by_name = {figures["recipe"]: figures for figures in contents["recipes"]}
    return [by_name[name] for name in contents["ranking"]]


def _counts(contents: Mapping[str, Any]) -> str:
    """`n = 20 runs per recipe`, or `n = 5 to 20 ...`."""
    numbers = sorted({figures["n_scores"] for figures in contents["recipes"]})
    return f"n = {numbers[0]}{f' to {numbers[-1]}' * (len(numbers) > 1)} scores per recipe"


def _words(contents: Mapping[str, Any]) -> str:
    return contents["metric"].replace("_", " ")


def _legend_below(ax: Any, lengths: Sequence[int]) -> None:
    """A legend in two columns if they fit.

    Args:
        lengths: characters of each entry.
    """
    room = 13 * ax.figure.get_size_inches()[0]  # small characters beside the axis
    columns = 2 if len(lengths) > 1 and 2 * (max(lengths) + 5) <= room else 1
    ax.legend(
        loc="upper left", bbox_to_anchor=(0, -0.22), frameon=False, fontsize="small", ncols=columns, borderaxespad=0
    )


def _legend_of_groups(figure: Figure) -> None:
    """One legend for all panels."""
    from matplotlib.lines import Line2D

    styles: tuple[tuple[str, str, Any], ...] = (("ok", OK, "-"), ("failed", FAILED, "--"))
    lines = [
        Line2D([], [], color=color, linestyle=style, linewidth=1.6, label=f"{name} runs")
        for name, color, style in styles
    ]
    figure.legend(handles=lines, loc="outside upper left", ncols=2, frameon=False, fontsize="small")


def _groups(failed: np.ndarray) -> str:
    """`16 ok, 4 failed`."""
    return f"{int((~failed).sum())} ok, {int(failed.sum())} failed"


# ---- SVG inside of a page ---------------------------------------------------------------------------------------------


def _made(name: str, title: str, caption: str, figure: Figure, titles: Sequence[Sequence[str]] = ()) -> PageFigure:
    from matplotlib import rc_context

    content = StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(content, format="svg", facecolor="white", metadata=METADATA["svg"])
    figure.set_layout_engine("none")  # the PNG keeps this layout
    svg = content.getvalue()
    return PageFigure(name, title, caption, figure, svg, inline_svg(svg, name, title, titles))


def inline_svg(svg: str, name: str, label: str, titles: Sequence[Sequence[str]] = ()) -> str:
    """An SVG of matplotlib for the inside of a page: small, in the page's colours, with titles on its marks.

    Args:
        svg: the file's text, with text as text.
        name: put before each id, because ids of several figures would be the same.
        label: what a screen reader says.
        titles: per group of scattered marks, in their order, a title for each mark. A group with another number of marks
            stays as it is.
    """
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.get("viewBox", "").split())
    groups = {group.get("id"): group for group in root.iter(f"{SVG}g")}
    for number, own in enumerate(titles, 1):  # matplotlib numbers them in the order of drawing
        group = groups.get(f"PathCollection_{number}")
        marks = [] if group is None else list(group.iter(f"{SVG}use")) or group.findall(f"{SVG}path")
        if len(marks) == len(own):
            for mark, text in zip(marks, own, strict=True):
                ElementTree.SubElement(mark, f"{SVG}title").text = text
    kept = [child for child in root if child.tag in (f"{SVG}g", f"{SVG}defs")]
    body = "".join(ElementTree.tostring(child, encoding="unicode") for child in kept)
    body = re.sub(r' xmlns(:\w+)?="[^"]*"', "", body).replace("ns0:", "").replace("ns1:", "")
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d+\.\d)\d+", r"\1", tag[0]), body)  # a tenth of a point is enough
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)  # the page's
    body = re.sub(r"\s*\n\s*", "\n", body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    for color, ours in COLORS.items():
        body = body.replace(color, ours)
    least = 0.9 if width <= 72 * NARROW else 1.1  # a wide figure scrolls on a phone, so that its text can be read
    style = f"width:100%;min-width:{least * width:.0f}px;max-width:{1.7 * width:.0f}px"
    box = f"0 0 {width:.0f} {height:.0f}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}" style="{style}">{body}</svg>'
