"""The base class of a policy: it replaces the planned jobs of a study, and may print a conclusion.

A policy is one file here: plain functions first, then a frozen dataclass, a subclass of `Policy`, that checks its values
when it is made. A running job knows its policy only by its own fields (`cell`, `policy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..job import Job
from ..records import RunRecord


class Policy:
    """The plain study: every recipe with every seed, each run to its end. A policy overrides some of these methods."""

    def planned_seeds(self) -> list[int] | None:
        """The seeds to plan if the user gives none; None means the study's default."""
        return None

    def jobs(self, planned: Sequence[Job]) -> list[Job]:
        """The jobs to run.

        Args:
            planned: a job for each recipe and seed.

        Raises:
            InputError: a setting contradicts the policy.
        """
        return list(planned)

    def check_runs(self, jobs: Sequence[Job], runs: Sequence[RunRecord]) -> None:
        """Refuse a folder with finished runs that do not fit these jobs.

        Args:
            jobs: from `Policy.jobs`.
            runs: the finished runs of the study's folder, also of other recipes.

        Raises:
            InputError: runs do not fit. The message has the values that would.
        """

    def conclusion(self, folder: Path, recipes: Sequence[str]) -> str:
        """The text that the study prints below its table; may be empty.

        Args:
            folder: the study's.
            recipes: the recipes of this command, in its order.
        """
        return ""
