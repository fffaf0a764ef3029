"""Churn: on how many examples two seeds of a recipe disagree. The measures of predictions of Du & Nguyen (2023), by recipe.

Two runs with the same accuracy can be wrong on different examples. The measures are in `statistics/agreement.py`; the report's
page has them too. This analysis adds the disagreement that the accuracies alone would give.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..study.records import RunRecord
from ..study.report.figures import empty_figure
from ..study.report.page.predictions import prediction_report
from ..study.report.plots import FAILED, OK, plain, wrap_name
from ..utils.text import decimal, joined, share_text
from ..verdicts.verdict import CENSORED
from .analysis import Analysis
from .finished_study import FinishedStudy


if TYPE_CHECKING:
    from matplotlib.figure import Figure


# ---- pure functions -------------------------------------------------------------------------------------------------


def expected_disagreement(errors: ArrayLike, classes: int) -> float:
    """The disagreement of runs with these error rates if their errors were independent, as a mean over all pairs of runs.

    Two runs with error rates a and b, errors independent of each other and spread evenly over the K - 1 wrong classes,
    agree with probability

        (1 - a) (1 - b) + a b / (K - 1)

    Real runs are trained on the same data and make the same errors more often, so they usually disagree less.

    Args:
        errors: (R,), shares of the examples that each run gets wrong, in [0, 1].
        classes: K, at least 2.

    Returns:
        In [0, 1]. NaN for fewer than two runs.
    """
    errors = np.asarray(errors, dtype=float)
    if errors.ndim != 1 or not ((errors >= 0) & (errors <= 1)).all() or classes < 2:
        raise InputError(
            f"errors of shape {errors.shape} and {classes} classes: need a share per run, and 2 classes or more"
        )
    runs = len(errors)
    if runs < 2:
        return math.nan
    right = 1 - errors

    def mean_product(values: np.ndarray) -> float:  # over pairs of different runs
        return float((values.sum() ** 2 - (values**2).sum()) / (runs * (runs - 1)))

    return 1 - mean_product(right) - mean_product(errors) / (classes - 1)


def least_disagreement(errors: ArrayLike) -> float:
    """The smallest disagreement that runs with these error rates can have: the mean over pairs of |a - b|.

    Args:
        errors: (R,), in [0, 1].

    Returns:
        In [0, 1]. NaN for fewer than two runs.
    """
    errors = np.sort(np.asarray(errors, dtype=float))
    runs = len(errors)
    if runs < 2:
        return math.nan
    weights = 2 * np.arange(runs) - runs + 1
    return float((weights * errors).sum() / (runs * (runs - 1) / 2))


# ---- the analysis ---------------------------------------------------------------------------------------------------


class Churn(Analysis):
    """Disagreement between seeds, with failed runs in and out."""

    name = "churn"

    def missing(self, study: FinishedStudy, options: Any) -> list[str]:
        if any(study.predictions(run) is not None for run in study.runs):
            return []
        return [study.no_predictions]

    def numbers(self, study: FinishedStudy, options: Any) -> dict[str, Any]:
        report = prediction_report(study.folder, list(study.by_recipe), most_examples=0)
        rows, undefined = [], []
        for recipe in report["recipes"]:
            runs = study.by_recipe[recipe["recipe"]]
            for name in ("ok", "all"):
                rows.append(_row(study, recipe, runs, name))
                undefined += [
                    {"recipe": recipe["recipe"], "runs": name, "figure": figure, "why": why}
                    for figure, why in recipe[name]["undefined"].items()
                    if figure in rows[-1]
                ]
        return {
            "metric": "share of the development examples on which two runs of a recipe predict different classes, mean over pairs",
            "set": report["set"],
            "regression": any("spread" in recipe["all"] for recipe in report["recipes"]),
            "tables": {"churn": rows, "undefined": undefined},
        }

    def sentences(self, numbers: Mapping[str, Any]) -> list[str]:
        if numbers["regression"]:
            return ["This task is a regression: its predictions are values, not classes, so two runs always differ."]
        rows = numbers["tables"]["churn"]
        ok = [row for row in rows if row["runs"] == "ok" and row["disagreement"] is not None]
        found = []
        for row in ok:
            kappa = "not defined" if row["fleiss_kappa"] is None else decimal(row["fleiss_kappa"], 2)
            found.append(
                f"{row['recipe']}: two ok runs disagree on {share_text(row['disagreement'])} of {row['examples']} examples "
                f"(n = {row['n']} runs with a mean accuracy of {decimal(row['accuracy'])}; Fleiss' kappa {kappa}). With the same "
                f"accuracies and independent errors it would be {share_text(row['expected'])}."
            )
        for row in rows:
            if row["runs"] == "all" and row["n_failed"] and row["disagreement"] is not None:
                kappa = "" if row["fleiss_kappa"] is None else f", Fleiss' kappa {decimal(row['fleiss_kappa'], 2)}"
                found.append(
                    f"{row['recipe']} with its {row['n_failed']} failed runs: {share_text(row['disagreement'])} (n = "
                    f"{row['n']}{kappa}). Failed runs that always predict one class agree with each other."
                )
        single = [row["recipe"] for row in rows if row["runs"] == "ok" and row["disagreement"] is None]
        if single:
            found.append(f"Without two ok runs: {joined(single)}.")
        return found

    def draw(self, numbers: Mapping[str, Any]) -> Figure:
        """Disagreement by recipe: ok runs, all runs, and the expected one of the ok runs."""
        rows = numbers["tables"]["churn"]
        names = list(dict.fromkeys(row["recipe"] for row in rows))
        figure = empty_figure(max(5.0, 1.5 + 1.4 * len(names)), 4.0, "")
        ax = figure.subplots()
        marks = (
            ("ok", "disagreement", "o", OK, "ok runs"),
            ("all", "disagreement", "x", FAILED, "all runs"),
            ("ok", "expected", "_", "black", "ok runs, if errors were independent"),
            ("ok", "least", "_", "0.6", "ok runs, the least that their accuracies allow"),
        )
        for kind, key, marker, color, label in marks:
            by_name = {row["recipe"]: row[key] for row in rows if row["runs"] == kind and row[key] is not None}
            places = [names.index(name) for name in by_name]
            size = 300 if marker == "_" else 40
            ax.scatter(places, list(by_name.values()), size, marker=marker, color=color, label=label, zorder=3)
        rates = {row["recipe"]: row["learning_rate"] for row in rows}
        labels = [
            "\n".join([*map(plain, wrap_name(name, 18)), "" if rates[name] is None else f"rate {rates[name]:g}"])
            for name in names
        ]
        ax.set_xticks(range(len(names)), labels, fontsize="small")
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.set_ylim(bottom=0)
        ax.set_ylabel("share of examples on which two runs disagree")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="0.9", linewidth=0.6)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize="small", markerscale=0.6)
        return figure


ANALYSIS = Churn()


def _row(study: FinishedStudy, recipe: Mapping[str, Any], runs: Sequence[RunRecord], name: str) -> dict[str, Any]:
    """A row of the table: the report's figures of a group, and those from the accuracies alone."""
    group = recipe[name]
    errors, classes = _errors(study, [run for run in runs if name == "all" or run.status == "ok"], recipe["examples"])
    known = len(errors) == group["runs"] and classes > 1
    return {
        "recipe": recipe["recipe"],
        "learning_rate": study.learning_rate(runs[0]),
        "runs": name,
        "n": group["runs"],
        "n_failed": sum(recipe["statuses"].get(status, 0) for status in ("failed", "diverged"))
        if name == "all"
        else 0,
        "examples": group["examples"],
        "accuracy": float(1 - np.mean(errors)) if known and errors else None,
        "disagreement": group["disagreement"],
        "expected": expected_disagreement(errors, classes) if known else None,
        "least": least_disagreement(errors) if known else None,
        "fleiss_kappa": group["fleiss_kappa"],
        "jensen_shannon": group["jensen_shannon"],
        "jensen_shannon_runs": group.get("jensen_shannon_runs"),
    }


def _errors(study: FinishedStudy, runs: Sequence[RunRecord], examples: int | None) -> tuple[list[float], int]:
    """Shares of wrong examples of the runs that the report counts, and the number of classes (1: a regression)."""
    errors, classes = [], 0
    for run in runs:
        read = study.predictions(run)
        if read is None or len(read[1]) != examples or run.status in CENSORED:
            continue
        logits, labels = read
        classes = logits.shape[1]
        errors.append(float((logits.argmax(1) != labels).mean()))
    return errors, classes
