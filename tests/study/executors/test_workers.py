"""Workers, with real processes and real signals."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from hf_stability.methods import load_method, source_hash
from hf_stability.study.executors import workers as module
from hf_stability.study.executors.in_process import execute_in_process
from hf_stability.study.executors.server import PRELOAD, SWITCH, start_method
from hf_stability.study.executors.workers import execute_in_workers
from hf_stability.study.records import read_run
from hf_stability.study.study import run_jobs


ROOT = Path(__file__).parents[3]


def results(folder: Path) -> dict[str, bytes]:
    """The files of a study that must be the same bytes however it was run."""
    names = {"metrics.json", "predictions.npz", "run.json", "steps.rec", "verdict.json", "summary.csv", "summary.json"}
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.name in names}


def wait_for(what: Callable[[], bool], seconds: float = 180) -> None:
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


ODD_METHODS = """
import os, sys, threading, time
from hf_stability.methods import Method

class Stays(Method):
    def begin_training(self, *arguments):
        threading.Thread(target=self.stay).start()  # no daemon: Python waits for it at the end

    def stay(self):
        time.sleep(60)
        open(os.path.join(os.path.dirname(__file__), "stayed"), "w").close()

class Leaves(Method):
    def begin_training(self, *arguments):
        os._exit(3)

class Talks(Method):
    def begin_training(self, model, trainer, *arguments):
        (callback,) = (c for c in trainer.callback_handler.callbacks if type(c).__name__ == "ReportCallback")
        for _ in range(500):
            callback.report(9, 9, None, None)

class Prints(Method):
    def begin_training(self, *arguments):
        print("printed " * 20_000, flush=True)
"""


@pytest.fixture
def with_method(tmp_path):
    """A function of a job and a class in `ODD_METHODS`: the job with this method, which changes no result."""
    file = tmp_path / "odd.py"
    file.write_text(ODD_METHODS)

    def changed(job, name):
        method = f"{file}:{name}"
        return replace(job, methods=(method,), method_hashes=(source_hash(load_method(method)),))

    return changed


def runs_of(jobs, folder: Path) -> list[Path]:
    return [folder / "runs" / job.name for job in jobs]


def endings(jobs, folder: Path, **given) -> list[tuple]:
    """Run the jobs in workers: seed, kind and error of each one's last event, in the order of the events."""
    events = []
    execute_in_workers(jobs, runs_of(jobs, folder), events.append, **given)
    return [(event.job.seed, event.kind, event.error) for event in events if event.kind != "progress"]


def test_a_worker_that_does_not_end_after_its_record_blocks_no_slot(tiny_jobs, with_method, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GRACE", 0.2)
    first, second = tiny_jobs(tmp_path, seeds=(1, 2), max_steps=1, eval_strategy="no")
    jobs = [with_method(first, "Stays"), second]
    assert endings(jobs, tmp_path, workers=1) == [(1, "finished", ""), (2, "finished", "")]
    assert multiprocessing.active_children() == [] and not (tmp_path / "stayed").exists()


def test_start_method_by_system(monkeypatch):
    for system, method in (("linux", "forkserver"), ("darwin", "spawn"), ("win32", "spawn")):
        monkeypatch.setattr(sys, "platform", system)
        assert start_method() == method


def test_workers_that_cannot_start_are_crashes(tiny_jobs, tmp_path, monkeypatch):
    def fail(*arguments):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(module, "_Worker", fail)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    error = "no worker process could be started: BlockingIOError: [Errno 11] Resource temporarily unavailable"
    jobs = tiny_jobs(tmp_path)
    assert endings(jobs, tmp_path, workers=2) == [(1, "crashed", error), (2, "crashed", error)]


def test_how_a_worker_ended():
    assert [module._how(code) for code in (-signal.SIGKILL, -40, 3)] == [
        "killed by SIGKILL", "killed by signal 40", "exit code 3",
    ]  # fmt: skip


@pytest.mark.slow
def test_spawned_workers_run_several_jobs_each_with_the_same_results(tiny_jobs, with_method, tmp_path):
    """The worker of seed 2 leaves in mid-run: that is a crash of seed 2 alone, and another worker takes the next job."""
    spawned, whole = (tiny_jobs(tmp_path / name, seeds=(1, 2, 3, 4)) for name in ("spawned", "whole"))
    spawned[1] = with_method(spawned[1], "Leaves")
    found = endings(spawned, tmp_path / "spawned", workers=1, method="spawn")
    crash = (2, "crashed", "the worker process ended: exit code 3")
    assert found == [(1, "finished", ""), crash, (3, "finished", ""), (4, "finished", "")]
    assert multiprocessing.active_children() == []
    del whole[1]
    execute_in_process(whole, runs_of(whole, tmp_path / "whole"), lambda event: None)
    assert results(tmp_path / "spawned") == results(tmp_path / "whole")


@pytest.mark.slow
def test_kept_memory_changes_no_bit_of_a_run(tiny_jobs, tmp_path, monkeypatch):
    found = {}
    for switch in ("1", "0"):
        monkeypatch.setenv(SWITCH, switch)
        jobs = [replace(job, keep_model="last") for job in tiny_jobs(tmp_path / switch, seeds=(1,))]
        assert endings(jobs, tmp_path / switch, workers=1, method="spawn") == [(1, "finished", "")]
        (weights,) = (tmp_path / switch).rglob("model.safetensors")
        found[switch] = {**results(tmp_path / switch), "weights": weights.read_bytes()}
    assert found["0"] == found["1"] and len(found["0"]) >= 6


def server() -> int:
    return multiprocessing.forkserver._forkserver._forkserver_pid


@pytest.mark.slow
@pytest.mark.skipif(start_method() != "forkserver", reason="there is no fork server")
def test_a_killed_fork_server_is_started_anew(tiny_jobs, tmp_path):
    """Its living worker finishes its job. Then an interrupt ends workers of both servers."""
    jobs = tiny_jobs(tmp_path, seeds=(1, 2))
    killed, workers = set(), set()

    def kill_the_server(event):
        if event.kind == "progress" and not killed:
            killed.add(server())
            os.kill(server(), signal.SIGKILL)

    execute_in_workers(jobs, runs_of(jobs, tmp_path), kill_the_server, workers=1)
    assert all(read_run(folder) is not None for folder in runs_of(jobs, tmp_path))
    assert server() not in killed

    jobs = tiny_jobs(tmp_path, seeds=(3, 4, 5), max_steps=500, eval_strategy="no")

    def interrupt_after_a_kill(event):
        workers.update(child.pid for child in multiprocessing.active_children())
        if len(killed) == 1:
            os.kill(server(), signal.SIGKILL)
            killed.add(server())
        else:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute_in_workers(jobs, runs_of(jobs, tmp_path), interrupt_after_a_kill, workers=2)
    assert len(workers) == 2
    wait_for(lambda: not any(is_alive(worker) for worker in workers), 20)


def is_alive(pid: int) -> bool:
    """Whether a process runs. One without a parent to collect it is dead too."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_sixteen_workers_and_one_that_prints(tiny_jobs, with_method, tmp_path):
    jobs, whole = (tiny_jobs(tmp_path / name, seeds=range(1, 17), max_steps=2) for name in ("many", "whole"))
    found = endings([with_method(jobs[0], "Prints"), *jobs[1:]], tmp_path / "many", workers=16)
    assert sorted(found) == [(seed, "finished", "") for seed in range(1, 17)]
    execute_in_process(whole[1:4], runs_of(whole[1:4], tmp_path / "whole"), lambda event: None)
    expected = results(tmp_path / "whole")  # not of seed 1: its method is part of its id
    assert expected.items() <= results(tmp_path / "many").items() and len(expected) == 15


@pytest.mark.slow
def test_a_worker_waits_for_a_slow_parent(tiny_jobs, with_method, tmp_path, monkeypatch):
    """Its pipe of events is full after a hundred of 500 reports. It goes on when the parent reads, and nothing is lost."""
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    if not hasattr(fcntl, "F_SETPIPE_SZ"):
        pytest.skip("pipes keep their size here")
    smallest, pipes = 4096, []
    make_pipe = multiprocessing.context.BaseContext.Pipe

    def small_pipe(context, duplex=True):
        pipes.append(make_pipe(context, duplex))
        fcntl.fcntl(pipes[-1][0].fileno(), fcntl.F_SETPIPE_SZ, smallest)
        return pipes[-1]

    def waiting_bytes() -> int:
        _, (events, _) = pipes  # of the worker's two pipes the second
        return int.from_bytes(fcntl.ioctl(events.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)

    events = []

    def slow(event):
        if not events:
            wait_for(lambda: waiting_bytes() > smallest - 100)
        events.append(event)

    monkeypatch.setattr(multiprocessing.context.BaseContext, "Pipe", small_pipe)
    (job,) = tiny_jobs(tmp_path, seeds=(1,), max_steps=2)
    job = with_method(job, "Talks")
    execute_in_workers([job], runs_of([job], tmp_path), slow, workers=1)
    assert events[-1].kind == "finished" and len(events) > 500


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


WITH_METHOD = """
import sys
import hf_stability.study.api  # the imports are done before any other process starts
from hf_stability.cli import main
from hf_stability.study.executors import workers

workers.start_method = lambda: {method!r}
sys.exit(main())
"""


class Command:
    """The command line in a process of its own, and in a session of its own, as a terminal starts it.

    Args:
        launcher: Python's words before the program, such as torchrun's.
        method: start workers by "forkserver" or "spawn", after this process has its imports. Default: as the command does.
    """

    def __init__(
        self, arguments: list[str], log: Path, launcher: Sequence[str] = (), method: str | None = None
    ) -> None:
        self.log = log
        program = ["-c", WITH_METHOD.format(method=method)] if method else [str(ROOT / "run_glue_stable.py")]
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *launcher, *program, *arguments],
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
        wait_for(lambda: not processes_of(self.process.pid), 120)

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
def test_an_interrupted_study_keeps_what_is_finished_and_goes_on(
    tiny_model, tiny_csv, tmp_path, no_figures, no_heat_maps, send
):
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
    assert (
        "hf-stability: interrupted. Finished runs are kept" in text
        and "Traceback" not in text
        and "leaked" not in text
    )
    whole = {path: path.stat().st_mtime_ns for path in finished()}
    assert 1 <= len(whole) < 4
    assert (tmp_path / "study" / "summary.csv").read_text().count("\n") == 1 + len(whole)
    assert main(command("study", "0")) == 0
    assert len(finished()) == 4 and all(path.stat().st_mtime_ns == stamp for path, stamp in whole.items())


@linux
@pytest.mark.slow
def test_a_killed_study_takes_its_workers_along_and_is_resumed_in_mid_run(tiny_model, tiny_csv, tmp_path):
    from hf_stability.cli import main

    def command(folder, workers):
        saves = ("--save_strategy", "steps", "--save_steps", "10", "--logging_steps", "10", "--eval_strategy", "no")
        steps = ("--max_steps", "100", "--seeds", "1")
        return arguments(tmp_path / folder, tiny_model(), tiny_csv, "--workers", workers, *steps, *saves)

    run = tmp_path / "study" / "runs" / "devlin2019" / "seed-001"
    with Command(command("study", "1"), tmp_path / "log") as study:
        study.wait_for(lambda: any(run.glob("checkpoint-*/complete.json")))
        os.kill(study.process.pid, signal.SIGKILL)
        study.process.wait()
        study.wait_for_all_processes()
    assert not (run / "run.json").exists()
    assert list(run.glob("checkpoint-*"))
    assert main(command("study", "0")) == 0
    assert main(command("whole", "0")) == 0
    assert results(tmp_path / "study") == results(tmp_path / "whole")
    assert not list(run.glob("checkpoint-*"))


def imports(study: int, method: str) -> bool:
    """Whether a spawned worker, or the server of workers, is in the middle of its imports, of more than 400 MB."""
    for process in psutil.Process(study).children():
        with contextlib.suppress(psutil.Error):
            if f"multiprocessing.{method} import" in " ".join(process.cmdline()) and process.memory_info().rss > 50e6:
                return True
    return False


@linux
@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_ctrl_c_while_workers_import_prints_no_traceback(tiny_model, tiny_csv, tmp_path, method):
    command = arguments(tmp_path / "study", tiny_model(), tiny_csv, "--workers", "2", "--seeds", "2")
    with Command(command, tmp_path / "log", method=method) as study:
        study.wait_for(lambda: imports(study.process.pid, method))
        os.killpg(study.process.pid, signal.SIGINT)
        assert study.process.wait(timeout=60) == 130
        study.wait_for_all_processes()
    text = (tmp_path / "log").read_text()
    assert "hf-stability: interrupted" in text and "Traceback" not in text


@linux
@pytest.mark.slow
def test_a_killed_study_takes_its_spawned_workers_along(tiny_model, tiny_csv, tmp_path):
    more = ("--workers", "2", "--seeds", "3", "--max_steps", "2000", "--eval_strategy", "no")
    command = arguments(tmp_path / "study", tiny_model(), tiny_csv, *more)
    runs = tmp_path / "study" / "runs" / "devlin2019"
    with Command(command, tmp_path / "log", method="spawn") as study:
        study.wait_for(lambda: all((runs / f"seed-00{seed}" / "steps.rec").is_file() for seed in (1, 2)))
        assert len([c for c in processes_of(study.process.pid) if "multiprocessing.spawn import" in c]) == 2
        os.kill(study.process.pid, signal.SIGKILL)
        study.process.wait()
        study.wait_for_all_processes()
    assert not list(runs.glob("*/run.json"))
