"""What a check returns: the numbers it computed, and the finding that a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError


LIKELIHOODS = ("likely", "possible", "unlikely")

BUGS = (
    "labels", "tokenizer", "new weights", "frozen weights", "layers", "weights' precision", "train and dev",
    "memorize",
)  # fmt: skip
"""Checks whose findings no recipe mends."""


@dataclass(frozen=True)
class Fault:
    """One thing that a check found wrong.

    Args:
        kind: which sentence of the check's in `words` tells it.
        likelihood: how likely it made the run fail, one of `LIKELIHOODS`.
        values: numbers and names that this sentence alone uses.
    """

    kind: str
    likelihood: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checked:
    """What a check computed, without words.

    Args:
        name: the check's.
        figures: the numbers that a report shows in its JSON.
        faults: what is wrong; empty if all is in order.
        more: other values that the check's sentences use.
    """

    name: str
    figures: dict[str, Any]
    faults: Sequence[Fault] = ()
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What a check found, in words and numbers.

    Args:
        name: the check's.
        likelihood: how likely this made the run fail: one of `LIKELIHOODS`; `unlikely` if all is in order.
        sentence: what was found.
        figures: the numbers behind it.
        remedy: what to do about it; empty if all is in order.
        recipe: the recipe or flags to use; empty if none would help.
    """

    name: str
    likelihood: str
    sentence: str
    figures: dict[str, Any] = field(default_factory=dict)
    remedy: str = ""
    recipe: str = ""

    def __post_init__(self) -> None:
        if self.likelihood not in LIKELIHOODS:
            raise InputError(f"likelihood {self.likelihood!r} is none of {', '.join(LIKELIHOODS)}")
