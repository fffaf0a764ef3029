"""The environment in which the fork server and the workers start."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading

import pytest

from hf_stability.errors import InputError
from hf_stability.study.executors import server
from hf_stability.study.executors.server import KEEP_MEMORY, SWITCH, prepare_worker, server_environment


EARLY = """
import multiprocessing.forkserver, os, sys, time
from hf_stability.study.executors.server import early_server
from hf_stability.utils.processes import is_running

assert not {"torch", "transformers", "matplotlib"} & set(sys.modules), "the module imports something heavy"
os.sched_getaffinity = lambda pid: {0, 1}
with early_server():
    pid = multiprocessing.forkserver._forkserver._forkserver_pid
    deadline, variables = time.monotonic() + 30, ""
    while not ("PYTHONSAFEPATH=1" in variables and "mmap_max=0" in variables):  # until it is that program
        assert time.monotonic() < deadline, variables
        variables = open(f"/proc/{pid}/environ").read()
    assert "PYTHONSAFEPATH" not in os.environ and "GLIBC_TUNABLES" not in os.environ
    assert is_running(pid)
assert not is_running(pid), "it outlives the command"
os.sched_getaffinity = lambda pid: {0}
with early_server():
    assert multiprocessing.forkserver._forkserver._forkserver_pid is None, "one core imports no two things at once"
print("passed")
"""


@pytest.mark.skipif(server.start_method() != "forkserver", reason="this system has no fork server")
def test_the_early_server_has_its_settings_and_ends_with_the_command():
    """In a process of its own: this one has its imports already."""
    ran = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "passed\n", ran.stderr


def test_a_process_with_its_imports_starts_no_early_server(monkeypatch):
    import torch  # noqa: F401

    monkeypatch.setattr(server, "_end_server", lambda: pytest.fail("started"))
    with server.early_server():
        pass


@pytest.mark.parametrize("offline", [True, False])
def test_a_worker_asks_the_hub_only_if_the_study_does(monkeypatch, offline):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not offline)
    monkeypatch.setattr(server.gc, "freeze", lambda: None)
    monkeypatch.setattr("tqdm.tqdm.set_lock", lambda lock: None)
    prepare_worker(offline)
    assert constants.HF_HUB_OFFLINE is offline


@pytest.fixture
def plain_environment(monkeypatch):
    """No variable of ours, of glibc's malloc or of the server is set."""
    for name in {"PYTHONSAFEPATH", "GLIBC_TUNABLES", SWITCH, *(n for n in os.environ if n.startswith("MALLOC_"))}:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("before", [None, "glibc.rtld.nns=4"])
def test_the_environment_is_there_inside_and_as_before_afterwards(plain_environment, before):
    if before is not None:
        plain_environment.setenv("GLIBC_TUNABLES", before)
    with server_environment():
        assert os.environ["PYTHONSAFEPATH"] == "1"
        assert os.environ["GLIBC_TUNABLES"] == (KEEP_MEMORY if before is None else f"{before}:{KEEP_MEMORY}")
    assert "PYTHONSAFEPATH" not in os.environ and os.environ.get("GLIBC_TUNABLES") == before


@pytest.mark.parametrize(
    "own",
    [
        {SWITCH: "0"},
        {"MALLOC_TRIM_THRESHOLD_": "1"},
        {"MALLOC_ARENA_MAX": "2"},
        {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"},
    ],
)
def test_the_users_own_choice_of_memory_wins(plain_environment, own):
    for name, value in own.items():
        plain_environment.setenv(name, value)
    with server_environment():
        assert os.environ.get("GLIBC_TUNABLES") == own.get("GLIBC_TUNABLES") and os.environ["PYTHONSAFEPATH"] == "1"


def test_another_value_of_the_switch_is_refused(plain_environment):
    plain_environment.setenv(SWITCH, "off")
    with pytest.raises(InputError, match=f"{SWITCH}=off: give 0 or 1"), server_environment():
        pass


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="these settings are glibc's")
@pytest.mark.parametrize(("switch", "freed"), [("1", False), ("0", True)])
def test_glibc_takes_the_settings(plain_environment, switch, freed):
    """A process gets 64 MB and frees them; with the settings they stay its own."""
    plain_environment.setenv(SWITCH, switch)
    code = (
        "import resource; page = resource.getpagesize(); rss = lambda: int(open('/proc/self/statm').read().split()[1])\n"
        "full = bytearray(2**26); before = rss(); del full; print((before - rss()) * page > 2**25)"
    )
    with server_environment():
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == f"{freed}\n"


def test_threads_take_turns(monkeypatch):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    errors, inside, most = [], [], []

    def start():
        try:
            for _ in range(50):
                with server_environment():
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and max(most) == 1 and "PYTHONSAFEPATH" not in os.environ
