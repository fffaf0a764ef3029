"""Attempts: a run that restarts has several, one after the other. The last one counts as the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import InputError


ATTEMPT_SCHEMA = "hf_stability.attempt/1"

ALARM = "alarm"
NON_FINITE_LOSS = "non-finite loss"
NON_FINITE_GRADIENTS = "non-finite gradients"
REASONS = (ALARM, NON_FINITE_LOSS, NON_FINITE_GRADIENTS)
"""Why an attempt was abandoned."""


@dataclass(frozen=True)
class Attempt:
    """One attempt of a run: a training from update step 0.

    Args:
        number: 0 for the first attempt.
        settings: arguments that this attempt changed, without the seeds: name -> value. Empty for the first attempt.
        seeds: its seeds: `init`, `data` and `dropout`.
        reason: one of `REASONS`, if the attempt was abandoned. None for the attempt that was trained to its end.
        alarm: the attempt's alarm, as `Alarm.to_dict` gives it. None without one. An attempt that was trained to its end
            can have one, too: nothing stops the last attempt.
        steps: update steps spent.
        total_steps: update steps of the whole attempt, if nothing had ended it.
    """

    number: int
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    reason: str | None = None
    alarm: dict[str, Any] | None = None
    steps: int = 0
    total_steps: int = 0
    schema: str = ATTEMPT_SCHEMA

    @property
    def was_abandoned(self) -> bool:
        """Whether the run began again after this attempt."""
        return self.reason is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Attempt:
        """The inverse of `to_dict`.

        Raises:
            InputError: another version of the schema, or other fields.
        """
        if content.get("schema") != ATTEMPT_SCHEMA:
            raise InputError(f"attempt schema {content.get('schema')!r}: this version reads only {ATTEMPT_SCHEMA}")
        try:
            return cls(**content)
        except TypeError as error:
            raise InputError(f"an attempt has other fields than {ATTEMPT_SCHEMA}: {error}") from None


def steps_spent(attempts: Iterable[Attempt]) -> int:
    """Update steps of all attempts of a run together: its cost."""
    return sum(attempt.steps for attempt in attempts)
