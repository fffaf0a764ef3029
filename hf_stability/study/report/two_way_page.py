"""`two_way.md`: the sources of the variance between runs with two-way seeds, and the cells with failed runs.

`variance_components` has the statistics,
`two_way` makes the runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...utils.files import write_text
from ...utils.text import markdown_table
from ...verdicts.verdict import NOT_OK
from ..records import RunRecord
from . import variance_components as components
from .printed import text_table
from .scores import RecipeScores, read_recipes, read_scores


FEW_FAILURES = 10
"""With fewer failed runs, or fewer others, the counts come first: the components say little then."""

BOOTSTRAP_SEED = 0
"""Seed of the bootstrap, so that repeated calls make the same table."""

COVERAGE_NOTE = (
    "In simulations, 95% intervals of a large component cover its true variance in a share of 0.67 to 0.99 with 5 seeds of "
    "that kind, and 0.86 to 0.98 with 10. Intervals of the other components are too long."
)
"""From `python benchmarks/interval_coverage.py others`: scores with normal effects, and with a fifth of the seeds failing."""


def write_two_way(folder: str | os.PathLike, recipes: Sequence[str] | None = None) -> str:
    """Write `two_way.md` into the folder of a study with `--two_way`. Repeated calls write the same bytes.

    Scores are the headline metric at the end of training, as in the tables. Diverged runs count as in
    `read_scores`. A recipe without a complete design gets a sentence instead.

    Args:
        folder: the study's folder.
        recipes: which recipes, in this order. Default: all.

    Returns:
        the text.

    Raises:
        InputError: no recipe has a complete design. Nothing is written then.
    """
    folder = Path(folder)
    sections, reasons = [], []
    by_recipe = read_recipes(folder, recipes)
    for recipe, runs in by_recipe.items():
        try:
            sections += ["", f"## {recipe}", "", *_section(folder, recipe, runs)]
        except InputError as error:
            reasons.append(str(error))
            sections += ["", f"## {recipe}", "", f"Not analysed: {error}"]
    if len(reasons) == len(by_recipe):
        raise InputError("; ".join(reasons))
    text = "\n".join(["# Two-way seeds", *sections]) + "\n"
    write_text(folder / "two_way.md", text)
    return text


def shares_text(folder: str | os.PathLike, recipes: Sequence[str] | None = None) -> str:
    """Each source's share of the score's variance, as a table that fits a terminal.

    Args:
        folder: the study's folder.
        recipes: which recipes, in this order. Default: all. Below the table it says why others are left out.
    """
    rows, reasons = [], []
    for recipe, runs in read_recipes(Path(folder), recipes).items():
        try:
            grid = _score_grid(Path(folder), recipe, runs)[1]
        except InputError as error:
            reasons.append(f"Not analysed: {error}")
            continue
        for number, part in enumerate(
            components.analyse(grid.scores, np.random.default_rng(BOOTSTRAP_SEED)).components
        ):
            rows.append(["" if number else recipe, part.source, _share(part)])
    header = ["recipe", "source", "share of the score's variance (95% interval)"]
    return "\n\n".join([*([text_table(header, rows, left=(0, 1, 2))] if rows else []), *reasons])


def _score_grid(folder: Path, recipe: str, runs: Sequence[RunRecord]) -> tuple[RecipeScores, components.Grid]:
    """A recipe's scores, also by cell. Raises InputError if the design is not complete."""
    plain = sum(run.cell is None for run in runs)
    if plain:
        raise InputError(
            f"{recipe}: {plain} of {len(runs)} runs have plain seeds, which change initialisation, data order and dropout "
            "together; run a study with --two_way I J in another folder"
        )
    scores = read_scores(folder, sorted(runs, key=lambda run: run.seed))
    return scores, components.crossed_grid(*_seeds(scores.runs), scores.scores)


def _seeds(runs: Sequence[RunRecord]) -> tuple[list[int], list[int]]:
    """The numbers of the initialisations and of the data orders."""
    return [run.cell["init"] for run in runs], [run.cell["order"] for run in runs]


def _section(folder: Path, recipe: str, runs: Sequence[RunRecord]) -> list[str]:
    scores, grid = _score_grid(folder, recipe, runs)
    failed = components.crossed_grid(*_seeds(scores.runs), [float(run.status in NOT_OK) for run in scores.runs])
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    analysed = components_table(components.analyse(grid.scores, rng))
    parts = {"score": [f"### {scores.metric}", "", *_remarks(scores.diverged), analysed]}
    parts["failures"] = ["### Failed runs", "", *_failures(failed, rng)]
    number = int(failed.scores.sum())
    few = min(number, failed.scores.size - number) < FEW_FAILURES
    order = ("failures", "score") if few and number else ("score", "failures")
    return [line for name in order for line in (*parts[name], "")][:-1]


def _remarks(diverged: int) -> list[str]:
    return [f"{diverged} diverged: the score of their last predictions counts.", ""] if diverged else []


def _failures(grid: components.Grid, rng: np.random.Generator) -> list[str]:
    """Components of the 0/1 response and counts of each cell; the counts first if they are small."""
    number, size = int(grid.scores.sum()), grid.scores.size
    if number in (0, size):
        return [f"{'No' if number == 0 else 'Every'} run of {size} failed: there is no variance to explain."]
    failures = components.analyse_failures(grid.scores, rng)
    counts = counts_table(failures, grid.init_seeds, grid.data_seeds)
    parts = [
        "Variance components of a response that is 1 for a failed run and 0 for any other, on the scale of probabilities:",
        "",
        components_table(failures.analysis),
    ]
    if min(number, size - number) >= FEW_FAILURES:
        return [*parts, "", "Failed runs of each cell:", "", counts]
    what = (
        f"{number} of {size} runs failed"
        if number <= size - number
        else f"{size - number} of {size} runs did not fail"
    )
    return [f"{what}. Read these counts; with so few, the components say little.", "", counts, "", *parts]


# ---- tables ----------------------------------------------------------------------------------------------------------


def components_table(result: components.TwoWay) -> str:
    """The components as a Markdown table, with notes on how to read it."""
    percent = f"{result.confidence:.0%} interval"
    header = ["source", "df", "mean square", f"variance ({percent})", "variance, 0 if negative", "std"]
    rows = [
        [
            part.source,
            str(part.df),
            f"{part.mean_square:.3g}",
            f"{part.variance:.3g} ({part.low:.3g} to {part.high:.3g})",
            f"{part.truncated:.3g}",
            f"{part.truncated**0.5:.3g}",
            _share(part),
        ]
        for part in result.components
    ]
    i, j, r = result.shape
    notes = [
        f"{i} initialisation seeds x {j} data-order seeds x {r} with other dropout; mean {result.mean:.3f}. Variances are "
        "estimated by the method of moments, in the score's unit squared. std is the root of the variance, 0 if negative.",
        f"Intervals: {result.draws} bootstrap draws of seeds of both kinds, and of replicates within the cells. {COVERAGE_NOTE}",
    ]
    if not result.separable:
        rows.insert(2, ["interaction", *["not separable"] * 6])
        notes.append("With one run per cell, interaction and dropout are not separable: their sum is one component.")
    return "\n".join([markdown_table([*header, f"share ({percent})"], rows), "", *(f"- {note}" for note in notes)])


def _share(part: components.Component) -> str:
    """`0.81 (0.10 to 1.00)`; `-` if all scores are the same."""
    return "-" if part.share is None else f"{part.share:.2f} ({part.share_low:.2f} to {part.share_high:.2f})"


def counts_table(failures: components.Failures, init_seeds: Sequence, data_seeds: Sequence) -> str:
    """Failed runs of each cell as a Markdown table, with sums per seed; `2/3` is 2 failed of 3.

    Args:
        failures: of I x J cells.
        init_seeds: (I,), the rows' names.
        data_seeds: (J,), the columns' names.
    """
    i, j, r = failures.analysis.shape
    header = ["initialisation \\ data order", *map(str, data_seeds), "all"]
    rows = [
        [str(seed), *(f"{count}/{r}" for count in cells), f"{total}/{j * r}"]
        for seed, cells, total in zip(init_seeds, failures.counts, failures.by_initialisation, strict=True)
    ]
    sums = [f"{total}/{i * r}" for total in failures.by_data_order]
    rows.append(["all", *sums, f"{sum(failures.by_data_order)}/{i * j * r}"])
    return markdown_table(header, rows)
