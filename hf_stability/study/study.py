"""Run missing jobs, keep finished ones, write the tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .execution import IN_PROCESS, Execution
from .executors.event import Event
from .executors.joining import joined
from .folder import check_folder, encoder_folder, prune_models, read_runs, run_folder
from .job import Job, check_jobs
from .policies.early_stopping import end_the_others, jobs_to_look_at
from .policies.policy import Policy
from .progress import Progress
from .records import RunRecord, read_run
from .report.printed import printed_summary
from .report.summary import summarize
from .report.summary_page import write_summary
from .report.trackers import send_summary


def run_jobs(
    jobs: Sequence[Job],
    folder: str | os.PathLike,
    execution: Execution = IN_PROCESS,
    quiet: bool = False,
    say: Callable[[str], None] | None = None,
    stages: Sequence[Job] = (),
    policy: Policy | None = None,
) -> list[RunRecord]:
    """Run the jobs of a study that are not finished in its folder, and write its tables.

    Runs of other recipes and seeds in the folder stay, and the tables have them too: seeds can be added. A job that is in
    the folder with other settings is refused. A study can be interrupted at any point: finished runs stay whole, and the
    next call runs what is missing.

    Jobs with a `policy` are first all trained until their look. Then the best of each recipe go on, and the others end with
    the status `stopped early`, see `early_stopping`.

    With worker processes, your script needs the usual `if __name__ == "__main__":` of multiprocessing.

    Args:
        jobs: the runs, each recipe and seed once.
        folder: the study's folder.
        execution: where the jobs run. Default: in this process, one after the other.
        quiet: no live table and no lines.
        say: a function that takes each line about a finished run, and the table at the end. Default: print it.
        stages: the stages of these jobs. If missing runs need a stage that is not in the folder, it is trained first. No
            table has the stages' runs.
        policy: divides the jobs into rounds, and may end the study after one. Default: all jobs in one round.

    Returns:
        the records of `jobs`, in their order, without jobs that the policy left out. A crashed run has the status `crashed`.

    Raises:
        InputError: two jobs have the same recipe and seed, or the folder has one of them with other settings.
        StageFailed: a stage that missing runs need is not ok. No run was started from it.
        KeyboardInterrupt: Ctrl-C, after all workers have ended.
    """
    folder, policy = Path(folder), policy or Policy()
    main = is_main_process(jobs)
    check_jobs(jobs)
    check_folder(jobs, folder, stages)
    done = {job.name: run for job in jobs if (run := read_run(run_folder(folder, job))) is not None}
    missing = [job for job in jobs if job.name not in done]
    if jobs and jobs[0].processes > 1:
        missing = _of_main_process(missing)
    _run_stages(missing, stages, folder, execution, quiet or not main, say)
    if main:
        policy.start(folder, jobs)
    runs = dict(done)
    without_model = [
        job
        for job in jobs
        if job.name in done
        and not done[job.name].ended_at_look
        and job.keep_model == "last"
        and not (run_folder(folder, job) / "model").is_dir()
    ]
    with Progress(missing, list(done.values()), quiet or not main, say, folder=folder if main else None) as progress:
        if without_model:
            progress.say(
                f"--keep_model last: {len(without_model)} of the finished runs have no model, for example "
                f"{without_model[0].name}; delete their folders to run them again"
            )

        def listen(event: Event) -> None:
            progress.show(event)
            if not main or event.kind in ("progress", "looked", "again"):
                return
            runs[event.job.name] = event.run or _crashed(event)
            if event.job.keep_model == "failed_and_best":  # only then must all runs be read again
                prune_models(folder, read_runs(folder), event.job.keep_model)

        def execute(jobs: Sequence[Job]) -> None:
            execution.execute(jobs, [run_folder(folder, job) for job in jobs], listen)

        try:
            for number, group in enumerate(policy.rounds(jobs), 1):
                names = {job.name for job in group}
                now = [job for job in missing if job.name in names]
                execute(jobs_to_look_at(now, folder))
                for run, sentence in end_the_others(now, folder):
                    runs[run.name] = run
                    progress.end(run, sentence)
                execute([job for job in now if job.name not in runs])
                after = policy.after_round(folder, number, jobs, runs)
                left = [job.name for job in missing if job.name not in runs]
                if after.decided and left:
                    progress.leave_out(left, after.decided)
                if after.line:
                    progress.say(after.line)
                if not after.go_on:
                    break
        except KeyboardInterrupt:
            if main and read_runs(folder):
                _write_tables(folder, jobs, runs)
            raise
    if not main:
        return []
    summary = _write_tables(folder, jobs, runs)
    sent = send_summary(summary, jobs, folder) if any(job.name in runs for job in missing) else []
    if not quiet:
        progress.say("\n".join([f"\n{printed_summary(summary, folder)}", *sent]))
    return [runs[job.name] for job in jobs if job.name in runs]


class StageFailed(RuntimeError):
    """A stage crashed, or its verdict is not `ok`. No run was started from it."""


def _run_stages(
    jobs: Sequence[Job],
    stages: Sequence[Job],
    folder: Path,
    execution: Execution,
    quiet: bool,
    say: Callable[[str], None] | None,
) -> None:
    """Train the stages of these jobs that are missing in the folder, one depth of the chains after the other."""
    if not stages:
        return
    needed, found = missing_stages(jobs, stages, folder)
    distributed = stages[0].processes > 1
    if distributed:
        needed = _of_main_process(needed)
    bad: list[str] = []

    def listen(event: Event) -> None:
        progress.show(event)
        if event.kind == "crashed" or (event.run is not None and event.run.status != "ok"):
            bad.append(_failed_stage(folder, event.job, event.run, event.error))

    kept = [run for _, run in found]
    with Progress(needed, kept, quiet, say, "stage", folder if is_main_process(stages) else None) as progress:
        bad += [_failed_stage(folder, stage, run) for stage, run in found if run.status != "ok"]
        for depth in sorted({len(stage.stages) for stage in needed}):
            now = [stage for stage in needed if len(stage.stages) == depth]
            folders = [run_folder(folder, stage) for stage in now]
            if distributed:
                bad = _of_main_process(bad)
            if bad:
                break
            execution.execute(now, folders, listen)
    if distributed:
        bad = _of_main_process(bad)
    if bad:
        raise StageFailed("\n".join(bad))


def missing_stages(
    jobs: Sequence[Job], stages: Sequence[Job], folder: Path
) -> tuple[list[Job], list[tuple[Job, RunRecord]]]:
    """The stages of these jobs: those still to be trained, and those in the folder.

    If a later stage of a chain is in the folder, the earlier ones are not needed and left out.

    Args:
        jobs: the planned runs.
        stages: all stages of the study.
        folder: the study's.

    Returns:
        the missing stages, and the stages in the folder with their records.

    Raises:
        InputError: a job's stage is not among `stages`.
    """
    by_id = {stage.id: stage for stage in stages}
    missing: dict[str, Job] = {}
    found: dict[str, tuple[Job, RunRecord]] = {}
    pending = list(jobs)
    while pending:
        job = pending.pop()
        if not job.stages or job.stages[-1] in (missing.keys() | found.keys()):
            continue
        stage = by_id.get(job.stages[-1])
        if stage is None:
            raise InputError(f"{job.name} starts from stage {job.stages[-1]}, but no such stage is planned")
        run = read_run(run_folder(folder, stage))
        if run is not None and (run.status != "ok" or (encoder_folder(folder, stage) / "config.json").is_file()):
            found[stage.id] = (stage, run)
        else:
            missing[stage.id] = stage
            pending.append(stage)
    return [stage for stage in stages if stage.id in missing], list(found.values())


def _failed_stage(folder: Path, stage: Job, run: RunRecord | None, error: str = "") -> str:
    """How a stage ended, and what to do."""
    path = run_folder(folder, stage)
    if run is None:
        return f"stage {stage.name} crashed: {error}. See {path / 'error.txt'}; rerun the command to train it again"
    return (
        f"stage {stage.name}: {run.sentence}\nNothing was started from it. Give this stage another seed or other args in "
        f"the recipe. To start from it anyway, run a new study with --model_name_or_path {path / 'encoder'}"
    )


def _write_tables(folder: Path, jobs: Sequence[Job], runs: dict[str, RunRecord]) -> dict:
    """Write the summary of these runs and of all others in the folder; return it."""
    others = [run for run in read_runs(folder) if run.name not in runs]
    summary = summarize(sorted([*runs.values(), *others], key=lambda run: _order(run, jobs)))
    write_summary(folder, summary)
    return summary


def _crashed(event: Event) -> RunRecord:
    job = event.job
    sentence = f"crashed: {event.error}"
    return RunRecord(job.id, job.recipe, job.seed, job.task, "crashed", "", sentence=sentence, cell=job.cell)


def _order(run: RunRecord, jobs: Sequence[Job]) -> tuple:
    recipes = list(dict.fromkeys(job.recipe for job in jobs))
    return (recipes.index(run.recipe) if run.recipe in recipes else len(recipes), run.recipe, run.seed)


def is_main_process(jobs: Sequence[Job]) -> bool:
    """Whether this process writes: it is the only one, or the first of those that a launcher started."""
    if not jobs or jobs[0].processes == 1:
        ranks = joined()
        return ranks is None or ranks.is_main
    from accelerate import PartialState

    return PartialState().is_main_process


def _of_main_process(missing: list[Any]) -> list[Any]:
    """The main process's list of missing jobs: all processes must run the same jobs."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([missing])[0]
