"""Checks of the training and its verdict. They take the values in `causes` and return numbers, or None if these are unknown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..diagnostics.settings import FEW_STEPS, far_above, lower_rate, reference_rate, untuned_warmup
from .finding import Checked, Fault


RATE_POSSIBLE = 1.5
"""Bound of the effective peak rate, in multiples of the paper's, for a possible cause. For a likely one: `far_above`."""
RATE_SMALL, RATE_TINY = 0.1, 0.02

LORA_RATES = 2e-4, 5e-4  # Hu et al. 2021, table 9: RoBERTa base and large on GLUE
LORA_FACTOR = 10  # judgement: a rate more than 10 times above or below these is a possible cause

VERY_FEW_STEPS = 100  # update steps
SHORT_WARMUP = 0.05
AT_LN_K, MAX_CLASSES = 0.02, 16  # nats; up to 16 classes ln K and ln (K + 1) differ by more than twice that
SKIPPED = 0.05


# ---- the record and the log -----------------------------------------------------------------------------------------


def check_layers(layers: Sequence[str] | None = None, layer_norms: np.ndarray | None = None) -> Checked | None:
    """Layers without a gradient: missing from the record, or exactly 0 at every step."""
    if layers is None or layer_norms is None or not len(layer_norms) or not np.isfinite(layer_norms).any():
        return None
    norms = np.asarray(layer_norms)
    zero = [name for i, name in enumerate(layers) if name != "pooler" and (norms[:, i] == 0).all()]
    numbers = [int(name.removeprefix("layer_")) for name in layers if name.startswith("layer_")]
    absent = [f"layer_{i:02d}" for i in range(max(numbers, default=0)) if i not in numbers]
    faults = []
    if not set(layers) - {"pooler", "classifier"}:
        faults.append(Fault("no encoder", "likely"))
    elif absent:
        faults.append(Fault("absent", "likely"))
    if zero:
        faults.append(Fault("zero", "likely"))
    return Checked("layers", {"absent": absent, "zero": zero}, faults, {"number": len(layers)})


def check_skipped_steps(
    grad_norms: np.ndarray | None = None,
    losses: np.ndarray | None = None,
    logged_norms: Sequence[float] | None = None,
    precision: str | None = None,
) -> Checked | None:
    """Steps with a NaN or Inf gradient and a finite loss: fp16's loss scaler skips them."""
    if grad_norms is not None and np.isfinite(grad_norms).any():
        bad = ~np.isfinite(grad_norms) & (True if losses is None else np.isfinite(losses))
        number, total, logged = int(bad.sum()), len(grad_norms), False
        at_start = number > 0 and bool(bad[:number].all())
    elif logged_norms is not None and len(logged_norms):
        bad = ~np.isfinite(np.asarray(logged_norms, float))
        number, total, logged, at_start = int(bad.sum()), len(logged_norms), True, False
    else:
        return None
    faults = []
    if number and precision in ("no", "bf16"):
        faults.append(Fault("no scaler", "likely"))
    elif number / total > SKIPPED:
        faults.append(Fault("many", "likely"))
    elif number and not at_start:
        faults.append(Fault("some", "possible"))
    figures = {"skipped": number, "of": total, "precision": precision}
    return Checked("skipped steps", figures, faults, {"logged": logged})


def check_finite(
    losses: np.ndarray | None = None,
    steps: np.ndarray | None = None,
    logged_losses: Sequence[float] | None = None,
    nan_filter: bool | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> Checked | None:
    """NaN or Inf: in the verdict's evidence, else in the recorded training loss, else in the log, where the Trainer hides it."""
    if evidence is not None and "nonfinite" in evidence:
        first, count = evidence.get("first_nonfinite_step"), evidence.get("nonfinite_losses")
        figures = {"where": list(evidence["nonfinite"]), "first_step": first, "nonfinite": count}
        return Checked("NaN", figures, [Fault("in the evidence", "likely")])
    more = {}
    if losses is not None and len(losses):
        bad, kind = ~np.isfinite(losses), "in the record"
        first = int(np.asarray(steps)[bad.argmax()]) if bad.any() and steps is not None else None
        figures = {"nonfinite": int(bad.sum()), "of": len(losses), "first_step": first}
    elif logged_losses is not None and len(logged_losses):
        bad, kind = ~np.isfinite(np.asarray(logged_losses, float)), "in the log"
        figures = {"nonfinite": int(bad.sum()), "of": len(bad)}
        more["filtered"] = nan_filter is not False
    else:
        return None
    return Checked("NaN", figures, [Fault(kind, "likely")] if bad.any() else [], {"source": kind, **more})


# ---- the settings ---------------------------------------------------------------------------------------------------


def check_ended_early(step: int | None = None, total_steps: int | None = None) -> Checked | None:
    """A state or a record that ends before training did."""
    if not step or not total_steps:
        return None
    faults = [Fault("unfinished", "possible")] if step < total_steps else []
    return Checked("ended early", {"step": step, "total_steps": total_steps}, faults)


def check_update_steps(total_steps: int | None = None, adapters: str | None = None) -> Checked | None:
    """Few update steps: fewer than 1000 for a small data set (Mosbach et al. 2021, section 4.2, who train the whole model)."""
    if not total_steps:
        return None
    level = "likely" if total_steps < VERY_FEW_STEPS and not adapters else "possible"
    faults = [Fault("few", level, {"few": FEW_STEPS})] if total_steps < FEW_STEPS else []
    return Checked("update steps", {"total_steps": total_steps}, faults)


def check_warmup(
    warmup_steps: int | None = None, total_steps: int | None = None, uncorrected_beta2: float | None = None
) -> Checked | None:
    """No warmup, or a short one. Adam's first steps are its least certain ones, above all without bias correction."""
    if warmup_steps is None or not total_steps:
        return None
    share = warmup_steps / total_steps
    faults = [Fault("short" if warmup_steps else "none", "possible")] if share < SHORT_WARMUP else []
    if uncorrected_beta2 is not None and warmup_steps < untuned_warmup(uncorrected_beta2):
        faults.append(Fault("uncorrected", "possible", {"untuned": untuned_warmup(uncorrected_beta2)}))
    figures = {"warmup_steps": warmup_steps, "share": share}
    return Checked("warmup", figures, faults, {"total_steps": total_steps})


def check_rate(
    rates: np.ndarray | None = None,
    corrected_rates: np.ndarray | None = None,
    rate_steps: np.ndarray | None = None,
    bias_correction: bool | None = None,
    hidden_size: int | None = None,
    optimizer: str | None = None,
    adapters: str | None = None,
    rate_note: str | None = None,
) -> Checked | None:
    """The effective peak rate: the rate at which AdamW with bias correction makes equally large steps.

    It is compared with the paper's rate for the model's width: see `reference_rate` and `far_above` of `diagnostics.settings`.

    Adapters take rates that are 10 to 100 times higher, and the paper has none for them. LoRA's rate is compared with
    its authors', and is at most a possible cause. The rate of other adapters is only reported.
    """
    if rates is None or not len(rates) or not np.nanmax(rates) > 0:
        return None
    if optimizer is not None and "adam" not in optimizer:
        return None
    as_corrected = np.asarray(rates if corrected_rates is None else corrected_rates, float)
    at = int(np.nanargmax(as_corrected))
    peak, effective = float(np.nanmax(rates)), float(as_corrected[at])
    figures: dict[str, Any] = {"peak": peak, "effective_peak": effective, "at_step": int(np.asarray(rate_steps)[at])}
    more = {"assumed": bias_correction is None, "adapters": adapters, "note": rate_note}
    if adapters:
        figures["bias_correction"] = bias_correction is not False
        if adapters == "LORA":
            figures["reference"] = list(LORA_RATES)
        return Checked("learning rate", figures, _adapter_rate_faults(effective, adapters), more)
    reference = reference_rate(hidden_size)
    ratio = effective / reference
    figures |= {"reference": reference, "ratio": ratio, "bias_correction": bias_correction is not False}
    more["hidden_size"] = hidden_size
    more["lower_rate"] = lower_rate(peak, hidden_size)
    faults = []
    if ratio < RATE_SMALL:
        faults.append(Fault("small", "likely" if ratio < RATE_TINY else "possible"))
    elif ratio >= RATE_POSSIBLE:
        faults.append(Fault("large", "likely" if ratio >= far_above(hidden_size) else "possible"))
    return Checked("learning rate", figures, faults, more)


def _adapter_rate_faults(effective: float, adapters: str) -> list[Fault]:
    low, high = LORA_RATES
    if adapters == "LORA" and effective > LORA_FACTOR * high:
        return [Fault("large for adapters", "possible")]
    if adapters == "LORA" and effective < low / LORA_FACTOR:
        return [Fault("small for adapters", "possible")]
    return []


# ---- the verdict ----------------------------------------------------------------------------------------------------


def check_gradients(evidence: Mapping[str, Any] | None = None) -> Checked | None:
    """Vanished gradients, from the verdict's evidence. They are the paper's sign of a failed optimisation (section 5.1)."""
    if evidence is None or "gradients" not in evidence:
        return None
    gradients = dict(evidence["gradients"] or {})
    faults = []
    if gradients:
        faults.append(Fault("lasting", "likely") if gradients["lasting"] else Fault("healed", "possible"))
    return Checked("vanished gradients", gradients, faults)


def check_generalisation(status: str | None = None, evidence: Mapping[str, Any] | None = None) -> Checked | None:
    """A run that learned its training set, but scores like the majority-class baseline on dev: the optimisation worked."""
    if status is None or evidence is None or "optimisation" not in evidence:
        return None
    learned = evidence["optimisation"] in ("learned", "fitted")
    faults = [Fault("dev not learned", "likely")] if status == "failed" and learned else []
    figures = {"train_loss": evidence["train_loss"], "constant_loss": evidence["constant_loss"]}
    return Checked("train and dev", figures, faults, {"learned": learned})


def check_stuck_loss(
    evaluations: Sequence[tuple[int, float | None, float, float | None]] | None = None, num_labels: int | None = None
) -> Checked | None:
    """An evaluation loss that stays at ln K, the loss of a model that ignores its input if K classes are equally frequent.

    It stays there if all evaluations of the second half of training, at least two, are within 0.02 of it, and none before is
    lower. A training loss more than 0.05 below it, or an accuracy more than 0.1 above 1 / K, speaks against it. If K is not
    known, it is that of the nearest ln K, from 2 to 16.
    """
    rows = [row for row in evaluations or () if math.isfinite(row[2])]
    if len(rows) < 2:
        return None
    losses = np.array([row[2] for row in rows])
    late = losses[min(len(rows) // 2, len(rows) - 2) :]
    known = num_labels is not None and num_labels > 1
    number = num_labels if known else min(range(2, MAX_CLASSES + 1), key=lambda k: abs(math.log(k) - np.median(late)))
    entropy, (step, train_loss, _, accuracy) = math.log(number), rows[-1]
    stuck = bool((np.abs(late - entropy) <= AT_LN_K).all() and losses.min() >= entropy - AT_LN_K)
    stuck &= train_loss is None or train_loss >= entropy - 0.05
    stuck &= accuracy is None or accuracy <= 1 / number + 0.1
    figures = {"loss": float(losses[-1]), "classes": number, "evaluations": len(rows)}
    more = {"from_step": rows[len(rows) - len(late)][0], "to_step": step, "inferred": not known}
    return Checked("stuck loss", figures, [Fault("at ln K", "likely")] if stuck else [], more)


def check_alarm(alarm: Mapping[str, Any] | None = None, status: str | None = None) -> Checked | None:
    """The early warning's alarm, if there was one."""
    if alarm is None:
        return None
    return Checked("early warning", dict(alarm), [Fault("alarm", "possible" if status == "ok" else "likely")])


def check_memorized(memorized: Mapping[str, Any] | None = None, adapters: str | None = None) -> Checked | None:
    """The result of `memorize`. A model that cannot learn 32 examples by heart has a bug, or too few weights for it."""
    if memorized is None:
        return None
    level = "possible" if memorized.get("trained_before", 0) or adapters else "likely"
    faults = [] if memorized["learned"] else [Fault("not learned", level)]
    return Checked("memorize", dict(memorized), faults, {"adapters": adapters})
