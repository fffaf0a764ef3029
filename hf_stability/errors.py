"""The one exception a user's bad input raises: the command line prints it as a single line and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong. The message names the flag or key, the value, and the way out."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean X?)"` for a message, or nothing where nothing is near."""
    found = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {found[0]}?)" if found else ""
