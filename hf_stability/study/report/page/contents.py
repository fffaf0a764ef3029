"""The content of a report as numbers: each with its metric and n, ready for JSON.

Failed runs come first in every judgement. A recipe that nearly always fails has a small standard deviation, which is no sign
of stability. Recipes are ranked by their failed share, then by their mean score, failed runs included.

The words are elsewhere: `conclusion` writes the three sentences, `tables` the tables, `page` the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from .... import statistics
from ....errors import InputError
from ....utils.files import finite, plain
from ....verdicts.verdict import CENSORED
from ...job import run_name
from ...records import UNJUDGED, RunRecord, seed_text
from ..sentences import LEVEL
from ..settings import StudySettings, read_settings
from ..summary import summarize


REPORT_SCHEMA = "hf_stability.report/1"

ROPE = 0.01
"""Region of practical equivalence: two means that differ by less than this count as equal. In the metric's unit."""

SHARES_OF_EXAMPLES = ("accuracy",)
"""Metrics that are a share of the development examples. Only these have a noise floor."""

POWER = 0.8
"""Power of the numbers of seeds that a report names."""

REASONS = {
    "crashed": "they raised an error; no figure counts them",
    "unfinished": "they have not ended; the study's command, run again, finishes them",
    "of unknown status": "they have no verdict, and no figure of failed runs counts them",
    UNJUDGED: "they have a score, but no baseline to judge them by; give --baseline",
    "stopped by an alarm": "their end is unknown, so that the recipe has no mean, no std and no test",
    "stopped early": "others looked better, so that the recipe has no mean, no std and no test",
    "without a score": "only the failed share counts them",
}
"""Kinds of runs that some figure leaves out, and why."""

TWO_WAY = (
    "Runs of two-way seeds share initialisations and data orders. Intervals and tests treat runs as independent. Therefore "
    "intervals are too narrow and p-values too small."
)


@dataclass(frozen=True)
class RecipeRuns:
    """The runs of one recipe that have a score, by seed.

    Args:
        recipe: its name.
        seeds: names of the seeds, `(n,)`.
        scores: headline metric at the end of training, `(n,)`, failed runs included. Empty if runs were stopped, because the
            others would be a selection.
        ok: whether each run did not fail, `(n,)`. A run of unknown status counts as not ok.
    """

    recipe: str
    seeds: tuple[str, ...]
    scores: np.ndarray
    ok: np.ndarray


def report_contents(
    runs: Sequence[RunRecord],
    folder: Path | None = None,
    rope: float = ROPE,
    examples: int | None = None,
) -> dict[str, Any]:
    """Every number of a report.

    | key | content |
    | --- | --- |
    | `task`, `metric`, `baseline`, `examples`, `rope` | what was measured; None if unknown |
    | `noise_floor` | half width of the 95% interval of the leading mean that the finite development set alone implies |
    | `ranking` | recipes by failed share, then by mean |
    | `recipes` | per recipe the figures of `summarize`, and those of `_recipe` |
    | `pairs` | per pair of recipes, in the order of the ranking, the figures of `_pair` |
    | `family` | what Holm's correction covers |
    | `expected_maximum` | per recipe the expected best score of n runs, and what n runs cost |
    | `runs` | a row per run |
    | `settings`, `differing_settings`, `versions` | see `settings` |
    | `left_out` | runs that some figure does not count: recipe, number, kind, reason (`REASONS`) |
    | `missing` | sections that the report does not have: name, reason |
    | `notes` | what a reader has to know |

    Args:
        runs: of one task and metric, at least one.
        folder: the study's folder, for settings, versions and crashed runs. Default: there is none.
        rope: half width of the region of practical equivalence, in the metric's unit.
        examples: number of development examples. Default: as in the runs' verdicts.

    Raises:
        InputError: there are no runs, they have several metrics or tasks, or `rope` is negative.
    """
    _check(runs, rope, examples)
    settings = read_settings(folder, runs) if folder is not None else StudySettings()
    examples = examples or settings.examples
    summary = summarize(runs)
    metric = summary["metric"] or "score"
    names = [figures["recipe"] for figures in summary["recipes"]]
    scored = {name: scored_runs([run for run in runs if run.recipe == name]) for name in names}
    baseline = next((run.baseline for run in runs if run.baseline is not None), None)
    recipes = [_recipe(figures, scored[figures["recipe"]], runs) for figures in summary["recipes"]]
    by_name = {figures["recipe"]: figures for figures in recipes}
    ranking = sorted(names, key=lambda name: _rank(by_name[name]))
    floor = _noise_floor(metric, by_name[ranking[0]]["mean"], examples)
    pairs = [_pair(by_name[a], by_name[b], scored[a], scored[b], rope) for a, b in combinations(ranking, 2)]
    for pair in pairs:
        difference = pair["mean"]["estimate"] if pair["mean"] else None
        pair["above_noise"] = None if floor is None or difference is None else abs(difference) > floor
    correct(pairs)
    for pair in pairs:
        pair["finding"] = finding(pair)
    without_record = [
        {"recipe": recipe, "n": n, "kind": kind, "reason": REASONS[kind]} for recipe, kind, n in settings.left_out
    ]
    return finite(
        plain(
            {
                "schema": REPORT_SCHEMA,
                "task": next((run.task for run in runs if run.task), None),
                "metric": metric,
                "baseline": baseline,
                "examples": examples,
                "rope": rope,
                "noise_floor": floor,
                "ranking": ranking,
                "recipes": recipes,
                "pairs": pairs,
                "family": _family(pairs, ranking),
                "expected_maximum": {name: _maximum(name, runs, baseline) for name in names},
                "runs": [_row(run) for run in runs],
                "settings": settings.recipes,
                "differing_settings": settings.differing(),
                "versions": settings.versions,
                "left_out": [*_left_out(recipes, runs), *without_record],
                "missing": [],
                "notes": [TWO_WAY] if any(run.cell for run in runs) else [],
            }
        )
    )


def _check(runs: Sequence[RunRecord], rope: float, examples: int | None) -> None:
    if not runs:
        raise InputError("report: there are no finished runs; give a study's folder, --runs or --scores")
    if not rope >= 0:
        raise InputError(f"--rope {rope}: need a number of at least 0, in the metric's unit, for example 0.01")
    if examples is not None and examples < 1:
        raise InputError(f"--examples {examples}: need the number of development examples, at least 1")
    for name in ("metric", "task"):
        values = sorted({getattr(run, name) for run in runs} - {"", None})
        if len(values) > 1:
            raise InputError(f"report: runs with several {name}s ({', '.join(values)}); report on each by itself")


# ---- recipes --------------------------------------------------------------------------------------------------------


def scored_runs(runs: Sequence[RunRecord]) -> RecipeRuns:
    """The runs of one recipe that count for its scores; see `RecipeRuns`.

    A run of unknown status counts too: it has a score, but no verdict.
    """
    censored = any(run.status in CENSORED or run.ended_at_look for run in runs)
    own = [run for run in runs if run.last is not None and run.status not in ("crashed", "waiting") and not censored]
    own.sort(key=lambda run: (run.seed, run.name))
    return RecipeRuns(
        recipe=runs[0].recipe,
        seeds=tuple(seed_name(run) for run in own),
        scores=np.array([run.last for run in own], dtype=float),
        ok=np.array([run.status == "ok" for run in own], dtype=bool),
    )


def seed_name(run: RunRecord) -> str:
    """`3`, or with two-way seeds `init-02_order-01_dropout-1`; `unknown` for a negative seed of a run made elsewhere."""
    return seed_text(run.seed) if run.cell is None else run_name("", 0, run.cell).strip("/")


def _recipe(figures: Mapping[str, Any], scored: RecipeRuns, runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The summary's figures of a recipe, with intervals.

    | figure | meaning |
    | --- | --- |
    | `n_scores`, `mean`, `_low`, `_high`, `median`, `min`, `max`, `std` | of all scores, failed runs included |
    | `lowest_decile`, `interquartile_mean` | of all scores |
    | `n_ok`, `std_ok`, `_low`, `_high` | of the runs that did not fail |
    | `diverged`, `unknown` | numbers of runs; diverged ones are among the failed |
    | `steps` | planned update steps of one run; with restarts the mean number that a run took; None if unknown |
    """
    own = [run for run in runs if run.recipe == figures["recipe"]]
    judged = not any(run.status == UNJUDGED for run in own)
    ok = scored.scores[scored.ok & judged]  # which of the unjudged runs did not fail is not known
    return {
        **figures,
        "diverged": sum(run.status == "diverged" for run in own),
        "unknown": sum(run.status == "unknown" for run in own),
        "n_scores": len(scored.scores),
        "std": float(statistics.standard_deviation(scored.scores)) if len(scored.scores) > 1 else None,
        **_with_mean(scored.scores),
        "n_ok": len(ok),
        **_spread("std_ok", ok),
        "steps": _steps(own),
    }


def _steps(runs: Sequence[RunRecord]) -> int | None:
    spent = [run.steps_spent for run in runs if run.steps_spent is not None]
    if spent:
        return round(sum(spent) / len(spent))
    return max((run.planned_steps for run in runs), default=0) or None


def _with_mean(scores: np.ndarray) -> dict[str, float | None]:
    names = ("mean", "mean_low", "mean_high", "median", "min", "max", "lowest_decile", "interquartile_mean")
    if not len(scores):
        return dict.fromkeys(names)
    low, high = statistics.t_interval(scores)
    values = (
        scores.mean(), low, high, np.median(scores), scores.min(), scores.max(), statistics.lowest_decile(scores),
        statistics.interquartile_mean(scores),
    )  # fmt: skip
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _spread(name: str, scores: np.ndarray) -> dict[str, float | None]:
    if len(scores) < 2:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    low, high = statistics.std_interval(scores)
    return {name: float(statistics.standard_deviation(scores)), f"{name}_low": float(low), f"{name}_high": float(high)}


def _rank(figures: Mapping[str, Any]) -> tuple[bool, float, bool, float]:
    """Smaller is better: failed share, then mean. Recipes without one come last."""
    share, mean = figures["failed_share"], figures["mean"]
    return (share is None, 0.0 if share is None else share, mean is None, 0.0 if mean is None else -mean)


def _noise_floor(metric: str, score: float | None, examples: int | None) -> float | None:
    if metric not in SHARES_OF_EXAMPLES or score is None or not examples or not 0 <= score <= 1:
        return None
    return float(statistics.noise_floor(score, examples))


# ---- pairs ----------------------------------------------------------------------------------------------------------


def _pair(
    a: Mapping[str, Any], b: Mapping[str, Any], scored_a: RecipeRuns, scored_b: RecipeRuns, rope: float
) -> dict[str, Any]:
    """Two recipes compared.

    | figure | meaning |
    | --- | --- |
    | `a`, `b` | the recipes |
    | `failed`, `runs` | numbers of both; `failed` is None where runs are unjudged |
    | `share` | difference of the failed shares, a - b, with its 95% interval, Fisher's p; None if a share is unknown |
    | `mean` | difference of the means, a - b, with its 95% interval, p, n, std; `paired` if both have the same seeds |
    | `superiority` | probability that a run of a scores higher than a run of b, with its 95% interval |
    | `spread` | p of the permutation test of spread, n; None unless no run of both failed |
    | `equivalence` | `better`, `equal`, `worse` or `undecided`, by the interval of the mean and `rope` |
    """
    share = None
    if a["failed_share"] is not None and b["failed_share"] is not None:
        counts = (a["failed"], a["runs"], b["failed"], b["runs"])
        low, high = statistics.share_difference_interval(*counts)
        share = {
            "estimate": a["failed_share"] - b["failed_share"],
            "low": float(low),
            "high": float(high),
            "p": statistics.fisher_exact_p(*counts),
        }
    mean = superiority = equivalence = spread = None
    x, y = scored_a.scores, scored_b.scores
    if min(len(x), len(y)) > 1:
        paired = (
            scored_a.seeds == scored_b.seeds
            and len(set(scored_a.seeds)) == len(x)
            and seed_text(-1) not in scored_a.seeds
        )
        found = statistics.mean_difference(x, y, paired=paired)
        mean = {
            "estimate": found.estimate,
            "low": found.low,
            "high": found.high,
            "p": found.p,
            "n": [len(x), len(y)],
            "paired": paired,
            "std": _std_of_test(x, y, paired),
        }
        equivalence = statistics.equivalence(found.low, found.high, rope)
        superiority = dict(zip(("estimate", "low", "high"), statistics.probability_of_superiority(x, y), strict=True))
        if scored_a.ok.all() and scored_b.ok.all():
            spread = {"p": statistics.spread_permutation_p(x, y), "n": [len(x), len(y)]}
    return {
        "a": a["recipe"],
        "b": b["recipe"],
        "failed": [None if figures.get(UNJUDGED) else figures["failed"] for figures in (a, b)],
        "runs": [a["runs"], b["runs"]],
        "share": share,
        "mean": mean,
        "superiority": superiority,
        "spread": spread,
        "equivalence": equivalence,
    }


def _std_of_test(x: np.ndarray, y: np.ndarray, paired: bool) -> float:
    """The std that the number of seeds needed depends on: of the differences, or the root mean square of both."""
    if paired:
        return float(statistics.standard_deviation(x - y))
    return float(np.sqrt((statistics.standard_deviation(x) ** 2 + statistics.standard_deviation(y) ** 2) / 2))


def correct(pairs: Sequence[dict[str, Any]]) -> None:
    """Add `p_holm` to each test of the pairs. Each kind of test is a family of its own."""
    for kind in ("share", "mean", "spread"):
        tests = [pair[kind] for pair in pairs if pair[kind] is not None]
        known = [test for test in tests if np.isfinite(test["p"])]
        for test in tests:
            test["p_holm"] = None
        for test, p in zip(known, statistics.holm([test["p"] for test in known]) if known else [], strict=True):
            test["p_holm"] = p


def finding(pair: Mapping[str, Any]) -> str:
    """A pair in one word or two. Failed runs come first, then means.

    | word | meaning |
    | --- | --- |
    | `fails less`, `fails more` | the failed shares differ, Holm's p is below 0.05 |
    | `better`, `worse` | the mean differs by more than the region of practical equivalence, Holm's p is below 0.05 |
    | `equal` | the interval of the difference lies inside the region |
    | `within noise` | better or worse, but by less than the noise floor: not ranked |
    | `undecided` | none of these |
    """
    share, mean = pair["share"], pair["mean"]
    if share is not None and share["p_holm"] < LEVEL:
        return "fails less" if share["estimate"] < 0 else "fails more"
    word = pair["equivalence"]
    if word in ("better", "worse"):
        if mean["p_holm"] is not None and mean["p_holm"] >= LEVEL:
            return "undecided"
        return "within noise" if pair["above_noise"] is False else word
    return word or "undecided"


def _family(pairs: Sequence[Mapping[str, Any]], ranking: Sequence[str]) -> dict[str, Any]:
    """How many tests of each kind Holm's correction covers."""
    return {
        "pairs": len(pairs),
        "recipes": len(ranking),
        **{kind: sum(pair[kind] is not None for pair in pairs) for kind in ("share", "mean", "spread")},
    }


# ---- runs -----------------------------------------------------------------------------------------------------------


def _maximum(recipe: str, runs: Sequence[RunRecord], baseline: float | None) -> dict[str, Any] | None:
    """Expected best score of n runs, and their cost; None if runs were stopped, or a diverged run has no score.

    A diverged run without a score counts with the baseline, as in `scores.read_scores`. With `--validation_half both`, the best
    run is chosen by the first half, and its score is that on the second half.
    """
    own = [run for run in runs if run.recipe == recipe and run.status not in ("crashed", "waiting")]
    scores = [baseline if run.last is None and run.status == "diverged" else run.last for run in own]
    if not own or None in scores or any(run.ended_at_look for run in own):
        return None
    n = np.arange(1, len(own) + 1)
    steps = [run.planned_steps if run.steps_spent is None else run.steps_spent for run in own]
    report = [run.report for run in own]
    on_other = None not in report
    return {
        "n": n,
        "scores": statistics.expected_maximum(
            np.array(scores, dtype=float), n, np.array(report, dtype=float) if on_other else None
        ),
        "on_second_half": on_other,
        "cost": n * (sum(steps) / len(steps)) if all(steps) else None,
    }


def _row(run: RunRecord) -> dict[str, Any]:
    kept = (
        "id", "recipe", "status", "last", "best", "evaluations", "train_loss", "steps", "planned_steps", "alarm_step",
        "sentence", "name",
    )  # fmt: skip
    return {**{name: getattr(run, name) for name in kept}, "seed": seed_name(run)}


def _left_out(recipes: Sequence[Mapping[str, Any]], runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Runs that a figure does not count, from the records."""
    found = []
    for figures in recipes:
        own = [run for run in runs if run.recipe == figures["recipe"]]
        counts = {
            "crashed": figures["crashed"],
            "of unknown status": figures["unknown"],
            UNJUDGED: sum(run.status == UNJUDGED for run in own),
            "stopped by an alarm": figures["stopped"],
            "stopped early": figures["stopped_early"],
            "without a score": sum(run.last is None and run.status in ("ok", "failed", "diverged") for run in own),
        }
        found += [
            {"recipe": figures["recipe"], "n": n, "kind": kind, "reason": REASONS[kind]}
            for kind, n in counts.items()
            if n
        ]
    return found
