"""A process's place among those of its launcher."""

from __future__ import annotations

import os

import pytest

from hf_stability.utils import launcher
from hf_stability.utils.launcher import Place, hide, place


TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "first", "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_RANK": "1", "ROLE_RANK": "5",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Place()),
        (TORCHRUN, Place(5, 8, 1, 4)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Place(1, 2, 1, 2)),
        ({"RANK": "x", "WORLD_SIZE": ""}, Place()),
    ],
)
def test_the_place_is_the_launchers(environment, expected):
    assert place(environment) == expected


def test_a_hidden_launcher_leaves_nothing_but_the_place(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launcher, "_kept", None)
    hide()
    assert not set(TORCHRUN) & set(os.environ)
    assert place() == Place(5, 8, 1, 4)
