"""Differences between a study's seeds, example by example: from the predictions in the runs' folders.

Each run keeps the logits of its last evaluation on the first development set (`predictions.npz`). All runs of a study have the
same examples. Runs are read one at a time, so that the memory hardly grows with their number.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....diagnostics.metrics import accuracy, classification_scorer, confusion, f1
from ....statistics.agreement import (
    class_errors,
    class_failures,
    ensemble,
    fleiss_kappa,
    hard_examples,
    jensen_shannon,
    pairwise_disagreement,
    softmax,
)
from ....utils.files import finite, plain
from ....utils.text import shortened
from ....verdicts.constants import r_squared
from ....verdicts.verdict import CENSORED
from ...records import RunRecord
from ..scores import not_finished, read_recipes
from .example_texts import SavedExamples, read_examples


SCHEMA = "hf_stability.predictions/1"
PREDICTIONS = "predictions.npz"

MOST_EXAMPLES = 20
"""Hard examples in the list of a recipe."""

TEXT_WIDTH = 300
"""Characters of each text in this list."""

MOST_NUMBERS = 50_000_000
"""The divergence needs a logarithm per pair of runs, example and class. With more than this, it takes a random part of the runs."""

ONE_RUN = "there are fewer than two runs"
ONE_CLASS = "all runs predict the same class for every example"
SEVERAL = "several labels per example"
NO_CLASSES = "the task is a regression: its predictions are values, not classes"
BY_CLASS = ("disagreement", "fleiss_kappa", "jensen_shannon", "wrong_in_every_run", "wrong_in_half", "classes")
"""Figures of a group that a regression does not have."""


def prediction_report(
    folder: str | os.PathLike,
    recipes: Sequence[str] | None = None,
    most_examples: int = MOST_EXAMPLES,
    width: int = TEXT_WIDTH,
) -> dict[str, Any]:
    """Differences between the seeds of each recipe, as plain values for JSON. An unknown or undefined figure is None.

    A run that was stopped tells nothing about the end of training, so it is left out, like one that crashed. Failed runs
    count under `all` and not under `ok`: two runs that always predict the majority class agree on every example. An example
    with NaN logits counts as class 0, as in the study's metrics.

    | key | meaning |
    | --- | --- |
    | `set`, `other_sets` | the development set, and those that have no predictions |
    | `classes` | names of the classes; None for a regression, or if the study's data is not there |
    | `texts_missing` | why the hard examples have no texts; empty if they have |
    | `recipes` | a dict for each recipe, see below |

    | key of a recipe | meaning |
    | --- | --- |
    | `recipe`, `task`, `metric` | names; `metric` is the headline metric |
    | `examples`, `runs` | number of examples, and of runs with predictions for them |
    | `statuses` | number of these runs by their verdict |
    | `left_out` | number of other runs by the reason: `crashed`, `unfinished`, `stopped`, `stopped early`, `without predictions`, `several labels per example` (not supported), `other examples` (or in another order) |
    | `all`, `ok` | figures of all these runs, and of those with the verdict ok |
    | `hard_examples` | examples that at least half of the ok runs get wrong (of all runs, if none is ok): those with most wrong runs first, at most `most_examples` |
    | `hard_examples_of`, `hard_examples_found` | `ok` or `all`; their number before the cut |

    | figure of a group | meaning |
    | --- | --- |
    | `runs`, `examples` | the n of these figures |
    | `disagreement` | share of the examples on which two runs differ, see `pairwise_disagreement` |
    | `fleiss_kappa` | agreement beyond chance, see `fleiss_kappa` |
    | `jensen_shannon`, `jensen_shannon_runs` | divergence of two runs' probabilities in nats, and the number of runs that it is of |
    | `wrong_in_every_run`, `wrong_in_half` | number of examples that every run, or at least half of the runs, get wrong |
    | `classes` | for each class: `class`, `examples`, `error` (mean over runs), `lowest`, `highest` (run), `half_wrong` and `missed` (number of runs that get at least half, or all, of its examples wrong) |
    | `spread` | of a regression: mean over examples of the values' std over runs, in the label's unit |
    | `ensemble` | `metric`, `score`, `mean_run`, `best_run`, `best` (name of that run), `runs`; see below |
    | `undefined` | figure -> why it is None |

    The ensemble has the mean probabilities (of a regression: the mean value) of the runs with finite logits; the mean run and
    the best run are of the same runs. The best run was chosen on the same examples, so its score is too good. `metric` is the
    headline metric if it follows from the predicted classes, else accuracy; for a regression it is R2.

    An example of the list has its `example` (row of the set, from 0), `label`, `wrong` and `wrong_ok` (number of all runs and
    of ok runs that get it wrong), `predictions` (class -> number of runs) and `texts` (column -> text).

    Args:
        folder: the study's folder.
        recipes: which recipes, in this order. Default: all, sorted.
        most_examples: see `hard_examples`.
        width: most characters of a text; its middle is cut out.

    Raises:
        InputError: there is no finished run, or none of a given recipe.
    """
    folder = Path(folder)
    by_recipe = read_recipes(folder, recipes)
    saved = read_examples(folder, (run for runs in by_recipe.values() for run in runs))
    found = [_recipe(folder, runs, saved, most_examples, width) for runs in by_recipe.values()]
    return finite(
        plain(
            {
                "schema": SCHEMA,
                "set": saved.name or None,
                "other_sets": saved.others,
                "classes": saved.task.label_names if saved.task else None,
                "texts_missing": saved.missing,
                "recipes": found,
            }
        )
    )


def read_predictions(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The logits (n, K) and the labels (n,) of a run.

    Args:
        path: `predictions.npz`. A model that returns values without the last axis is a regression: (n,) becomes (n, 1).

    Returns:
        None if there is no such file, if it is damaged, or if its shapes do not fit.
    """
    try:
        with np.load(path) as file:
            logits, labels = file["logits"], file["labels"].reshape(-1)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    logits = logits[:, None] if logits.ndim == 1 else logits
    return (logits, labels) if logits.ndim == 2 and len(logits) == len(labels) > 0 else None


# ---- a recipe -------------------------------------------------------------------------------------------------------


@dataclass
class _Predictions:
    """The predictions of a recipe's runs on the same examples.

    Args:
        folder: the study's.
        runs: those with predictions.
        labels: (n,); None before the first run, if the study's data is not there.
        values: the runs' predictions, each (n,): class ids, or values of a regression.
        whole: for each run, whether all its probabilities are defined (of a regression: its values).
        classes: K; 1 for a regression.
        regression: whether labels are values.
    """

    folder: Path
    labels: np.ndarray | None
    regression: bool | None
    runs: list[RunRecord] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    classes: int = 0

    def add(self, run: RunRecord) -> str:
        """Read a run. Returns why it is left out; empty if it is not."""
        if self.labels is not None and self.labels.ndim > 1:
            return SEVERAL
        read = read_predictions(self.folder / "runs" / run.name / PREDICTIONS)
        if read is None:
            return "without predictions"
        logits, labels = read
        if self.labels is None:
            self.labels = labels
        if self.regression is None:
            self.regression = logits.shape[1] == 1
        if not _same(labels, self.labels) or logits.shape[1] != (self.classes or logits.shape[1]):
            return "other examples"
        self.classes = logits.shape[1]
        if self.regression:
            self.values.append(logits[:, 0])
            self.whole.append(bool(np.isfinite(logits).all()))
        else:
            # As in the study's metrics, a row of NaN counts as class 0.
            self.values.append(logits.argmax(1).astype(np.int32))
            self.whole.append(bool(np.isfinite(softmax(logits)).all()))
        self.runs.append(run)
        return ""

    def logits(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        """The logits of these runs, one run at a time."""
        for index in chosen:
            logits, _ = read_predictions(self.folder / "runs" / self.runs[index].name / PREDICTIONS)
            yield logits


def _recipe(
    folder: Path, runs: Sequence[RunRecord], saved: SavedExamples, most_examples: int, width: int
) -> dict[str, Any]:
    crashed, unfinished = not_finished(folder / "runs" / runs[0].recipe)
    left_out = Counter({"crashed": crashed, "unfinished": unfinished})
    kept = _Predictions(folder, saved.labels, saved.task.is_regression if saved.task else None)
    for run in runs:
        reason = run.status if run.status in CENSORED else kept.add(run)
        left_out.update([reason] if reason else [])
    everyone = list(range(len(kept.runs)))
    ok = [index for index in everyone if kept.runs[index].status == "ok"]
    names = saved.task.label_names if saved.task and not kept.regression else None
    names = names or tuple(map(str, range(kept.classes)))
    group = _values_group if kept.regression else _classes_group
    figures = group(kept, everyone, runs[0].metric, names)
    found = {
        "recipe": runs[0].recipe,
        "task": runs[0].task,
        "metric": runs[0].metric,
        "examples": len(kept.labels) if kept.runs else None,
        "runs": len(kept.runs),
        "statuses": dict(Counter(run.status for run in kept.runs)),
        "left_out": {reason: number for reason, number in left_out.items() if number},
        "all": figures,
        "ok": figures if ok == everyone else group(kept, ok, runs[0].metric, names),
    }
    if kept.regression or not kept.runs:
        return {**found, "hard_examples": None, "hard_examples_of": None, "hard_examples_found": None}
    return found | _hard_list(kept, ok, names, saved, most_examples, width)


def _hard_list(
    kept: _Predictions, ok: Sequence[int], names: Sequence[str], saved: SavedExamples, most: int, width: int
) -> dict[str, Any]:
    values, labels = np.array(kept.values), kept.labels.astype(np.int64)
    everyone, healthy = hard_examples(values, labels), hard_examples(values[list(ok)], labels)
    found = (healthy if ok else everyone).half
    order = sorted(found, key=lambda i: (-healthy.wrong[i], -everyone.wrong[i], i))
    listed = []
    for i in order[:most]:
        texts = saved.texts(int(i))
        listed.append(
            {
                "example": i,
                "label": names[labels[i]],
                "wrong": everyone.wrong[i],
                "wrong_ok": healthy.wrong[i],
                "predictions": {names[k]: number for k, number in sorted(Counter(values[:, i].tolist()).items())},
                "texts": texts and {column: shortened(text, width) for column, text in texts.items()},
            }
        )
    return {
        "hard_examples": listed,
        "hard_examples_of": "ok" if ok else "all",
        "hard_examples_found": len(found),
    }


# ---- a group of its runs --------------------------------------------------------------------------------------------


def _classes_group(kept: _Predictions, chosen: Sequence[int], metric: str, names: Sequence[str]) -> dict[str, Any]:
    if not chosen:
        return _empty(kept, "there is no such run")
    labels = kept.labels.astype(np.int64)
    predictions = np.array([kept.values[index] for index in chosen])
    hard = hard_examples(predictions, labels)
    whole = [index for index in chosen if kept.whole[index]]
    sample = _sample(whole, predictions.shape[1] * kept.classes)
    undefined: dict[str, str] = {}
    if len(chosen) < 2:
        undefined |= {"disagreement": ONE_RUN, "fleiss_kappa": ONE_RUN}
    elif np.ptp(predictions) == 0:
        undefined["fleiss_kappa"] = ONE_CLASS
    if len(whole) < 2:
        undefined["jensen_shannon"] = ONE_RUN if len(chosen) < 2 else f"{ONE_RUN} with finite logits"
    if not whole:
        undefined["ensemble"] = "no run has finite logits"
    divergence = jensen_shannon(np.array([softmax(each) for each in kept.logits(sample)])) if sample else None
    return {
        "runs": len(chosen),
        "examples": predictions.shape[1],
        "disagreement": pairwise_disagreement(predictions),
        "fleiss_kappa": fleiss_kappa(predictions, kept.classes),
        "jensen_shannon": divergence,
        "jensen_shannon_runs": len(sample),
        "wrong_in_every_run": len(hard.every),
        "wrong_in_half": len(hard.half),
        "classes": _classes(predictions, labels, names),
        "ensemble": _classes_ensemble(kept, whole, metric) if whole else None,
        "undefined": undefined,
    }


def _classes(predictions: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    errors = class_errors(predictions, labels, len(names))
    half, missed = class_failures(errors), class_failures(errors, 1.0)
    return [
        {
            "class": name,
            "examples": int((labels == k).sum()),
            "error": errors[:, k].mean(),
            "lowest": errors[:, k].min(),
            "highest": errors[:, k].max(),
            "half_wrong": half[k],
            "missed": missed[k],
        }
        for k, name in enumerate(names)
    ]


def _classes_ensemble(kept: _Predictions, whole: Sequence[int], metric: str) -> dict[str, Any]:
    labels = kept.labels.astype(np.int64)
    name, score = headline_scorer(metric, labels, kept.classes)
    together = ensemble(kept.logits(whole)).argmax(1)
    own = np.array([score(confusion(labels, kept.values[index], kept.classes)) for index in whole])
    return _against(kept, whole, name, float(score(confusion(labels, together, kept.classes))), own)


def headline_scorer(metric: str, labels: np.ndarray, classes: int) -> tuple[str, Callable[[np.ndarray], Any]]:
    """A metric of confusion matrices, with its name: the headline metric, or accuracy if that needs more than classes."""
    if metric == "acc_and_f1" and classes == 2:
        return metric, lambda matrix: (accuracy(matrix) + f1(matrix, 1)) / 2
    scorer = classification_scorer(metric, labels, None, classes, None)
    return (metric, scorer) if scorer else ("accuracy", accuracy)


def _values_group(kept: _Predictions, chosen: Sequence[int], metric: str, names: Sequence[str]) -> dict[str, Any]:
    whole = [index for index in chosen if kept.whole[index]]
    if not whole:
        return _empty(kept, "no run has finite predictions" if chosen else "there is no such run")
    values, labels = np.array([kept.values[index] for index in whole], dtype=float), kept.labels.astype(float)
    own = r_squared(values, np.broadcast_to(labels, values.shape))
    undefined = dict.fromkeys(BY_CLASS, NO_CLASSES)
    if len(whole) < 2:
        undefined["spread"] = ONE_RUN
    return {
        "runs": len(chosen),
        "examples": len(labels),
        **dict.fromkeys(BY_CLASS),
        "spread": values.std(0, ddof=1).mean() if len(whole) > 1 else None,
        "ensemble": _against(kept, whole, "r2", float(r_squared(values.mean(0), labels)), own),
        "undefined": undefined,
    }


def _against(kept: _Predictions, whole: Sequence[int], metric: str, score: float, own: np.ndarray) -> dict[str, Any]:
    return {
        "metric": metric,
        "score": score,
        "mean_run": own.mean(),
        "best_run": own.max(),
        "best": kept.runs[whole[int(own.argmax())]].name,
        "runs": len(whole),
    }


def _empty(kept: _Predictions, why: str) -> dict[str, Any]:
    names = (*BY_CLASS, *(["spread"] if kept.regression else []), "ensemble")
    examples = len(kept.labels) if kept.runs else None
    return {"runs": 0, "examples": examples, **dict.fromkeys(names), "undefined": dict.fromkeys(names, why)}


def _sample(runs: Sequence[int], numbers: int) -> list[int]:
    """As many of these runs, drawn at random, as the divergence can compare within `MOST_NUMBERS`; at least two."""
    most = max(int((1 + (1 + 8 * MOST_NUMBERS / numbers) ** 0.5) / 2), 2)  # most (most - 1) / 2 pairs
    if len(runs) <= most:
        return list(runs)
    return sorted(np.random.default_rng(0).choice(runs, most, replace=False).tolist())


def _same(labels: np.ndarray, others: np.ndarray) -> bool:
    """Whether these are the same labels. Values may have been saved in another precision."""
    return labels.shape == others.shape and bool((labels.astype(np.float32) == others.astype(np.float32)).all())
