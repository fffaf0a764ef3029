"""Made-up records of runs that restart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_stability.diagnostics.attempt import Attempt
from hf_stability.study.attempts import attempt_fields
from hf_stability.study.records import RunRecord


STEPS = 100
"""Update steps of a whole attempt."""


def attempts(reasons: Sequence[str], alarm_steps: Sequence[int] | None = None) -> list[Attempt]:
    """Attempts that ended for these reasons, and a last one that was trained to its end.

    Args:
        reasons: of `hf_stability.diagnostics.attempt.REASONS`.
        alarm_steps: update steps spent on each; default: 30.
    """
    spent = [30] * len(reasons) if alarm_steps is None else alarm_steps
    made = [
        Attempt(
            number, reason=reason, steps=steps, total_steps=STEPS, alarm={"step": steps} if reason == "alarm" else None
        )
        for number, (reason, steps) in enumerate(zip(reasons, spent, strict=True))
    ]
    return [*made, Attempt(len(made), steps=STEPS, total_steps=STEPS)]


def restarted_run(
    seed: int,
    reasons: Sequence[str] = (),
    status: str = "ok",
    last: float | None = 0.9,
    audit: str | None = None,
    recipe: str = "restarted",
    rng: np.random.Generator | None = None,
    **values,
) -> RunRecord:
    """A run with these abandoned attempts; see `attempts`.

    Args:
        audit: how an audit's first attempt ended.
        rng: draws the update steps of abandoned attempts.
    """
    spent = None if rng is None else [int(rng.integers(15, 60)) for _ in reasons]
    fields = attempt_fields(attempts(reasons, spent), status, audit)
    known = {"baseline": 0.5, "steps": STEPS, "planned_steps": STEPS, "evaluations": 1, "best": last, **values}
    return RunRecord("id", recipe, seed, "demo_pair", status, "accuracy", last, **known, **fields)
