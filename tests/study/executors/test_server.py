"""The environment in which the fork server and the workers start."""

from __future__ import annotations

import os
import threading

import pytest

from hf_stability.study.executors.server import KEEP_MEMORY, server_environment


@pytest.mark.parametrize("before", [None, "glibc.malloc.trim_threshold=1"])
def test_the_environment_is_there_inside_and_as_before_afterwards(monkeypatch, before):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if before is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", before)
    with server_environment():
        assert os.environ["PYTHONSAFEPATH"] == "1"
        assert os.environ["GLIBC_TUNABLES"] == (KEEP_MEMORY if before is None else f"{KEEP_MEMORY}:{before}")
    assert "PYTHONSAFEPATH" not in os.environ and os.environ.get("GLIBC_TUNABLES") == before


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
