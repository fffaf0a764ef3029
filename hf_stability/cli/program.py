"""The program's name, and which process prints where several run together."""

from __future__ import annotations

import os


PROG = "hf-stability"


def is_first_process() -> bool:
    """Whether this process prints. Before a study is planned, only `RANK` tells if several processes belong together."""
    return os.environ.get("RANK", "0") == "0"
