"""Runs that an analysis needs beside those of its study. They are trained by the study engine, in a folder of their own.

That folder is a study's: `STUDY/analysis/NAME/study/RECIPE`. So `hf-stability status` shows how far it is, the same command goes on after
an interruption, and finished runs are kept.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..statistics import standard_deviation
from ..study.devices import default_workers, visible_gpus
from ..study.execution import Execution
from ..study.folder import check_folder, run_folder
from ..study.given import check_main_guard, check_workers
from ..study.job import ENDS_A_TRAINING, RESTART_ARGS, Job
from ..study.owner import hold_folder
from ..study.records import RunRecord, read_run
from ..study.report.settings import read_json
from ..study.report.summary import with_interval
from ..study.run import quiet as quiet_libraries
from ..study.stop import signals_noted
from ..study.study import run_jobs
from ..utils.text import duration_text, joined
from ..verdicts.verdict import NOT_OK
from .finished_study import Arms, FinishedStudy


def job_of(study: FinishedStudy, run: RunRecord) -> Job:
    """The job of a finished run, ready to be changed and trained in one process.

    Raises:
        InputError: its settings cannot be read, or several processes trained it together.
    """
    job = study.settings(run)
    if job.processes > 1:
        raise InputError(
            f"{run.name}: {job.processes} processes trained it together, and --make_runs trains each run in one; give a study of one "
            "process"
        )
    return job


def changed(job: Job, arm: str, args: Mapping[str, Any], **fields: Any) -> Job:
    """The job with other training arguments, under the name of its arm.

    Args:
        job: of a finished run.
        arm: the new job's recipe.
        args: training arguments that it has instead.
        fields: other fields of `Job`.
    """
    args = {**job.args, **args}
    if args.get("on_alarm") in ENDS_A_TRAINING:  # every run is judged by the end of its first training
        args = {name: value for name, value in args.items() if name not in RESTART_ARGS} | {"on_alarm": "warn"}
    sources = {**job.sources, **{name: f"arm {arm}" for name in args if args[name] != job.args.get(name)}}
    values: dict[str, Any] = {
        "args": args,
        "sources": sources,
        "policy": None,
        "until_look": False,
        "keep_model": "none",
    }
    return replace(job, recipe=arm, **values, **fields)


def own_folder(study: FinishedStudy, name: str) -> Path:
    """The folder of an analysis's own runs; those of each recipe of the study have a folder of their own."""
    return study.results(name) / "study" / next(iter(study.by_recipe))


def missing_jobs(jobs: Sequence[Job], folder: Path) -> list[Job]:
    """The jobs without a record in the folder; a record of other settings does not count."""
    found = [(job, read_run(run_folder(folder, job))) for job in jobs]
    return [job for job, run in found if run is None or run.id != job.id]


def missing_sentence(jobs: Sequence[Job], seconds: float | None) -> str:
    """A sentence for `Analysis.missing`: what is missing, how long it takes, and how to make it.

    Args:
        jobs: the missing ones.
        seconds: of all of them together; None if it is not known.
    """
    arms = list(dict.fromkeys(job.recipe for job in jobs))
    work = "" if seconds is None else f", about {duration_text(seconds)} of work for one worker"
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
    check_main_guard()
    if workers is not None:
        check_workers(workers)
    try:
        check_folder(jobs, folder)
    except InputError as error:
        raise InputError(f"{folder}: has runs of other settings or of another version; delete it. {error}") from None
    if workers is None:
        gpus = visible_gpus() if jobs[0].device == "cuda" else []
        workers = min(default_workers(jobs[0].device, jobs[0].threads, len(gpus)), len(jobs))
    with signals_noted(), hold_folder(folder), quiet_libraries(ours=False):
        runs = run_jobs(jobs, folder, Execution(workers=workers), quiet)
    crashed = [run for run in runs if run.status == "crashed"]
    if crashed:
        raise InputError(
            f"{len(crashed)} of {len(runs)} runs crashed, first {crashed[0].name}: {crashed[0].sentence}; see {folder / 'runs' / crashed[0].name / 'error.txt'}, then give "
            "the command again"
        )


def seconds_of(study: FinishedStudy, jobs: Sequence[Job]) -> float | None:
    """About how many seconds these jobs take, as the study's runs did for an update step; None if no run tells."""
    times = [(read_json(study.run_folder(run) / "times.json").get("wall"), run) for run in study.runs]
    known = [(seconds, run.steps) for seconds, run in times if isinstance(seconds, (int, float)) and run.steps]
    if not known:
        return None
    seconds, steps = (sum(column) for column in zip(*known, strict=True))
    planned = study.runs[0].planned_steps
    return seconds / steps * sum(given if (given := job.args.get("max_steps", -1)) > 0 else planned for job in jobs)


def same_but_name(job: Job) -> str:
    """Everything that changes the result of a job, as text: its identity without the name of its recipe."""
    return json.dumps({**job.identity(), "recipe": None}, sort_keys=True)


def reused(study: FinishedStudy, jobs: Sequence[Job]) -> dict[str, RunRecord]:
    """Jobs that the study itself has run, under another recipe's name: name of the job -> the study's run."""
    there: dict[str, RunRecord] = {}
    for run in study.runs:
        with contextlib.suppress(InputError):  # its settings cannot be read
            there.setdefault(same_but_name(study.settings(run)), run)
    return {job.name: there[key] for job in jobs if (key := same_but_name(job)) in there}


def read_arms(study: FinishedStudy, own: Path, jobs: Sequence[Job]) -> Arms:
    """The runs of each arm, see `Arms`.

    Args:
        study: the user's.
        own: the folder of the analysis's own runs.
        jobs: of all arms.
    """
    arms: dict[str, list[Job]] = {}
    for job in jobs:
        arms.setdefault(job.recipe, []).append(job)
    found: Arms = {}
    there = reused(study, jobs)
    for arm, planned in arms.items():
        if all(job.name in there for job in planned):
            found[arm] = study, [there[job.name] for job in planned]
            continue
        runs = [run for job in planned if (run := read_run(run_folder(own, job))) is not None]
        found[arm] = FinishedStudy(own, [arm]), runs
    return found


def not_reused(study: FinishedStudy, jobs: Sequence[Job]) -> list[Job]:
    """The jobs of the arms that the study has not run whole."""
    there = reused(study, jobs)
    lacking = {job.recipe for job in jobs if job.name not in there}
    return [job for job in jobs if job.recipe in lacking]


def first_runs(study: FinishedStudy, number: int) -> list[RunRecord]:
    """The runs of the study's first recipe, by seed, at most so many. Arms differ from these in a few arguments.

    Raises:
        InputError: this recipe has no plain seeds.
    """
    runs = [run for run in next(iter(study.by_recipe.values())) if run.known_seed is not None and run.cell is None]
    if not runs:
        raise InputError(f"{study.folder}: its first recipe has no plain seeds; give --recipe with one that has")
    return sorted(runs, key=lambda run: run.seed)[:number]


def counted(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """An arm's failed runs with Wilson's 95% interval, and its scores at the end of training. None where there is no number."""
    failed = sum(run.status in NOT_OK for run in runs)
    scores = [run.last for run in runs if run.last is not None]
    return {
        "failed": failed,
        "n": len(runs),
        **with_interval("failed_share", failed, len(runs)),
        "median_score": float(np.median(scores)) if scores else None,
        "mean_score": float(np.mean(scores)) if scores else None,
        "std_score": float(standard_deviation(np.array(scores))) if len(scores) > 1 else None,
    }
