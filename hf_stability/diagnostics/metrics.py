"""Metrics by their names: which direction is better, and the baseline, computed from the labels alone.

The baseline is the best score of a constant prediction. It needs no call of the user's `compute_metrics`, which may keep
data between calls. Some names have several meanings: F1 of a class, macro, micro or weighted. Then the meaning is the one
that gives the reported score on the run's own predictions.

Shapes: `n` examples, `K` classes; `...` are leading axes, for example bootstrap draws. A confusion matrix has the labels
in its rows and the predictions in its columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ..verdicts.constants import best_constant_set


FAMILIES = {
    "accuracy": "accuracy acc",
    "f1": "f1 f1_score f1_macro macro_f1 f1_micro micro_f1 f1_weighted weighted_f1",
    "matthews": "matthews matthews_correlation matthews_corrcoef mcc",
    "correlation": "pearson pearsonr pearson_correlation spearman spearmanr spearman_correlation corr correlation",
    "r2": "r2 r2_score r_squared",
    "mse": "mse mean_squared_error",
    "rmse": "rmse root_mean_squared_error",
    "mae": "mae mean_absolute_error",
}
FAMILY_OF = {name: family for family, names in FAMILIES.items() for name in names.split()}
CLASSIFICATION = ("accuracy", "f1", "matthews")

SMALLER_IS_BETTER = re.compile(
    r"(^|_)(loss|mse|rmse|nmse|mae|mape|smape|error|errors|err|eer|hter|perplexity|ppl|bpc|wer|cer|ter|nll|brier|ece|msle|rmsle|crps|distance)(_|$)"
    r"|(^|_)mean_(squared|absolute)_|hamming_loss|log_loss"
)
REPORTED = 5e-3
"""Largest difference between a reported score and ours: the reported one may be rounded to two decimals."""
N_BOOT, SEED = 2000, 0
MOST_CLASSES = 64
"""With more classes there is no bootstrap, because each of its draws is a confusion matrix."""


def family(metric: str | None) -> str | None:
    """The family of a metric, by its name with or without `eval_`; None if the name is not known."""
    return FAMILY_OF.get(_bare(metric))


def smaller_is_better(metric: str | None, greater_is_better: bool | None = None) -> bool:
    """Whether a smaller value of a metric is better: by its name, else by the training arguments.

    Args:
        metric: with or without `eval_`.
        greater_is_better: from the training arguments, for this metric. A known name overrides it: transformers sets it to
            True for every metric that does not end in `loss`, `mse` included.
    """
    if family(metric) is None and not SMALLER_IS_BETTER.search(_bare(metric)):
        return greater_is_better is False
    return family(_bare(metric).split("_")[-1]) not in ("f1", "correlation", "accuracy") and bool(
        SMALLER_IS_BETTER.search(_bare(metric))
    )


def constant_score(
    metric: str,
    labels: np.ndarray,
    classes: np.ndarray | None = None,
    num_labels: int | None = None,
    score: float | None = None,
) -> dict[str, float] | None:
    """The baseline of a metric: its best score over all constant predictions, from the labels.

    | metric | baseline |
    | --- | --- |
    | accuracy | the share of the most frequent class |
    | F1 | F1 of always predicting one class: the best class, or the positive class for the F1 of two classes |
    | Matthews, Pearson, Spearman, R2 | 0 |
    | mse, rmse | the error of always predicting the mean label |
    | mae | the error of always predicting the median label |

    Args:
        metric: its name, with or without `eval_`.
        labels: `(n,)` class ids, or values.
        classes: `(n,)` predicted class ids, if known. They show which F1 it is.
        num_labels: K; default: the highest class seen, plus 1.
        score: the run's reported score. It shows which F1 it is.

    Returns:
        `{"score": float, "constant": class id or value}`, without `constant` if all are equally good. None if the metric is
            not known or does not fit the labels.
    """
    kind = family(metric)
    if kind in ("matthews", "correlation", "r2"):
        return {"score": 0.0}
    values = np.asarray(labels, dtype=float)
    if kind in ("mse", "rmse", "mae") and np.ptp(values) == 0:  # always predicting that value is right everywhere
        return None
    if kind == "mse":
        return {"score": float(np.var(values)), "constant": float(values.mean())}
    if kind == "rmse":
        return {"score": float(np.std(values)), "constant": float(values.mean())}
    if kind == "mae":
        middle = float(np.median(values))
        return {"score": float(np.abs(values - middle).mean()), "constant": middle}
    if kind not in ("accuracy", "f1") or (values != np.round(values)).any():
        return None
    ids = values.astype(np.int64)
    if ids.min() < 0:
        return None
    top = max(int(ids.max()), -1 if classes is None else int(np.max(classes))) + 1
    num_labels = max(num_labels or 0, top)
    counts = np.bincount(ids, minlength=num_labels)
    if kind == "accuracy":
        scores = counts / counts.sum()
    else:
        average = f1_average(metric, ids, classes, num_labels, score)
        if average is None:
            return None
        scores = constants_f1(counts, average)
    best = int(np.argmax(scores))
    return {"score": float(scores[best]), "constant": best}


def constants_f1(counts: np.ndarray, average: int | str) -> np.ndarray:
    """F1 of each constant prediction, from the counts of the labels: `(K,) -> (K,)`.

    Always predicting class k, with share p_k of the labels, gives that class an F1 of 2 p_k / (1 + p_k), and every other
    class an F1 of 0.
    """
    share = counts / counts.sum()
    own = 2 * share / (1 + share)
    if average == "micro":
        return share
    if average == "weighted":
        return own * share
    if average == "macro":  # over the classes that occur among labels or predictions
        return own / ((counts > 0).sum() + (counts == 0))
    return np.where(np.arange(len(counts)) == average, own, 0.0)


def classification_scorer(
    metric: str, labels: np.ndarray, classes: np.ndarray | None, num_labels: int, score: float | None
) -> Callable[[np.ndarray], np.ndarray] | None:
    """A metric as a function of confusion matrices, `(..., K, K) -> (...)`. None if the metric is not known.

    Args:
        metric, labels, classes, num_labels, score: as in `constant_score`.
    """
    kind = family(metric)
    if kind == "accuracy":
        return accuracy
    if kind == "matthews":
        return matthews
    if kind != "f1":
        return None
    average = f1_average(metric, labels, classes, num_labels, score)
    return None if average is None else lambda matrices: f1(matrices, average)


def f1_average(
    metric: str, labels: np.ndarray, classes: np.ndarray | None, num_labels: int, score: float | None
) -> int | str | None:
    """Which F1 a metric is: a class id, `macro`, `weighted` or `micro`. None if none gives the reported score.

    Args:
        metric, labels, classes, num_labels, score: as in `constant_score`.
    """
    averages: list[int | str] = (
        [1, "macro", "weighted", "micro", 0] if num_labels == 2 else ["macro", "weighted", "micro"]
    )
    named = [average for average in averages if str(average) in _bare(metric).split("_")]
    if classes is None or score is None:  # two classes: F1 of the positive class, scikit-learn's default
        return named[0] if named else 1 if num_labels == 2 else None
    score = score / 100 if score > 1 else score
    off = {average: abs(run_f1(labels, classes, num_labels, average) - score) for average in named or averages}
    best = min(off, key=lambda average: off[average])
    return best if off[best] <= REPORTED + 1e-9 else None


def run_f1(labels: np.ndarray, classes: np.ndarray, num_labels: int, average: int | str) -> float:
    """F1 of a run's predictions, without a confusion matrix, because that is large for many classes."""
    hits, support, predicted = (
        np.bincount(part, minlength=num_labels) for part in (labels[labels == classes], labels, classes)
    )
    return float(_averaged_f1(hits, support, predicted, average))


def lead_over_constant(
    metric: str, labels: np.ndarray, classes: np.ndarray, num_labels: int, score: float
) -> dict[str, float] | None:
    """Lead of an F1 or a Matthews correlation over its baseline.

    Args:
        metric, labels, classes, num_labels, score: as in `constant_score`.

    Returns:
        `score`, `baseline`, `low`, `high`, see `lead_interval`. None if the metric is not known.
    """
    scorer = classification_scorer(metric, labels, classes, num_labels, score)
    constant = constant_score(metric, labels, classes, num_labels, score)
    if scorer is None or constant is None:
        return None
    best = int(constant.get("constant", 0))  # the Matthews correlation of any constant is 0
    low, high = lead_interval(scorer, labels, classes, num_labels, best)
    return {"score": score, "baseline": constant["score"], "low": low, "high": high}


def lead_interval(
    scorer: Callable[[np.ndarray], np.ndarray],
    labels: np.ndarray,
    classes: np.ndarray,
    num_labels: int,
    constant: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of a metric's lead over its baseline: percentiles of a paired bootstrap over examples.

    Each draw of `n` examples gives a score for the run and a score for the constant prediction. The constant is chosen once,
    on all examples. The lead is the difference of the two scores. Instead of examples, the counts in the cells of the
    confusion matrix are drawn, from a multinomial distribution; the result is the same.

    Args:
        scorer: from `classification_scorer`.
        labels, classes: `(n,)`, labels and predicted classes.
        num_labels: K.
        constant: class id of the best constant prediction, from `constant_score`.
        level: of the interval.

    Returns:
        lower and upper limit. The run is clearly above its baseline if the lower limit is above 0.
    """
    matrix = confusion(labels, classes, num_labels)
    draws = np.random.default_rng(SEED).multinomial(len(labels), matrix.ravel() / len(labels), size=N_BOOT)
    draws = draws.reshape(N_BOOT, num_labels, num_labels)
    lead = scorer(draws) - scorer(constant_confusion(draws.sum(-1), constant))
    low, high = np.quantile(lead, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def several_baseline(metric: str, labels: np.ndarray, answers: np.ndarray, score: float) -> dict[str, float] | None:
    """The baseline of an F1 with several labels per example.

    For micro-F1 it is that of the best constant set of labels. For macro-F1 it is that of always predicting every label,
    because never predicting a label gives this label an F1 of 0.

    Args:
        metric: its name, with or without `eval_`.
        labels, answers: `(n, L)`, 0 or 1.
        score: the reported score. It shows whether micro or macro is meant, if the name does not.

    Returns:
        `{"score": float}`. None if it is no F1, or if neither F1 is the reported one.
    """
    if family(metric) != "f1":
        return None
    hits, positives, given = (part.sum(0) for part in (labels * answers, labels, answers))
    below, score = positives + given, score / 100 if score > 1 else score
    own = {"micro": float(_ratio(2 * hits.sum(), below.sum())), "macro": float(_ratio(2 * hits, below).mean())}
    named = [average for average in own if average in _bare(metric).split("_")] or list(own)
    average = min(named, key=lambda name: abs(own[name] - score))
    if abs(own[average] - score) > REPORTED + 1e-9:
        return None
    every = _ratio(2 * positives, positives + len(labels)).mean()
    return {"score": float(every) if average == "macro" else best_constant_set(labels)[0]}


def confusion(labels: np.ndarray, classes: np.ndarray, num_labels: int) -> np.ndarray:
    """Counts by label and predicted class, `(K, K)`."""
    cells = np.asarray(labels, np.int64) * num_labels + np.asarray(classes, np.int64)
    return np.bincount(cells, minlength=num_labels**2).reshape(num_labels, num_labels)


def constant_confusion(label_counts: np.ndarray, constant: int) -> np.ndarray:
    """Confusion matrices of always predicting one class: `(..., K)` counts of the labels -> `(..., K, K)`."""
    counts = np.asarray(label_counts)
    matrix = np.zeros((*counts.shape, counts.shape[-1]), counts.dtype)
    matrix[..., constant] = counts
    return matrix


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of the examples on the diagonal: `(..., K, K) -> (...)`."""
    return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1))


def f1(confusion: np.ndarray, average: int | str) -> np.ndarray:
    """F1 from confusion matrices, `(..., K, K) -> (...)`, as scikit-learn's `f1_score`; 0 if it is undefined.

    Args:
        confusion: labels in rows, predictions in columns.
        average: a class id, for the F1 of that class; or `macro` (over classes that occur), `weighted`, `micro`.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return _averaged_f1(hits, confusion.sum(-1), confusion.sum(-2), average)


def _averaged_f1(hits: np.ndarray, support: np.ndarray, predicted: np.ndarray, average: int | str) -> np.ndarray:
    """F1 from counts per class, `(..., K)` each -> `(...)`: right predictions, labels, all predictions."""
    if average == "micro":
        return _ratio(hits.sum(-1), support.sum(-1))
    by_class = _ratio(2 * hits, support + predicted)
    if average == "macro":
        return _ratio(by_class.sum(-1), ((support + predicted) > 0).sum(-1))
    if average == "weighted":
        return _ratio((by_class * support).sum(-1), support.sum(-1))
    return by_class[..., int(average)]


def matthews(confusion: np.ndarray) -> np.ndarray:
    """Matthews correlation coefficient, `(..., K, K) -> (...)`, as scikit-learn's; 0 if it is undefined.

    Source: Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient" (2004).
    """
    confusion = np.asarray(confusion, float)
    total, hits = confusion.sum((-2, -1)), np.trace(confusion, axis1=-2, axis2=-1)
    support, predicted = confusion.sum(-1), confusion.sum(-2)
    covariance = hits * total - (support * predicted).sum(-1)
    spread = (total**2 - (predicted**2).sum(-1)) * (total**2 - (support**2).sum(-1))
    return _ratio(covariance, np.sqrt(spread))


def _bare(metric: str | None) -> str:
    return (metric or "").split("/")[-1].lower().replace("-", "_").replace(" ", "_").removeprefix("eval_")


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    return np.divide(above, below, out=np.zeros(above.shape), where=below > 0)
