"""The exception for bad input. The command line prints its message and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The user gave something wrong. The message names the flag or key, the value, and the way out."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean X?)"` for a message, with the known name nearest to `name`; "" if none is near."""
    found = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {found[0]}?)" if found else ""
