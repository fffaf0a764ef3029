"""A study's folder, as analyses read it: its runs, their settings, step records, predictions, models and data.

Importing this file is light: torch and datasets are imported only to read data and models.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..diagnostics.step_record import read_steps
from ..errors import InputError
from ..study.records import RunRecord
from ..study.report.page.predictions import PREDICTIONS, read_predictions
from ..study.report.scores import read_recipes
from ..utils.text import error_line
from ..verdicts.verdict import NOT_OK


if TYPE_CHECKING:
    from ..study.job import Job
    from ..tasks.load import TokenizedData


STEPS = "steps.rec"
MODEL = "model"


class FinishedStudy:
    """The finished runs of a study's folder. It writes nothing.

    Args:
        folder: the study's folder.
        recipes: which recipes, in this order. Default: all, sorted.
        output_dir: where an analysis writes. Default: `results` of its name.

    Attributes:
        folder: the study's folder.
        by_recipe: recipe -> its finished runs, by name. Stopped runs are among them; crashed runs have no record.

    Raises:
        InputError: there is no finished run, or none of a given recipe.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        recipes: Sequence[str] | None = None,
        output_dir: str | os.PathLike | None = None,
    ):
        self.folder = Path(folder)
        self.output_dir = None if output_dir is None else Path(output_dir)
        if not self.folder.is_dir():
            raise InputError(f"analyze {folder}: no such folder; give a study's folder, its --output_dir")
        self.by_recipe: dict[str, list[RunRecord]] = read_recipes(self.folder, recipes)

    @property
    def runs(self) -> list[RunRecord]:
        """All runs, recipe by recipe."""
        return [run for runs in self.by_recipe.values() for run in runs]

    @property
    def failed(self) -> list[RunRecord]:
        """The runs that failed. Diverged runs are among them."""
        return [run for run in self.runs if run.status in NOT_OK]

    @property
    def ok(self) -> list[RunRecord]:
        """The runs with the verdict ok. Stopped and unknown runs are neither ok nor failed."""
        return [run for run in self.runs if run.status == "ok"]

    def run_folder(self, run: RunRecord) -> Path:
        """The folder of a run."""
        return self.folder / "runs" / run.name

    def results(self, name: str) -> Path:
        """Where the files of an analysis belong. The folder may not exist yet."""
        return self.folder / "analysis" / name

    def target(self, name: str) -> Path:
        """Where an analysis writes its files: `output_dir`, else `results(name)`."""
        return self.output_dir or self.results(name)

    def job(self, run: RunRecord) -> dict[str, Any]:
        """The settings of a run, as `Job` has them: `args`, `model`, `tokenizer` ... Empty if they cannot be read."""
        try:
            job = json.loads((self.run_folder(run) / "config.json").read_text(encoding="utf-8"))["job"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return job if isinstance(job, dict) else {}

    def settings(self, run: RunRecord) -> Job:
        """The job of a run, its data in the study's folder as it is now: it may have been moved.

        Raises:
            InputError: its `config.json` cannot be read.
        """
        from ..study.report.card.source import read_settings

        job, _ = read_settings(self.run_folder(run))
        return replace(job, data_folder=str((self.folder / "data" / Path(job.data_folder).name).absolute()))

    def learning_rate(self, run: RunRecord) -> float | None:
        """The learning rate after warmup; None if it is not known."""
        return self.job(run).get("args", {}).get("learning_rate")

    def steps(self, run: RunRecord) -> dict[str, Any] | None:
        """The step record of a run, as `read_steps` returns it; None if the run has none.

        Raises:
            InputError: the file is not a record.
        """
        path = self.run_folder(run) / STEPS
        return read_steps(path) if path.is_file() else None

    def predictions(self, run: RunRecord) -> tuple[np.ndarray, np.ndarray] | None:
        """Logits (n, K) and labels (n,) of the last evaluation on the first development set; None if there are none."""
        return read_predictions(self.run_folder(run) / PREDICTIONS)

    @property
    def no_predictions(self) -> str:
        """Why an analysis of predictions cannot begin, with the way out."""
        return f"No run in {self.folder} has a predictions.npz with one label per example. Give a study that hf_stability ran."

    def model_folder(self, run: RunRecord) -> Path | None:
        """The model after the last step, with its tokenizer, as `save_pretrained` leaves it; None if it was not kept."""
        path = self.run_folder(run) / MODEL
        return path if (path / "config.json").is_file() else None

    @cached_property
    def data(self) -> TokenizedData:
        """The study's tokenised data. The folder may have been moved since.

        Raises:
            InputError: it cannot be read.
        """
        from ..tasks.load import TokenizedData

        name = next(
            (Path(job["data_folder"]).name for job in map(self.job, self.runs) if job.get("data_folder")), None
        )
        if name is None:
            raise InputError(
                f"{self.folder}: no run's config.json names the study's data; give a whole study's folder"
            )
        try:
            return TokenizedData.load(self.folder / "data" / name)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{self.folder / 'data' / name}: the study's data cannot be read ({error_line(error)}); run the study's "
                "command again"
            ) from None


Arms = dict[str, tuple[FinishedStudy, list[RunRecord]]]
"""Arm -> its runs, and the study that has their files: that of the analysis, or the user's where it has them all."""
