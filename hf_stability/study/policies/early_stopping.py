"""Restarts with early stopping of bad seeds in a study (Dodge et al. 2020, arXiv 2002.06305, section 5).

Each recipe starts t seeds with the whole schedule. After a fraction f of the update steps comes the look: an evaluation and
a checkpoint. The p runs with the best score there, on the development set that counts, go on from their checkpoints. The
others end as `stopped early`. The cost is t f + p (1 - f) runs.

Each call makes the choice again from the runs' `look.json`, so that a study can be interrupted at any point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import InputError
from ...utils.files import write_json
from ...utils.text import decimal
from ..folder import run_folder
from ..job import Job
from ..records import LOOK, RunRecord, counting_key, delete_checkpoints, read_run
from .policy import Policy, refuse_alarms


def check_policy(started: int | None, fraction: float | None, finished: int | None) -> None:
    """Refuse values that are no policy.

    Args:
        started, fraction, finished: t, f, p: `--restarts`, `--look_at`, `--finish`.

    Raises:
        InputError: a value is missing; t is below 2, p outside 1 to t - 1, f outside (0, 1).
    """
    flags = {"--restarts": started, "--look_at": fraction, "--finish": finished}
    missing = [flag for flag, value in flags.items() if value is None]
    if missing:
        given = next(flag for flag, value in flags.items() if value is not None)
        raise InputError(f"{given} {flags[given]}: also give {' and '.join(missing)}")
    if started < 2:
        raise InputError(f"--restarts {started}: must be 2 or more")
    if not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
        raise InputError(f"--look_at {fraction!r}: must be a fraction of training, between 0 and 1")
    if not 1 <= finished < started:
        raise InputError(f"--finish {finished}: must be between 1 and {started - 1}, less than --restarts {started}")


def policy_jobs(planned: Sequence[Job], fraction: float, finished: int) -> list[Job]:
    """The planned jobs, each with the policy.

    Args:
        planned: a job for each recipe and seed.
        fraction, finished: f and p.

    Raises:
        InputError: a setting ends runs in another way, or leaves no checkpoint to continue from.
    """
    seeds: dict[str, list[int]] = {}
    for job in planned:
        seeds.setdefault(job.recipe, []).append(job.seed)
        refuse_alarms(job, "--restarts, which stops runs itself")
        if job.args.get("save_only_model"):
            raise InputError(
                "--save_only_model: not allowed with --restarts, because runs continue from whole checkpoints; leave it out"
            )
        if job.args.get("save_strategy") == "best":
            raise InputError(
                "--save_strategy best: not allowed with --restarts, which saves at the look; give no, steps or epoch"
            )
        if job.processes > 1:
            raise InputError(
                "--restarts: not possible where several processes train a run together; start one process"
            )
    return [
        replace(job, policy={"seeds": seeds[job.recipe], "look_at": fraction, "finish": finished}) for job in planned
    ]


def jobs_to_look_at(missing: Sequence[Job], folder: Path) -> list[Job]:
    """The unfinished jobs before their look, each to be trained until it."""
    return [
        replace(job, until_look=True) for job in missing if job.policy is not None and _read_look(job, folder) is None
    ]


def end_the_others(missing: Sequence[Job], folder: Path) -> list[tuple[RunRecord, str]]:
    """End the missing jobs that were not chosen.

    The choice is made once all seeds of a recipe have reached their look. If one crashed before, the others are `waiting`.

    Args:
        missing: jobs that are not finished.
        folder: the study's.

    Returns:
        the records of ended and waiting runs, each with a sentence to print.
    """
    ended = []
    for job in missing:
        if job.policy is None:
            continue
        looks = [_read_look(replace(job, seed=seed), folder) for seed in job.policy["seeds"]]
        own = _read_look(job, folder)
        if own is None:
            continue  # it crashed
        if None in looks:
            sentence = (
                "paused after --look_at, because another run of this recipe crashed; rerun the command to continue"
            )
            ended.append((replace(own, status="waiting", sentence=sentence), sentence))
        elif job.seed not in chosen_seeds(looks, job.policy["finish"]):
            place, own = run_folder(folder, job), replace(own, ended_at_look=True)
            delete_checkpoints(place)
            write_json(place / "run.json", own.to_dict())
            ended.append((own, own.sentence))
    return ended


def chosen_seeds(looks: Sequence[RunRecord], finish: int) -> list[int]:
    """The seeds that go on: those with the best scores at the look. Ties go to the smaller seeds.

    Diverged runs rank last, whatever their score. Runs without a finite score rank just above them.
    """
    ranked = sorted(looks, key=lambda run: (run.status == "diverged", -look_score(run), run.seed))
    return [run.seed for run in ranked[:finish]]


def look_score(run: RunRecord) -> float:
    """The headline metric at the look, on the development set that counts; -inf if it is no number."""
    score = run.metrics[counting_key(run.metrics, run.metric)]
    return -math.inf if score is None else score


def look_sentence(run: RunRecord) -> str:
    """`accuracy 0.512 at step 25 of 100`."""
    return f"{run.metric} {decimal(look_score(run))} at step {run.steps} of {run.planned_steps}"


def policy_sentence(jobs: Sequence[Job]) -> str:
    """The policy of one recipe's jobs in words: `starts 8, looks at them after 25% of training, finishes the best 3`."""
    policy: Mapping = jobs[0].policy
    return f"starts {len(policy['seeds'])}, looks at them after {policy['look_at']:.0%} of training, finishes the best {policy['finish']}"


def _read_look(job: Job, folder: Path) -> RunRecord | None:
    """The record at the look; None if there is none, or if it is another job's."""
    run = read_run(run_folder(folder, job), LOOK)
    return run if run is not None and run.id == job.id else None


@dataclass(frozen=True)
class EarlyStopping(Policy):
    """Restarts with early stopping of bad seeds, for each recipe.

    Args:
        started: t, number of seeds to start, at least 2.
        fraction: f, share of the update steps before the look, in (0, 1).
        finished: p, number of seeds to finish, from 1 to t - 1.

    Raises:
        InputError: a value is outside its range.
    """

    started: int
    fraction: float
    finished: int

    def __post_init__(self) -> None:
        check_policy(self.started, self.fraction, self.finished)

    def planned_seeds(self) -> list[int]:
        return list(range(1, self.started + 1))

    def jobs(self, planned: Sequence[Job]) -> list[Job]:
        return policy_jobs(planned, self.fraction, self.finished)
