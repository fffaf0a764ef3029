"""A run failed: which change helps? The same settings and up to three remedies are arms of a study, over a few seeds.

| arm | what it changes |
| --- | --- |
| `same` | nothing: how often do these settings fail? |
| `third_of_rate` | a third of the learning rate, 10% of the update steps as warmup |
| `2000_steps` | at least 2000 update steps (Mosbach et al., ICLR 2021, sections 4.2 and 6) |
| `reinit_top` | the pooler and the top quarter of the layers re-initialised (Zhang et al., ICLR 2021) |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import InputError
from ..methods import check_methods
from ..methods.reinit import check_config
from ..statistics import wilson_interval
from ..study.job import ENDS_A_TRAINING, Job
from ..study.records import RunRecord
from ..utils.batches import planned_steps, steps_per_epoch
from ..utils.text import decimal


SOURCE = "rescue"  # the source of an arm's values in the table of settings
WARMUP = 0.1  # share of the update steps
ENDED = ("ok", "failed", "diverged")  # statuses of finished runs


def rescue_jobs(
    planned: Sequence[Job], examples: int, config: Any, min_steps: int = 2000
) -> tuple[list[Job], list[str]]:
    """The jobs of all arms, from the jobs planned for the failing settings. The latter become the arm `same`.

    Args:
        planned: the failing settings: one job per seed, all of one recipe.
        examples: number of training examples.
        config: the model's config.
        min_steps: update steps of the long arm.

    Returns:
        the jobs, arm by arm; one sentence for each omitted arm.

    Raises:
        InputError: there is more than one recipe, `min_steps` is below 1, the rate is not above 0, or alarms stop or restart runs.
    """
    recipes = list(dict.fromkeys(job.recipe for job in planned))
    if len(recipes) != 1:
        raise InputError(f"--recipe {' '.join(recipes)}: give one recipe, that of the failed run")
    if min_steps < 1:
        raise InputError(f"--min_steps {min_steps}: must be 1 or more")
    args, processes = planned[0].args, planned[0].processes
    if args.get("on_alarm") in ENDS_A_TRAINING:
        raise InputError(
            f"--on_alarm {args['on_alarm']}: a rescue counts failed runs, so it must finish them all; give --on_alarm warn"
        )
    steps = planned_steps(args, examples, processes)
    rate = args.get("learning_rate", 5e-5)  # the Trainer's default
    if not rate > 0:
        raise InputError(f"--learning_rate {rate}: must be above 0; give the failed run's")
    arms: dict[str, dict[str, Any]] = {
        "same": {},
        "third_of_rate": {"learning_rate": rate / 3, "warmup_steps": _warmup(args, steps)},
    }
    left_out = []
    if steps < min_steps:
        # in the unit that was given, so that the study's progress bar compares steps with steps, or epochs with epochs
        epochs = float(math.ceil(min_steps / steps_per_epoch(args, examples, processes)))
        by_steps = args.get("max_steps", -1) > 0
        arms[f"{min_steps}_steps"] = {"max_steps": min_steps} if by_steps else {"num_train_epochs": epochs}
    else:
        left_out.append(f"No arm of {min_steps} update steps: the run already has {steps}.")
    layers = max(1, (getattr(config, "num_hidden_layers", None) or 0) // 4)
    reason = _cannot_reinit(config, layers, args)
    if reason is None and args.get("reinit_layers", 0) < layers:
        arms["reinit_top"] = {"reinit_layers": layers}
    else:
        left_out.append(f"No arm of re-initialised layers: {reason or 'the run re-initialises them already'}.")
    return [_arm_job(job, name, values) for name, values in arms.items() for job in planned], left_out


def _warmup(args: Mapping[str, Any], steps: int) -> float:
    """`warmup_steps` as given, a share or a count, if it is above 10% of the update steps; else 10%."""
    given = args.get("warmup_steps", 0) or 0
    share = given if given < 1 else given / steps
    return given if share > WARMUP else WARMUP  # a count stays a count: the Trainer reads a share of 1.0 as one step


def _cannot_reinit(config: Any, layers: int, args: Mapping[str, Any]) -> str | None:
    """Why this model's layers cannot be re-initialised beside the run's other settings; None if they can."""
    try:
        check_config(config, layers)
        check_methods({**args, "reinit_layers": layers})
    except InputError as error:
        return str(error).partition(": ")[2].rstrip(".").split("; ")[0].split(". ")[0]
    return None


def _arm_job(job: Job, arm: str, values: Mapping[str, Any]) -> Job:
    sources = {**job.sources, **dict.fromkeys(values, SOURCE)}
    return replace(job, recipe=arm, args={**job.args, **values}, sources=sources)


def conclusion(runs: Sequence[RunRecord], left_out: Sequence[str] = ()) -> str:
    """The last paragraph: which arms worked, how certain that is, and what to do next.

    Args:
        runs: the runs of all arms, arm by arm. Unfinished runs (crashed, stopped) do not count.
        left_out: sentences on the omitted arms.
    """
    arms: dict[str, list[bool]] = {}
    for run in runs:
        if run.status in ENDED:
            arms.setdefault(run.recipe, []).append(run.status != "ok")
    held = [name for name, failed in arms.items() if not any(failed)]
    fell = [name for name, failed in arms.items() if any(failed)]
    parts = []
    if not arms:
        return " ".join(["No run has finished, so there is nothing to compare.", *left_out])
    if held:
        fewest = min(len(arms[name]) for name in held)  # a crashed run does not count
        parts.append(f"No failed run: {', '.join(f'{name} (0 of {len(arms[name])} failed)' for name in held)}.")
        parts.append(
            f"0 of {fewest} is weak evidence: the failed share may be up to "
            f"{decimal(float(wilson_interval(0, fewest)[1]), 2)} (95% interval)."
        )
    if fell:
        parts.append(f"Failed: {', '.join(f'{name} ({sum(arms[name])} of {len(arms[name])})' for name in fell)}.")
    parts += left_out
    remedies = [name for name in held if name != "same"]
    if "same" in held:
        parts.append(
            "The unchanged settings (`same`) did not fail again. Your run may have been a rare failure, or its data or "
            "code differ from these. Run more seeds of `same` before you change anything."
        )
    elif remedies:
        best = max(remedies, key=lambda name: _mean_score(runs, name))
        parts.append(
            f"Next: of the arms without a failed run, {best} has the best mean score. Run it with more seeds before you "
            "rely on it."
        )
    else:
        parts.append(_nothing_held(runs, arms))
    parts.append("The same command with --seeds 20 keeps these runs and adds the rest.")
    return " ".join(parts)


def _nothing_held(runs: Sequence[RunRecord], arms: Mapping[str, Sequence[bool]]) -> str:
    """The next step if every arm has a failed run. A bug fails with every seed, so one ok run is evidence against a bug."""
    if all(all(failed) for failed in arms.values()):
        return (
            "No run of any arm is ok. Look for a bug first: hf-stability diagnose RUN --memorize. Then try --recipe "
            "mosbach2021 with a smaller --learning_rate."
        )
    best = min(arms, key=lambda name: (sum(arms[name]) / len(arms[name]), -_mean_score(runs, name)))
    failed, total = sum(arms[best]), len(arms[best])
    low, high = map(float, wilson_interval(failed, total))
    return (
        f"Every arm has a failed run, but some runs are ok. This points to instability, not to a bug. {best} failed "
        f"least: {failed} of {total}, a failed share of {decimal(low, 2)} to {decimal(high, 2)} (95% interval). Next: try a "
        "smaller --learning_rate, or --recipe mosbach2021. Run more seeds before you rely on a difference between arms."
    )


def _mean_score(runs: Sequence[RunRecord], arm: str) -> float:
    scores = [run.last for run in runs if run.recipe == arm and run.last is not None]
    return sum(scores) / len(scores) if scores else -math.inf
