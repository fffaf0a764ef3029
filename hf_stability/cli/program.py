"""The program's name, and which of several processes speaks."""

from __future__ import annotations

import os


PROG = "hf-stability"


def is_first_process() -> bool:
    """Whether this process prints; before a study is planned nobody knows yet if several processes belong together."""
    return os.environ.get("RANK", "0") == "0"
