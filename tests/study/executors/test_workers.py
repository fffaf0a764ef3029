"""Workers, with real processes and real signals."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hf_stability.study.executors.workers import PRELOAD, execute_in_workers
from hf_stability.study.records import read_run
from hf_stability.study.study import run_jobs


ROOT = Path(__file__).parents[3]


def results(folder: Path) -> dict[str, bytes]:
    """The files of a study that must be the same bytes however it was run."""
    names = {"metrics.json", "predictions.npz", "run.json", "steps.rec", "verdict.json", "summary.csv", "summary.json"}
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.name in names}


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


# --- in worker processes of this process -----------------------------------------------------------------------------


def test_a_worker_finds_everything_imported(tmp_path):
    """Or each job would wait for its imports; a misspelt name in PRELOAD is ignored in silence."""
    execute_in_workers([], [], print, 1)
    context = multiprocessing.get_context("forkserver")
    report = tmp_path / "modules"
    script = f"import sys; open({str(report)!r}, 'w').write(' '.join(sys.modules))"
    process = context.Process(target=exec, args=(script,))
    process.start()
    process.join()
    assert set(PRELOAD) <= set(report.read_text().split())
    assert "transformers.trainer" in PRELOAD


def test_a_killed_worker_is_a_crash_of_its_job_alone(tiny_jobs, tmp_path):
    jobs = tiny_jobs(tmp_path, seeds=(1, 2, 3))
    folders = [tmp_path / "runs" / job.name for job in jobs]
    events = []

    def kill_the_second(event):
        if event.kind != "progress":
            events.append(event)
        elif event.job.seed == 2:
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid, signal.SIGKILL)

    execute_in_workers(jobs, folders, kill_the_second, workers=1)
    assert [(event.job.seed, event.kind) for event in events] == [(1, "finished"), (2, "crashed"), (3, "finished")]
    assert events[1].error == "the worker process ended: killed by SIGKILL"
    assert [read_run(folder) is not None for folder in folders] == [True, False, True]
    assert [run.status == "crashed" for run in run_jobs(jobs, tmp_path, quiet=True)] == [False] * 3


def test_there_are_as_many_workers_as_asked_for_and_they_end_with_the_study(tiny_jobs, tmp_path):
    jobs = tiny_jobs(tmp_path, seeds=(1, 2, 3))
    counts = set()

    def interrupted(event):
        counts.add(len(multiprocessing.active_children()))
        if event.kind == "finished":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute_in_workers(jobs, [tmp_path / "runs" / job.name for job in jobs], interrupted, workers=2)
    assert max(counts) == 2
    assert multiprocessing.active_children() == []


# --- a study in processes of its own ---------------------------------------------------------------------------------


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")


def processes_of(session: int) -> list[str]:
    """Command lines of the living processes of a session: a study, its server of workers, the workers."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, in_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(in_session) == session and state not in "ZX":
                found.append(stat.with_name("cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended meanwhile
            continue
    return found


class Command:
    """The command line in a process of its own, and in a session of its own, as a terminal starts it."""

    def __init__(self, arguments: list[str], log: Path, launcher: Sequence[str] = ()):
        self.log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *launcher, str(ROOT / "run_glue_stable.py"), *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A job in a shell's background ignores Ctrl-C, and so would what it starts.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def wait_for(self, what: Callable[[], bool], seconds: float = 60) -> None:
        wait_for(lambda: what() or self.process.poll() is not None, seconds)
        assert self.process.poll() is None, self.log.read_text()

    def wait_for_all_processes(self) -> None:
        wait_for(lambda: not processes_of(self.process.pid), 30)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for send in (signal.SIGTERM, signal.SIGKILL):
            if processes_of(self.process.pid):
                os.killpg(self.process.pid, send)
                time.sleep(0.5)
        self.process.wait()


def arguments(folder: Path, model: str, csv: tuple[str, str], *more: str) -> list[str]:
    train, dev = csv
    return [
        *("--model_name_or_path", model, "--train_file", train, "--validation_file", dev, "--output_dir", str(folder)),
        *("--recipe", "devlin2019", "--use_cpu", *more),
    ]


@linux
@pytest.mark.parametrize(
    "send",
    [
        pytest.param(lambda pid: os.killpg(pid, signal.SIGINT), id="Ctrl-C"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGTERM), id="SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_study_keeps_what_is_finished_and_goes_on(tiny_model, tiny_csv, tmp_path, send):
    from hf_stability.cli import main

    def command(folder, workers):
        steps = ("--max_steps", "30", "--eval_strategy", "no", "--seeds", "4")
        return arguments(tmp_path / folder, tiny_model(), tiny_csv, "--workers", workers, *steps)

    def finished():
        return sorted((tmp_path / "study" / "runs").glob("*/*/run.json"))

    with Command(command("study", "2"), tmp_path / "log") as study:
        study.wait_for(finished)
        send(study.process.pid)
        assert study.process.wait(timeout=30) == 130
        study.wait_for_all_processes()
    text = (tmp_path / "log").read_text()
    assert "hf-stability: interrupted. Finished runs are kept" in text and "Traceback" not in text
    whole = {path: path.stat().st_mtime_ns for path in finished()}
    assert 1 <= len(whole) < 4
    assert (tmp_path / "study" / "summary.csv").read_text().count("\n") == 1 + len(whole)
    assert main(command("study", "0")) == 0
    assert len(finished()) == 4 and all(path.stat().st_mtime_ns == stamp for path, stamp in whole.items())


@linux
def test_a_killed_study_takes_its_workers_along_and_is_resumed_in_mid_run(tiny_model, tiny_csv, tmp_path):
    from hf_stability.cli import main

    def command(folder, workers):
        saves = ("--save_strategy", "steps", "--save_steps", "10", "--logging_steps", "10", "--eval_strategy", "no")
        steps = ("--max_steps", "100", "--seeds", "1")
        return arguments(tmp_path / folder, tiny_model(), tiny_csv, "--workers", workers, *steps, *saves)

    run = tmp_path / "study" / "runs" / "devlin2019" / "seed-001"
    with Command(command("study", "1"), tmp_path / "log") as study:
        study.wait_for((run / "checkpoint-10" / "trainer_state.json").is_file)
        os.kill(study.process.pid, signal.SIGKILL)
        study.process.wait()
        study.wait_for_all_processes()
    assert not (run / "run.json").exists()
    assert (run / "checkpoint-10").is_dir()
    assert main(command("study", "0")) == 0
    assert main(command("whole", "0")) == 0
    assert results(tmp_path / "study") == results(tmp_path / "whole")
    assert not list(run.glob("checkpoint-*"))
