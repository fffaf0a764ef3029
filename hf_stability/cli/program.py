"""The program's name, and which process prints where several run together."""

from __future__ import annotations

from ..utils.launcher import place


PROG = "hf-stability"


def is_first_process() -> bool:
    """Whether this process prints: it is the only one, or the first of those that a launcher started."""
    return place().rank == 0


def is_first_on_its_machine() -> bool:
    """Whether this process tells why it refuses its input: on another machine a file may be missing."""
    return place().local_rank == 0
