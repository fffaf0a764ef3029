"""Attempts of a run that restarts on an alarm, as a study records and counts them.

The last attempt is the run: its status and scores are the record's. How the first attempt ended is another question, and so is
the cost of all of them. The functions here answer both from a record alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..diagnostics.attempt import ALARM, Attempt, steps_spent
from ..verdicts.verdict import NOT_OK
from .job import RESTART
from .records import WITH_ATTEMPTS, RunRecord


AUDIT = "audit"
"""Folder below a run's: the first attempt, trained to its end in spite of its alarm."""

CENSORED_FIRST = "stopped"
"""`first_status` of a run if its first attempt was stopped by an alarm, and no audit tells how it would have ended."""


MARK = "†"
"""Behind the name of a recipe with restarts, wherever its figures are beside those of others."""

MARK_NOTE = (
    f"{MARK} Runs of this recipe begin again after an alarm, NaN or Inf (--on_alarm restart). Its figures are of the final "
    "results, after the last attempt. These runs may have had more than one try, so a smaller std is no sign that the recipe is more stable."
)
"""The note about the mark."""


def restarts(args: Mapping[str, Any]) -> bool:
    """Whether runs with these training arguments begin again on an alarm."""
    return args.get("on_alarm") == RESTART


def restart_sentence(args: Mapping[str, Any]) -> str:
    """The line of `--dry_run` about runs that begin again; empty for others. `args` are all of their training arguments."""
    if not restarts(args):
        return ""
    return (
        f"restarts: a run begins again after an alarm, NaN or Inf, at most {args['max_restarts']} time(s), with "
        f"{args['restart_with']}. If an alarm ends the first attempt, this attempt is also finished, as an audit, with "
        f"probability {args['audit_alarms']:g}"
    )


def first_was_stopped(attempts: Sequence[Attempt]) -> bool:
    """Whether the first attempt was ended by its alarm. An attempt with a loss that is not finite has failed for certain."""
    return len(attempts) > 1 and attempts[0].reason == ALARM


def attempt_fields(attempts: Sequence[Attempt], status: str, audit: str | None = None) -> dict[str, Any]:
    """The fields of a record about its attempts; the record's other fields describe the last one.

    Args:
        attempts: of the run, at least one.
        status: the verdict's, on the last attempt.
        audit: the verdict's status on the first attempt, if it was trained to its end apart.
    """
    if len(attempts) == 1:
        first = status
    elif first_was_stopped(attempts):
        first = audit or CENSORED_FIRST
    else:
        first = "diverged"
    return {
        "attempts": [attempt.to_dict() for attempt in attempts],
        "steps_spent": steps_spent(attempts),
        "first_status": first,
        "audited": audit is not None,
        "schema": WITH_ATTEMPTS,
    }


def attempts_of(run: RunRecord) -> list[Attempt]:
    """The attempts in a record; empty without restarts."""
    return [Attempt.from_dict(content) for content in run.attempts or ()]


def has_attempts(runs: Iterable[RunRecord]) -> bool:
    """Whether these are runs with restarts: whether they could begin again, not whether they did."""
    return any(run.attempts is not None for run in runs)


def was_restarted(run: RunRecord) -> bool:
    """Whether a run began again at least once. In a table of runs made elsewhere only its steps tell."""
    return len(run.attempts or ()) > 1 or (run.steps_spent or 0) > run.steps


def cost(run: RunRecord) -> float | None:
    """Update steps of all attempts, in runs: as a share of those of the whole first attempt. None if these are unknown."""
    attempts = attempts_of(run)
    planned = attempts[0].total_steps if attempts else run.planned_steps
    spent = run.steps if run.steps_spent is None else run.steps_spent
    return spent / planned if planned else None


def first_attempts(runs: Sequence[RunRecord]) -> dict[str, int]:
    """How the first attempts of these runs ended, as numbers of runs.

    | key | runs |
    | --- | --- |
    | `failed` | that failed or diverged, also audited ones |
    | `stopped` | that an alarm ended, and no audit tells how they would have ended |
    | `audited`, `audited_failed` | that an audit trained to their end; those of them that failed |

    Args:
        runs: with attempts.
    """
    audited = [run for run in runs if run.audited]
    return {
        "failed": sum(run.first_status in NOT_OK for run in runs),
        "stopped": sum(run.first_status == CENSORED_FIRST for run in runs),
        "audited": len(audited),
        "audited_failed": sum(run.first_status in NOT_OK for run in audited),
    }


def marked(recipe: str, figures: Mapping[str, Any]) -> str:
    """A recipe's name, with `MARK` if its runs could restart.

    Args:
        recipe: its name.
        figures: of the recipe, see `summarize`; it has `restarts` then.
    """
    return f"{recipe}{MARK}" if figures.get("restarts") else recipe


def with_restarts(recipes: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of the recipes that could restart, from their figures (see `summarize`)."""
    return [figures["recipe"] for figures in recipes if figures.get("restarts")]


def with_marks(values: Any, recipes: Iterable[str]) -> Any:
    """A copy of nested dicts, lists and tuples in which these recipes' names have `MARK`, as keys and as values."""
    names = {name: f"{name}{MARK}" for name in recipes}

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return names.get(value, value)
        if isinstance(value, Mapping):
            return {names.get(key, key): walk(own) for key, own in value.items()}
        return type(value)(map(walk, value)) if isinstance(value, (list, tuple)) else value

    return walk(values) if names else values


def attempt_text(number: int, most: int) -> str:
    """`attempt 2 of 3`.

    Args:
        number: from 1 on.
        most: of attempts that a run can have.
    """
    return f"attempt {number} of {most}"
