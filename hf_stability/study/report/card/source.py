"""The facts that a model card is made from, read from a study's folder: the run, its settings, the names on the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import InputError
from ....tasks.glue import GLUE_TASKS, HUB_DATASET, OFFICIAL_COUNTS
from ....utils.text import error_line
from ...job import Job
from ...records import RunRecord
from ..scores import read_recipes
from ..summary import summarize
from .rerun import is_bundled


HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


@dataclass(frozen=True)
class CardSource:
    """The facts of a card.

    Args:
        folder: the study's.
        runs: all finished runs of the recipe.
        run: the one that the weights are from.
        seed_given: whether the user named its seed.
        job, versions: the run's settings, and the versions that trained it.
        others: the study's other recipes.
        figures: the recipe's entry of `summarize`.
        examples: of the development set that counts; None where unknown.
        pretrained: the pretrained model as the study was given it, a name or a folder; "" where unknown.
        base_model, dataset: names on the hub; None where unknown.
        model: the folder of the run's weights; None if the study kept none.
    """

    folder: Path
    runs: list[RunRecord]
    run: RunRecord
    seed_given: bool
    job: Job
    versions: dict[str, str]
    others: list[str]
    figures: dict[str, Any]
    examples: int | None
    pretrained: str
    base_model: str | None
    dataset: str | None
    model: Path | None

    @property
    def metric(self) -> str:
        """The headline metric."""
        return self.run.metric

    @property
    def part(self) -> str:
        """The development set that counts, in words."""
        return "development set" if self.run.report is None else "first half of the development set"

    @property
    def official_split(self) -> str | None:
        """GLUE's name of the development set that counts, if the runs were evaluated on all of it, or on its two halves."""
        if self.job.task not in GLUE_TASKS:
            return None
        name = "validation_matched" if self.job.task == "mnli" else "validation"
        whole = OFFICIAL_COUNTS[self.job.task][name]
        return name if self.examples == (whole if self.run.report is None else whole // 2) else None

    @property
    def left_out(self) -> list[str]:
        """Facts that the card leaves out because they are unknown, each with the flag that gives it."""
        found = []
        if self.base_model is None and not is_bundled(self.pretrained):
            found.append("the pretrained model's name on the hub (--base_model)")
        if self.dataset is None:
            found.append("the data's name on the hub, and with it the results in the metadata (--dataset)")
        return found


def read_source(
    folder: Path,
    recipe: str | None = None,
    seed: int | None = None,
    base_model: str | None = None,
    dataset: str | None = None,
) -> CardSource:
    """Read the facts of a card from a study's folder.

    Args:
        folder: the study's.
        recipe: which recipe. Default: the only one.
        seed: the seed of the run that the weights are from. Default: see `choose_run`.
        base_model: the pretrained model's name on the hub. Default: see `known_base_model`.
        dataset: the data's name on the hub. Default: GLUE's for a GLUE task, else none.

    Raises:
        InputError: there is no finished run, no such recipe or seed, or several recipes and none is named; or the run's
            `config.json` cannot be read.
    """
    by_recipe = read_recipes(folder)
    if recipe is None and len(by_recipe) > 1:
        raise InputError(f"--recipe is missing: a card describes one recipe; give one of {', '.join(by_recipe)}")
    recipe = recipe or next(iter(by_recipe))
    runs = read_recipes(folder, [recipe])[recipe]
    run = choose_run(runs, seed)
    path = folder / "runs" / run.name
    job, versions = read_settings(path)
    pretrained = pretrained_model(folder, job)
    return CardSource(
        folder=folder,
        runs=runs,
        run=run,
        seed_given=seed is not None,
        job=job,
        versions=versions,
        others=[name for name in by_recipe if name != recipe],
        figures=summarize(runs)["recipes"][0],
        examples=number_of_examples(path),
        pretrained=pretrained,
        base_model=base_model or known_base_model(pretrained),
        dataset=dataset or (HUB_DATASET if job.task in GLUE_TASKS else None),
        model=path / "model" if (path / "model" / "config.json").is_file() else None,
    )


def choose_run(runs: Sequence[RunRecord], seed: int | None = None) -> RunRecord:
    """The run that the weights are from: with the given seed, or else with the best score at the end of training.

    Among equals it is the smallest seed. `--keep_model failed_and_best` keeps the same run.

    Raises:
        InputError: no run has this seed, or none was trained to its end.
    """
    recipe = runs[0].recipe
    if seed is not None:
        found = [run for run in runs if run.seed == seed]
        if not found:
            known = ", ".join(str(run.seed) for run in sorted(runs, key=lambda run: run.seed))
            raise InputError(f"--seed {seed}: {recipe} has no finished run with this seed; its seeds: {known}")
        if found[0].last is None:
            raise InputError(
                f"--seed {seed}: this run of {recipe} has no score ({found[0].status}); give the seed of another run"
            )
        return found[0]
    scored = [run for run in runs if run.last is not None]
    if not scored:
        raise InputError(f"{recipe}: no run has a score at its end; a card needs one run that was trained to its end")
    return max(scored, key=lambda run: (run.last, -run.seed))


def read_settings(folder: Path) -> tuple[Job, dict[str, str]]:
    """A run's job and the versions that trained it. Raises InputError if its `config.json` cannot be read."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Job.from_dict(content["job"]), content.get("versions", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: these are not a run's settings ({error_line(error)})") from None


def number_of_examples(folder: Path) -> int | None:
    """Number of examples of the development set that counts; None if the run's predictions are missing."""
    try:
        with np.load(folder / "predictions.npz") as saved:
            return len(saved["labels"])
    except (OSError, ValueError, KeyError):
        return None


def pretrained_model(folder: Path, job: Job) -> str:
    """The pretrained model as the study was given it: a name or a folder. "" if a stage's settings are missing.

    After stages it is the model that the first stage started from.
    """
    if not job.stages:
        return job.model
    first = next(folder.glob(f"stages/*-{job.stages[0]}/config.json"), None)
    return "" if first is None else read_settings(first.parent)[0].model


def known_base_model(pretrained: str) -> str | None:
    """The pretrained model's name on the hub, if this machine has downloaded it from there; else None.

    The name alone does not tell: `my-bert` may be a folder of the machine that ran the study.
    """
    from huggingface_hub import try_to_load_from_cache

    if not HUB_NAME.fullmatch(pretrained) or Path(pretrained).exists():
        return None
    return pretrained if isinstance(try_to_load_from_cache(pretrained, "config.json"), str) else None
