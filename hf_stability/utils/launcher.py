"""The processes that `torchrun` or `accelerate launch` started together, from the variables that they set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PREFIXES = ("TORCHELASTIC_", "GROUP_", "ROLE_")


@dataclass(frozen=True)
class Place:
    """A process's place among those of its launcher.

    Args:
        rank: its number, from 0 on; 0 is the main process.
        size: number of processes.
        local_rank, local_size: the same among the processes on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


_kept: Place | None = None


def place(environment: Mapping[str, str] | None = None) -> Place:
    """This process's place; without a launcher it is the only process. It stays the same after `hide`."""
    if _kept is not None:
        return _kept
    environment = os.environ if environment is None else environment
    rank, size = _number(environment, "RANK", 0), max(1, _number(environment, "WORLD_SIZE", 1))
    local_size = _number(environment, "LOCAL_WORLD_SIZE", size)
    return Place(rank, size, _number(environment, "LOCAL_RANK", rank), local_size)


def hide() -> None:
    """Delete the launcher's variables: from now on libraries take this process for the only one."""
    global _kept
    _kept = place()
    for name in list(os.environ):
        if name in NAMES or name.startswith(PREFIXES):
            del os.environ[name]


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(environment[name])
    except (KeyError, ValueError):
        return default
