"""A check's result: the numbers that it computed, and the finding that a report shows."""

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
"""Checks that look for bugs: no recipe helps against their findings."""


@dataclass(frozen=True)
class Fault:
    """One thing that a check found wrong.

    Args:
        kind: the key of its sentence in `words`.
        likelihood: how likely it made the run fail; one of `LIKELIHOODS`.
        values: numbers and names for this sentence only.
    """

    kind: str
    likelihood: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checked:
    """A check's result without words.

    Args:
        name: the check's.
        figures: the numbers that a report shows in its JSON.
        faults: the faults found; empty if all is in order.
        more: other values for the check's sentences.
    """

    name: str
    figures: dict[str, Any]
    faults: Sequence[Fault] = ()
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """A check's result in words and numbers.

    Args:
        name: the check's.
        likelihood: how likely this made the run fail; one of `LIKELIHOODS`. It is `unlikely` if all is in order.
        sentence: what was found, and what it means.
        figures: the numbers behind it.
        remedy: what to do about it; empty if all is in order.
        recipe: the recipe or flags to use; empty if none would help.
        faults: the kinds of the faults found, as `words` names them; empty if all is in order.
    """

    name: str
    likelihood: str
    sentence: str
    figures: dict[str, Any] = field(default_factory=dict)
    remedy: str = ""
    recipe: str = ""
    faults: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.likelihood not in LIKELIHOODS:
            raise InputError(f"likelihood {self.likelihood!r} is not one of {', '.join(LIKELIHOODS)}")
