"""Processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from hf_stability.utils.processes import is_running


def test_a_process_runs_until_it_ends_whether_or_not_its_parent_asks():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_running(os.getpid()) and is_running(process.pid)
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.pid_exists(process.pid) and not is_running(process.pid)
    process.wait()
    assert not is_running(process.pid)


@pytest.mark.parametrize("pid", [-1, 2**31 - 1, 2**100])
def test_a_number_that_no_process_has(pid):
    assert not is_running(pid)


def test_another_users_process_runs(monkeypatch):
    def denied(process):
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "status", denied)
    assert is_running(os.getpid())
