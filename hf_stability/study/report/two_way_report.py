"""Two-way seeds in a study: its jobs, and `two_way.md`, which says where the variance comes from.

The statistics are those of [`two_way`][hf_stability.study.report.two_way].
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...training_args import seed_streams
from ...utils.files import write_text
from ..job import Job
from ..records import RunRecord
from . import two_way
from .scores import read_recipes, read_scores
from .summary import NOT_OK


DROPOUT_STREAM = 101
"""Spawn key of the replicates' dropout seeds; see `run.AUDIT_STREAM`."""

DEFAULT_REPLICATES = 2

MOST = 999
"""Of each kind of seeds: a run's number has three digits for each."""

FEW_FAILURES = 10
"""With fewer failed runs, or fewer others, the counts come first: components of so few say little."""

BOOTSTRAP_SEED = 0
"""The same table each time."""


# ---- jobs -----------------------------------------------------------------------------------------------------------


def check_sizes(sizes: Sequence[int]) -> tuple[int, int, int]:
    """`I J [R]` of `--two_way`, with the default number of replicates.

    Raises:
        InputError: other than two or three numbers, fewer than two of a kind of seeds, or more than 999.
    """
    words = " ".join(map(str, sizes))
    if len(sizes) not in (2, 3):
        raise InputError(
            f"--two_way {words}: give the numbers of initialisations and of data orders, and perhaps of replicates: 5 5 2"
        )
    inits, orders, replicates = (*sizes, DEFAULT_REPLICATES)[:3]
    if not (2 <= inits <= MOST and 2 <= orders <= MOST and 1 <= replicates <= MOST):
        raise InputError(
            f"--two_way {words}: give 2 to {MOST} initialisations, 2 to {MOST} data orders and 1 to {MOST} replicates"
        )
    return inits, orders, replicates


def cell_streams(init: int, order: int, dropout: int) -> dict[str, int]:
    """The three seeds of a run: initialisation `init` with data order `order`, replicate `dropout`.

    The first two are those of the plain seeds of these numbers, see [`seed_streams`]; dropout has a seed of its own in
    each run. They do not depend on how many there are of each, so that a design can grow.

    Args:
        init, order, dropout: numbers from 1 on.

    Returns:
        `{"init_seed": ..., "data_seed": ..., "dropout_seed": ...}`
    """
    stream = np.random.SeedSequence((init, order, dropout), spawn_key=(DROPOUT_STREAM,))
    return {
        "init_seed": seed_streams(init)["init_seed"],
        "data_seed": seed_streams(order)["data_seed"],
        "dropout_seed": int(stream.generate_state(1)[0]),
    }


def two_way_jobs(planned: Sequence[Job], inits: int, orders: int, replicates: int) -> list[Job]:
    """The jobs of two-way seeds, `inits * orders * replicates` for each of those planned.

    A job's seed is its cell's three numbers in one, 2001003 for initialisation 2, data order 1, replicate 3.

    Args:
        planned: one job for each recipe.
        inits, orders, replicates: see [`check_sizes`].

    Raises:
        InputError: an alarm is to stop runs, which would then have no score.
    """
    jobs = []
    for job in planned:
        if job.args.get("on_alarm") == "stop":
            raise InputError("--on_alarm stop: not with --two_way, which needs every run's score; give warn or none")
        for cell in np.ndindex(inits, orders, replicates):
            init, order, dropout = (int(k) + 1 for k in cell)
            values = {"seed_streams": True, **cell_streams(init, order, dropout)}
            jobs.append(
                replace(
                    job,
                    seed=(init * 1000 + order) * 1000 + dropout,
                    args={**job.args, **values},
                    sources={**job.sources, **dict.fromkeys(values, "--two_way")},
                    cell={"init": init, "order": order, "dropout": dropout},
                )
            )
    return jobs


def check_growth(jobs: Sequence[Job], runs: Sequence[RunRecord]) -> None:
    """Refuse a design that, with the runs of the study's folder, is none.

    Args:
        jobs: of [`two_way_jobs`].
        runs: those of the folder; of plain seeds and of other recipes too.

    Raises:
        InputError: pairs of seeds would differ in their number of runs; with the numbers that would do.
    """
    for recipe in dict.fromkeys(job.recipe for job in jobs):
        own = [*(job for job in jobs if job.recipe == recipe), *(run for run in runs if run.recipe == recipe)]
        cells = {tuple(one.cell[kind] for kind in ("init", "order", "dropout")) for one in own if one.cell is not None}
        sizes = [max(numbers) for numbers in zip(*cells, strict=True)]  # each design has all from 1 on
        if len(cells) != np.prod(sizes):
            raise InputError(
                f"--two_way: {recipe} has runs of a design that is larger in another way, and each pair of seeds needs the same "
                f"number of runs; give --two_way {' '.join(map(str, sizes))}, or another --output_dir"
            )


# ---- the table ------------------------------------------------------------------------------------------------------


def write_two_way(folder: str | os.PathLike, recipes: Sequence[str] | None = None) -> str:
    """Write `two_way.md` into the folder of a study with `--two_way`; the same bytes each time.

    Scores are those of the tables, the headline metric at the end of training; diverged runs as in
    [`read_scores`][hf_stability.study.report.scores.read_scores]. A recipe whose design is not whole has a sentence instead.

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


def conclusion(folder: Path, recipes: Sequence[str]) -> str:
    """What a study with `--two_way` ends with: the text of `two_way.md`, or why there is none. It is of all recipes in the
    folder, these first; where no design is whole an older one is deleted."""
    try:
        others = [name for name in read_recipes(folder) if name not in recipes]
        return f"{write_two_way(folder, [*recipes, *others])}\n{folder}: two_way.md"
    except InputError as error:
        (folder / "two_way.md").unlink(missing_ok=True)
        return f"No two_way.md: {error}"


def _section(folder: Path, recipe: str, runs: Sequence[RunRecord]) -> list[str]:
    plain = sum(run.cell is None for run in runs)
    if plain:
        raise InputError(
            f"{recipe}: {plain} of {len(runs)} runs are of plain seeds, which change initialisation, data order and dropout "
            "together; run a study with --two_way I J in a folder of its own"
        )
    runs = sorted(runs, key=lambda run: run.seed)
    scores = read_scores(folder, runs)
    seeds = [run.cell["init"] for run in runs], [run.cell["order"] for run in runs]
    grid = two_way.crossed_grid(*seeds, scores.scores)
    failed = two_way.crossed_grid(*seeds, [float(run.status in NOT_OK) for run in runs])
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    analysed = two_way.to_markdown(two_way.analyse(grid.scores, rng))
    parts = {"score": [f"### {scores.metric}", "", *_remarks(scores.diverged), analysed]}
    parts["failures"] = ["### Failed runs", "", *_failures(failed, rng)]
    number = int(failed.scores.sum())
    few = min(number, failed.scores.size - number) < FEW_FAILURES
    order = ("failures", "score") if few and number else ("score", "failures")
    return [line for name in order for line in (*parts[name], "")][:-1]


def _remarks(diverged: int) -> list[str]:
    return [f"{diverged} diverged: the score of their last predictions counts.", ""] if diverged else []


def _failures(grid: two_way.Grid, rng: np.random.Generator) -> list[str]:
    """Counts of each cell first where they are few, then the components of the 0/1 response."""
    number, size = int(grid.scores.sum()), grid.scores.size
    if number in (0, size):
        return [f"{'No' if number == 0 else 'Every'} run of {size} failed: there is nothing to take apart."]
    failures = two_way.analyse_failures(grid.scores, rng)
    counts = two_way.counts_to_markdown(failures, grid.init_seeds, grid.data_seeds)
    components = [
        "Components of the response 1 for a failed run, 0 for another, on the scale of probabilities:",
        "",
        two_way.to_markdown(failures.analysis),
    ]
    if min(number, size - number) >= FEW_FAILURES:
        return [*components, "", "Failed runs of each cell:", "", counts]
    what = (
        f"{number} of {size} runs failed"
        if number <= size - number
        else f"{size - number} of {size} runs did not fail"
    )
    return [f"{what}: these counts are what there is to read, components say little.", "", counts, "", *components]


# ---- the command ----------------------------------------------------------------------------------------------------

USAGE = "hf-stability two_way STUDY_FOLDER [--recipe R ...]"

DESCRIPTION = """Where does the variance over seeds come from: the new head's initialisation, the order of the training data, their
interaction, or dropout? For a study that was run with --two_way. Writes two_way.md into its folder, and prints it."""

EXAMPLES = """
examples:
  # 5 initialisations x 5 data orders, each pair twice with other dropout: 50 runs, and the table at the end
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 --two_way 5 5 2 --output_dir two_way
  # more of each: what is there is kept
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 --two_way 10 10 2 --output_dir two_way
  # the table again
  hf-stability two_way two_way

How to read it: "variance" is what each source adds to the scores' variance, "share" its part of the sum. With one run a pair
of seeds (--two_way 5 5 1) interaction and dropout cannot be told apart. Where few runs fail the counts of failed runs come
first: a row that fails points to an initialisation, a column to a data order.
"""
