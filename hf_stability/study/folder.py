"""A study's folder: its content, and the check of an existing folder before a study runs.

| path | what |
| --- | --- |
| `runs/RECIPE/seed-001/` | a run; `records.py` lists its files |
| `stages/TASK-ID/` | an intermediate training, with its `encoder/` |
| `data/HASH/` | the tokenised data |
| `summary.md`, `.csv`, `.json` | the tables |
| `figures/` | the pictures |
| `progress.json` | how far the study is; see `progress_file.py` |
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..tasks.load import is_saved
from ..utils.text import error_line
from ..verdicts.verdict import NOT_OK
from .job import Job, differences
from .records import LOOK, RunRecord, read_run


TABLES = ("summary.md", "summary.csv", "summary.json")
SAME_IN_A_STUDY = ("task", "model_fingerprint", "data_fingerprint", "dtype", "mixed_precision")


def run_folder(study_folder: Path, job: Job) -> Path:
    """Where a job's run is kept."""
    return study_folder / ("stages" if job.is_stage else "runs") / job.name


def encoder_folder(study_folder: Path, stage: Job) -> Path:
    """Where a stage's encoder and tokenizer are kept, for the trainings that start from it."""
    return run_folder(study_folder, stage) / "encoder"


def read_runs(folder: Path) -> list[RunRecord]:
    """Every finished run below a study's folder, sorted by folder."""
    runs = (read_run(path.parent) for path in sorted(folder.glob("runs/*/*/run.json")))
    return [run for run in runs if run is not None]


def read_looks(folder: Path) -> list[RunRecord]:
    """Records at the look (`--restarts`) of runs that have no `run.json` yet; sorted by folder."""
    waiting = (path.parent for path in sorted(folder.glob(f"runs/*/*/{LOOK}")) if read_run(path.parent) is None)
    return [run for run in (read_run(path, LOOK) for path in waiting) if run is not None]


def prune_models(folder: Path, runs: Sequence[RunRecord], keep_model: str) -> None:
    """With `failed_and_best`, delete the models of runs that neither failed nor are their recipe's best."""
    if keep_model != "failed_and_best":
        return
    for run in runs:
        rivals = [other for other in runs if other.recipe == run.recipe and other.last is not None]
        best = max(rivals, key=lambda other: (other.last, -other.seed), default=None)
        if run.status not in NOT_OK and run is not best:
            shutil.rmtree(folder / "runs" / run.name / "model", ignore_errors=True)


def check_folder(jobs: Sequence[Job], folder: Path, stages: Sequence[Job] = ()) -> list[RunRecord]:
    """Refuse a study's folder that is a file, cannot be written to, or has runs with other settings.

    All runs of a study are in one table. So runs of one recipe differ only in their seed, and all runs have the same model,
    data and precision. Runs that have reached only their look count too.

    Args:
        jobs, folder: the planned runs, and their study's folder.
        stages: the jobs' stages, for the list of differences.

    Returns:
        the folder's finished runs.

    Raises:
        InputError: for such a folder; the message lists the differences.
    """
    try:
        nearest_existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise InputError(f"--output_dir {folder}: {error.strerror}; give another folder") from None
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output_dir {folder}: this is a file; give a folder")
    if not nearest_existing.is_dir() or not _writable(nearest_existing):
        raise InputError(f"--output_dir {folder}: cannot write to {nearest_existing}; give another folder")
    _check_nothing_in_the_way(jobs, folder, stages)
    by_recipe = {job.recipe: job for job in jobs}
    finished = read_runs(folder)
    for run in [*finished, *read_looks(folder)]:
        path = folder / "runs" / run.name / "config.json"
        try:
            old = Job.from_dict(json.loads(path.read_text(encoding="utf-8"))["job"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: these are not a run's settings ({error_line(error)}); move {path.parent} away"
            ) from None
        if run.recipe in by_recipe:
            changes = differences(old.settings(), by_recipe[run.recipe].settings())
        else:
            new = next(iter(by_recipe.values()), old)
            before, after = ({key: getattr(job, key) for key in SAME_IN_A_STUDY} for job in (old, new))
            changes = differences(before, after)
        if changes:
            changes += _stage_changes(folder, old.stages, by_recipe.get(run.recipe, old).stages, stages)
            raise InputError(
                f"--output_dir {folder}: {run.name} was run with other settings; give another folder, or the old settings (old -> new):\n"
                + "\n".join(f"  {line}" for line in changes)
            )
    return finished


def _check_nothing_in_the_way(jobs: Sequence[Job], folder: Path, stages: Sequence[Job]) -> None:
    """Refuse files and dangling links in the place of folders, and folders in the place of files."""
    data = {Path(job.data_folder) for job in (*jobs, *stages) if job.data_folder}
    for path in [*(run_folder(folder, job) for job in (*jobs, *stages)), *sorted(data)]:
        there = next(part for part in (path, *path.parents) if os.path.lexists(part))
        if not there.is_dir():
            raise InputError(f"--output_dir {folder}: {there} is a file, but a folder is needed there; move it away")
    for path in sorted(data):
        if path.is_dir() and not is_saved(path):
            raise InputError(f"--output_dir {folder}: {path} is a folder without tokenised data; move it away")
    for path in (folder / name for name in TABLES):
        if path.is_dir():
            raise InputError(f"--output_dir {folder}: {path} is a folder, but a table is written there; move it away")


def _stage_changes(folder: Path, old: Sequence[str], new: Sequence[str], stages: Sequence[Job]) -> list[str]:
    """Differences between the stages of a run in the folder and the new stages, pair by pair."""
    by_id = {stage.id: stage.identity() for stage in stages}
    lines = []
    for number, (before, now) in enumerate(zip(old, new, strict=False), 1):
        for path in folder.glob(f"stages/*-{before}/config.json"):
            try:
                found = Job.from_dict(json.loads(path.read_text(encoding="utf-8"))["job"]).identity()
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # the message already tells that the stage is another one
            changes = differences({**found, "stages": None}, {**by_id.get(now, found), "stages": None})
            lines += [f"stage {number}, {line}" for line in changes]
    return lines


def _writable(path: Path) -> bool:
    try:
        tempfile.TemporaryFile(dir=path).close()  # os.access answers yes to root for every path
    except OSError:
        return False
    return True
