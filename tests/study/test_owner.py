"""One command at a time in a study's folder: what the lock does when its owner lives, dies, hangs, or runs elsewhere."""

from __future__ import annotations

import calendar
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hf_stability.cli import main
from hf_stability.errors import FolderLost, InputError
from hf_stability.study import owner as owner_module
from hf_stability.study.owner import LOCK, OWNER, hold_folder, read_owner, stop_if_lost
from tests.processes import run_script
from tests.study.executors.test_workers import wait_for
from tests.study.tools import names_in


HERE = socket.gethostname()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Hundredths of a second instead of seconds. The processes of these tests agree on it."""
    for name, value in QUICK.items():
        monkeypatch.setattr(owner_module, name, value)


QUICK = {"HEARTBEAT": 0.05, "LEASE": 30.0, "POLL": 0.01}

HOLD_FOR_EVER = f"""
import sys, time
from pathlib import Path
from hf_stability.study import owner
vars(owner).update({QUICK})
with owner.hold_folder(Path(sys.argv[1])):
    time.sleep(600)
"""


@contextlib.contextmanager
def another_process(folder: Path):
    """A process that holds the folder; it is killed at the end."""
    process = subprocess.Popen([sys.executable, "-c", HOLD_FOR_EVER, str(folder)])
    try:
        wait_for(lambda: (folder / OWNER).is_file() or process.poll() is not None)
        yield process
    finally:
        process.kill()
        process.wait()


def held_elsewhere(folder: Path) -> bytes:
    """The lock of a process on another machine; returns its content."""
    with hold_folder(folder):
        content = (folder / LOCK).read_bytes()
    here = content.split(HERE.encode())[1].partition(b"\n")[0]  # what follows the name: a container's number
    content = content.replace(HERE.encode() + here, b"elsewhere").replace(b"%d" % os.getpid(), b"17")
    (folder / LOCK).write_bytes(content)
    return content


def test_a_held_folder_says_who_holds_it_and_nothing_is_left_behind(tmp_path):
    folder = tmp_path / "new" / "study"
    assert read_owner(folder) is None
    with hold_folder(folder):
        owner = read_owner(folder)
        assert (owner.host, owner.process) == (HERE, os.getpid()) and owner.is_running
        assert json.loads((folder / OWNER).read_text())["command"]
        assert abs(time.time() - calendar.timegm(time.strptime(owner.since, "%Y-%m-%d %H:%M:%S UTC"))) < 60
        assert names_in(folder) == [OWNER, LOCK]
    assert names_in(folder) == [] and read_owner(folder) is None


def test_a_second_command_is_refused_at_once_in_one_line_and_changes_nothing(tiny_study, tmp_path, capsys):
    folder = tmp_path / "study"
    with another_process(folder) as process:
        before = {path: path.read_bytes() for path in folder.iterdir()}
        begin = time.monotonic()
        with pytest.raises(InputError), hold_folder(folder):
            pass
        assert time.monotonic() - begin < 0.5 * owner_module.LEASE
        assert main([*tiny_study, "--output_dir", str(folder), "--max_steps", "2", "--seeds", "1"]) == 2
        err = capsys.readouterr().err
        since = json.loads((folder / OWNER).read_text())["since"]
        assert err == (
            f"hf-stability: error: --output_dir {folder}: in use by process {process.pid} on {HERE} since {since}; wait for it "
            "to end, or add --steal_lock if that command has died\n"
        )
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
        assert read_owner(folder).process == process.pid


@pytest.mark.parametrize("steal", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_killed_owner_holds_nothing(tmp_path, capsys, steal):
    with another_process(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert names_in(tmp_path) == [OWNER, LOCK]
        assert read_owner(tmp_path) is None
        begin = time.monotonic()
        with hold_folder(tmp_path, steal):
            assert time.monotonic() - begin < 0.5 * owner_module.LEASE
            assert read_owner(tmp_path).process == os.getpid()
    assert names_in(tmp_path) == [] and capsys.readouterr().err == ""


@pytest.mark.parametrize("dead", ["here", "elsewhere"])
def test_a_file_system_that_cannot_swap_names(tmp_path, monkeypatch, dead):
    """NFS, for example. A command that was faster keeps its lock."""
    from filelock._soft._exclusive import _recovery

    swaps = []
    if dead == "elsewhere":
        monkeypatch.setattr(owner_module, "LEASE", 0.5)
    monkeypatch.setattr(_recovery, "exchange_names", lambda *names: bool(swaps.append(names)))
    content = held_elsewhere(tmp_path)
    if dead == "here":
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        own = owner_module._this_machine().encode()
        (tmp_path / LOCK).write_bytes(content.replace(b"elsewhere", own).replace(b"17", b"%d" % process.pid))
    begin = time.monotonic()
    with hold_folder(tmp_path):
        seconds = time.monotonic() - begin
        assert seconds >= 0.5 if dead == "elsewhere" else seconds < 0.5 * owner_module.LEASE
        assert (swaps or dead == "elsewhere") and read_owner(tmp_path).process == os.getpid()
        before = (tmp_path / LOCK).read_bytes()
        owner_module._put_away(tmp_path / LOCK, (0, 0))
        assert (tmp_path / LOCK).read_bytes() == before and names_in(tmp_path) == [OWNER, LOCK]
        time.sleep(5 * owner_module.HEARTBEAT)
    assert names_in(tmp_path) == []


def test_containers_of_one_name_are_two_machines(tmp_path, monkeypatch):
    with another_process(tmp_path) as process:
        assert read_owner(tmp_path).is_running
        monkeypatch.setattr(owner_module, "_this_machine", lambda: f"{HERE}?pidns-1")
        assert read_owner(tmp_path).is_running is None
        process.kill()
        process.wait()
        assert read_owner(tmp_path).process == process.pid  # it may run there


def test_two_threads_are_two_commands(tmp_path):
    refused = []

    def second():
        try:
            with hold_folder(tmp_path):
                pass
        except InputError as error:
            refused.append(str(error))

    with hold_folder(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert f"in use by process {os.getpid()} on {HERE}" in refused[0]


def test_a_silent_owner_elsewhere_is_waited_for_and_then_dead(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(owner_module, "LEASE", 0.5)
    held_elsewhere(tmp_path)
    begin = time.monotonic()
    with hold_folder(tmp_path):
        assert time.monotonic() - begin >= owner_module.LEASE
    err = capsys.readouterr().err
    assert err == f"{tmp_path} is held by process 17 on elsewhere: waiting up to 0 s for a sign of life\n"
    assert names_in(tmp_path) == []


def test_an_owner_elsewhere_with_a_heartbeat_is_alive(tmp_path, monkeypatch):
    """Whatever its clock says."""
    held_elsewhere(tmp_path)
    monkeypatch.setattr(owner_module.time, "sleep", lambda seconds: os.utime(tmp_path / LOCK, (86400.0, 86400.0)))
    begin = time.monotonic()
    with pytest.raises(InputError, match="in use by process 17 on elsewhere; wait for it"), hold_folder(tmp_path):
        pass
    assert time.monotonic() - begin < 10
    assert names_in(tmp_path) == [LOCK]


def lose(folder: Path, what) -> FolderLost:
    """Hold a folder as an executor does; after `what(folder)` the holder is stopped."""
    with pytest.raises(FolderLost) as error, hold_folder(folder):
        what(folder)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            stop_if_lost()
            time.sleep(0.001)
    assert time.monotonic() < end
    return error.value


def test_a_former_owner_stops_and_leaves_the_new_ones_files_alone(tmp_path):
    got, leave = threading.Event(), threading.Event()

    def thief():
        with hold_folder(tmp_path, steal=True):
            got.set()
            leave.wait(30)

    thread = threading.Thread(target=thief)
    lost = lose(tmp_path, lambda folder: thread.start())
    assert str(lost).startswith(f"{tmp_path} was taken by process {os.getpid()} on {HERE}")
    assert got.wait(30)
    assert names_in(tmp_path) == [OWNER, LOCK]
    leave.set()
    thread.join()
    assert names_in(tmp_path) == []


def test_only_the_thread_that_lost_its_folder_is_stopped(tmp_path):
    stop_if_lost()  # it holds none
    with hold_folder(tmp_path / "other"):
        with pytest.raises(FolderLost), hold_folder(tmp_path / "inner"), hold_folder(tmp_path / "innermost"):
            shutil.rmtree(tmp_path / "inner")
            wait_for(lambda: owner_module._held.watches[1].loss, 30)
            bystander = threading.Thread(target=stop_if_lost)
            bystander.start()
            bystander.join()
            stop_if_lost()
        stop_if_lost()  # what was lost is over
        assert read_owner(tmp_path / "other").process == os.getpid()


def test_a_silent_owner_elsewhere_gets_the_time_to_notice_a_theft(tmp_path, capsys):
    held_elsewhere(tmp_path)
    begin = time.monotonic()
    with hold_folder(tmp_path, steal=True):
        assert 3 * owner_module.HEARTBEAT <= time.monotonic() - begin < owner_module.LEASE
    assert "--steal_lock: taken from process 17 on elsewhere; waiting up to" in capsys.readouterr().err


def test_a_deleted_folder_stops_its_owner(tmp_path):
    folder = tmp_path / "study"
    assert "the folder was moved or deleted" in str(lose(folder, shutil.rmtree))


def test_a_moved_folder_stops_its_owner_once_there_is_another_one_in_its_place(tmp_path):
    def move(folder):
        folder.rename(tmp_path / "moved")
        time.sleep(5 * owner_module.HEARTBEAT)  # nothing is wrong yet: the lock is where the folder is
        folder.mkdir()

    assert "the folder was moved or deleted" in str(lose(tmp_path / "study", move))


def test_errors_and_interrupts_pass_through(tmp_path):
    for error in (KeyError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), hold_folder(tmp_path):
            raise error
        assert names_in(tmp_path) == []


def test_a_place_without_room_for_a_lock_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="owner.lock cannot be written .*give another folder"):
        with hold_folder(tmp_path / "file" / "study"):
            pass


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_command_that_lost_its_folder_stops_with_one_line(tiny_study, tmp_path, capsys, no_heat_maps, workers):
    folder = tmp_path / "study"
    run = folder / "runs" / "devlin2019" / "seed-001"
    leave = threading.Event()

    def thief():
        wait_for((run / "config.json").is_file)
        with hold_folder(folder, steal=True):
            leave.wait(60)

    thread = threading.Thread(target=thief)
    thread.start()
    steps = ("--max_steps", "5000", "--seeds", "2", "--eval_strategy", "no", "--save_strategy", "no")
    assert main([*tiny_study, "--workers", str(workers), "--output_dir", str(folder), *steps]) == 1
    assert multiprocessing.active_children() == []
    err = capsys.readouterr().err
    assert f"hf-stability: error: {folder} was taken by process {os.getpid()} on {HERE}" in err
    assert "Traceback" not in err and not (folder / "summary.json").exists() and not (run / "run.json").exists()
    assert names_in(folder)[:2] == ["data", OWNER]
    leave.set()
    thread.join()


@pytest.mark.slow
def test_processes_that_train_together_are_refused_together(tiny_study, tmp_path):
    script = Path(__file__).parents[2] / "run_glue_stable.py"
    arguments = [*tiny_study, "--output_dir", tmp_path, "--max_steps", "2", "--seeds", "1"]
    with another_process(tmp_path) as process:
        shutil.copy(tmp_path / OWNER, tmp_path / "told")
        begin = time.monotonic()
        done = run_script(script, arguments, processes=2)
        assert done.returncode == 2 and time.monotonic() - begin < 60
        assert done.stderr.count(f"in use by process {process.pid} on {HERE}") == 1
        assert "Traceback" not in done.stderr
    done = run_script(script, arguments, processes=2)
    assert done.returncode == 0 and (tmp_path / "summary.json").is_file()
    assert not (tmp_path / LOCK).exists() and not (tmp_path / OWNER).exists()
