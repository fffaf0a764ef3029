"""The start of the fork server, in a process of its own: this one has its imports already."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hf_stability.study.executors import server


SCRIPT = """
import multiprocessing.forkserver, os, sys, time
from hf_stability.study.executors.server import early_server, prepare_server

def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

assert not {"torch", "transformers", "matplotlib"} & set(sys.modules), "the module imports something heavy"
os.sched_getaffinity = lambda pid: {0, 1}
os.environ.pop("HF_HUB_OFFLINE", None)
with early_server(["--seeds", "2"]):
    pid = multiprocessing.forkserver._forkserver._forkserver_pid
    deadline, variables = time.monotonic() + 30, ""
    while not ("PYTHONSAFEPATH=1" in variables and "mmap_threshold" in variables):  # until it is that program
        assert time.monotonic() < deadline, variables
        variables = open(f"/proc/{pid}/environ").read()
    assert "PYTHONSAFEPATH" not in os.environ and "GLIBC_TUNABLES" not in os.environ
    prepare_server(multiprocessing)
    assert is_running(pid)
assert not is_running(pid), "it outlives the command"
with early_server([]):
    pid = multiprocessing.forkserver._forkserver._forkserver_pid
    os.environ["HF_HUB_OFFLINE"] = "1"
    prepare_server(multiprocessing)
    assert not is_running(pid), "its workers would ask the hub"
print("passed")
"""


@pytest.mark.skipif(server.start_method() != "forkserver", reason="this system has no fork server")
def test_the_early_server_starts_with_its_settings_and_ends_with_the_command_or_when_the_hub_is_gone():
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "passed\n", ran.stderr


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        ([], True),
        (["run", "--workers", "2"], True),
        (["--workers", "0"], False),
        (["--workers=0"], False),
        (["--executor", "ray"], False),
        (["--dry_run"], False),
        (["--help_all"], False),
    ],
)
def test_only_a_command_that_will_need_the_server_starts_it(words, needs, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(server.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(server.sys, "platform", "linux")
    assert server._needs_server(words) is needs
    monkeypatch.setattr(server.os, "sched_getaffinity", lambda pid: {0})
    assert not server._needs_server(words)


def test_a_process_with_its_imports_starts_no_early_server():
    import torch  # noqa: F401

    assert not server._needs_server([])
