"""`two_way.md`: where the variance between the runs of two-way seeds comes from, and which cells failed.

The statistics are those of [`variance_components`][hf_stability.study.report.variance_components], the runs those of
[`two_way`][hf_stability.study.policies.two_way].
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
from .scores import read_recipes, read_scores


FEW_FAILURES = 10
"""With fewer failed runs, or fewer others, the counts come first: components of so few say little."""

BOOTSTRAP_SEED = 0
"""The same table each time."""

COVERAGE_NOTE = (
    "In simulations 95% intervals hold the true variance of a kind of seeds that contributes much in a share of 0.67 to 0.99 "
    "with 5 seeds of that kind, and 0.86 to 0.98 with 10. Those of the other components are too long."
)
"""From `python benchmarks/interval_coverage.py others`: scores with normal effects, and with a fifth of the levels failed."""


def write_two_way(folder: str | os.PathLike, recipes: Sequence[str] | None = None) -> str:
    """Write `two_way.md` into the folder of a study with `--two_way`; the same bytes each time.

    Scores are those of the tables, the headline metric at the end of training; diverged runs as in
    [`read_scores`][hf_stability.study.report.scores.read_scores]. A recipe without a whole design gets a sentence instead.

    Args:
        folder: the study's folder.
        recipes: which, in this order. Default: all.

    Returns:
        the text.

    Raises:
        InputError: no recipe has a whole design. Nothing is written then.
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


def _section(folder: Path, recipe: str, runs: Sequence[RunRecord]) -> list[str]:
    plain = sum(run.cell is None for run in runs)
    if plain:
        raise InputError(
            f"{recipe}: {plain} of {len(runs)} runs have plain seeds, which change initialisation, data order and dropout "
            "together; run a study with --two_way I J in another folder"
        )
    runs = sorted(runs, key=lambda run: run.seed)
    scores = read_scores(folder, runs)
    seeds = [run.cell["init"] for run in runs], [run.cell["order"] for run in runs]
    grid = components.crossed_grid(*seeds, scores.scores)
    failed = components.crossed_grid(*seeds, [float(run.status in NOT_OK) for run in runs])
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
    """Counts of each cell first where they are few, then the components of the 0/1 response."""
    number, size = int(grid.scores.sum()), grid.scores.size
    if number in (0, size):
        return [f"{'No' if number == 0 else 'Every'} run of {size} failed: there is nothing to take apart."]
    failures = components.analyse_failures(grid.scores, rng)
    counts = counts_table(failures, grid.init_seeds, grid.data_seeds)
    parts = [
        "Components of the response 1 for a failed run, 0 for another, on the scale of probabilities:",
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
    return [f"{what}: these counts are what there is to read, components say little.", "", counts, "", *parts]


# ---- tables ----------------------------------------------------------------------------------------------------------


def components_table(result: components.TwoWay) -> str:
    """The components as a Markdown table, with notes on how to read it below."""
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
            "-" if part.share is None else f"{part.share:.2f} ({part.share_low:.2f} to {part.share_high:.2f})",
        ]
        for part in result.components
    ]
    i, j, r = result.shape
    notes = [
        f"{i} initialisation seeds x {j} data-order seeds x {r} with other dropout; mean {result.mean:.3f}. Variances by "
        "the method of moments, in the score's unit squared; std is the root of the one that is not negative.",
        f"Intervals: {result.draws} bootstrap draws of seeds of both kinds, and of replicates within the cells. {COVERAGE_NOTE}",
    ]
    if not result.separable:
        rows.insert(2, ["interaction", *["not separable"] * 6])
        notes.append("One run a cell: interaction and dropout are not separable, their sum is one component.")
    return "\n".join([markdown_table([*header, f"share ({percent})"], rows), "", *(f"- {note}" for note in notes)])


def counts_table(failures: components.Failures, init_seeds: Sequence, data_seeds: Sequence) -> str:
    """Failed runs of each cell as a Markdown table, with the sums of both kinds of seeds; `2/3` is 2 failed of 3.

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
