"""Verdicts on a finished run: did it fail, did it diverge, and what speaks for it.

Everything here is a pure function of numbers that were recorded elsewhere. The definition is the one of Mosbach,
Andriushchenko & Klakow (ICLR 2021, arXiv 2006.04884): a run has FAILED if its accuracy on the development set at the
end of training is at or below that of the best constant predictor (the majority classifier). It is on accuracy also
where the headline metric is F1 or Matthews correlation: on MRPC an accuracy of .78 beats the majority's .684 while its
F1 can lie below always-positive's .812. For regression the same rule reads R2 <= 0: no better than always answering
the mean. One exception, for unbalanced classes: where the accuracy only equals the majority class's, within sampling
noise, and the headline F1 or Matthews correlation is clearly above its own baseline, the run is `ok`; the evidence keeps
what the paper's rule says.

A verdict rests on an evaluation, or it is `unknown`: a run that was not evaluated is neither `ok` nor `failed`. Everything
else (one predicted class, sampling noise, vanished gradients, where the train loss ended) is evidence on the verdict and
never decides it.

Shapes: `n` eval examples, `K` classes, `T` recorded update steps, `L` layers; `...` are leading axes, for example
seeds.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import InputError


SCHEMA = "hf_stability.verdict/1"

STATUSES = ("ok", "failed", "diverged", "unknown", "stopped", "stopped early", "crashed", "waiting")
"""The words of a verdict. `judge` gives the first four; the others belong to who stopped or lost the run: its alarm, or a
policy that finishes others, or that cannot choose yet."""

CENSORED = ("stopped", "stopped early")
"""Runs that were ended before their time: nobody knows how they would have ended."""

NO_FINAL = (*CENSORED, "unknown")
"""Verdicts that say neither that a run failed nor that it did not."""

BASES = ("eval_accuracy", "eval_r2", "baseline", "training_only")
"""The bases of a verdict, the firmest first; with the last one it is `unknown`, or `diverged`."""

IGNORED_LABEL = -100
"""Label of examples that count nowhere, as in torch's cross entropy."""

_MAX_CONSTANTS = 100

SAME_SCORE = 1e-6
"""Relative difference up to which two scores are the same: one may have been computed in float32."""


def at_or_below(score: float, baseline: float, examples: int | None = None, smaller_is_better: bool = False) -> bool:
    """Whether a score is no better than its baseline; scores of different precision are not told apart.

    Args:
        score, baseline: the same metric's.
        examples: n, where both are shares of n examples: they are compared as whole numbers of examples then.
        smaller_is_better: as for an error; the score is no better then where it is at or above the baseline.
    """
    if examples and math.isfinite(score):
        score, baseline = round(score * examples), round(baseline * examples)
    elif math.isclose(score, baseline, rel_tol=SAME_SCORE, abs_tol=1e-9):
        return True
    return score >= baseline if smaller_is_better else score <= baseline


# ---------------------------------------------------------------------------------------------------------------------
# Constant predictors
# ---------------------------------------------------------------------------------------------------------------------


def label_entropy(counts: np.ndarray) -> np.ndarray:
    """Entropy of a label distribution: the cross-entropy loss of the best predictor that ignores its input.

    `H = -sum_k p_k ln p_k` with `p = counts / sum(counts)`, in nats; two even classes: ln 2 = .693.

    Args:
        counts: (..., K), how many examples each class has, at least one in all.

    Returns:
        (...), each in [0, ln K].
    """
    counts = np.asarray(counts, dtype=float)
    total = counts.sum(-1, keepdims=True)
    if (counts < 0).any() or not (total > 0).all():
        raise InputError(f"label counts {counts.tolist()}: need counts of at least 0, with one example or more in all")
    p = counts / total
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.maximum(-(p * logs).sum(-1), 0.0)


def constant_accuracy(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """Accuracy of each constant predictor: the share of each class among the labels.

    Args:
        labels: (..., n), ints in 0..K-1; `IGNORED_LABEL` does not count.
        num_labels: K.

    Returns:
        (..., K), in [0, 1].
    """
    counts = _class_counts(_int_labels(labels, num_labels), num_labels)
    return counts / counts.sum(-1, keepdims=True)


def majority_accuracy(labels: np.ndarray) -> np.ndarray:
    """Accuracy of the best constant predictor on `labels` (..., n): the share of the most frequent class, (...)."""
    labels = _int_labels(labels)
    return constant_accuracy(labels, int(labels.max()) + 1).max(-1)


def r_squared(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Share of the labels' variance that is explained, against their own mean: `1 - SSE / SST`.

    Args:
        predictions: (..., n).
        labels: (..., n).

    Returns:
        (...), at most 1; 0 for always answering the mean of the labels, below it for any other constant. 0 also if the
        labels are all the same: no prediction is better than their mean then.
    """
    predictions, labels = np.asarray(predictions, dtype=float), np.asarray(labels, dtype=float)
    if predictions.shape != labels.shape or labels.shape[-1:] in ((), (0,)):
        raise InputError(f"predictions {predictions.shape} and labels {labels.shape}: need the same shape, n >= 1")
    residual = ((labels - predictions) ** 2).sum(-1)
    total = ((labels - labels.mean(-1, keepdims=True)) ** 2).sum(-1)
    return 1 - np.divide(residual, total, out=np.ones_like(total), where=total > 0)


def best_constant_score(
    compute_metrics: Callable[[Any], dict],
    predictions: Any,
    labels: np.ndarray,
    num_labels: int,
    metric: str,
    regression: bool = False,
) -> dict[str, float | int]:
    """The best score over all constant predictions on the eval labels, through the user's own `compute_metrics`.

    `compute_metrics` is called once per constant (the caller keeps the result), with predictions shaped like the run's
    own: float logits (n, ..., K) become one-hot logits of the same shape and dtype; ints become the class id, in the
    same shape; regression values become the mean label; of a tuple the first element is replaced, the others are
    passed on. A score that is NaN (the correlation of a constant is undefined) counts as 0.

    Args:
        compute_metrics: takes a `transformers.EvalPrediction`, returns a dict of scores. Its exceptions pass through.
        predictions: what the run handed to `compute_metrics`.
        labels: what it handed over as `label_ids`.
        num_labels: K. Above 100 only the classes that occur among the labels are tried.
        metric: key of the score, with or without `eval_`; greater is better.
        regression: whether predictions are values instead of classes.

    Returns:
        `{"score": float, "constant": class id or mean label}`; of equal ones the lowest class id.

    Raises:
        InputError: `metric` is not among the scores, or the predictions are of no known shape.
    """
    from transformers import EvalPrediction

    outputs = _first(predictions)
    best: dict[str, float | int] = {}
    for constant in _constants(labels, num_labels, regression):
        fake = _constant_outputs(outputs, constant, num_labels, regression)
        if isinstance(predictions, tuple):
            fake = (fake, *predictions[1:])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # metrics rightly warn about constant predictions; here they are meant
            scores = compute_metrics(EvalPrediction(predictions=fake, label_ids=labels))
        score = _defined(_pick_metric(scores, metric))
        if not best or score > best["score"]:
            best = {"score": score, "constant": constant}
    return best


def _constants(labels: np.ndarray, num_labels: int, regression: bool) -> list[float] | list[int]:
    if regression:
        return [float(np.mean(np.asarray(labels, dtype=float)))]
    if num_labels > _MAX_CONSTANTS:
        present = np.unique(_int_labels(labels, num_labels))
        return present[present != IGNORED_LABEL].tolist()
    return list(range(num_labels))


def _constant_outputs(outputs: np.ndarray, constant: float | int, num_labels: int, regression: bool) -> np.ndarray:
    if regression or np.issubdtype(outputs.dtype, np.integer):
        return np.full_like(outputs, constant)
    if outputs.ndim < 2 or outputs.shape[-1] != num_labels:
        raise InputError(
            f"predictions of shape {outputs.shape} and type {outputs.dtype} are neither logits (n, {num_labels}) nor "
            "class ids (n,) of an integer type; for values of a regression say regression=True"
        )
    fake = np.zeros_like(outputs)
    fake[..., constant] = 1
    return fake


def _pick_metric(scores: dict, metric: str) -> float:
    bare = metric.removeprefix("eval_")
    for key in (metric, bare, f"eval_{bare}"):
        if key in scores:
            return float(scores[key])
    raise InputError(f"metric {metric!r} is not among what compute_metrics returned: {', '.join(map(str, scores))}")


def _defined(score: float) -> float:
    """A correlation with a constant is NaN or, in other libraries, 0: take it for 0."""
    return 0.0 if math.isnan(score) else float(score)


# ---------------------------------------------------------------------------------------------------------------------
# Predictions
# ---------------------------------------------------------------------------------------------------------------------


def predicted_classes(predictions: Any) -> np.ndarray:
    """Class ids from a run's outputs: float logits (..., K) to (...) by argmax; ints stay; of a tuple the first."""
    outputs = _first(predictions)
    if np.issubdtype(outputs.dtype, np.integer):
        return outputs
    if outputs.ndim < 2 or outputs.shape[-1] < 2:
        raise InputError(
            f"predictions of shape {outputs.shape} and type {outputs.dtype} hold one float per example: "
            "say regression=True, or give class ids of an integer type"
        )
    return outputs.argmax(-1)


def one_class_share(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often the most frequent class is predicted, and which it is (of equal ones the lowest).

    Args:
        classes: (..., n), predicted class ids.

    Returns:
        share (...) in (0, 1], 1 for a run that predicts one class only; class id (...).
    """
    classes = _int_labels(classes)
    counts = _class_counts(classes, int(classes.max()) + 1)
    return counts.max(-1) / classes.shape[-1], counts.argmax(-1)


def mcnemar_exact(correct_a: np.ndarray, correct_b: np.ndarray) -> np.ndarray:
    """Exact McNemar test: are two predictors equally often right, given that they answer the same examples?

    Only the examples on which they differ count: b where A alone is right, c where B alone is. Under the null
    hypothesis b ~ Binomial(b + c, 1/2), hence `p = min(1, 2 P(X <= min(b, c)))`, as `scipy.stats.binomtest` has it.

    Args:
        correct_a, correct_b: (..., n), bool, for the same examples in the same order.

    Returns:
        two-sided p (...); 1 where they never differ.
    """
    from scipy.stats import binom

    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape:
        raise InputError(f"McNemar's test needs the same examples twice, not shapes {a.shape} and {b.shape}")
    only_a, only_b = (a & ~b).sum(-1), (b & ~a).sum(-1)
    return np.minimum(1.0, 2 * binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5))


def _first(predictions: Any) -> np.ndarray:
    """Models may return more than logits (hidden states, ...): the logits come first."""
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)


def _int_labels(labels: np.ndarray, num_labels: int | None = None) -> np.ndarray:
    """`labels` as ints, checked: whole numbers in 0..K-1 or `IGNORED_LABEL`, and some that count in every row."""
    given = np.asarray(labels)
    if given.ndim < 1 or given.shape[-1] == 0:
        raise InputError(f"labels of shape {given.shape}: need at least one example")
    ints = given.astype(np.int64)
    counted = ints != IGNORED_LABEL
    if (ints != given).any():
        raise InputError("class labels must be whole numbers; for values of a regression say regression=True")
    if not counted.any(-1).all():
        raise InputError(f"all labels are {IGNORED_LABEL}: nothing to compare with")
    wrong = ints[counted & ((ints < 0) | (ints >= (math.inf if num_labels is None else num_labels)))]
    if wrong.size:
        top = "K-1" if num_labels is None else num_labels - 1
        raise InputError(f"label {wrong[0]} is none of the classes 0..{top} (hidden test labels are often -1)")
    return ints


def _class_counts(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """(..., n) ints to (..., K) counts."""
    flat = labels.reshape(-1, labels.shape[-1])
    counts = [np.bincount(row[(row >= 0) & (row < num_labels)], minlength=num_labels) for row in flat]
    return np.stack(counts).reshape(*labels.shape[:-1], num_labels)


# ---------------------------------------------------------------------------------------------------------------------
# Vanished gradients
# ---------------------------------------------------------------------------------------------------------------------


def vanished_mask(
    steps: np.ndarray,
    layer_norms: np.ndarray,
    top: int,
    warmup_steps: int,
    total_steps: int,
    *,
    window: float = 0.04,
    ratio_below: float = 0.03,
    drop_to: float = 0.1,
    heal: float = 2.0,
) -> tuple[np.ndarray, np.ndarray]:
    """In which windows of training which layers' gradients are as good as gone.

    Training is cut into windows, one boundary at the end of warmup; a window's norm is the median of its recorded
    norms, NaN and Inf left out. A layer vanishes in a window after warmup if its norm is below BOTH
    `ratio_below` x the top layer's norm in that window and
    `drop_to` x its own highest window so far, warmup included;
    it stays so until it is above `heal` times either bound. Only ratios enter: scaling all norms changes nothing.

    Where the bounds come from (12 layers, 188 steps, medians of 11 failed and 13 successful runs without bias
    correction): in failed runs layer 1 falls from .27 in the first 6% of training to .0054 at 30-40% (to .02 of its
    own level), then .005 of the classifier's 1.11; in successful runs it stands at .48 there, half of the
    classifier's.

    Args:
        steps: (T,), ascending update steps, from 1.
        layer_norms: (..., T, L), gradient norms, each layer's before clipping.
        top: index of the layer that the others are held against.
        warmup_steps: update steps of warmup; windows in it are never vanished.
        total_steps: update steps of the whole training.
        window: length of a window as a fraction of `total_steps`; at least 5 steps.
        ratio_below, drop_to, heal: see above.

    Returns:
        first recorded step of each window (B,), and which layers have vanished in it (..., B, L), False for `top`.
    """
    steps = np.asarray(steps)
    norms = np.asarray(layer_norms, dtype=float)
    width = max(5.0, window * total_steps)
    # windows 0, -1, ... lie in warmup and 1, 2, ... after it
    indices, starts = np.unique(np.ceil((steps - warmup_steps) / width), return_index=True)
    levels = _window_medians(norms, starts)

    reference = levels[..., top : top + 1]
    to_top = np.divide(levels, reference, out=np.full_like(levels, np.nan), where=reference > 0)
    peak = np.fmax.accumulate(levels, axis=-2)
    to_peak = np.divide(levels, peak, out=np.full_like(levels, np.nan), where=peak > 0)

    # NaN compares as False on both sides: a window without numbers changes nothing
    below = (to_top < ratio_below) & (to_peak < drop_to)
    healed = (to_top > heal * ratio_below) | (to_peak > heal * drop_to)
    mask = np.zeros(levels.shape, dtype=bool)
    state = np.zeros(levels[..., 0, :].shape, dtype=bool)
    for b in np.flatnonzero(indices > 0):
        state = below[..., b, :] | (state & ~healed[..., b, :])
        mask[..., b, :] = state
    mask[..., top] = False
    return steps[starts], mask


def _window_medians(norms: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(..., T, L) to (..., B, L): medians over the windows beginning at rows `starts`, NaN where none is finite."""
    finite = np.where(np.isfinite(norms), norms, np.nan)
    ends = [*starts[1:], norms.shape[-2]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "All-NaN slice": the NaN is the answer
        medians = [np.nanmedian(finite[..., i:j, :], axis=-2) for i, j in zip(starts, ends, strict=True)]
    return np.stack(medians, axis=-2)


def vanished_gradients(
    steps: np.ndarray,
    layer_norms: np.ndarray,
    layers: Sequence[str],
    warmup_steps: int,
    total_steps: int,
    *,
    lasting: float = 0.1,
    **bounds: float,
) -> dict[str, Any] | None:
    """Which layers' gradients vanished, since when, and whether they came back.

    This describes a finished run in hindsight and is correlational evidence: a run whose lower layers get no gradient
    does not learn, but nothing here says which came first. It is no early warning. See `vanished_mask` for the rule.

    Args:
        steps: (T,), ascending update steps, from 1.
        layer_norms: (T, L), gradient norms; NaN and Inf are left out.
        layers: L names from the bottom up (`embeddings`, `layer_00`, ..., `pooler`, `classifier`). The top that the
            others are held against is `classifier`, or the last one if there is none of this name.
        warmup_steps: update steps of warmup, not a fraction; nothing is said about them. Successful runs have small
            gradients until shortly after warmup, too, hence `lasting`.
        total_steps: update steps of the whole training.
        lasting: a layer counts only if it stays vanished for this fraction of `total_steps`.
        bounds: keywords of `vanished_mask`.

    Returns:
        None if no layer vanished, else a dict of plain values: `lasting` (bool: to the end); `layers` (names, bottom
        up: those that did not come back, or, if all did, all that had vanished); `since` (step by layer);
        `first_step` and `last_step` (the range of these); `healed_step` (int, by when all were back; None if lasting).
    """
    steps, norms = _check_norms(steps, layer_norms, layers)
    if 0 < warmup_steps < 1:
        raise InputError(f"warmup_steps {warmup_steps} looks like a fraction: give the number of update steps")
    if not len(steps):
        return None
    top = list(layers).index("classifier") if "classifier" in layers else len(layers) - 1
    starts, mask = vanished_mask(steps, norms, top, warmup_steps, total_steps, **bounds)

    spans = {
        name: _last_long_span(starts, mask[:, i], steps[-1], lasting * total_steps) for i, name in enumerate(layers)
    }
    spans = {name: span for name, span in spans.items() if span is not None}
    if not spans:
        return None
    forever = any(healed is None for _, healed in spans.values())
    chosen = {name: span for name, span in spans.items() if span[1] is None} if forever else spans
    since = {name: first for name, (first, _) in chosen.items()}
    return {
        "lasting": forever,
        "layers": list(chosen),
        "since": since,
        "first_step": min(since.values()),
        "last_step": max(since.values()),
        "healed_step": None if forever else max(healed for _, healed in chosen.values()),
    }


def _last_long_span(
    starts: np.ndarray, vanished: np.ndarray, last_step: int, at_least: float
) -> tuple[int, int | None] | None:
    """The last stretch of True windows that is long enough: (first step, step of healing or None if it never ends)."""
    edges = np.diff(np.concatenate([[0], vanished.astype(int), [0]]))
    for first, end in reversed(list(zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True))):
        open_end = end == len(starts)
        until = last_step + 1 if open_end else starts[end]
        if until - starts[first] >= at_least:
            return int(starts[first]), None if open_end else int(until)
    return None


def _check_norms(steps: np.ndarray, layer_norms: np.ndarray, layers: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    steps, norms = np.asarray(steps), np.asarray(layer_norms, dtype=float)
    if steps.ndim != 1 or norms.shape != (len(steps), len(layers)):
        raise InputError(
            f"gradient norms of shape {norms.shape} do not fit steps {steps.shape} and {len(layers)} layers"
        )
    if (np.diff(steps) <= 0).any():
        raise InputError("steps must ascend, each update step once")
    return steps, norms


# ---------------------------------------------------------------------------------------------------------------------
# The verdict
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What became of a run.

    Args:
        status: one of `STATUSES`.
        sentence: status and evidence in one readable sentence.
        evidence: the numbers behind it, plain Python values that JSON can hold (see `judge`).
        basis: one of `BASES`: what the status rests on.
        schema: `hf_stability.verdict/` and the version; the number before a point changes when old readers break.
    """

    status: str
    sentence: str
    evidence: dict[str, Any] = field(default_factory=dict)
    basis: str = "training_only"
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        for name, value, known in (("status", self.status, STATUSES), ("basis", self.basis, BASES)):
            if value not in known:
                raise InputError(f"verdict {name} {value!r} is none of {', '.join(known)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Verdict:
        """The inverse of `to_dict`. Unknown keys are left out: a later minor version may have added them.

        Raises:
            InputError: another major version of the schema, or a missing key.
        """
        schema = record.get("schema")
        if not re.fullmatch(re.escape(SCHEMA) + r"(\.\d+)*", str(schema)):
            raise InputError(
                f"verdict schema {schema!r} cannot be read here, only {SCHEMA!r}: written by another version?"
            )
        missing = [key for key in ("status", "sentence", "evidence", "basis") if key not in record]
        if missing:
            raise InputError(f"verdict record lacks {', '.join(missing)}")
        return cls(**{key: record[key] for key in ("status", "sentence", "evidence", "basis", "schema")})


def judge(
    *,
    eval_labels: np.ndarray | None = None,
    eval_predictions: Any = None,
    num_labels: int | None = None,
    regression: bool = False,
    eval_constant: np.ndarray | None = None,
    score: float | None = None,
    baseline: float | None = None,
    metric: str | None = None,
    smaller_is_better: bool = False,
    examples: int | None = None,
    headline_lead: Mapping[str, Any] | None = None,
    steps: np.ndarray | None = None,
    losses: np.ndarray | None = None,
    layer_norms: np.ndarray | None = None,
    layers: Sequence[str] | None = None,
    warmup_steps: int | None = None,
    total_steps: int | None = None,
    train_label_counts: np.ndarray | None = None,
    train_predicted_counts: np.ndarray | None = None,
    constant_loss: float | None = None,
    weights_finite: bool | None = None,
    label_names: Sequence[str] | None = None,
    half_precision: str = "",
    alpha: float = 0.05,
    one_class_at: float = 0.99,
    stuck_at: float = 0.95,
    learned_at: float = 0.8,
    fitted_at: float = 0.5,
) -> Verdict:
    """The verdict on a finished run, from whatever of it was recorded.

    `diverged`, before all else: a train loss (where the gradient norms of its step are not finite either, or not known),
    the eval outputs or the weights held NaN or Inf, or the gradient norms were NaN or Inf at the end. A loss that is not
    finite beside finite gradients is no divergence: a batch without labels has such a loss. Outputs of -Inf are none
    either where the example has a finite one: that class is masked. A norm that overflows while the loss is finite, with
    finite norms later, is no divergence: fp16's loss scaler skips such a step and halves its scale (several in a row as
    training begins). Only if the very last recorded norm alone overflowed do finite eval outputs or weights clear it. A
    layer without a single finite norm beside others that have some is taken for frozen.

    `failed`, by the first basis that there is:
    `eval_accuracy`: accuracy of the eval predictions <= the best constant's (counted in examples, no rounding), and the
    headline metric does not clear the run (`headline_lead`);
    `eval_r2`: for regression R2 <= 0;
    `baseline`: `score` no better than `baseline`, both in the headline metric, NaN for 0; see [`at_or_below`].

    `unknown`: there is no basis but the training (`training_only`), or all eval labels are of one class, where every
    right answer is the majority class's too. The sentence says what training looked like.

    Evidence: the exact McNemar test against the constant (an `ok` may be within sampling noise, p >= `alpha`; of
    several best constants the one with the greatest p); one predicted class; failed optimisation against failed
    generalisation; vanished gradients. There is no gradient evidence for a run that has fitted its data (its gradients
    vanish for the good reason), in warmup, or while warmup is unknown; and none for an `ok` run whose fit is unknown.

    Args:
        eval_labels: (n,), class ids (`IGNORED_LABEL` does not count) or values.
        eval_predictions: the run's last outputs on them: logits (n, K), class ids (n,), values (n,) or (n, 1); of a
            tuple the first counts.
        num_labels: K; by default what the highest class seen gives.
        regression: whether labels are values.
        eval_constant: (n,), the best constant predictor's answers, where it is not one class for all examples: several
            labels an example have a majority each.
        score, baseline, metric: the headline metric's last value, the best constant's, and its name.
        smaller_is_better: whether a smaller score is a better one.
        examples: n, where `score` and `baseline` are shares of n examples and there are no predictions.
        headline_lead: of an F1 or Matthews correlation: `metric`, `score`, `baseline`, and `low`, `high`, the 95% interval
            of their difference over the examples.
        steps: (T,), update steps of `losses` and `layer_norms`; default 1..T.
        losses: (T,), each update step's own train loss, raw: not what the Trainer logs, which is averaged and where
            `logging_nan_inf_filter` hides NaN and Inf.
        layer_norms, layers: (T, L) gradient norms and the L names, as in `vanished_gradients`.
        warmup_steps, total_steps: update steps; `total_steps` defaults to the last of `steps`.
        train_label_counts: (K,), classes of the train labels. Their entropy is the loss of the best constant.
        train_predicted_counts: (K,), classes predicted in the last part of training.
        constant_loss: the train loss of the best constant, where it is not the label entropy: the variance of the
            train labels for a regression by mean squared error.
        weights_finite: whether all weights were finite at the end.
        label_names: K names for the sentence.
        half_precision: a sentence on weights in half precision, which stands first; empty for none.
        alpha: level of the test.
        one_class_at: share of one class from which on a run predicts one class.
        stuck_at, learned_at, fitted_at: fractions of the best constant's loss; the mean train loss of the last 10% of
            the recorded steps at or above the first is failed optimisation; a failed run below the second is failed
            generalisation; a run below the third has fitted its data.

    Returns:
        the verdict; its evidence holds, where known, `examples`, `accuracy`, `constant_accuracy`, `constant_class`,
        `mcnemar_p`, `within_noise`, `predicted_class`, `predicted_share`, `one_class`, `r2`, `one_value`, `metric`,
        `score`, `baseline`, `train_loss`, `constant_loss`, `optimisation` (`stuck`, `between`, `learned`, `fitted`),
        `train_predicted_class`, `train_predicted_share`, `train_one_class`, `gradients` (as `vanished_gradients`),
        `nonfinite`, `first_nonfinite_step`, `nonfinite_losses`, `overflowed_norms`, `failure`
        (`failed optimisation`, `failed generalisation`). `gradients` is None if none had vanished, absent if they do
        not count.

    Raises:
        InputError: there is nothing to judge by, or shapes do not fit.
    """
    if (eval_labels is None) != (eval_predictions is None):
        raise InputError("eval_labels and eval_predictions go together: give both or neither")
    if (layer_norms is None) != (layers is None):
        raise InputError("layer_norms and layers go together: give both or neither")
    losses = None if losses is None or not np.size(losses) else np.asarray(losses, dtype=float)
    layer_norms = None if layer_norms is None or not np.size(layer_norms) else np.asarray(layer_norms, dtype=float)
    steps = _check_steps(steps, losses, layer_norms)
    if layer_norms is not None:
        _check_norms(steps, layer_norms, layers)
    if total_steps is None and steps is not None:
        total_steps = int(steps[-1])

    basis = _basis(eval_predictions, regression, score, baseline)
    if basis == "training_only" and all(
        x is None for x in (losses, layer_norms, train_predicted_counts, weights_finite)
    ):
        raise InputError(
            "nothing to judge by: need eval predictions with labels, or a score with its baseline, or records of "
            "training (losses, gradient norms, predicted classes)"
        )

    outputs = None if eval_predictions is None else _first(eval_predictions)
    outputs_finite = None if outputs is None else _finite_outputs(outputs)
    evidence = _nonfinite_evidence(steps, losses, layer_norms, weights_finite, outputs_finite)
    if outputs_finite and regression:
        evidence |= _regression_evidence(outputs, eval_labels)
    elif outputs_finite:
        evidence |= _accuracy_evidence(outputs, eval_labels, num_labels, eval_constant, alpha, one_class_at)
    evidence |= _headline_evidence(score, baseline, metric, smaller_is_better, examples)
    if half_precision:
        evidence["half_precision"] = half_precision
    if "nonfinite" not in evidence:
        evidence |= _loss_evidence(losses, train_label_counts, constant_loss, stuck_at, learned_at, fitted_at)
    evidence |= _train_class_evidence(train_predicted_counts, train_label_counts, one_class_at)

    looked = layer_norms is not None and warmup_steps is not None
    gradients = vanished_gradients(steps, layer_norms, layers, warmup_steps, total_steps) if looked else None
    if headline_lead is not None and _is_cleared(basis, evidence, headline_lead):
        evidence |= {"paper_rule": "failed", "headline_lead": dict(headline_lead)}
    status = _status(basis, evidence)
    if looked and _gradients_count(status, basis, evidence):
        evidence["gradients"] = gradients
    if status == "failed" and evidence.get("optimisation") == "stuck":
        evidence["failure"] = "failed optimisation"
    elif status == "failed" and basis != "training_only" and evidence.get("optimisation") in ("learned", "fitted"):
        evidence["failure"] = "failed generalisation"

    sentence = _sentence(status, basis, evidence, label_names, total_steps, regression)
    return Verdict(status, sentence, _plain(evidence), basis)


def judge_seeds(num_seeds: int, **evidence: Any) -> list[Verdict]:
    """[`judge`] on `S` runs, from arrays with a leading seed axis: the same as a loop over the seeds.

    | keyword of `judge` | of each seed | the same for all |
    | --- | --- | --- |
    | `eval_predictions` | `(S, n, K)`, `(S, n)`, `(S, n, 1)`; of a tuple the first counts | |
    | `losses`, `layer_norms` | `(S, T)` and `(S, T, L)`, or a list of `S` where runs differ in length | |
    | `train_predicted_counts` | `(S, K)` | |
    | `score`, `weights_finite` | `(S,)` | |
    | `eval_labels` | `(S, n)` | `(n,)` |
    | `steps` | `(S, T)`, or a list of `S` | `(T,)` |
    | `train_label_counts` | `(S, K)` | `(K,)` |
    | `baseline`, `constant_loss`, `warmup_steps`, `total_steps` | `(S,)` | a number |
    | everything else | | as in `judge` |

    Args:
        num_seeds: S, at least 1.
        evidence: keywords of `judge`.

    Raises:
        InputError: something is not of `S` seeds; and as `judge`.
    """
    if num_seeds < 1:
        raise InputError(f"num_seeds {num_seeds}: give 1 or more")
    seeds: list[dict[str, Any]] = [{} for _ in range(num_seeds)]
    for name, value in evidence.items():
        if name == "eval_predictions" and isinstance(value, tuple):
            value = value[0]
        axes = 1 + np.ndim(value[0]) if isinstance(value, list) and value else np.ndim(value)
        shared = value is None or axes <= _SHARED_AXES.get(name, math.inf)
        if not shared and (axes == 0 or len(value) != num_seeds):
            raise InputError(f"{name} of shape {np.shape(value)}: need {num_seeds} seeds on its first axis")
        for seed, given in enumerate(seeds):
            part = value if shared else value[seed]
            given[name] = part.item() if isinstance(part, np.generic) else part
    return [judge(**given) for given in seeds]


# Up to how many axes it is the same for all seeds; what only a run itself can have is of each seed always.
_SHARED_AXES = {
    **dict.fromkeys(("eval_predictions", "losses", "layer_norms", "train_predicted_counts"), -1),
    **dict.fromkeys(("score", "weights_finite"), -1),
    **dict.fromkeys(("eval_labels", "steps", "train_label_counts"), 1),
    **dict.fromkeys(("baseline", "constant_loss", "warmup_steps", "total_steps"), 0),
}


def ended_early(verdict: Verdict, step: int, total_steps: int) -> Verdict:
    """The verdict of a run that a policy ended after `step` of `total_steps` update steps, because others looked better.

    It is `stopped early` (censored). One that had diverged by then stays `diverged`: it would not have healed.
    """
    if verdict.status == "diverged":
        return verdict
    sentence = f"stopped early at step {step} of {total_steps}: censored, not failed; until then {verdict.sentence}"
    return replace(verdict, status="stopped early", sentence=sentence)


def pruned(verdict: Verdict, step: int, total_steps: int) -> Verdict:
    """The verdict of a trial that a hyperparameter search ended after `step` of `total_steps` update steps.

    It is `stopped` (censored). One that had diverged by then stays `diverged`.
    """
    if verdict.status == "diverged":
        return verdict
    sentence = f"stopped: pruned by the search at step {step} of {total_steps}: censored, not failed; until then "
    return replace(verdict, status="stopped", sentence=sentence + verdict.sentence)


def _basis(eval_predictions: Any, regression: bool, score: float | None, baseline: float | None) -> str:
    if eval_predictions is not None:
        return "eval_r2" if regression else "eval_accuracy"
    return "training_only" if score is None or baseline is None else "baseline"


def _status(basis: str, evidence: dict) -> str:
    if "nonfinite" in evidence:
        return "diverged"
    if basis == "training_only" or evidence.get("constant_accuracy") == 1:
        return "unknown"
    if basis == "eval_accuracy":
        # Two fractions of the same n: exact.
        failed = evidence["accuracy"] <= evidence["constant_accuracy"] and "paper_rule" not in evidence
    elif basis == "eval_r2":
        failed = evidence["r2"] <= 1e-9  # rounding of the mean
    else:
        smaller = evidence.get("smaller_is_better", False)
        examples = evidence.get("examples")
        if examples and evidence["baseline"] == 1:
            return "unknown"
        failed = at_or_below(evidence["score"], evidence["baseline"], examples, smaller)
    return "failed" if failed else "ok"


def _is_cleared(basis: str, evidence: dict, lead: Mapping[str, Any]) -> bool:
    """Whether the headline metric is clearly above its baseline while the accuracy equals the majority class's, up to noise."""
    if basis != "eval_accuracy" or "accuracy" not in evidence or evidence["accuracy"] > evidence["constant_accuracy"]:
        return False
    equal = evidence["accuracy"] == evidence["constant_accuracy"] or evidence["within_noise"]
    # With several labels per example, never answering has an accuracy that good runs need not reach.
    return (equal or "several_labels" in evidence) and lead["low"] > 0


def _gradients_count(status: str, basis: str, evidence: dict) -> bool:
    """Not for a run that has fitted its data, or may have: its gradients vanish for the good reason."""
    if "optimisation" in evidence:
        return evidence["optimisation"] != "fitted"
    return status in ("failed", "unknown")


def _finite_outputs(outputs: np.ndarray) -> bool:
    """No NaN, no +Inf, and -Inf only where the example has a finite output too: a masked class."""
    if np.isfinite(outputs).all():
        return True
    masked = np.isneginf(outputs)
    finite = np.isfinite(outputs) | masked
    return bool(finite.all() and outputs.ndim > 1 and np.isfinite(outputs).any(-1).all())


def _check_steps(
    steps: np.ndarray | None, losses: np.ndarray | None, layer_norms: np.ndarray | None
) -> np.ndarray | None:
    lengths = {len(x) for x in (losses, layer_norms) if x is not None}
    if not lengths:
        return None
    steps = np.arange(1, max(lengths) + 1) if steps is None else np.asarray(steps)
    if lengths != {len(steps)}:
        raise InputError(
            f"{len(steps)} steps, but losses or gradient norms for {sorted(lengths)}: need one each per step"
        )
    return steps


def _nonfinite_evidence(
    steps: np.ndarray | None,
    losses: np.ndarray | None,
    norms: np.ndarray | None,
    weights_finite: bool | None,
    outputs_finite: bool | None,
) -> dict[str, Any]:
    evidence: dict[str, Any] = {}
    what: list[str] = []
    first: list[int] = []
    if losses is not None and not np.isfinite(losses).all():
        bad = ~np.isfinite(losses)
        evidence["nonfinite_losses"] = int(bad.sum())
        if norms is not None:  # beside finite gradients it is a batch without labels, or a loss that was not shown
            bad &= _bad_norms(norms)[0]
        if bad.any():
            what.append("train loss")
            first.append(int(steps[bad.argmax()]))
    if norms is not None:
        cleared = (losses is None or np.isfinite(losses[-1])) and (weights_finite is True or outputs_finite is True)
        cleared = cleared and weights_finite is not False and outputs_finite is not False
        bad, tail = _bad_norms(norms)
        if tail > 1 or (tail == 1 and not cleared):
            what.append("gradient norms")
            first.append(int(steps[len(steps) - tail]))
        elif bad.any():
            evidence["overflowed_norms"] = int(bad.sum())
    if outputs_finite is False:
        what.append("eval outputs")
    if weights_finite is False:
        what.append("weights")
    if what:
        evidence |= {"nonfinite": what, "first_nonfinite_step": min(first, default=None)}
    return evidence


def _bad_norms(norms: np.ndarray) -> tuple[np.ndarray, int]:
    """Which rows of (T, L) hold NaN or Inf, and how many of them stand at the end. A layer without a finite norm before its
    first or after its last one is not trained there (frozen), unless no layer of the row has one."""
    finite = np.isfinite(norms)
    live = finite.any(0)
    finite = finite[:, live] if live.any() else finite
    trained = np.logical_or.accumulate(finite) & np.logical_or.accumulate(finite[::-1])[::-1]
    bad = (~finite & (trained | ~finite.any(1, keepdims=True))).any(1)
    return bad, int(np.logical_and.accumulate(bad[::-1]).sum())


def _accuracy_evidence(
    outputs: np.ndarray,
    labels: np.ndarray,
    num_labels: int | None,
    constant: np.ndarray | None,
    alpha: float,
    one_class_at: float,
) -> dict[str, Any]:
    classes, labels = predicted_classes(outputs), np.asarray(labels)
    if classes.shape != labels.shape:
        raise InputError(f"eval predictions {outputs.shape} do not fit eval labels {labels.shape}")
    if num_labels is None:
        num_labels = int(max(labels.max(), classes.max())) + 1
    labels = _int_labels(labels.reshape(-1), num_labels)
    counted = labels != IGNORED_LABEL
    classes, labels = classes.reshape(-1)[counted], labels[counted]

    correct = classes == labels
    share, predicted = one_class_share(classes)
    accuracy = correct.sum() / len(labels)
    if constant is not None:
        right = np.asarray(constant).reshape(-1)[counted] == labels
        p = float(mcnemar_exact(correct, right))
        return {
            "examples": len(labels),
            "accuracy": accuracy,
            "constant_accuracy": right.sum() / len(labels),
            "mcnemar_p": p,
            "within_noise": p >= alpha,
            "one_class": bool((classes == np.asarray(constant).reshape(-1)[counted]).all()),
            "several_labels": True,
        }
    constants = constant_accuracy(labels, num_labels)
    best = np.flatnonzero(constants == constants.max())
    p = max(float(mcnemar_exact(correct, labels == k)) for k in best)
    return {
        "examples": len(labels),
        "accuracy": accuracy,
        "constant_accuracy": constants.max(),
        # of equally good constants name the one that the run itself predicts most
        "constant_class": predicted if predicted in best else best[0],
        "mcnemar_p": p,
        "within_noise": p >= alpha,
        "predicted_class": predicted,
        "predicted_share": share,
        "one_class": share >= one_class_at,
    }


def _regression_evidence(outputs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    values, labels = outputs.reshape(-1).astype(float), np.asarray(labels, dtype=float).reshape(-1)
    if not np.isfinite(labels).all():
        raise InputError("eval labels hold NaN or Inf")
    if values.shape != labels.shape:
        raise InputError(f"eval predictions {outputs.shape} do not fit {len(labels)} eval labels: need one value each")
    with np.errstate(over="ignore"):  # values so wild that their squares overflow: R2 is -inf
        one_value = values.std() < 0.01 * labels.std()
        return {"examples": len(labels), "r2": r_squared(values, labels), "one_value": one_value}


def _headline_evidence(
    score: float | None, baseline: float | None, metric: str | None, smaller: bool, examples: int | None
) -> dict[str, Any]:
    evidence: dict[str, Any] = {} if metric is None else {"metric": metric.removeprefix("eval_")}
    if smaller:
        evidence["smaller_is_better"] = True
    if examples is not None:
        evidence["examples"] = examples
    values = (("score", score), ("baseline", baseline))
    return evidence | {name: _defined(value) for name, value in values if value is not None}


def _loss_evidence(
    losses: np.ndarray | None,
    label_counts: np.ndarray | None,
    constant_loss: float | None,
    stuck_at: float,
    learned_at: float,
    fitted_at: float,
) -> dict[str, Any]:
    if losses is None:
        return {}
    last = losses[-math.ceil(0.1 * len(losses)) :]
    last = last[~np.isnan(last)]  # steps without labels
    if not len(last):
        return {}
    evidence: dict[str, Any] = {"train_loss": float(last.mean())}
    if constant_loss is None and label_counts is not None:
        constant_loss = float(label_entropy(label_counts))
    if not constant_loss:  # unknown, or a single class: nothing to hold the loss against
        return evidence
    share = evidence["train_loss"] / constant_loss
    levels = (("fitted", fitted_at), ("learned", learned_at), ("between", stuck_at))
    optimisation = next((name for name, bound in levels if share < bound), "stuck")
    return evidence | {"constant_loss": constant_loss, "optimisation": optimisation}


def _train_class_evidence(
    predicted_counts: np.ndarray | None, label_counts: np.ndarray | None, one_class_at: float
) -> dict[str, Any]:
    predicted = np.zeros(0) if predicted_counts is None else np.asarray(predicted_counts, dtype=float)
    if not predicted.sum() > 0:  # nothing counted, or NaN: not known
        return {}
    share = predicted.max() / predicted.sum()
    if label_counts is not None:  # where nearly all labels are of one class, so are good predictions
        one_class_at = max(one_class_at, np.max(label_counts) / np.sum(label_counts))
    return {
        "train_predicted_class": predicted.argmax(),
        "train_predicted_share": share,
        "train_one_class": share >= one_class_at,
    }


def _plain(value: Any) -> Any:
    """Numpy to plain Python; NaN and Inf, which JSON lacks, to None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------------------------------------------------------------
# The sentence
# ---------------------------------------------------------------------------------------------------------------------


def _sentence(
    status: str,
    basis: str,
    evidence: dict[str, Any],
    label_names: Sequence[str] | None,
    total_steps: int | None,
    regression: bool,
) -> str:
    head = status
    if status == "ok" and evidence.get("within_noise") and "paper_rule" not in evidence:
        head = "ok, but within sampling noise of the constant"
    clauses = [
        evidence.get("half_precision", "").rstrip("."),
        _training_only_clause(status, basis, evidence),
        _nonfinite_clause(evidence, total_steps),
        _accuracy_clause(status, evidence, label_names),
        _lead_clause(evidence),
        _r2_clause(evidence),
        _headline_clause(status, basis, evidence),
        _one_class_clause(status, basis, evidence, label_names),
        _loss_clause(status, basis, evidence, regression),
        _gradient_clause(status, evidence),
        _basis_clause(status, basis, evidence),
    ]
    return f"{head}: {'; '.join(clause for clause in clauses if clause)}."


def _nonfinite_clause(evidence: dict, total_steps: int | None) -> str:
    if "nonfinite" not in evidence:
        return ""
    text = f"NaN or Inf in {_join(evidence['nonfinite'])}"
    if evidence["first_nonfinite_step"] is not None:
        text += f", first at step {evidence['first_nonfinite_step']} of {total_steps}"
    if "nonfinite_losses" in evidence:
        text += " (the Trainer's logging_nan_inf_filter hides it from the log)"
    return text


def _accuracy_clause(status: str, evidence: dict, names: Sequence[str] | None) -> str:
    if "accuracy" not in evidence:
        return ""
    if evidence["constant_accuracy"] == 1:
        return f"all {evidence['examples']} evaluation labels are of one class, so that accuracy tells nothing"
    accuracy, constant = _format_apart(evidence["accuracy"], evidence["constant_accuracy"])
    unit = "labels (several per example)" if "several_labels" in evidence else "examples"
    text = f"accuracy {accuracy} on {evidence['examples']} {unit}"
    p = _format_p(evidence["mcnemar_p"])
    if evidence["accuracy"] > evidence["constant_accuracy"]:
        if status == "ok" and evidence["within_noise"]:
            return f"{text} against {constant} (exact McNemar {p})"
        return f"{text}, above the constant's {constant} ({p})"
    several = "several_labels" in evidence
    always = "each label's majority" if several else f"always {_label(evidence['constant_class'], names)}"
    if evidence["accuracy"] == evidence["constant_accuracy"]:
        return f"{text} is the constant's ({constant}, {always})"
    test = "" if evidence["one_class"] else f"; exact McNemar {p}"
    return f"{text} is below the constant's ({constant}, {always}{test})"


def _lead_clause(evidence: dict) -> str:
    if "paper_rule" not in evidence:
        return ""
    lead = evidence["headline_lead"]
    score, baseline = _format_apart(lead["score"], lead["baseline"])
    return (
        f"but {lead['metric']} {score} is clearly above the best constant's {baseline} (95% interval of the difference "
        f"{lead['low']:.3f} to {lead['high']:.3f}), as can be with rare classes"
    )


def _r2_clause(evidence: dict) -> str:
    if "r2" not in evidence:
        return ""
    text = f"R2 {_format_score(evidence['r2'])} on {evidence['examples']} examples"
    text += ", better than always answering the mean" if evidence["r2"] > 1e-9 else ", no better than the mean label"
    return text + ("; predicts one value" if evidence["one_value"] else "")


def _headline_clause(status: str, basis: str, evidence: dict) -> str:
    name = evidence.get("metric", "score")
    told = basis == "eval_accuracy" and name == "accuracy"
    if "score" not in evidence or told or evidence.get("headline_lead", {}).get("metric") == name:
        return ""
    if "baseline" not in evidence:
        return f"{name} {_format_score(evidence['score'])}"
    examples, smaller = evidence.get("examples"), evidence.get("smaller_is_better", False)
    examples = examples if basis == "baseline" else None
    equal = at_or_below(evidence["score"], evidence["baseline"], examples, smaller) and at_or_below(
        evidence["score"], evidence["baseline"], examples, not smaller
    )
    score, baseline = _format_apart(evidence["baseline" if equal else "score"], evidence["baseline"])
    better, worse = ("below", "above") if smaller else ("above", "below")
    if not at_or_below(evidence["score"], evidence["baseline"], examples, smaller):
        return f"{name} {score}, {better} the best constant's {baseline}"
    relation = "is" if equal else f"is {worse}"
    text = f"{name} {score} {relation} the best constant's {baseline}"
    return text + (", which by itself is no failure" if status == "ok" else "")


def _one_class_clause(status: str, basis: str, evidence: dict, names: Sequence[str] | None) -> str:
    if status not in ("failed", "unknown") or "several_labels" in evidence or evidence.get("constant_accuracy") == 1:
        return ""
    kind, where = ("", "") if "one_class" in evidence else ("train_", " in training")
    if not evidence.get(f"{kind}one_class"):
        return ""
    share = evidence[f"{kind}predicted_share"]
    almost = "" if share == 1 else f" {100 * share:.1f}% of the time"
    return f"predicts one class{where}{almost} ({_label(evidence[f'{kind}predicted_class'], names)})"


def _loss_clause(status: str, basis: str, evidence: dict, regression: bool) -> str:
    if "optimisation" not in evidence or status == "ok":
        return ""
    loss, constant = _format_loss(evidence["train_loss"]), _format_loss(evidence["constant_loss"])
    reference = "the best constant's" if regression else "the label entropy"
    relation = {"stuck": "stayed at", "between": "is little below"}.get(evidence["optimisation"], "is clearly below")
    if evidence["train_loss"] > 1.1 * evidence["constant_loss"]:
        relation = "is above"
    kind = f": {evidence['failure']}" if "failure" in evidence else ""
    return f"train loss {loss} {relation} {reference} ({constant}){kind}"


def _gradient_clause(status: str, evidence: dict) -> str:
    gradients = evidence.get("gradients")
    if not gradients:
        return ""
    first, last = gradients["first_step"], gradients["last_step"]
    since = f"step {first}" if first == last else f"steps {first} to {last}"
    what = f"gradients of {_name_layers(gradients['layers'])}"
    if gradients["lasting"]:
        return f"{what} vanished from {since} on"
    return f"{what} had vanished from {since} on and were back by step {gradients['healed_step']}"


def _training_only_clause(status: str, basis: str, evidence: dict) -> str:
    if basis != "training_only" or status == "diverged":
        return ""
    text = "there was no evaluation with predictions, and no metric with a known baseline"
    if evidence.get("optimisation") == "stuck" or evidence.get("train_one_class"):
        return text + "; training looks like that of a failed run"
    return text


def _basis_clause(status: str, basis: str, evidence: dict) -> str:
    if basis != "baseline":
        return ""
    if "examples" in evidence:
        return "this rests on the reported accuracy, in counts of examples"
    return "there were no eval predictions to take the accuracy of"


def _label(label: int, names: Sequence[str] | None) -> str:
    return f"class {label}" if names is None or label >= len(names) else f"'{names[label]}'"


def _name_layers(layers: Sequence[str]) -> str:
    """`embeddings, layer_00, layer_01, layer_02, pooler` -> `embeddings, layers 00-02 and pooler`."""
    runs: list[tuple[str, list[str]]] = []  # ("layer", ["00", "01", "02"]), ("pooler", [])
    for name in layers:
        match = re.fullmatch(r"(\w*layer)_(\d+)", name)
        if not match:
            runs.append((name, []))
        elif runs and runs[-1][0] == match[1] and int(runs[-1][1][-1]) + 1 == int(match[2]):
            runs[-1][1].append(match[2])
        else:
            runs.append((match[1], [match[2]]))
    words = []
    for kind, numbers in runs:
        kind = kind.replace("_layer", " layer") if numbers else kind
        words.append(f"{kind}s {numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else " ".join([kind, *numbers]))
    return _join(words)


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _format_score(score: float, decimals: int = 3) -> str:
    """`.527`, `-.012`, `1.000`."""
    text = f"{score:.{decimals}f}"
    return re.sub(r"^(-?)0\.", r"\1.", text)


def _format_apart(a: float, b: float) -> tuple[str, str]:
    """Two scores with three decimals, or with as many as it takes to tell them apart."""
    decimals = 3
    while a != b and decimals < 9 and f"{a:.{decimals}f}" == f"{b:.{decimals}f}":
        decimals += 1
    return _format_score(a, decimals), _format_score(b, decimals)


def _format_loss(loss: float) -> str:
    return _format_score(loss, 2) if abs(loss) >= 0.095 else f"{loss:.1g}"


def _format_p(p: float) -> str:
    return "p < .001" if p < 0.001 else f"p = {_format_score(p, 3 if p < 0.1 else 2)}"
