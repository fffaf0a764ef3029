"""The shape of a policy: which jobs a study runs instead of the planned ones, and what it prints at the end.

A policy is one file here: plain functions first, then a frozen dataclass on top of [`Policy`] that checks its values when it
is made. While it runs, a job knows its policy by its own fields (`cell`, `policy`) only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..job import Job
from ..records import RunRecord


class Policy:
    """The plain study: every recipe with every seed, each run to its end. A policy overrides what it changes."""

    def planned_seeds(self) -> list[int] | None:
        """The seeds to plan where the user names none; None: the study's own default."""
        return None

    def jobs(self, planned: Sequence[Job]) -> list[Job]:
        """The jobs to run.

        Args:
            planned: a job for each recipe and seed.

        Raises:
            InputError: a setting that contradicts the policy.
        """
        return list(planned)

    def check_runs(self, jobs: Sequence[Job], runs: Sequence[RunRecord]) -> None:
        """Refuse a folder with finished runs that do not fit these jobs.

        Args:
            jobs: of [`Policy.jobs`].
            runs: the finished runs of the study's folder; of other recipes too.

        Raises:
            InputError: with the values that would fit.
        """

    def conclusion(self, folder: Path, recipes: Sequence[str]) -> str:
        """What the study prints at its end, below the table; empty for nothing.

        Args:
            folder: the study's.
            recipes: those of this command, in its order.
        """
        return ""
