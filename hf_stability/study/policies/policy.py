"""The base class of a policy: it replaces the planned jobs of a study, and may print a conclusion.

A policy is one file here: plain functions first, then a frozen dataclass, a subclass of `Policy`, that checks its values
when it is made. A running job knows its policy only by its own fields (`cell`, `policy`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...errors import InputError
from ..job import ENDS_A_TRAINING, Job
from ..records import RunRecord


class AfterRound(NamedTuple):
    """Result of `Policy.after_round`.

    Attributes:
        line: a line to print; empty for none.
        go_on: whether the next round is executed.
        decided: why the other runs are not needed any more, in a few words; empty if they still are.
    """

    line: str = ""
    go_on: bool = True
    decided: str = ""


def refuse_alarms(job: Job, policy: str) -> None:
    """Refuse alarms that end a training, where a policy cannot go with them.

    Args:
        job: planned.
        policy: its flag, and why.

    Raises:
        InputError: alarms stop or restart this run.
    """
    on_alarm = job.args.get("on_alarm")
    if on_alarm in ENDS_A_TRAINING:
        raise InputError(f"--on_alarm {on_alarm}: not allowed with {policy}; give warn or none")


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

    def check_runs(self, jobs: Sequence[Job], runs: Sequence[RunRecord], folder: Path) -> None:
        """Refuse a folder with finished runs that do not fit these jobs.

        Args:
            jobs: from `Policy.jobs`.
            runs: the finished runs of the study's folder, also of other recipes.
            folder: the study's; it may not exist yet.

        Raises:
            InputError: runs do not fit. The message has the values that would.
        """

    def describe(self, jobs: Sequence[Job]) -> list[str]:
        """Lines of `--dry_run` about the policy as a whole.

        Args:
            jobs: from `Policy.jobs`.
        """
        return []

    def start(self, folder: Path, jobs: Sequence[Job]) -> None:
        """Called before the first run. A policy may write its plan.

        Args:
            folder: the study's; it exists.
            jobs: from `Policy.jobs`.
        """

    def rounds(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """The jobs in groups: a group begins when all runs of the one before have ended.

        Args:
            jobs: from `Policy.jobs`.
        """
        return [list(jobs)]

    def after_round(self, folder: Path, number: int, jobs: Sequence[Job], runs: Mapping[str, RunRecord]) -> AfterRound:
        """Called after each round: shall the study go on?

        Args:
            folder: the study's.
            number: of the round, from 1 on.
            jobs: from `Policy.jobs`.
            runs: the records of the jobs that have ended, by the job's name; also crashed ones, and those of later rounds
                that are in the folder.
        """
        return AfterRound()

    def conclusion(self, folder: Path, recipes: Sequence[str]) -> str:
        """The text that the study prints below its table; may be empty.

        Args:
            folder: the study's.
            recipes: the recipes of this command, in its order.
        """
        return ""
