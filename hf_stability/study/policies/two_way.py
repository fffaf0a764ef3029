"""Two-way seeds: every initialisation seed with every data-order seed, and in each cell replicates with other dropout.

A plain seed changes initialisation, data order and dropout together. Here each has its own seed (Dodge et al. 2020, arXiv
2002.06305). The study ends with `two_way.md`, see `two_way_page`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...training_args import seed_streams
from ..job import Job
from ..records import RunRecord
from ..report.scores import read_recipes
from ..report.two_way_page import shares_text, write_two_way
from .policy import Policy, refuse_alarms


DROPOUT_STREAM = 101
"""Spawn key of the replicates' dropout seeds; a seed's other streams have other keys."""

DEFAULT_REPLICATES = 2

MOST = 999
"""Largest number of seeds of a kind: a run's number has three digits for each."""


def check_sizes(sizes: Sequence[int]) -> tuple[int, int, int]:
    """`I J [R]` of `--two_way`, with the default number of replicates.

    Raises:
        InputError: not two or three numbers, fewer than two seeds of a kind, or more than 999.
    """
    words = " ".join(map(str, sizes))
    if len(sizes) not in (2, 3):
        raise InputError(
            f"--two_way {words}: give the number of initialisations, of data orders and, optionally, of replicates: 5 5 2"
        )
    inits, orders, replicates = (*sizes, DEFAULT_REPLICATES)[:3]
    if not (2 <= inits <= MOST and 2 <= orders <= MOST and 1 <= replicates <= MOST):
        raise InputError(
            f"--two_way {words}: give 2 to {MOST} initialisations, 2 to {MOST} data orders and 1 to {MOST} replicates"
        )
    return inits, orders, replicates


def cell_streams(init: int, order: int, dropout: int) -> dict[str, int]:
    """The three seeds of a run: initialisation `init` with data order `order`, replicate `dropout`.

    The first two are streams of the plain seeds `init` and `order`, see `seed_streams`. Dropout has its own seed in each
    run. The seeds do not depend on the size of the design, so that it can grow.

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
    """The jobs with two-way seeds: `inits * orders * replicates` for each planned job.

    A job's seed joins the three numbers of its cell: 2001003 for initialisation 2, data order 1, replicate 3.

    Args:
        planned: one job for each recipe.
        inits, orders, replicates: see `check_sizes`.

    Raises:
        InputError: alarms stop runs, which would then have no score.
    """
    jobs = []
    for job in planned:
        refuse_alarms(job, "--two_way, which needs every run's score with the seeds of its cell")
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
    """Refuse jobs that would not make a complete design together with the runs in the study's folder.

    Args:
        jobs: from `two_way_jobs`.
        runs: all runs in the folder, also those with plain seeds and of other recipes.

    Raises:
        InputError: pairs of seeds would have different numbers of runs. The message names sizes that work.
    """
    for recipe in dict.fromkeys(job.recipe for job in jobs):
        own: list[Job | RunRecord] = [
            *(job for job in jobs if job.recipe == recipe),
            *(run for run in runs if run.recipe == recipe),
        ]
        cells = {tuple(one.cell[kind] for kind in ("init", "order", "dropout")) for one in own if one.cell is not None}
        sizes = [max(numbers) for numbers in zip(*cells, strict=True)]  # each design has all numbers from 1 on
        if len(cells) != np.prod(sizes):
            raise InputError(
                f"--two_way: {recipe} has finished runs outside this design, and each pair of seeds needs the same number of "
                f"runs; give --two_way {' '.join(map(str, sizes))}, or another --output_dir"
            )


def conclusion(folder: Path, recipes: Sequence[str]) -> str:
    """The text that a study with `--two_way` prints at its end: shares of the variance, or why there is no `two_way.md`.

    This writes `two_way.md`. It has all recipes of the folder, these first. If no design is complete, an older file is deleted.
    """
    try:
        others = [name for name in read_recipes(folder) if name not in recipes]
        write_two_way(folder, [*recipes, *others])
        return (
            f"{shares_text(folder, recipes)}\n\nVariances, failed runs of each cell and notes: {folder / 'two_way.md'}"
        )
    except InputError as error:
        (folder / "two_way.md").unlink(missing_ok=True)
        return f"two_way.md was not written: {error}"


@dataclass(frozen=True)
class TwoWay(Policy):
    """Two-way seeds for each recipe.

    Args:
        inits, orders: number of initialisation seeds and of data-order seeds, each from 2 to 999.
        replicates: number of runs per pair, from 1 to 999. Default: 2.

    Raises:
        InputError: a number is outside its range.
    """

    inits: int
    orders: int
    replicates: int = DEFAULT_REPLICATES

    def __post_init__(self) -> None:
        check_sizes((self.inits, self.orders, self.replicates))

    def planned_seeds(self) -> list[int]:
        return [1]  # the cells replace it

    def jobs(self, planned: Sequence[Job]) -> list[Job]:
        return two_way_jobs(planned, self.inits, self.orders, self.replicates)

    def check_runs(self, jobs: Sequence[Job], runs: Sequence[RunRecord], folder: Path) -> None:
        check_growth(jobs, runs)

    def conclusion(self, folder: Path, recipes: Sequence[str]) -> str:
        return conclusion(folder, recipes)
