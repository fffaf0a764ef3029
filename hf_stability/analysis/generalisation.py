"""Development score against train loss, over all runs: Mosbach et al. (ICLR 2021), section 5.2.

The paper trained 450 models on RTE. Their development accuracy did not decline even at a train loss of 1e-5. So overfitting, in
the sense of a lower development score, does not explain failed runs.

`times_longer` trains the first recipe longer, to reach such a loss: arms `5_times_longer` and so on. All else stays, the shape of the
learning rate's schedule too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..statistics.checks import check_confidence
from ..statistics.scores import t_interval
from ..study.report.figures import empty_figure
from ..study.report.plots import plot_score_against_train_loss
from ..utils.text import decimal, loss_text
from ..verdicts.verdict import NOT_OK
from .analysis import Analysis
from .finished_study import Arms, FinishedStudy


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..study.job import Job
    from ..study.records import RunRecord


FEWEST_RUNS = 4
"""Fewer runs than this have no interval of their correlation."""

PAPER = 1e-5
"""The train loss that the paper reaches without a decline (section 5.2)."""

ALL_OK = "all ok runs"


# ---- pure functions -------------------------------------------------------------------------------------------------


def spearman(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Spearman's rank correlation with its interval: `scipy.stats.spearmanr`, Fisher's z with Bonett & Wright's variance.

        tanh(atanh(r) -+ z sqrt((1 + r^2 / 2) / (n - 3)))

    with z the normal's quantile at (1 + confidence) / 2 (Bonett & Wright 2000, Psychometrika 65, p. 23). For |r| near 1 and few
    runs it covers less than it says.

    Args:
        a: (n,), finite.
        b: (n,), finite.
        confidence: in (0, 1).

    Returns:
        r, low and high, in [-1, 1]. r is NaN with fewer than 2 runs, or if all values of `a` or `b` are the same. low and high
        are NaN with fewer than 4 runs, and for r = -1 and 1, where the formula has no width.
    """
    from scipy.special import ndtri
    from scipy.stats import spearmanr

    check_confidence(confidence)
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError(f"values of shapes {a.shape} and {b.shape}: need one finite value of both for each run")
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan, math.nan, math.nan
    r = float(np.clip(spearmanr(a, b).statistic, -1, 1))
    if len(a) < FEWEST_RUNS or abs(r) > 1 - 1e-12:
        return r, math.nan, math.nan
    half = float(ndtri((1 + confidence) / 2)) * math.sqrt((1 + r**2 / 2) / (len(a) - 3))
    return r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def binned(losses: ArrayLike, scores: ArrayLike, per_decade: int = 4) -> list[dict[str, Any]]:
    """Mean score in bins of train loss, equally wide on a log scale, those with the smallest loss first.

    Args:
        losses: (n,), above 0.
        scores: (n,), finite.
        per_decade: bins per factor of ten.

    Returns:
        a row per bin that has a run: `loss_from`, `loss_to`, `mean`, its 95% interval `low` and `high` (Student's t; NaN with
        one run), `n`.
    """
    losses, scores = np.asarray(losses, dtype=float), np.asarray(scores, dtype=float)
    bins = np.floor(np.log10(losses) * per_decade + 1e-9).astype(int)
    rows = []
    for each in np.unique(bins):
        own = scores[bins == each]
        low, high = t_interval(own) if len(own) > 1 else (math.nan, math.nan)
        rows.append(
            {
                "loss_from": 10.0 ** (each / per_decade),
                "loss_to": 10.0 ** ((each + 1) / per_decade),
                "mean": float(own.mean()),
                "low": float(low),
                "high": float(high),
                "n": len(own),
            }
        )
    return rows


# ---- the analysis ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GeneralisationOptions:
    """The options of `Generalisation`."""

    bins: int = field(default=4, metadata={"help": "Bins of train loss per factor of ten."})
    times_longer: tuple[int, ...] = field(
        default=(), metadata={"help": "Also train the first recipe so many times longer; needs --make_runs."}
    )
    seeds: int = field(
        default=5, metadata={"help": "Seeds of each longer training: the first so many of the study's."}
    )


class Generalisation(Analysis):
    """Development score against train loss over all runs."""

    name = "generalisation"
    Options = GeneralisationOptions

    def missing(self, study: FinishedStudy, options: GeneralisationOptions) -> list[str]:
        if not 1 <= options.bins <= 1000:
            raise InputError(f"--bins {options.bins}: give 1 to 1000")
        if not all(2 <= times <= 1000 for times in options.times_longer):
            raise InputError(
                f"--times_longer {' '.join(map(str, options.times_longer))}: give 2 to 1000, such as 5 20"
            )
        if options.seeds < 1:
            raise InputError(f"--seeds {options.seeds}: give 1 or more")
        if any(run.last is not None and run.train_loss is not None for run in study.runs):
            return []
        return [f"No run in {study.folder} has a score and a train loss at its end. Give a study with finished runs."]

    def jobs(self, study: FinishedStudy, options: GeneralisationOptions) -> list[Job]:
        if not options.times_longer:
            return []
        from .more_runs import changed, first_runs, job_of

        return [
            changed(job_of(study, run), arm_name(times), {"max_steps": times * run.planned_steps})
            for times in sorted(set(options.times_longer))
            for run in first_runs(study, options.seeds)
        ]

    def numbers(self, study: FinishedStudy, options: GeneralisationOptions) -> dict[str, Any]:
        return self._numbers(study, study.by_recipe, options)

    def numbers_of_arms(self, study: FinishedStudy, arms: Arms, options: GeneralisationOptions) -> dict[str, Any]:
        from .more_runs import first_runs

        longer = {arm: runs for arm, (_, runs) in arms.items()}
        numbers = self._numbers(study, study.by_recipe | longer, options)
        same_seeds = {run.seed: run for run in first_runs(study, options.seeds)}
        numbers["tables"]["longer"] = [_against_short(arm, runs, same_seeds) for arm, runs in longer.items()]
        return numbers

    def _numbers(
        self, study: FinishedStudy, by_recipe: Mapping[str, Sequence[RunRecord]], options: GeneralisationOptions
    ) -> dict[str, Any]:
        points: list[dict[str, Any]] = [
            {
                "recipe": recipe,
                "run": run.name,
                "status": run.status,
                "train_loss": run.train_loss,
                "score": run.last,
                "best_evaluation": run.best,
                "steps": run.steps,
            }
            for recipe, runs in by_recipe.items()
            for run in runs
        ]
        known = [point for point in points if point["train_loss"] is not None and point["score"] is not None]
        ok = [point for point in known if point["status"] == "ok"]
        groups = {ALL_OK: ok} | {
            name: own for name in by_recipe if (own := [point for point in ok if point["recipe"] == name])
        }
        positive = [point for point in ok if point["train_loss"] > 0]
        losses = [point["train_loss"] for point in ok]
        return {
            "metric": study.runs[0].metric,
            "score": "at the end of training, on the development set that counts",
            "train_loss": "mean over the last 10% of update steps, as trained (with dropout), in nats",
            "baseline": study.runs[0].baseline,
            "n": len(points),
            "n_known": len(known),
            "n_ok": len(ok),
            "smallest_train_loss": min(losses, default=None),
            "largest_train_loss": max(losses, default=None),
            "n_at_papers_loss": sum(loss <= PAPER for loss in losses),
            "tables": {
                "correlations": [_correlation(name, own) for name, own in groups.items()],
                "bins": binned(*_columns(positive), options.bins) if positive else [],
                "points": points,
            },
        }

    def sentences(self, numbers: Mapping[str, Any]) -> list[str]:
        metric = numbers["metric"].replace("_", " ")
        if not numbers["n_ok"]:
            return [
                f"No ok runs here: none of {numbers['n']} runs has the verdict ok, so nothing can be said about how they generalise."
            ]
        smallest, largest = numbers["smallest_train_loss"], numbers["largest_train_loss"]
        reach = (
            f"{numbers['n_at_papers_loss']} of them are at or below 1e-5, the loss that the paper reaches."
            if numbers["n_at_papers_loss"]
            else "None is near 1e-5, the loss that the paper reaches: these runs say nothing about smaller losses."
            if smallest > 10 * PAPER
            else "The paper reaches 1e-5."
        )
        found = [
            f"The train loss of {numbers['n_ok']} ok runs (of {numbers['n']}) ends between {_loss(smallest)} and {_loss(largest)}. {reach}"
        ]
        rows = numbers["tables"]["correlations"]
        found.append(f"Spearman's correlation of train loss and {metric}: {_correlation_text(rows[0])}.")
        decided = [row for row in rows[1:] if row["low"] is not None and len(rows) > 2]
        if decided:
            found[-1] += (
                " Within recipes: " + "; ".join(f"{row['group']} {_correlation_text(row)}" for row in decided) + "."
            )
        found[-1] += (
            " Positive: the score declines where the train loss is smaller. Over several recipes it also compares the recipes."
            if len(rows) > 2
            else " Positive: the score declines where the train loss is smaller."
        )
        bins = numbers["tables"]["bins"]
        if len(bins) > 1:
            first, best = bins[0], max(bins, key=lambda row: row["mean"])
            if first is best:
                found.append(
                    f"The bin with the smallest train loss ({_bin(first)}) has the best mean {metric}, {decimal(first['mean'])} "
                    f"(n = {first['n']}): no decline is seen."
                )
            else:
                found.append(
                    f"The bin with the smallest train loss ({_bin(first)}) has a mean {metric} of {decimal(first['mean'])} (n = "
                    f"{first['n']}); the best bin ({_bin(best)}) has {decimal(best['mean'])} (n = {best['n']})."
                )
        return found + [_longer_text(row, metric) for row in numbers["tables"].get("longer", ())]

    def draw(self, numbers: Mapping[str, Any]) -> Figure:
        """A mark per run, and the mean of each bin of the ok runs."""
        points = numbers["tables"]["points"]
        names = list(dict.fromkeys(point["recipe"] for point in points))
        own = {name: [point for point in points if point["recipe"] == name] for name in names}
        figure = empty_figure(7.5, 4.6, "")
        ax = figure.subplots()
        plot_score_against_train_loss(
            ax,
            {name: _numbers(rows, "train_loss") for name, rows in own.items()},
            {name: _numbers(rows, "score") for name, rows in own.items()},
            {name: np.array([row["status"] in NOT_OK for row in rows]) for name, rows in own.items()},
            numbers["metric"],
            numbers["baseline"],
        )
        for row in numbers["tables"]["bins"]:
            ax.plot([row["loss_from"], row["loss_to"]], [row["mean"]] * 2, color="0.45", linewidth=2.5, zorder=1.5)
        ax.set_title("grey: mean of the ok runs in a bin of train loss", fontsize="small", loc="right", y=-0.2)
        return figure


ANALYSIS = Generalisation()


def arm_name(times: int) -> str:
    """The name of an arm of longer training: `5_times_longer`."""
    return f"{times}_times_longer"


def _against_short(arm: str, runs: Sequence[RunRecord], short: Mapping[int, RunRecord]) -> dict[str, Any]:
    """A longer training against the study's runs with the same seeds; pairs in which both are ok and have a score."""
    pairs = [
        (short[run.seed].last, run.last, run.best)
        for run in runs
        if run.status == short[run.seed].status == "ok" and None not in (short[run.seed].last, run.last)
    ]
    columns = np.array([[last, longer, np.nan if best is None else best] for last, longer, best in pairs], dtype=float)
    difference = columns[:, 1] - columns[:, 0] if pairs else np.array([])
    low, high = t_interval(difference) if len(pairs) > 1 else (math.nan, math.nan)
    losses = [run.train_loss for run in runs if run.train_loss is not None and run.status == "ok"]
    return {
        "arm": arm,
        "steps": runs[0].planned_steps if runs else None,
        "n": len(runs),
        "failed": sum(run.status in NOT_OK for run in runs),
        "median_train_loss": float(np.median(losses)) if losses else None,
        "n_at_papers_loss": sum(loss <= PAPER for loss in losses),
        "pairs": len(pairs),
        "mean_short": columns[:, 0].mean() if pairs else None,
        "mean_longer": columns[:, 1].mean() if pairs else None,
        "mean_best_evaluation": columns[:, 2].mean() if pairs else None,
        "difference": difference.mean() if pairs else None,
        "difference_low": low,
        "difference_high": high,
    }


def _longer_text(row: Mapping[str, Any], metric: str) -> str:
    if not row["pairs"]:
        return f"{row['arm']}: no seed is ok in both trainings, so they are not compared."
    between = (
        ""
        if row["difference_low"] is None
        else f", 95% interval {row['difference_low']:+.3f} to {row['difference_high']:+.3f}"
    )
    return (
        f"{row['arm']} ({row['steps']} steps): the median train loss is {_loss(row['median_train_loss'])}, and {row['n_at_papers_loss']} of "
        f"{row['n']} runs are at or below 1e-5. On the same seeds the mean {metric} is {decimal(row['mean_longer'])}, against "
        f"{decimal(row['mean_short'])} ({row['difference']:+.3f}{between}, n = {row['pairs']})."
    )


def _columns(points: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    return _numbers(points, "train_loss"), _numbers(points, "score")


def _numbers(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.array([np.nan if row[key] is None else row[key] for row in rows], dtype=float)


def _correlation(name: str, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    r, low, high = spearman(*_columns(points))
    return {"group": name, "spearman": r, "low": low, "high": high, "n": len(points)}


def _correlation_text(row: Mapping[str, Any]) -> str:
    if row["spearman"] is None:
        return f"not defined (n = {row['n']})"
    between = "" if row["low"] is None else f", 95% interval {decimal(row['low'], 2)} to {decimal(row['high'], 2)}"
    return f"{decimal(row['spearman'], 2)} (n = {row['n']}{between})"


def _loss(loss: float) -> str:
    return loss_text(loss) if loss >= 0.095 else f"{loss:.2g}"


def _bin(row: Mapping[str, Any]) -> str:
    return f"{_loss(row['loss_from'])} to {_loss(row['loss_to'])}"
