"""`hf-stability status`: what a study's folder tells, of running, finished, interrupted, killed and old studies."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from hf_stability.errors import InputError
from hf_stability.study import status as status_module
from hf_stability.study.owner import OWNER, hold_folder
from hf_stability.study.progress_file import PROGRESS, RunningRun, Snapshot, read_progress, write_progress
from hf_stability.study.records import RunRecord
from hf_stability.study.status import SILENCE, StatusReader, status_lines, status_text
from hf_stability.study.tally import Tally
from hf_stability.utils.files import write_json


PLANNED = tuple(f"{recipe}/seed-00{seed}" for recipe in ("devlin2019", "mosbach2021") for seed in (1, 2, 3))
HERE = Tally([]).snapshot()  # this process, now
RUNNING = dataclasses.replace(
    HERE,
    planned=PLANNED,
    running=(RunningRun(PLANNED[2], "devlin2019", "3", 340, 1000, 0.41, 0.12),),
    finished=2,
    crashed={PLANNED[3]: "MemoryError: 3 GiB"},
    share=0.4,
    seconds_left=7800,
)


@pytest.fixture
def folder(tmp_path):
    """A study's: two finished runs, one of them failed, one crashed, one that trains."""
    for seed, how in ((1, "ok"), (2, "failed")):
        finish(tmp_path, seed, how)
    for name in PLANNED[2:4]:
        (tmp_path / "runs" / name).mkdir(parents=True)
    error = 'Traceback (most recent call last):\n  File "run.py", line 1, in f\n    f()\nMemoryError: 3 GiB\nof 4\n'
    (tmp_path / "runs" / PLANNED[3] / "error.txt").write_text(error)
    return tmp_path


def finish(folder, seed: int, how: str, **values) -> None:
    run = RunRecord(f"id{seed}", "devlin2019", seed, "tiny", how, "accuracy")
    (folder / "runs" / run.name).mkdir(parents=True, exist_ok=True)
    write_json(folder / "runs" / run.name / "run.json", {**run.to_dict(), **values})


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_running_study(folder):
    write_progress(folder, RUNNING)
    status = StatusReader(folder).read()
    assert status.state == "running" and status.left == 3
    assert [dataclasses.astuple(count) for count in status.recipes] == [
        ("devlin2019", 2, 1, 0, 0, 1),
        ("mosbach2021", 0, 0, 0, 1, 2),
    ]
    text = status_text(status, 200)
    for line in (
        f"running, process {os.getpid()} on {HERE.host}",
        "recipe      seed       step   loss  risk\ndevlin2019     3   340/1000   0.41  0.12\n",
        "2 of 6 runs finished (1 failed), 1 crashed; 1 running\n",
        "40%  2 h 10 min left\n",
        "\ndevlin2019          2       1        0     1\nmosbach2021         0       0        1     2\n",
        "crashed: mosbach2021/seed-001: MemoryError: 3 GiB\n",
    ):
        assert line in text
    assert "Curves: tensorboard" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_fits_on_a_terminal(folder, width):
    many = [dataclasses.replace(RUNNING.running[0], recipe=f"devlin2019+mixout,mixout=0.{i}" * 3) for i in range(16)]
    write_progress(folder, dataclasses.replace(RUNNING, running=tuple(many)))
    lines = status_lines(StatusReader(folder).read(), width - 1, 23)
    assert len(lines) <= 23 and any("more" in line.text for line in lines)
    assert all(len(line.text) < width or " " not in line.text.strip() for line in lines)  # a path is not cut


def test_the_counts_are_those_of_the_disk(folder):
    write_progress(folder, dataclasses.replace(RUNNING, finished=0))
    finish(folder, 3, "stopped")
    status = StatusReader(folder).read()
    assert (status.snapshot.finished, status.snapshot.failed) == (3, 1)
    assert "stopped" in status_text(status, 80)


def test_a_dead_process_is_not_running(folder):
    write_progress(folder, dataclasses.replace(RUNNING, process=gone()))
    status = StatusReader(folder).read()
    assert status.state == "not running" and status.snapshot.running == () and status.snapshot.seconds_left is None
    text = status_text(status, 200)
    assert f"is gone, last seen {HERE.written}" in text and "340/1000" not in text
    assert "To continue, run the study's command again. Finished runs are kept." in text


@pytest.mark.parametrize("state", ["ended", "interrupted"])
def test_a_study_that_told_its_end(folder, state):
    write_progress(folder, dataclasses.replace(RUNNING, state=state))
    (folder / "summary.md").write_text("tables")
    status = StatusReader(folder).read()
    text = status_text(status, 200)
    assert status.state == state and f"{state} at {HERE.written}" in text and f"Tables: {folder}" in text
    assert f"Traceback: {folder / 'runs' / PLANNED[3] / 'error.txt'}" in text


@pytest.mark.parametrize(
    "elsewhere",
    [
        pytest.param({"host": "elsewhere"}, id="another machine"),
        pytest.param({"since": "1999-01-01 00:00:00 UTC"}, id="a number that was given anew, or a clock that was set"),
    ],
)
def test_where_no_process_can_be_asked_a_change_of_the_file_tells(folder, elsewhere):
    there = dataclasses.replace(RUNNING, written="1970-01-01 00:00:00 UTC", **elsewhere)
    clock, beats = Clock(), iter(range(100))

    def beat():
        write_progress(folder, dataclasses.replace(there, beat=next(beats)))

    beat()
    reader = StatusReader(folder, clock)
    assert reader.read().state == "waiting"
    clock.now += SILENCE / 2
    assert reader.read().state == "waiting"
    beat()
    assert reader.read().state == "running"
    clock.now += SILENCE * 0.9
    assert reader.read().state == "running"
    clock.now += SILENCE
    assert reader.read().state == "not running"
    beat()
    assert reader.read().state == "running"  # it had only hung
    silent = StatusReader(folder, clock)
    clock.now += SILENCE
    assert silent.read().state == "not running"


def test_the_wait_for_another_machine_ends(folder, monkeypatch):
    write_progress(folder, dataclasses.replace(RUNNING, host="elsewhere"))
    clock = Clock()

    def sleep(seconds):
        clock.now += seconds

    monkeypatch.setattr(status_module.time, "sleep", sleep)
    assert StatusReader(folder, clock).wait().state == "not running"
    assert clock.now == SILENCE


GARBAGE = {
    "half": b'{"schema": "hf_stability.progress/1", "state": "runn',
    "binary": b"\xff\x00\xfe",
    "empty": b"",
    "a list": b"[1]",
    "a number": b"7",
    "another version": json.dumps({**RUNNING.to_dict(), "schema": "hf_stability.progress/2"}).encode(),
    "wrong kinds": json.dumps({**RUNNING.to_dict(), "running": [{"name": 1}]}).encode(),
    "no numbers": json.dumps({**RUNNING.to_dict(), "finished": "many"}).encode(),
    "infinity": json.dumps({**RUNNING.to_dict(), "seconds_left": float("inf")}).encode(),
}


@pytest.mark.parametrize("content", [None, *GARBAGE.values()], ids=["no file", *GARBAGE])
def test_without_a_readable_file_the_runs_are_counted(folder, content):
    if content is not None:
        (folder / PROGRESS).write_bytes(content)
    assert read_progress(folder) is None
    status = StatusReader(folder).read()
    assert status.state == "unknown" and status.snapshot.finished == 2 and status.snapshot.failed == 1
    assert status.snapshot.crashed == {PLANNED[3]: "MemoryError: 3 GiB"} and status.left == 1
    assert "no progress.json" in status_text(status, 300) and "2 of 4 runs finished (1 failed)" in status_text(
        status, 80
    )


def test_runs_of_an_earlier_version_are_counted(tmp_path):
    finish(tmp_path, 1, "failed", schema="hf_stability.run/1")
    assert StatusReader(tmp_path).read().recipes[0].failed == 1


def test_a_command_that_has_only_begun_holds_the_folder(folder):
    write_progress(folder, dataclasses.replace(RUNNING, state="interrupted", process=gone()))
    with hold_folder(folder):
        status = StatusReader(folder).read()
        assert status.state == "running" and f"process {os.getpid()}" in status_text(status, 200)
        assert "interrupted" not in status_text(status, 200)
        for content in ("{}", "[]", '{"host": "x", "process": null, "since": ""}'):
            (folder / OWNER).write_text(content)  # only the lock counts
            assert StatusReader(folder).read().state == "running"
    write_json(folder / OWNER, {"host": HERE.host, "process": os.getpid(), "since": ""})
    assert StatusReader(folder).read().state == "interrupted"


def test_stages_are_counted_by_their_study(tmp_path):
    (tmp_path / "stages").mkdir()
    write_progress(tmp_path, dataclasses.replace(RUNNING, kind="stage", planned=("mnli-1", "mnli-2"), crashed={}))
    status = StatusReader(tmp_path).read()
    assert status.recipes == () and "2 of 2 stages finished; 1 running" in status_text(status, 80)


def test_the_json_has_the_same(folder):
    write_progress(folder, RUNNING)
    told = json.loads(json.dumps(StatusReader(folder).read().to_dict()))
    assert told["schema"] == "hf_stability.status/1" and told["state"] == "running" and told["left"] == 3
    assert told["running"][0]["steps"] == 340 and told["crashed"] == {PLANNED[3]: "MemoryError: 3 GiB"}
    assert [recipe["finished"] for recipe in told["recipes"]] == [2, 0] and told["seconds_left"] == 7800


@pytest.mark.parametrize("make", [False, True])
def test_no_study_is_one_line(tmp_path, make):
    place = tmp_path / "none"
    if make:
        place.mkdir()
    with pytest.raises(InputError, match="none: no (such folder|study in this folder)") as error:
        StatusReader(place)
    assert "\n" not in str(error.value)


def test_an_empty_snapshot_is_read_as_it_was_written(tmp_path):
    write_progress(tmp_path, Snapshot())
    assert read_progress(tmp_path) == Snapshot()
