"""Early warning: does a run that is still training look like one that will fail?

At update step n of T the record of a classification gives these quantities (medians and means over the last steps):

    g_low           gradient norm of the lower half of the layers: median over steps and over layers, on a log scale
    g_top           median gradient norm of the classifier
    level   = ln(g_low / g_top)             how far the lower layers are below the classifier
    trend   = ln(g_low / max g_low so far)  how far they have fallen from their own highest level
    spread  = ln(logit_std)                 how far the logits differ between examples (nats)
    loss    = mean train loss / H           H: entropy of the labels so far

    risk = 1 / (1 + exp(-(b - w (level + trend) + 10 w loss + 10 w min(n / T, 1/2))))

Two numbers are fitted, b and w. An e-fold less gradient counts as much as a tenth of H more loss, or as a tenth of training more:
a run that is stuck early may still begin to learn, and one that is stuck at half of training seldom does. The spread has weight 0.
It is in the alarm, for the reader. The risk is 0 while the loss is below 0.8: a run that fits its data loses its gradients, too.

Mosbach et al. (ICLR 2021, section 5.1): in failed runs the gradients of the lower layers vanish, and the loss stays at its
first value. Successful runs have small gradients there too, until shortly after the warmup. So there is no risk until the
warmup and one more window have passed. Only ratios and nats count: scaling all gradients by one factor changes nothing.

**Unbalanced classes.** The loss of a model starts near ln K, with K the number of classes. If classes are unbalanced
(ln K > 1.25 H), the loss of every sound run first falls below that: with 7% of one class from 0.69 to 0.25. Also, the loss of
every run is higher in a window with more examples of the rare class. So for unbalanced classes, with p_k the share of class k
in the labels so far,

    prior = mean of -ln p[label] over the examples of the same steps
    loss  = 1 + (mean train loss - prior) / H

In the first half of training there is no risk. Until a sound run has learned the rare class, its loss stays at the prior, and
the gradients of its lower layers are small. In the third quarter there is no risk while the loss is above the prior by more
than 0.1 H. In the last quarter there is always a risk: a run with a learning rate so large that its loss stays above the
prior fails too.

**Silence.** The early warning is silent if the loss is not the plain mean cross entropy (`own_loss` in the record's `info`),
because class weights above 1 look like a failing run. It is silent, too, while nearly all examples were of one class (H below
0.05 nats: 1% of the other class). It was fitted on runs that train all layers from the first step. So it does not judge
adapters, nor a run in which a layer of the encoder is, or was, frozen. There it reports only NaN and Inf.

`benchmarks/better_alarm.py` fits the weights and the threshold on 400 runs, and counts how often the alarm is right. The docs page
is docs/early_warning.md.

Shapes: `T` recorded update steps, `L` layers, `K` classes; `...` are leading axes, for example seeds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..verdicts.constants import label_entropy
from ..verdicts.vanished import top_layer
from ..verdicts.verdict import Verdict
from .alarm_sentence import alarm_sentence, diverged_sentence, stopped_by_alarm, verdict_after_alarm


ALARM_SCHEMA = "hf_stability.alarm/1"

WINDOW = 0.03
"""Norms and spread are medians over this share of training, and over at least `MIN_WINDOW` steps."""
LOSS_WINDOW = 0.1
"""The loss is the mean over this share of training."""
MIN_WINDOW = 5
MIN_ENTROPY = 0.05
"""Nats. Below this entropy of the labels so far there is no risk."""
UNBALANCED = 1.25
"""Classes are unbalanced if ln K is more than this times the entropy. With two classes: if one has at most 24%."""
FIRST, LATEST = 0.5, 0.75
"""Shares of training. With unbalanced classes a run has a risk from the first on if its loss is down, from the second on always."""
NEAR = 0.1
"""The loss is down if it is above the prior by at most this times the entropy."""
CHECK_EVERY = 0.05
"""A run is checked after each such share of training."""

HALF = 0.5
"""Share of training. From here on the share of training adds nothing more to the risk."""

WEIGHTS = {"bias": -6.86, "level": -0.37, "trend": -0.37, "spread": 0.0, "loss": 3.7, "progress": 3.7}
"""Weights of the risk's logit."""
LEARNS = 0.8
"""The risk is 0 while the loss is below this: the run learns. No check of the 169 failed runs of the fit was below 0.857."""

THRESHOLD = 0.856
"""A risk of this or more raises the alarm. In the fit at most 5% of the runs that did not fail had one by half of training."""


def evidence(
    layer_norms: np.ndarray,
    losses: np.ndarray,
    logit_std: np.ndarray,
    labels: np.ndarray,
    layers: Sequence[str],
    total_steps: int,
) -> dict[str, np.ndarray]:
    """The four quantities of the equation above, after the last of the given steps.

    Args:
        layer_norms: `(..., T, L)` gradient norms of every update step so far, before or after clipping.
        losses: `(..., T)` train loss of each step.
        logit_std: `(..., T)` standard deviation of the logits over the examples of each step.
        labels: `(..., T, K)` number of training examples of each class in each step.
        layers: L names, from input to output; see `lower_half`.
        total_steps: update steps of the whole training.

    Returns:
        `level`, `trend`, `spread`, `loss`, each `(...)`. One is NaN if its inputs are missing. Steps without a loss or
            without gradients are left out.
    """
    low, top = lower_half(layers), top_layer(layers)
    width = max(MIN_WINDOW, math.ceil(WINDOW * total_steps))
    has_loss = np.isfinite(np.asarray(losses, float))  # a batch without labels has no loss, and gradients of 0
    logs = np.where(has_loss[..., None], _log(np.asarray(layer_norms, float)), np.nan)
    levels = np.stack([_median(logs[..., i : i + width, :], -2) for i in _starts(logs.shape[-2], width)], -2)
    lower = _median(levels[..., low], -1)  # (..., windows)
    return {
        "level": lower[..., -1] - levels[..., -1, top],
        "trend": lower[..., -1] - np.fmax.reduce(lower, axis=-1),
        "spread": _median(np.where(has_loss, _log(np.asarray(logit_std, float)), np.nan)[..., -width:], -1),
        "loss": loss_evidence(losses, labels, total_steps),
    }


def loss_evidence(losses: np.ndarray, labels: np.ndarray, total_steps: int) -> np.ndarray:
    """`loss` in the module's equation.

    Args:
        losses: `(..., T)` train loss of each step.
        labels: `(..., T, K)` number of training examples of each class in each step.
        total_steps: update steps of the whole training.

    Returns:
        `(...)`. NaN while the loss does not count yet, and if nearly all examples were of one class.
    """
    losses, labels = np.asarray(losses, float), np.nan_to_num(np.asarray(labels, float))
    counts = labels.sum(-2)
    entropy = label_entropy(counts + (counts.sum(-1, keepdims=True) == 0))
    entropy = np.where((entropy < MIN_ENTROPY) | (counts.sum(-1) == 0), np.nan, entropy)
    last = max(MIN_WINDOW, math.ceil(LOSS_WINDOW * total_steps))
    relative = np.where(np.isfinite(losses), losses, np.nan) / entropy[..., None]
    excess = relative - _prior_losses(labels, counts) / entropy[..., None]
    unbalanced = math.log(labels.shape[-1]) > UNBALANCED * entropy
    excess_now = _mean(excess[..., -last:])
    first = np.where(excess_now <= NEAR, FIRST, LATEST) * total_steps
    of_unbalanced = np.where(losses.shape[-1] < first, np.nan, 1 + excess_now)
    return np.where(unbalanced, of_unbalanced, _mean(relative[..., -last:]))


def _prior_losses(labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of -ln p[label] over the examples of each step: `(..., T, K)`, `(..., K)` -> `(..., T)`; NaN without examples."""
    with np.errstate(divide="ignore", invalid="ignore"):
        nats = -np.log(counts / counts.sum(-1, keepdims=True))
        return (labels * np.where(np.isfinite(nats), nats, 0)[..., None, :]).sum(-1) / labels.sum(-1)


def risk(
    evidence: Mapping[str, ArrayLike], weights: Mapping[str, float] = WEIGHTS, progress: ArrayLike = HALF
) -> np.ndarray:
    """How much a run looks like one that fails, `(...)` in [0, 1]; NaN if any evidence is missing.

    The module's docstring has the equation. The risk is a probability only if half of the runs fail, as in the fit.

    Args:
        evidence: the four quantities, each `(...)`.
        weights: of the risk's logit. Without `progress` among them the share of training does not count.
        progress: share of training done, `(...)` or one number. Default: half, which is the same as any later share.
    """
    logit = weights["bias"] + sum(weights[name] * np.asarray(value) for name, value in evidence.items())
    logit = logit + weights.get("progress", 0.0) * np.minimum(progress, HALF)
    return 1 / (1 + np.exp(-np.clip(logit, -700, 700)))


def check_steps(warmup_steps: int, total_steps: int, every: float = CHECK_EVERY) -> list[int]:
    """Update steps after which a run is checked: every 5% of training, after the warmup and one more window."""
    if 0 < warmup_steps < 1:
        raise InputError(f"warmup_steps {warmup_steps} looks like a fraction: give a number of update steps")
    first = warmup_steps + max(MIN_WINDOW, math.ceil(WINDOW * total_steps))
    steps = [math.ceil(i * every * total_steps - 1e-9) for i in range(1, round(1 / every))]
    return sorted({step for step in steps if first <= step < total_steps})


@dataclass(frozen=True)
class Alarm:
    """An alarm: the run looks like one that will fail.

    Args:
        step: update step of the check.
        total_steps: update steps of the whole training.
        risk: see `risk`.
        layer: the layer below the pooler with the largest fall from its own highest level.
        evidence: the four quantities of the module's equation; None for one that is not finite.
        sentence: the alarm in words, with what to change.
    """

    step: int
    total_steps: int
    risk: float
    layer: str
    evidence: dict[str, float | None]
    sentence: str
    schema: str = ALARM_SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Alarm:
        """The inverse of `to_dict`.

        Raises:
            InputError: another version of the schema.
        """
        if content.get("schema") != ALARM_SCHEMA:
            raise InputError(f"alarm schema {content.get('schema')!r}: this version reads only {ALARM_SCHEMA}")
        return cls(**content)


def check(
    record: Mapping[str, Any], step: int, total_steps: int, threshold: float = THRESHOLD
) -> tuple[float, Alarm | None]:
    """Check a run after an update step.

    Args:
        record: as [`read_steps`][hf_stability.diagnostics.step_record.read_steps] returns it. Rows after `step` do not
            count.
        step: the last update step that counts.
        total_steps: update steps of the whole training.
        threshold: a risk of this or more is an alarm.

    Returns:
        the risk; an alarm or None. The risk is NaN if the record does not allow one: no classification, no gradient norms,
            or a custom loss (see the module's docstring).
    """
    if record.get("info", {}).get("own_loss"):
        return math.nan, None
    steps = np.asarray(record["step"])
    until = steps <= step
    width = max(MIN_WINDOW, math.ceil(WINDOW * total_steps))
    if np.count_nonzero(steps[until] > step - width) < width:  # steps of the last window are missing in the record
        return math.nan, None
    norms, labels = record["layer_norms"][until], record["labels"][until]
    if not np.nansum(labels) > 0 or not norms.size:
        return math.nan, None
    layers, losses = record["layers"], record["loss"][until]
    found = evidence(norms, losses, record["logit_std"][until], labels, layers, total_steps)
    numbers = {name: float(value) for name, value in found.items()}
    diverged = _diverged(losses, norms)
    learns = numbers["loss"] < LEARNS  # when a run fits its data, all gradients vanish
    value = 0.0 if learns else float(risk(numbers, progress=step / total_steps))
    value = 1.0 if diverged else value if trains_all_layers(record.get("info", {})) else math.nan
    if not value >= threshold:
        return value, None
    layer = _fallen_furthest(norms, layers, total_steps)
    if diverged:
        sentence = diverged_sentence(step, total_steps)
    else:
        level, trend, spread = (math.exp(numbers[name]) for name in ("level", "trend", "spread"))
        sentence = alarm_sentence(step, total_steps, value, layer, level, trend, spread, numbers["loss"])
    known = {name: number if math.isfinite(number) else None for name, number in numbers.items()}  # JSON has no NaN
    return value, Alarm(step, total_steps, value, layer, known, sentence)


def trains_all_layers(info: Mapping[str, Any]) -> bool:
    """Whether a run trains the whole weights of all layers of the encoder from its first step on.

    Args:
        info: of a record.
    """
    trained = info.get("trained") or {}
    frozen = [*trained.get("frozen", ()), *info.get("since", ()), *info.get("until", ())]
    return not trained.get("adapters") and not any("layer_" in name for name in frozen)


def find_alarm(
    record: Mapping[str, Any],
    warmup_steps: int | None = None,
    total_steps: int | None = None,
    threshold: float = THRESHOLD,
) -> Alarm | None:
    """The first alarm of a record, or None. The run may still be training.

    Args:
        record: as in `check`.
        warmup_steps: update steps of warmup; default: the value in the record's first line.
        total_steps: update steps of the whole training; default: the value in the record's first line.
        threshold: as in `check`.

    Raises:
        InputError: neither the arguments nor the record have the length of warmup and training.
    """
    info = record.get("info", {})
    warmup_steps = info.get("warmup_steps") if warmup_steps is None else warmup_steps
    total_steps = info.get("max_steps") if total_steps is None else total_steps
    if warmup_steps is None or total_steps is None:
        raise InputError(
            "the record does not have the length of the training: give warmup_steps and total_steps, or write the record "
            'with StepRecord(..., info={"warmup_steps": ..., "max_steps": ...})'
        )
    last = max(record["step"], default=0)
    for step in check_steps(warmup_steps, total_steps):
        if step > last:
            break
        alarm = check(record, step, total_steps, threshold)[1]
        if alarm is not None:
            return alarm
    return None


def with_alarm(verdict: Verdict, alarm: Alarm, stopped: bool) -> Verdict:
    """The verdict of a run that raised an alarm, with a clause about the alarm. If the alarm ended the run: `stopped` (censored)."""
    found = {**verdict.evidence, "alarm": alarm.to_dict()}
    where = alarm.step, alarm.total_steps, alarm.risk
    if not stopped or verdict.status == "diverged":
        what = "a false alarm" if verdict.status == "ok" else "an alarm"
        return replace(verdict, sentence=verdict_after_alarm(verdict.sentence, what, *where), evidence=found)
    return replace(verdict, status="stopped", sentence=stopped_by_alarm(verdict.sentence, *where), evidence=found)


def lower_half(layers: Sequence[str]) -> list[int]:
    """Indices of the lower half of a model's layers, embeddings included. Pooler and classifier do not count."""
    body = [i for i, name in enumerate(layers) if name not in ("pooler", "classifier")] or [0]
    return body[: math.ceil(len(body) / 2)]


def _diverged(losses: np.ndarray, norms: np.ndarray) -> bool:
    """Whether, after the first finite loss, there is a step in which neither the loss nor the gradients were finite.

    A batch without labels has a loss that is not finite, and finite gradients. A model that returns no loss has no finite
    loss in any step, and finite gradients. Without any gradient norm the loss decides: it is not finite at the end.

    Args:
        losses: `(T,)`.
        norms: `(T, L)`. A layer without gradients is NaN in all rows.
    """
    finite = np.isfinite(losses)
    if not finite.any():
        return not np.isfinite(norms[-MIN_WINDOW:]).any()
    known = np.isfinite(norms).any(0)
    if not known.any():
        return not finite[-MIN_WINDOW:].any()
    broken = ~finite & ~np.isfinite(norms[:, known]).all(1)
    return bool(broken[finite.argmax() :].any())


def _fallen_furthest(layer_norms: np.ndarray, layers: Sequence[str], total_steps: int) -> str:
    width = max(MIN_WINDOW, math.ceil(WINDOW * total_steps))
    logs = _log(np.asarray(layer_norms, float))
    levels = np.stack([_median(logs[i : i + width], 0) for i in _starts(len(logs), width)])
    fall = levels[-1] - np.fmax.reduce(levels, axis=0)
    body = [i for i, name in enumerate(layers) if name not in ("pooler", "classifier")] or [0]
    return str(layers[min(body, key=lambda i: fall[i] if np.isfinite(fall[i]) else math.inf)])


def _starts(steps: int, width: int) -> list[int]:
    """First rows of windows that start half a window apart. The last window ends with the last row; few rows make one window."""
    return sorted(range(max(0, steps - width), -1, -max(1, width // 2)))


def _log(values: np.ndarray) -> np.ndarray:
    """Natural logarithm; NaN for values that are not finite. A value below 1e-30 counts as 1e-30."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isfinite(values), np.log(np.maximum(values, 1e-30)), np.nan)


def _median(values: np.ndarray, axis: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "All-NaN slice": NaN is the right result
        return np.nanmedian(values, axis=axis)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis, without NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "Mean of empty slice": NaN is the right result
        return np.nanmean(values, axis=-1)
