"""Exceptions with a message for users. The command line prints it: bad input ends with code 2, a lost folder with 1."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The user gave something wrong. The message names the flag or key, the value, and the way out."""


class FolderLost(RuntimeError):
    """A study lost its folder while it ran: another command took it, or it has gone. The message is one line."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean X?)"` for a message, with the known name nearest to `name`; "" if none is near."""
    found = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {found[0]}?)" if found else ""
