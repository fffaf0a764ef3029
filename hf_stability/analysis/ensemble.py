"""The mean of n seeds against one run and the best run: averaged logits, and averaged weights where models were kept.

Shapes: `R` runs, `n` development examples, `K` classes, `D` draws of examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..statistics.agreement import softmax
from ..study.records import RunRecord
from ..study.report.figures import empty_figure
from ..study.report.page.predictions import headline_scorer
from ..study.report.plots import COLORS, plain
from ..utils.text import decimal, joined
from ..verdicts.verdict import CENSORED
from .analysis import Analysis
from .finished_study import FinishedStudy


if TYPE_CHECKING:
    from matplotlib.figure import Figure


Score = Callable[[np.ndarray], Any]
"""A metric of confusion matrices, (..., K, K) -> (...); labels in the rows, predictions in the columns."""

LEVEL = (0.025, 0.975)

MOST_NUMBERS = 4_000_000
"""Cells of confusion matrices that are kept at once."""


# ---- pure functions -------------------------------------------------------------------------------------------------


def averaged(logits: ArrayLike, average: str = "logits") -> np.ndarray:
    """The ensemble of R runs: (R, n, K) -> (n, K), the mean of their logits or of their probabilities."""
    values = np.asarray(logits, dtype=float)
    if values.ndim != 3 or not len(values):
        raise InputError(f"logits of shape {values.shape}: need (runs, examples, classes), 1 run or more")
    return (values if average == "logits" else softmax(values)).mean(0)


def scores(logits: np.ndarray, labels: np.ndarray, score: Score, weights: np.ndarray | None = None) -> np.ndarray:
    """The score of a model's predictions: (n, K) -> (D,).

    Args:
        logits: (n, K).
        labels: (n,), class ids.
        score: the metric.
        weights: (D, n), how often each example counts. Default: each once, D = 1.
    """
    classes = logits.shape[1]
    cells = labels * classes + logits.argmax(1)
    weights = np.ones((1, len(labels))) if weights is None else weights
    block = max(1, MOST_NUMBERS // classes**2)
    found = []
    for start in range(0, len(weights), block):
        matrices = [np.bincount(cells, own, classes * classes) for own in weights[start : start + block]]
        found.append(score(np.array(matrices).reshape(-1, classes, classes)))
    return np.concatenate(found).astype(float)


def subsets(runs: int, size: int, most: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Sets of `size` of the runs: all of them if they are at most `most`, else `most` drawn at random, with repetitions."""
    if math.comb(runs, size) <= most:
        return list(combinations(range(runs), size))
    rng = np.random.default_rng([seed, size])
    return [tuple(sorted(rng.choice(runs, size, replace=False).tolist())) for _ in range(most)]


def sizes(
    logits: np.ndarray, labels: np.ndarray, score: Score, average: str = "logits", most: int = 200, seed: int = 0
) -> list[dict[str, Any]]:
    """The score of ensembles of 1, 2, ..., R of the runs: the mean over sets of runs, and the range of 95% of the sets.

    Large sets overlap, and there is only one of R runs. So the range tells which runs were taken, not how far the mean is known.

    Args:
        logits: (R, n, K).
        labels: (n,).
        score: the metric.
        average: see `averaged`.
        most: see `subsets`.
        seed: of the sets.

    Returns:
        a row per size: `seeds`, `mean`, `low`, `high`, `sets`.
    """
    values = np.asarray(logits, dtype=float) if average == "logits" else softmax(logits)
    rows = []
    for size in range(1, len(values) + 1):
        chosen = subsets(len(values), size, most, seed)
        own = np.array([scores(values[list(each)].mean(0), labels, score)[0] for each in chosen])
        low, high = np.quantile(own, LEVEL)
        rows.append({"seeds": size, "mean": own.mean(), "low": low, "high": high, "sets": len(chosen)})
    return rows


def gains(
    logits: np.ndarray, labels: np.ndarray, score: Score, average: str = "logits", draws: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """The ensemble of all R runs against the mean run and the best run, with paired bootstrap intervals over examples.

    Each draw of n examples, with replacement, gives a score of the ensemble, of every run, and of the run that is best on all
    examples. Intervals are percentiles. They hold these runs fixed: other seeds are not drawn.

    The best run was chosen on the same examples, so its score is too good for new ones. The `halves` avoid that: the best run on
    one random half of the examples is scored on the other half, beside the ensemble and the mean run there. They are means
    over `draws` halvings.

    Args:
        logits: (R, n, K).
        labels: (n,).
        score: the metric.
        average: see `averaged`.
        draws: of examples.
        seed: of the draws.

    Returns:
        `ensemble`, `mean_run`, `best_run`, `best` (its index), `over_mean` and `over_best` with `_low` and `_high`,
        `halves_ensemble`, `halves_mean_run`, `halves_best_run`.
    """
    rng = np.random.default_rng(seed)
    n = len(labels)
    together = averaged(logits, average)

    def both(weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        return scores(together, labels, score, weights), np.array(
            [scores(own, labels, score, weights) for own in logits]
        )

    whole, own = (each[..., 0] for each in both(None))
    best = int(own.argmax())
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.uint16)
    ensemble, runs = both(drawn)
    over_mean, over_best = ensemble - runs.mean(0), ensemble - runs[best]
    first = rng.permuted(np.tile(np.arange(n) < n // 2, (draws, 1)), axis=1)
    _, choosing = both(first)
    other_ensemble, other = both(~first)
    found = {
        "ensemble": float(whole),
        "mean_run": float(own.mean()),
        "best_run": float(own[best]),
        "best": best,
        "halves_ensemble": float(other_ensemble.mean()),
        "halves_mean_run": float(other.mean()),
        "halves_best_run": float(np.take_along_axis(other, choosing.argmax(0)[None], 0).mean()),
    }
    for name, gain, value in (
        ("over_mean", over_mean, whole - own.mean()),
        ("over_best", over_best, whole - own[best]),
    ):
        low, high = np.nanquantile(gain, LEVEL)
        found |= {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


# ---- the analysis ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnsembleOptions:
    """The options of `Ensemble`."""

    runs: str = field(
        default="ok", metadata={"help": "Which runs: those with the verdict ok, or all.", "choices": ("ok", "all")}
    )
    average: str = field(
        default="logits",
        metadata={"help": "The average of logits or of probabilities.", "choices": ("logits", "probabilities")},
    )
    sets: int = field(default=200, metadata={"help": "Sets of runs per size of an ensemble."})
    draws: int = field(default=1000, metadata={"help": "Bootstrap draws of examples."})


class Ensemble(Analysis):
    """Averaged logits and averaged weights of n seeds."""

    name = "ensemble"
    Options = EnsembleOptions

    def missing(self, study: FinishedStudy, options: EnsembleOptions) -> list[str]:
        for name in ("sets", "draws"):
            if not 1 <= getattr(options, name) <= 1_000_000:
                raise InputError(f"--{name} {getattr(options, name)}: give 1 to 1000000")
        read = next((read for run in study.runs if (read := study.predictions(run)) is not None), None)
        if read is None:
            return [study.no_predictions]
        if read[0].shape[1] == 1:
            return ["This task is a regression. For the mean of its values, see hf-stability report."]
        return []

    def numbers(self, study: FinishedStudy, options: EnsembleOptions) -> dict[str, Any]:
        tables: dict[str, list[dict[str, Any]]] = {"ensembles": [], "sizes": [], "weights": []}
        without, metric, examples, not_kept = [], study.runs[0].metric, None, []
        for recipe, runs in study.by_recipe.items():
            chosen = [
                run for run in runs if run.status == "ok" or (options.runs == "all" and run.status not in CENSORED)
            ]
            kept, logits, labels = read_logits(study, chosen)
            if len(kept) < 2:
                without.append({"recipe": recipe, "runs": len(kept)})
                continue
            metric, score = headline_scorer(runs[0].metric, labels, logits.shape[2])
            found = gains(logits, labels, score, options.average, options.draws)
            examples = len(labels)
            tables["ensembles"].append(
                {"recipe": recipe, "n": len(kept), "examples": examples, **found, "best": kept[found["best"]].name}
            )
            tables["sizes"] += [
                {"recipe": recipe, **row} for row in sizes(logits, labels, score, options.average, options.sets)
            ]
            with_model = [run for run in kept if study.model_folder(run) is not None]
            if len(with_model) < 2:
                not_kept.append(recipe)
                continue
            places = [kept.index(run) for run in with_model]
            tables["weights"] += weight_rows(study, recipe, with_model, logits[places], labels, score)
        return {
            "metric": metric,
            "runs": options.runs,
            "average": options.average,
            "examples": examples,
            "without": without,
            "models_not_kept": not_kept,
            "tables": tables,
        }

    def sentences(self, numbers: Mapping[str, Any]) -> list[str]:
        metric, tables = numbers["metric"].replace("_", " "), numbers["tables"]
        found = []
        for row in tables["ensembles"]:
            found.append(
                f"{row['recipe']}, {metric} on {row['examples']} examples: {decimal(row['ensemble'])} for the mean "
                f"{numbers['average']} of {row['n']} {numbers['runs']} runs, {decimal(row['mean_run'])} for the mean run (gain "
                f"{_signed(row, 'over_mean')}), {decimal(row['best_run'])} for the best run (gain {_signed(row, 'over_best')}). "
                f"The best run was chosen on the same examples: chosen on one half of them it has "
                f"{decimal(row['halves_best_run'])} on the other, where the ensemble has {decimal(row['halves_ensemble'])}."
            )
        for row in tables["weights"]:
            found.append(
                f"{row['recipe']}: the averaged weights of {row['n']} runs have {decimal(row['score'])}; these runs have "
                f"{decimal(row['mean_run'])} on average, and their averaged logits {decimal(row['averaged_logits'])}."
            )
        if numbers["models_not_kept"]:
            found.append(
                f"No averaged weights of {joined(numbers['models_not_kept'])}: the models were not kept. Run the study with "
                "--keep_model last, into a new folder."
            )
        if numbers["without"]:
            names = joined(f"{row['recipe']} ({row['runs']})" for row in numbers["without"])
            kind = "ok runs" if numbers["runs"] == "ok" else "runs"
            found.append(f"Fewer than two {kind} with predictions, so no ensemble: {names}.")
        return found

    def draw(self, numbers: Mapping[str, Any]) -> Figure:
        """Score against the number of seeds, a line per recipe; averaged weights as stars."""
        figure = empty_figure(7.0, 4.2, "")
        ax = figure.subplots()
        tables = numbers["tables"]
        for number, row in enumerate(tables["ensembles"]):
            own = [each for each in tables["sizes"] if each["recipe"] == row["recipe"]]
            color = COLORS[number % len(COLORS)]
            seeds = [each["seeds"] for each in own]
            label = f"{plain(row['recipe'])} ({row['n']} runs)"
            ax.plot(seeds, [each["mean"] for each in own], "-o", color=color, markersize=3.5, label=label)
            ax.fill_between(
                seeds,
                [each["low"] for each in own],
                [each["high"] for each in own],
                color=color,
                alpha=0.15,
                linewidth=0,
            )
            ax.axhline(row["best_run"], color=color, linestyle=":", linewidth=1)
            weights = [each for each in tables["weights"] if each["recipe"] == row["recipe"]]
            ax.scatter(
                [each["n"] for each in weights], [each["score"] for each in weights], 90, color, marker="*", zorder=3
            )
        if not tables["ensembles"]:
            ax.text(0.5, 0.5, "no recipe with two runs", ha="center", va="center", transform=ax.transAxes)
        ax.locator_params(axis="x", integer=True)
        ax.set_xlabel(
            "seeds in the ensemble (line: mean over sets; band: 95% of the sets; dotted: best run; star: weights)"
        )
        ax.set_ylabel(f"{numbers['metric'].replace('_', ' ')} on the development set")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="0.9", linewidth=0.6)
        if tables["ensembles"]:
            figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize="small")
        return figure


ANALYSIS = Ensemble()


def read_logits(study: FinishedStudy, runs: Sequence[RunRecord]) -> tuple[list[RunRecord], np.ndarray, np.ndarray]:
    """The runs with finite logits on the same examples, their logits (R, n, K) and the labels (n,) of the first one."""
    kept: list[RunRecord] = []
    logits: list[np.ndarray] = []
    labels = np.zeros(0, dtype=np.int64)
    for run in runs:
        read = study.predictions(run)
        if read is None or not np.isfinite(read[0]).all():
            continue
        if kept and (read[0].shape != logits[0].shape or (read[1] != labels).any()):
            continue
        kept.append(run)
        logits.append(read[0])
        labels = read[1].astype(np.int64)
    return kept, np.array(logits), labels


def weight_rows(
    study: FinishedStudy, recipe: str, runs: Sequence[RunRecord], logits: np.ndarray, labels: np.ndarray, score: Score
) -> list[dict[str, Any]]:
    """The averaged weights of the first two runs, and of all of them, on the study's first development set.

    `reproduced` is the largest difference between the first run's logits, evaluated again here, and those of the study.
    """
    from .average_weights import average_weights, load_weights, predict

    rows = next(iter(study.data.validation.values()))
    folders = [study.run_folder(run) / "model" for run in runs]
    again = float(np.abs(predict(folders[0], rows) - logits[0]).max())
    found = []
    for n in sorted({2, len(runs)}):
        mean = average_weights(map(load_weights, folders[:n]))
        found.append(
            {
                "recipe": recipe,
                "n": n,
                "score": float(scores(predict(folders[0], rows, mean), labels, score)[0]),
                "mean_run": float(np.mean([scores(own, labels, score)[0] for own in logits[:n]])),
                "averaged_logits": float(scores(averaged(logits[:n]), labels, score)[0]),
                "reproduced": again,
            }
        )
    return found


def _signed(row: Mapping[str, Any], key: str) -> str:
    return f"{row[key]:+.3f}, 95% interval {row[f'{key}_low']:+.3f} to {row[f'{key}_high']:+.3f}"
