"""Scores of a study's finished runs over update steps, from their folders: scores that select, and scores that are reported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, nearest
from ...tasks.load import HALVES
from ..folder import read_runs
from ..records import RunRecord, counting_key


@dataclass(frozen=True)
class RecipeScores:
    """Scores of N finished runs of a recipe, in the headline metric; larger is better.

    Args:
        recipe, metric: names.
        runs: (N,), by seed.
        fractions: (F,), the evaluations before the end, as increasing shares of the planned update steps, in (0, 1).
        looks: (N, F), scores at these evaluations, on the development set that counts.
        scores: (N,), at the end, on the development set that counts.
        report: (N,), at the end, on the half that selects nothing; None if the study has no such half.
        diverged: number of diverged runs; see `read_scores` for their scores.
        crashed, unfinished: numbers of runs that are left out because they crashed or were interrupted.
    """

    recipe: str
    metric: str
    runs: tuple[RunRecord, ...]
    fractions: tuple[float, ...]
    looks: np.ndarray
    scores: np.ndarray
    report: np.ndarray | None
    diverged: int
    crashed: int
    unfinished: int


def read_recipes(folder: Path, recipes: Sequence[str] | None = None) -> dict[str, list[RunRecord]]:
    """The finished runs of a study by recipe, each by name.

    Args:
        folder: the study's folder.
        recipes: which recipes, in this order. Default: all, sorted.

    Raises:
        InputError: there is no finished run, or none of a given recipe.
    """
    by_recipe: dict[str, list[RunRecord]] = {}
    for run in read_runs(folder):
        by_recipe.setdefault(run.recipe, []).append(run)
    if not by_recipe:
        raise InputError(f"{folder}: no finished run; give a study's folder")
    for recipe in recipes or ():
        if recipe not in by_recipe:
            hint = nearest(recipe, by_recipe)
            raise InputError(
                f"--recipe {recipe}: no finished run in {folder}{hint}; available: {', '.join(by_recipe)}"
            )
    return {recipe: by_recipe[recipe] for recipe in recipes or by_recipe}


def read_scores(folder: Path, runs: Sequence[RunRecord]) -> RecipeScores:
    """The scores of a recipe's runs at every evaluation that all of them have.

    A diverged run counts with the scores of its predictions, because the recipe would look better without it. Once its
    weights are NaN it predicts one class, so its last score also stands for the rest. If an evaluation gave no number, the
    baseline counts: the score of the best constant prediction.

    Args:
        folder: the study's folder.
        runs: of one recipe, at least one.

    Raises:
        InputError: a run was stopped and had not diverged; a run was never evaluated; a `metrics.json` cannot be read.
    """
    recipe = runs[0].recipe
    stopped = Counter(run.status for run in runs if run.steps < run.planned_steps and run.status != "diverged")
    for status, number in stopped.items():
        how = "stopped by an alarm (--on_alarm stop)" if status == "stopped" else status
        raise InputError(
            f"{recipe}: {number} of {len(runs)} runs were {how}. How they would have ended is unknown, and the recipe would "
            "look better without them. Give a study in which all runs were finished"
        )
    histories = [_history(folder, run) for run in runs]
    planned = max(run.planned_steps for run in runs)
    whole = [history for run, history in zip(runs, histories, strict=True) if run.steps >= run.planned_steps]
    common = set.intersection(*map(set, whole or histories))
    steps = sorted(step for step in common if step < planned)
    selecting = np.array([[_at(history, step)[0] for step in (*steps, planned)] for history in histories])
    report = [_at(history, planned)[1] for history in histories]
    crashed, unfinished = not_finished(folder / "runs" / recipe)
    return RecipeScores(
        recipe=recipe,
        metric=runs[0].metric,
        runs=tuple(runs),
        fractions=tuple(step / planned for step in steps),
        looks=selecting[:, :-1],
        scores=selecting[:, -1],
        report=None if None in report else np.array(report),
        diverged=sum(run.status == "diverged" for run in runs),
        crashed=crashed,
        unfinished=unfinished,
    )


def _history(folder: Path, run: RunRecord) -> dict[int, tuple[float, float | None]]:
    """Update step -> the score that selects, and the score that is reported, if any."""
    path = folder / "runs" / run.name / "metrics.json"
    try:
        evaluations = json.loads(path.read_text(encoding="utf-8"))["evaluations"]
        history = {entry["step"]: _scores_of(entry, run) for entry in evaluations}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}: {error}); run it again") from None
    if not history:
        raise InputError(f"{run.name}: it was never evaluated and has no score; train with --eval_strategy epoch")
    return history


def _scores_of(metrics: Mapping[str, Any], run: RunRecord) -> tuple[float, float | None]:
    first = counting_key(metrics, run.metric)
    second = f"eval_{HALVES[1]}_{run.metric}"
    return _number(metrics[first], run), _number(metrics[second], run) if second in metrics else None


def _number(score: float | None, run: RunRecord) -> float:
    """The score; the baseline if it was no number."""
    score = run.baseline if score is None else score
    return float("nan" if score is None else score)


def _at(history: Mapping[int, tuple[float, float | None]], step: int) -> tuple[float, float | None]:
    """The scores at an update step, or at the last evaluation before it, or else at the first evaluation."""
    return history[max((known for known in history if known <= step), default=min(history))]


def not_finished(folder: Path) -> tuple[int, int]:
    """Numbers of crashed and of unfinished runs below a recipe's folder."""
    left = [path.parent for path in folder.glob("*/config.json") if not (path.parent / "run.json").is_file()]
    crashed = sum((path / "error.txt").is_file() for path in left)
    return crashed, len(left) - crashed
