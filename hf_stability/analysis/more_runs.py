"""Runs that an analysis needs beside those of its study. They are trained by the study engine, in a folder of their own.

That folder is a study's: `STUDY/analysis/NAME/study`. So `hf-stability status` shows how far it is, the same command goes on after
an interruption, and finished runs are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..study.devices import default_workers, visible_gpus
from ..study.execution import Execution
from ..study.folder import run_folder
from ..study.job import Job, check_jobs
from ..study.owner import hold_folder
from ..study.records import RunRecord, read_run
from ..study.run import quiet as quiet_libraries
from ..study.stop import signals_noted
from ..study.study import run_jobs
from ..utils.text import duration_text, joined
from .finished_study import FinishedStudy


def job_of(study: FinishedStudy, run: RunRecord) -> Job:
    """The job of a finished run, with the study's data where the folder is now.

    Raises:
        InputError: its settings cannot be read.
    """
    content = study.job(run)
    if not content:
        raise InputError(
            f"{study.run_folder(run) / 'config.json'}: these are not a run's settings; give a whole study's folder"
        )
    job = Job.from_dict(content)
    return replace(job, data_folder=str(study.folder.absolute() / "data" / Path(job.data_folder).name))


def changed(job: Job, arm: str, args: Mapping[str, Any], **fields: Any) -> Job:
    """The job with other training arguments, under the name of its arm.

    Args:
        job: of a finished run.
        arm: the new job's recipe.
        args: training arguments that it has instead.
        fields: other fields of `Job`.
    """
    sources = {**job.sources, **dict.fromkeys(args, f"arm {arm}")}
    return replace(
        job, recipe=arm, args={**job.args, **args}, sources=sources, policy=None, keep_model="none", **fields
    )


def own_folder(study: FinishedStudy, name: str) -> Path:
    """The folder of an analysis's own runs."""
    return study.results(name) / "study"


def missing_jobs(jobs: Sequence[Job], folder: Path) -> list[Job]:
    """The jobs without a record in the folder; a record of other settings does not count."""
    found = [(job, read_run(run_folder(folder, job))) for job in jobs]
    return [job for job, run in found if run is None or run.id != job.id]


def missing_sentence(jobs: Sequence[Job], seconds: float | None) -> str:
    """What is missing, how long it takes, and how to make it: one sentence for `Analysis.missing`.

    Args:
        jobs: the missing ones.
        seconds: of one run; None if it is not known.
    """
    arms = list(dict.fromkeys(job.recipe for job in jobs))
    work = "" if seconds is None else f", about {duration_text(seconds * len(jobs))} of work for one worker"
    named = joined(arms if len(arms) <= 4 else [*arms[:3], f"{len(arms) - 3} other arms"])
    return f"{len(jobs)} runs are missing ({named}{work}). Add --make_runs to train them."


def make_runs(jobs: Sequence[Job], folder: Path, workers: int | None = None, quiet: bool = False) -> None:
    """Train the jobs that are missing in the folder.

    Args:
        jobs: all runs of the analysis.
        folder: see `own_folder`.
        workers: runs at a time. Default: one per GPU, else one per core.
        quiet: print nothing.

    Raises:
        InputError: the folder has runs with other settings, another command works in it, or a run crashed.
        KeyboardInterrupt: Ctrl-C. Finished runs are kept.
    """
    check_jobs(jobs)
    if workers is None:
        gpus = visible_gpus() if jobs[0].device == "cuda" else []
        workers = min(default_workers(jobs[0].device, jobs[0].threads, len(gpus)), len(jobs))
    with signals_noted(), hold_folder(folder), quiet_libraries(ours=False):
        runs = run_jobs(jobs, folder, Execution(workers=workers), quiet)
    crashed = [run for run in runs if run.status == "crashed"]
    if crashed:
        raise InputError(
            f"{len(crashed)} of {len(runs)} runs crashed, first {crashed[0].name} ({crashed[0].sentence}); give the command again"
        )


def seconds_of(study: FinishedStudy, runs: Sequence[RunRecord]) -> float | None:
    """Mean seconds of these runs; None if no run tells."""
    found = []
    for run in runs:
        try:
            timing = json.loads((study.run_folder(run) / "times.json").read_text(encoding="utf-8"))
            found.append(float(timing["wall"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sum(found) / len(found) if found else None
