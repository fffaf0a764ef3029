"""Many runs: what is missing is run, what is there is kept, and the tables are made."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from ..errors import InputError
from ..tasks.load import is_saved
from .executors import Event, execute_in_process, execute_in_workers
from .job import Job, check_jobs, differences, encoder_folder, run_folder
from .policies.early_stopping import end_the_others, jobs_to_look_at, look_sentence
from .records import LOOK, RunRecord, read_run
from .report.summary import NOT_OK, summarize
from .report.summary_page import to_markdown, write_summary


TABLES = ("summary.md", "summary.csv", "summary.json")
SAME_IN_A_STUDY = ("task", "model_fingerprint", "data_fingerprint")


def run_jobs(
    jobs: Sequence[Job],
    folder: str | os.PathLike,
    workers: int = 0,
    quiet: bool = False,
    say: Callable[[str], None] | None = None,
    stages: Sequence[Job] = (),
) -> list[RunRecord]:
    """Run a study's jobs, each once: a job whose run is already in the folder is not run again.

    Jobs of other recipes and seeds that the folder holds stay, and are in its tables: seeds can be added. A job that is
    in the folder with other settings is refused. Interrupted at any point, finished runs stay whole; running it again
    runs what is missing.

    Jobs with a `policy` are all trained until their look first; then the best of each recipe go on, and the others end with
    the status `stopped early`: see [`early_stopping`][hf_stability.study.policies.early_stopping].

    With `workers`, a script of your own that calls this needs the usual `if __name__ == "__main__":` of multiprocessing.

    Args:
        jobs: what to run, each recipe and seed once.
        folder: the study's folder.
        workers: number of worker processes; 0 runs in this process.
        quiet: no progress bar and no lines.
        say: takes a line for each finished run; default: prints it above the progress bar.
        stages: the stages that jobs start from; those that missing runs need, and that the folder has not, are trained
            first. Their runs are in no table.

    Returns:
        the records of `jobs`, in their order, those of crashed runs with status `crashed`.

    Raises:
        InputError: two jobs are of the same recipe and seed, or the folder has one of them with other settings.
        StageFailed: a stage that missing runs need is not ok; none of these was begun.
        KeyboardInterrupt: Ctrl-C, after all workers have ended.
    """
    folder = Path(folder)
    main = is_main_process(jobs)
    check_jobs(jobs)
    check_folder(jobs, folder, stages)
    done = {job.name: run for job in jobs if (run := read_run(run_folder(folder, job))) is not None}
    missing = [job for job in jobs if job.name not in done]
    if jobs and jobs[0].processes > 1:
        missing = _of_main_process(missing)
    _run_stages(missing, stages, folder, workers, quiet or not main, say)
    runs = dict(done)
    without_model = [
        job
        for job in jobs
        if job.name in done
        and not done[job.name].ended_at_look
        and job.keep_model == "last"
        and not (run_folder(folder, job) / "model").is_dir()
    ]
    with Progress(missing, len(done), quiet or not main, say) as progress:
        if without_model:
            progress.say(
                f"--keep_model last: {len(without_model)} of the finished runs have no model, {without_model[0].name} for "
                "one; delete their folders to run them again"
            )

        def listen(event: Event) -> None:
            progress.show(event)
            if not main or event.kind in ("progress", "looked"):
                return
            runs[event.job.name] = event.run or _crashed(event)
            if event.job.keep_model == "failed_and_best":  # otherwise no run need be read again
                prune_models(folder, read_runs(folder), event.job.keep_model)

        def execute(jobs: Sequence[Job]) -> None:
            folders = [run_folder(folder, job) for job in jobs]
            if workers and jobs:
                execute_in_workers(jobs, folders, listen, min(workers, len(jobs)))
            else:
                execute_in_process(jobs, folders, listen)

        try:
            execute(jobs_to_look_at(missing, folder))
            for run, sentence in end_the_others(missing, folder):
                runs[run.name] = run
                progress.end(run.name, sentence)
            execute([job for job in missing if job.name not in runs])
        except KeyboardInterrupt:
            if main and read_runs(folder):
                _write_tables(folder, jobs, runs)
            raise
    if not main:
        return []
    summary = _write_tables(folder, jobs, runs)
    if not quiet:
        progress.say(to_markdown(summary))
    return [runs[job.name] for job in jobs]


class StageFailed(RuntimeError):
    """A stage crashed, or its verdict is not `ok`: what starts from it was not begun."""


def _run_stages(
    jobs: Sequence[Job],
    stages: Sequence[Job],
    folder: Path,
    workers: int,
    quiet: bool,
    say: Callable[[str], None] | None,
) -> None:
    """Train the stages that these jobs start from and that the folder has not, those of one depth at a time."""
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

    with Progress(needed, len(found), quiet, say, "stage") as progress:
        bad += [_failed_stage(folder, stage, run) for stage, run in found if run.status != "ok"]
        for depth in sorted({len(stage.stages) for stage in needed}):
            now = [stage for stage in needed if len(stage.stages) == depth]
            folders = [run_folder(folder, stage) for stage in now]
            if distributed:
                bad = _of_main_process(bad)
            if bad:
                break
            if workers:
                execute_in_workers(now, folders, listen, min(workers, len(now)))
            else:
                execute_in_process(now, folders, listen)
    if distributed:
        bad = _of_main_process(bad)
    if bad:
        raise StageFailed("\n".join(bad))


def missing_stages(
    jobs: Sequence[Job], stages: Sequence[Job], folder: Path
) -> tuple[list[Job], list[tuple[Job, RunRecord]]]:
    """Of the stages that these jobs start from, those that have still to be trained, and those that are in the folder.

    What an earlier stage of a chain was for is there once the later one is: it is not asked for then.

    Args:
        jobs: the runs that are to be made.
        stages: all of the study.
        folder: the study's.

    Returns:
        the missing ones; those that are there, with their records.

    Raises:
        InputError: a job starts from a stage that is not among `stages`.
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
            raise InputError(f"{job.name} starts from stage {job.stages[-1]}, which is not among the stages")
        run = read_run(run_folder(folder, stage))
        if run is not None and (run.status != "ok" or (encoder_folder(folder, stage) / "config.json").is_file()):
            found[stage.id] = (stage, run)
        else:
            missing[stage.id] = stage
            pending.append(stage)
    return [stage for stage in stages if stage.id in missing], list(found.values())


def _failed_stage(folder: Path, stage: Job, run: RunRecord | None, error: str = "") -> str:
    """What became of a stage, and the way out."""
    path = run_folder(folder, stage)
    if run is None:
        return f"stage {stage.name} crashed: {error}: see {path / 'error.txt'}; the same command trains it again"
    return (
        f"stage {stage.name}: {run.sentence}\nNothing was started from it. Give this stage another seed or other args in "
        f"the recipe; or, to start from it all the same, --model_name_or_path {path / 'encoder'} to a study of its own"
    )


def check_folder(jobs: Sequence[Job], folder: Path, stages: Sequence[Job] = ()) -> None:
    """Refuse a folder that is none, cannot be written to, or holds runs with other settings, whole or looked at.

    Runs of one recipe differ in their seed only, and all runs are of the same model and data: they stand in one table.

    Args:
        jobs, folder: what is to be run, and where.
        stages: the jobs' stages, to say in what they are others than those of the folder.
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
    for run in [*read_runs(folder), *read_looks(folder)]:
        path = folder / "runs" / run.name / "config.json"
        try:
            old = Job.from_dict(json.loads(path.read_text(encoding="utf-8"))["job"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a run's settings ({_one_line(error)}); move {path.parent} away") from None
        if run.recipe in by_recipe:
            changes = differences(old.settings(), by_recipe[run.recipe].settings())
        else:
            new = next(iter(by_recipe.values()), old)
            changes = differences(*({key: getattr(job, key) for key in SAME_IN_A_STUDY} for job in (old, new)))
        if changes:
            changes += _stage_changes(folder, old.stages, by_recipe.get(run.recipe, old).stages, stages)
            raise InputError(
                f"--output_dir {folder}: {run.name} was run with other settings; give another folder, or these settings:\n"
                + "\n".join(f"  {line}" for line in changes)
            )


def _check_nothing_in_the_way(jobs: Sequence[Job], folder: Path, stages: Sequence[Job]) -> None:
    """Refuse files, and dangling links, where folders are to be made, and folders where files are to be written."""
    data = {Path(job.data_folder) for job in (*jobs, *stages) if job.data_folder}
    for path in [*(run_folder(folder, job) for job in (*jobs, *stages)), *sorted(data)]:
        there = next(part for part in (path, *path.parents) if os.path.lexists(part))
        if not there.is_dir():
            raise InputError(f"--output_dir {folder}: {there} is a file, and a folder is needed there; move it away")
    for path in sorted(data):
        if path.is_dir() and not is_saved(path):
            raise InputError(f"--output_dir {folder}: {path} is a folder without tokenised data; move it away")
    for path in (folder / name for name in TABLES):
        if path.is_dir():
            raise InputError(f"--output_dir {folder}: {path} is a folder, and a table is written there; move it away")


def _stage_changes(folder: Path, old: Sequence[str], new: Sequence[str], stages: Sequence[Job]) -> list[str]:
    """What differs between the stages of a run in the folder and those of a new one, where these are as many."""
    by_id = {stage.id: stage.identity() for stage in stages}
    lines = []
    for number, (before, now) in enumerate(zip(old, new, strict=False), 1):
        for path in folder.glob(f"stages/*-{before}/config.json"):
            try:
                found = Job.from_dict(json.loads(path.read_text(encoding="utf-8"))["job"]).identity()
            except (OSError, ValueError, KeyError, TypeError):
                continue  # that the stage is another one is said already
            changes = differences({**found, "stages": None}, {**by_id.get(now, found), "stages": None})
            lines += [f"stage {number}, {line}" for line in changes]
    return lines


def read_runs(folder: Path) -> list[RunRecord]:
    """Every finished run below a study's folder, sorted by folder."""
    runs = (read_run(path.parent) for path in sorted(folder.glob("runs/*/*/run.json")))
    return [run for run in runs if run is not None]


def read_looks(folder: Path) -> list[RunRecord]:
    """The records at their look of the runs that wait there, or were interrupted since; sorted by folder."""
    waiting = (path.parent for path in sorted(folder.glob(f"runs/*/*/{LOOK}")) if read_run(path.parent) is None)
    return [run for run in (read_run(path, LOOK) for path in waiting) if run is not None]


def prune_models(folder: Path, runs: Sequence[RunRecord], keep_model: str) -> None:
    """With `failed_and_best`, delete the models of runs that are neither failed nor their recipe's best: of ok and
    stopped ones."""
    if keep_model != "failed_and_best":
        return
    for run in runs:
        rivals = [other for other in runs if other.recipe == run.recipe and other.last is not None]
        best = max(rivals, key=lambda other: (other.last, -other.seed), default=None)
        if run.status not in NOT_OK and run is not best:
            shutil.rmtree(folder / "runs" / run.name / "model", ignore_errors=True)


class Progress:
    """The progress bar of a study, in shares of its work, and a line above it for each finished run."""

    def __init__(
        self,
        jobs: Sequence[Job],
        found: int,
        quiet: bool,
        say: Callable[[str], None] | None = None,
        kind: str = "run",
    ):
        self.quiet, self.custom_say, self.kind = quiet, say, kind
        self.found, self.done, self.runs = found, found, found + len(jobs)
        work = {job.name: _work(job) for job in jobs}
        self.shares = {name: amount / sum(work.values()) for name, amount in work.items()}
        self.fractions = dict.fromkeys(self.shares, 0.0)
        form = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}"
        self.bar = tqdm(total=1.0, disable=quiet or not jobs, desc=self._count(), bar_format=form, file=sys.stderr)

    def __enter__(self) -> Progress:
        if self.found:
            self.say(f"{self.found} finished {self.kind}{'s' * (self.found > 1)} found, kept")
        return self

    def __exit__(self, *exc) -> None:
        self.bar.close()

    def _count(self) -> str:
        return f"{self.done} of {self.runs} {self.kind}s"

    def say(self, line: str) -> None:
        if self.quiet:
            return
        if self.custom_say is not None:
            self.custom_say(line)
        else:
            with tqdm.external_write_mode(file=sys.stdout):
                print(line, flush=True)

    def show(self, event: Event) -> None:
        """Move the bar; say a line where a run has ended."""
        name = event.job.name
        if event.kind == "progress":
            self.fractions[name] = event.steps / max(event.total, 1)
            self._move()
        elif event.kind == "looked":
            self.say(f"{name}: looked at, {look_sentence(event.run)}")
        else:
            sentence = event.run.sentence if event.run else f"crashed: {event.error}"
            self.end(name, sentence, "stage " if event.job.is_stage else "")

    def end(self, name: str, sentence: str, what: str = "") -> None:
        """Count a run as done, and say how it ended."""
        self.fractions[name] = 1.0
        self.done += 1
        self.say(f"{what}{name}: {sentence}")
        self.bar.set_description_str(self._count(), refresh=False)
        self._move()

    def _move(self) -> None:
        share = sum(self.shares[job] * fraction for job, fraction in self.fractions.items())
        self.bar.update(min(share, 1.0) - self.bar.n)


def _work(job: Job) -> float:
    """How much work a job is, next to the study's others: in update steps or, where epochs are given, epochs / batch."""
    if job.args.get("max_steps", -1) > 0:
        return job.args["max_steps"]
    accumulated = job.args.get("per_device_train_batch_size", 8) * job.args.get("gradient_accumulation_steps", 1)
    batch = job.args.get("total_train_batch_size") or accumulated * job.processes
    return job.args.get("num_train_epochs", 3.0) / batch


def _write_tables(folder: Path, jobs: Sequence[Job], runs: dict[str, RunRecord]) -> dict:
    """The summary of these runs and of all others in the folder, written."""
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _writable(path: Path) -> bool:
    try:
        tempfile.TemporaryFile(dir=path).close()  # os.access says yes to root on everything
    except OSError:
        return False
    return True


def is_main_process(jobs: Sequence[Job]) -> bool:
    """Whether this process writes: the only one, or the first of those that train each run together."""
    if not jobs or jobs[0].processes == 1:
        return True
    from accelerate import PartialState

    return PartialState().is_main_process


def _of_main_process(missing: list[Job]) -> list[Job]:
    """What the main process found missing: all processes must run the same jobs."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([missing])[0]
