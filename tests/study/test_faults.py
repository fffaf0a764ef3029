"""Faults, with real processes and signals: the other runs go on, and the next call ends as if nothing had happened.

The fault is in a method of the user's own, see `faulty.py`. The undisturbed study has the same method.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from hf_stability.cli import main
from hf_stability.study import study as study_module
from hf_stability.study.execution import Execution, with_way_out
from hf_stability.study.executors.event import Event
from hf_stability.study.owner import LOCK, OWNER
from hf_stability.study.progress_file import PROGRESS
from hf_stability.study.records import read_run
from hf_stability.utils.files import write_json
from tests.study.executors.test_workers import Command, wait_for
from tests.study.tools import results


pytestmark = pytest.mark.usefixtures("no_figures")

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals and limits of Linux")

SAVES = ("--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "no")


@pytest.fixture(scope="module")
def undisturbed(tiny_study, tmp_path_factory, no_heat_maps):
    """A function of more flags: the folder of the study that nothing disturbed, run once. Treat it as read-only."""
    made: dict[tuple, Path] = {}

    def folder(*more: str) -> Path:
        if more not in made:
            made[more] = tmp_path_factory.mktemp("undisturbed") / "study"
            place = made[more].parent
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("hf_stability.study.report.figures.draw_figures", lambda *arguments: [])
                assert main(command(tiny_study, place, *more)) == 0
        return made[more]

    return folder


@pytest.fixture
def disturbed(tiny_study, tmp_path):
    """A function of a fault and more flags: runs the study with this fault; returns the exit code."""

    def run(fault: str = "", *more: str) -> int:
        if fault:
            (tmp_path / "fault").write_text(fault)
        return main(command(tiny_study, tmp_path, *more))

    return run


def command(tiny_study: list[str], place: Path, *more: str) -> list[str]:
    if not (place / "faulty.py").exists():
        shutil.copy(Path(__file__).with_name("faulty.py"), place)
    own = ("--method", f"{place / 'faulty.py'}:Faulty", "--output_dir", str(place / "study"))
    return [*tiny_study, *own, "--seeds", "3", "--max_steps", "6", *SAVES, *more]


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of each run and stage: when it was written, and its content."""
    paths = [path for place in ("runs/*/*/**/*", "stages/*/**/*") for path in sorted(folder.glob(place))]
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in paths if p.is_file()}


def assert_whole(folder: Path, undisturbed: Path, again) -> None:
    """All results are those of the undisturbed study, nothing else is left, and the next call changes no file of a run."""
    assert {name: text for name, text in results(folder).items() if not name.endswith(".png")} == {
        name: text for name, text in results(undisturbed).items() if not name.endswith(".png")
    }
    assert names(folder) == names(undisturbed)
    before = files(folder)
    assert again() == 0
    assert files(folder) == before


def names(folder: Path) -> set[str]:
    """The files and folders of a study, without event files (each resume adds one) and pictures."""
    paths = {str(path.relative_to(folder)) for path in folder.rglob("*")} - {PROGRESS}
    return {path for path in paths if "tfevents" not in path and not path.endswith(".png") and "figures" not in path}


# --- one run breaks ---------------------------------------------------------------------------------------------------

MEMORY = "give fewer --workers or more --gradient_accumulation_steps"
KILLED = f"crashed: the worker process ended: killed by SIGKILL. If memory ran out: {MEMORY}"
BREAKS = {
    "in_step": KILLED,
    "while_saving": KILLED,
    "while_writing_its_record": KILLED,
    "out_of_memory": f"Memory ran out: {MEMORY}",
    "full_disk": "crashed: OSError: ",
    "nearly_full_disk": "crashed: OSError: the file of the verdict could not be written; is the disk full?",
    "error": "crashed: RuntimeError: a bug",
}


@linux
@pytest.mark.slow
@pytest.mark.parametrize("fault", BREAKS)
def test_a_run_that_breaks_has_its_reason_in_one_line_and_the_others_go_on(
    undisturbed, disturbed, tmp_path, capsys, fault
):
    without = ("--save_strategy", "no") if fault == "nearly_full_disk" else ()  # a checkpoint would not fit either
    assert disturbed(f"{fault} 2", "--workers", "2", *without) == 1
    out, err = capsys.readouterr()
    (line,) = [line for line in out.splitlines() if line.startswith("devlin2019/seed-002: ")]
    assert BREAKS[fault] in line and "Traceback" not in out + err
    assert "1 run(s) crashed" in err and "--retry_crashed 2" in err
    study = tmp_path / "study"
    done = [read_run(study / "runs" / "devlin2019" / f"seed-00{seed}") is not None for seed in (1, 2, 3)]
    assert done == [True, False, True]
    assert disturbed("", *without) == 0
    assert_whole(study, undisturbed(), disturbed)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["in_step", "while_writing_its_look"])
def test_a_run_that_is_killed_is_run_again_in_the_same_call(undisturbed, disturbed, tmp_path, capsys, fault):
    restarts = ("--restarts", "3", "--look_at", "0.7", "--finish", "1")
    assert disturbed(f"{fault} 2", "--workers", "2", "--retry_crashed", "1", *restarts) == 0
    assert f"seed-002: {KILLED}; it will be run again" in capsys.readouterr().out
    assert_whole(tmp_path / "study", undisturbed(*restarts), lambda: disturbed("", *restarts))


@pytest.mark.slow
def test_a_run_that_crashes_once_or_always_is_run_again_as_often_as_asked(undisturbed, disturbed, tmp_path, capsys):
    assert disturbed("error 2 again", "--retry_crashed", "2") == 1
    out, err = capsys.readouterr()
    ends = [line.split(": ", 1)[1] for line in out.splitlines() if line.startswith("devlin2019/seed-002: ")]
    again = "crashed: RuntimeError: a bug; it will be run again"
    assert ends == [again, again, "crashed: RuntimeError: a bug"]
    assert "1 run(s) crashed" in err
    assert disturbed("out_of_memory 2", "--retry_crashed", "1") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "will be run again" in line]
    assert "Memory ran out: give " in line
    assert_whole(tmp_path / "study", undisturbed(), disturbed)


RUN = "runs/devlin2019/seed-002"


def test_only_crashed_runs_are_run_again_after_all_others(tiny_jobs, tmp_path, monkeypatch):
    """Job 2 crashes once, job 3 always."""
    jobs = tiny_jobs(tmp_path, seeds=(1, 2, 3))
    calls: list[list[int]] = []

    def execute(self, jobs, folders, listen):
        calls.append([job.seed for job in jobs])
        for job in jobs:
            crashes = job.seed == 3 or (job.seed == 2 and len(calls) == 1)
            listen(Event(job, "crashed" if crashes else "finished", error="MemoryError: 5 GiB." if crashes else ""))

    monkeypatch.setattr(Execution, "_execute", execute)
    events: list[Event] = []
    Execution(workers=2, retry_crashed=2).execute(jobs, [tmp_path] * 3, events.append)
    assert calls == [[1, 2, 3], [2, 3], [3]]
    assert [(event.job.seed, event.kind) for event in events] == [
        (1, "finished"), (2, "again"), (3, "again"), (2, "finished"), (3, "again"), (3, "crashed")
    ]  # fmt: skip
    assert events[-1].error == f"MemoryError: 5 GiB. Memory ran out: {MEMORY}"


BATCH = "a smaller --per_device_train_batch_size"


@pytest.mark.parametrize(
    ("execution", "device", "ways"),
    [
        (Execution(), "cpu", BATCH),
        (Execution(1), "cpu", BATCH),
        (Execution(2), "cpu", f"fewer --workers or {BATCH}"),
        (Execution(2, gpus=("0", "1")), "cuda", BATCH),  # each run has a GPU
        (
            Execution(4, runs_per_gpu=2, gpus=("0", "1")),
            "cuda",
            f"fewer --workers, a smaller --runs_per_gpu or {BATCH}",
        ),
        (Execution(4, "ray"), "cpu", BATCH),
        (Execution(4, "ray", runs_per_gpu=2), "cuda", f"a smaller --runs_per_gpu or {BATCH}"),
        (Execution(parallel="seeds"), "cuda", f"fewer processes per machine or {BATCH}"),
    ],
)
def test_the_way_out_of_too_little_memory_is_one_that_helps(tiny_jobs, tmp_path, monkeypatch, execution, device, ways):
    monkeypatch.setattr("hf_stability.study.execution.joined_ranks", lambda: "ranks")
    job = dataclasses.replace(tiny_jobs(tmp_path)[0], device=device, args={})
    assert with_way_out("CUDA out of memory", job, execution) == f"CUDA out of memory. Memory ran out: give {ways}"


# --- the parent's own files -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(size: int):
    """No file of this process may grow beyond some bytes."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@linux
@pytest.mark.parametrize(
    ("place", "size", "code"),
    [
        pytest.param("the lock", 20, 2, marks=pytest.mark.slow),
        pytest.param("the data", 1000, 1, marks=pytest.mark.slow),
        ("the tables", 0, 1),
    ],
)
def test_a_full_disk_ends_the_command_in_one_line(
    undisturbed, disturbed, tmp_path, monkeypatch, capsys, place, size, code
):
    disturbed("", "--dry_run")  # makes the method's file
    study = tmp_path / "study"
    shutil.copytree(undisturbed(), study)
    shutil.rmtree(study / RUN)
    if place == "the tables":
        write = study_module.write_summary

        def fails(*arguments):
            with full_disk(size):
                write(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(study_module, "write_summary", fails)
            assert disturbed() == code
    else:
        with full_disk(size):
            assert disturbed() == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "hf-stability: " in line]
    assert line.startswith("hf-stability: error: ") and "File too large" in line
    assert not (study / LOCK).exists() and not (study / OWNER).exists()
    assert disturbed() == 0
    assert_whole(study, undisturbed(), disturbed)


@pytest.mark.parametrize("place", ["/proc", "read-only"])
def test_a_read_only_folder_is_refused_in_one_line(tiny_study, tmp_path, capsys, place):
    if place == "read-only":
        place = tmp_path / place
        place.mkdir(mode=0o555)
        if os.access(place, os.W_OK):
            pytest.skip("this user may write everywhere")
    assert main([*tiny_study, "--output_dir", f"{place}/study"]) == 2
    assert f"hf-stability: error: --output_dir {place}/study: cannot write to {place}" in capsys.readouterr().err


# --- damaged files ----------------------------------------------------------------------------------------------------


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def put(content: bytes):
    return lambda path: path.write_bytes(content)


DAMAGES = {
    "records": {
        "runs/devlin2019/seed-001/run.json": half,
        "runs/devlin2019/seed-002/run.json": put(b"[]"),
        "runs/devlin2019/seed-003/run.json": put(b'{"schema": "hf_stability.run/3"}'),
        "summary.json": put(bytes(range(256))),
    },
    "more records, and data": {
        "runs/devlin2019/seed-001/run.json": put(b""),
        "runs/devlin2019/seed-002/run.json": put(bytes(range(256))),
        "runs/devlin2019/seed-003/run.json": put(b'{"schema": null}'),
        "runs/devlin2019/seed-003/config.json": put(b"[]"),
        "data/*/train/*.arrow": half,
        "data/*/validation/*/state.json": lambda path: path.unlink(),
    },
    "what no table is made from": {
        "runs/devlin2019/seed-001/metrics.json": half,
        "runs/devlin2019/seed-002/predictions.npz": half,
        "runs/devlin2019/seed-003/steps.rec": half,
        "runs/devlin2019/seed-003/verdict.json": half,
    },
}


@pytest.mark.parametrize(
    "damage", [pytest.param(name, marks=() if name == "records" else pytest.mark.slow) for name in DAMAGES]
)
def test_a_damaged_file_is_written_anew_or_harms_no_one(undisturbed, disturbed, tmp_path, capsys, monkeypatch, damage):
    study = tmp_path / "study"
    shutil.copytree(undisturbed(), study)
    for place, spoil in DAMAGES[damage].items():
        (path,) = study.glob(place)
        spoil(path)
    if damage != "what no table is made from":
        assert disturbed() == 0
    else:
        assert disturbed("", "--report_to", "none") == 0
        assert results(study)["summary.json"] == results(undisturbed())["summary.json"]
        for place in DAMAGES[damage]:
            shutil.copy(undisturbed() / place, study / place)
    assert "Traceback" not in capsys.readouterr().err
    assert_whole(study, undisturbed(), disturbed)


@pytest.mark.slow
def test_a_finished_run_without_its_settings_is_named_with_the_way_out(undisturbed, disturbed, tmp_path, capsys):
    study = tmp_path / "study"
    shutil.copytree(undisturbed(), study)
    for spoil in (half, put(b"[]"), put(b'{"job": []}'), put(b'{"job": {}}'), put(bytes(range(256)))):
        spoil(study / RUN / "config.json")
        assert disturbed() == 2
        err = capsys.readouterr().err
        assert f"{RUN}/config.json: these are not a run's settings" in err and f"move {study / RUN} away" in err
        assert "Traceback" not in err
    (study / RUN).rename(tmp_path / "away")
    assert disturbed() == 0
    assert_whole(study, undisturbed(), disturbed)


@pytest.mark.slow
def test_a_damaged_look_is_taken_again(undisturbed, disturbed, tmp_path):
    restarts = ("--restarts", "3", "--look_at", "0.5", "--finish", "1")
    study = tmp_path / "study"
    shutil.copytree(undisturbed(*restarts), study)
    for seed, spoil in enumerate((half, put(b"{}"), put(b"7")), 1):
        run = study / "runs" / "devlin2019" / f"seed-00{seed}"
        spoil(run / "look.json")
        (run / "run.json").unlink()
    assert disturbed("", *restarts) == 0
    assert_whole(study, undisturbed(*restarts), lambda: disturbed("", *restarts))


# --- time, place, versions ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(undisturbed, disturbed, tmp_path, monkeypatch):
    now, jumps = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: now() + (-1) ** next(jumps) * 86400.0)
    assert disturbed("interrupt 2") == 130
    assert disturbed() == 0
    times = json.loads((tmp_path / "study" / RUN / "times.json").read_text())
    assert 0 < times["wall"] < 60
    assert_whole(tmp_path / "study", undisturbed(), disturbed)


STAGE = "stages: [{train_file: %s, validation_file: %s, args: {max_steps: 24, learning_rate: 3e-3}}]"


@pytest.mark.slow
@pytest.mark.parametrize("staged", [False, True])
def test_a_folder_that_was_moved_in_mid_run_goes_on_in_its_new_place(
    undisturbed, tiny_study, tiny_csv, tmp_path, capsys, staged
):
    (tmp_path / "stage.yaml").write_text(STAGE % tiny_csv)
    more = ("--recipe", f"devlin2019+{tmp_path / 'stage.yaml'}", "--seeds", "2") if staged else ()
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    arguments = command(tiny_study, old, *more)
    (old / "fault").write_text("interrupt 2")
    assert main(arguments) == 130
    (run,) = old.glob("study/runs/*/seed-002")
    assert (run / "checkpoint-2").is_dir() and not (run / "run.json").exists()
    old.rename(new)
    assert main(command(tiny_study, new, *more)) == 0
    assert not old.exists() and "stage train" not in capsys.readouterr().out.split("finished")[-1]
    assert_whole(new / "study", undisturbed(*more), lambda: main(command(tiny_study, new, *more)))


def test_a_study_goes_on_after_an_upgrade_and_says_which_run_is_too_new(undisturbed, disturbed, tmp_path, capsys):
    study = tmp_path / "study"
    shutil.copytree(undisturbed(), study)
    records = [study / "runs" / "devlin2019" / f"seed-00{seed}" / "run.json" for seed in (1, 2, 3)]
    first, second, third = (json.loads(path.read_text()) for path in records)
    for name in ("cell", "ended_at_look"):
        first.pop(name), second.pop(name)
    for name in ("planned_steps", "alarm_step", "audited"):
        first.pop(name)
    write_json(records[0], {**first, "schema": "hf_stability.run/1"})
    write_json(records[1], {**second, "schema": "hf_stability.run/2"})
    write_json(records[2], {**third, "schema": "hf_stability.run/99", "more": {}})
    before = files(study)
    assert disturbed() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "seed-003/run.json: schema 'hf_stability.run/99'; this version of hf_stability reads" in line
    assert f"Update hf_stability, or move {records[2].parent} away" in line
    assert files(study) == before
    shutil.rmtree(records[2].parent)
    assert disturbed() == 0
    assert results(study)["summary.json"] == results(undisturbed())["summary.json"]
    before = files(study)
    assert disturbed() == 0 and files(study) == before


# --- signals to the parent --------------------------------------------------------------------------------------------


@linux
@pytest.mark.slow
@pytest.mark.parametrize("case", ["SIGKILL", "SIGTERM", "Ctrl-C twice"])
def test_a_command_that_is_ended_leaves_no_process_and_the_next_one_goes_on(
    undisturbed, disturbed, tiny_study, tmp_path, case
):
    study = tmp_path / "study"
    arguments = [*command(tiny_study, tmp_path), "--workers", "2"]
    (tmp_path / "fault").write_text("wait 2")
    with Command(arguments, tmp_path / "log") as running:
        process = running.process
        wait_for(lambda: process.poll() is not None or not (tmp_path / "fault").exists(), 240)
        assert process.poll() is None and (study / RUN / "checkpoint-2").is_dir(), running.log.read_text()
        if case == "Ctrl-C twice":
            os.killpg(process.pid, signal.SIGINT)
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(process.pid, getattr(signal, case))
        code = process.wait(timeout=30)
        running.wait_for_all_processes()
    assert code == (-9 if case == "SIGKILL" else 130)
    assert (study / LOCK).exists() == (case == "SIGKILL") or case == "Ctrl-C twice"
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text and (case == "SIGKILL" or "interrupted. Finished runs are kept" in text)
    assert disturbed() == 0
    assert_whole(study, undisturbed(), disturbed)
