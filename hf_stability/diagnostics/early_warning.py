"""Early warning: does a run that is still training look like one that will fail?

The record of a classification gives, at update step n of T (medians and means over the last steps):

    g_low, g_top    median gradient norm of the lower half of the layers (the median of them, on a log scale), of the classifier
    level   = ln(g_low / g_top)             how far the lower layers are below the top
    trend   = ln(g_low / max g_low so far)  how far they have fallen from their own highest level
    spread  = ln(logit_std)                 how far the logits differ between examples (nats)
    loss    = mean training loss / H        H: entropy of the labels so far

    risk = 1 / (1 + exp(-(b + w_level level + w_trend trend + w_spread spread + w_loss loss)))

Mosbach et al. (ICLR 2021, section 5.1): in failed runs the lower layers' gradients vanish and the loss stays at its start.
Successful runs have small gradients there too, until shortly after the warmup. So there is no risk before the warmup and one
window have passed. Only ratios and nats enter: scaling all gradients by one constant changes nothing.

A model begins near ln K, K the number of classes. With unbalanced classes (ln K > 1.25 H) every sound run has to come down
first: with 7% of one class from 0.69 to 0.25. And in every run the loss is higher in a window with more of the rare class. So
for unbalanced classes, with p_k the share of class k in the labels so far,

    prior = mean of -ln p[label] over the same steps' examples
    loss  = 1 + (mean training loss - prior) / H

There is no risk before half of training: until the rare class is learned, sound runs stay at the prior's loss, with small
gradients in the lower layers. Nor is there one while the loss is still above the prior's (by more than 0.1 H). From three
quarters of training on there is always one: a rate so large that the loss stays above is a failure too.

The early warning is silent if the loss is not the plain mean cross entropy (`own_loss` in the record's `info`; class weights
above 1 look like a failing run), and while nearly all examples were of one class (H below 0.05 nats: 1% of the other).

benchmarks/early_detection fits the weights and the threshold, and counts how often the alarm is right.

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
"""Share of training over which norms and spread are medians; at least `MIN_WINDOW` steps."""
LOSS_WINDOW = 0.1
"""Share of training over which the loss is averaged."""
MIN_WINDOW = 5
MIN_ENTROPY = 0.05
"""Nats; of the labels so far."""
UNBALANCED = 1.25
"""Classes are unbalanced if ln K is more than this times the entropy: for two classes, one of at most 24%."""
FIRST, LATEST = 0.5, 0.75
"""Shares of training: from the first on a run with unbalanced classes has a risk if its loss is down, from the second always."""
NEAR = 0.1
"""The loss is down if it is at most this above the prior's, in entropies."""
CHECK_EVERY = 0.05
"""Share of training between two checks."""

WEIGHTS = {"bias": -5.29, "level": -0.58, "trend": -0.16, "spread": -0.03, "loss": 4.08}
"""Weights of the risk's logit."""
THRESHOLD = 0.823
"""Risk from which on the alarm is raised."""


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
        losses: `(..., T)` training loss of each.
        logit_std: `(..., T)` standard deviation of the logits over the step's examples.
        labels: `(..., T, K)` training examples of each class in each step.
        layers: L names, from input to output; see [`lower_half`].
        total_steps: update steps of the whole training.

    Returns:
        `level`, `trend`, `spread`, `loss`, each `(...)`; NaN if its inputs are missing. Steps without a loss, or without
            gradients, are left out.
    """
    low, top = lower_half(layers), top_layer(layers)
    width = max(MIN_WINDOW, math.ceil(WINDOW * total_steps))
    has_loss = np.isfinite(np.asarray(losses, float))  # a batch without labels has none, and gradients of 0
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
    """`loss` of the module's equation.

    Args:
        losses: `(..., T)`.
        labels: `(..., T, K)` examples of each class.
        total_steps: update steps of the whole training.

    Returns:
        `(...)`; NaN while the loss does not count yet, and if nearly all examples were of one class.
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
    """Mean of -ln p[label] over each step's examples: `(..., T, K)` and `(..., K)` -> `(..., T)`; NaN without examples."""
    with np.errstate(divide="ignore", invalid="ignore"):
        nats = -np.log(counts / counts.sum(-1, keepdims=True))
        return (labels * np.where(np.isfinite(nats), nats, 0)[..., None, :]).sum(-1) / labels.sum(-1)


def risk(evidence: Mapping[str, ArrayLike], weights: Mapping[str, float] = WEIGHTS) -> np.ndarray:
    """How much a run looks like one that fails, `(...)` in [0, 1]; NaN where any evidence is missing.

    It is a probability only if runs fail as often as those on which the weights were fitted; see the module's equation.
    """
    logit = weights["bias"] + sum(weights[name] * np.asarray(value) for name, value in evidence.items())
    return 1 / (1 + np.exp(-np.clip(logit, -700, 700)))


def check_steps(warmup_steps: int, total_steps: int, every: float = CHECK_EVERY) -> list[int]:
    """Update steps after which a run is checked: every 5% of training, once the warmup and one window have passed."""
    if 0 < warmup_steps < 1:
        raise InputError(f"warmup_steps {warmup_steps} looks like a fraction: give the number of update steps")
    first = warmup_steps + max(MIN_WINDOW, math.ceil(WINDOW * total_steps))
    steps = [math.ceil(i * every * total_steps - 1e-9) for i in range(1, round(1 / every))]
    return sorted({step for step in steps if first <= step < total_steps})


@dataclass(frozen=True)
class Alarm:
    """A run that looks like one that will fail.

    Args:
        step, total_steps: update step of the check, and of the whole training.
        risk: see [`risk`].
        layer: the layer below the pooler that has fallen furthest from its own highest level.
        evidence: the four quantities of the module's equation; None where one is not finite.
        sentence: all of it in words, with what to change.
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
        """Raises InputError where the schema is another version's."""
        if content.get("schema") != ALARM_SCHEMA:
            raise InputError(f"alarm schema {content.get('schema')!r}: this version reads {ALARM_SCHEMA}")
        return cls(**content)


def check(
    record: Mapping[str, Any], step: int, total_steps: int, threshold: float = THRESHOLD
) -> tuple[float, Alarm | None]:
    """Check a run after an update step.

    Args:
        record: as [`read_steps`][hf_stability.diagnostics.step_record.read_steps] gives it; rows after `step` do not
            count.
        step: the last update step that counts.
        total_steps: update steps of the whole training.
        threshold: risk from which on it is an alarm.

    Returns:
        the risk, NaN if the record has too little for it (no classification, no gradient norms, a loss of one's own, see
            the module's docstring); an alarm or None.
    """
    if record.get("info", {}).get("own_loss"):
        return math.nan, None
    steps = np.asarray(record["step"])
    until = steps <= step
    width = max(MIN_WINDOW, math.ceil(WINDOW * total_steps))
    if np.count_nonzero(steps[until] > step - width) < width:  # the record has lost steps of the last window
        return math.nan, None
    norms, labels = record["layer_norms"][until], record["labels"][until]
    if not np.nansum(labels) > 0 or not norms.size:
        return math.nan, None
    layers, losses = record["layers"], record["loss"][until]
    found = evidence(norms, losses, record["logit_std"][until], labels, layers, total_steps)
    numbers = {name: float(value) for name, value in found.items()}
    diverged = _diverged(losses, norms)
    value = 1.0 if diverged else float(risk(numbers))
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


def find_alarm(
    record: Mapping[str, Any],
    warmup_steps: int | None = None,
    total_steps: int | None = None,
    threshold: float = THRESHOLD,
) -> Alarm | None:
    """The first alarm of a record; None if there is none. The run may still be training.

    Args:
        record: as in [`check`].
        warmup_steps, total_steps: update steps; default: those in the record's first line.
        threshold: as in [`check`].

    Raises:
        InputError: neither the arguments nor the record give the length of warmup and training.
    """
    info = record.get("info", {})
    warmup_steps = info.get("warmup_steps") if warmup_steps is None else warmup_steps
    total_steps = info.get("max_steps") if total_steps is None else total_steps
    if warmup_steps is None or total_steps is None:
        raise InputError(
            "the record does not say how long the training is: give warmup_steps and total_steps, or write it with "
            'StepRecord(..., info={"warmup_steps": ..., "max_steps": ...})'
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
    """The verdict of a run that raised an alarm: it tells of it, and is `stopped` (censored) if the alarm ended the run."""
    found = {**verdict.evidence, "alarm": alarm.to_dict()}
    where = alarm.step, alarm.total_steps, alarm.risk
    if not stopped or verdict.status == "diverged":
        what = "a false alarm" if verdict.status == "ok" else "an alarm"
        return replace(verdict, sentence=verdict_after_alarm(verdict.sentence, what, *where), evidence=found)
    return replace(verdict, status="stopped", sentence=stopped_by_alarm(verdict.sentence, *where), evidence=found)


def lower_half(layers: Sequence[str]) -> list[int]:
    """Indices of the lower half of a model's layers, embeddings included; pooler and classifier do not count."""
    body = [i for i, name in enumerate(layers) if name not in ("pooler", "classifier")] or [0]
    return body[: math.ceil(len(body) / 2)]


def _diverged(losses: np.ndarray, norms: np.ndarray) -> bool:
    """Whether in some step neither the loss nor the gradients were finite, from the first finite loss on.

    A loss that is not finite, beside finite gradients, is that of a batch without labels. A model that returns no loss has no
    finite one at all, with finite gradients. Without any gradient norm the loss decides: not finite to the end.

    Args:
        losses: `(T,)`.
        norms: `(T, L)`; a layer without gradients is NaN throughout.
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
    """First rows of windows that end with the last row and lie half a window apart; a single, shorter one at first."""
    return sorted(range(max(0, steps - width), -1, -max(1, width // 2)))


def _log(values: np.ndarray) -> np.ndarray:
    """Natural logarithm; NaN for what is not finite; anything below 1e-30 counts as 1e-30."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isfinite(values), np.log(np.maximum(values, 1e-30)), np.nan)


def _median(values: np.ndarray, axis: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "All-NaN slice": the NaN is the answer
        return np.nanmedian(values, axis=axis)


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, without NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "Mean of empty slice": the NaN is the answer
        return np.nanmean(values, axis=-1)
