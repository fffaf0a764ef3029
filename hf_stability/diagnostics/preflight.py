"""The check before the first update step: settings that often make a fine-tuning fail, one line each.

Each line says what is so, why it matters, and what to do. Without a finding there is no line. The rules are in `settings`,
where `hf_stability.diagnose` has them from too.

| finding | rule, source |
| --- | --- |
| weights in half precision | any trainable weight; see `precision` |
| too large steps | the effective peak rate, 2.5 times the paper's, or 4 times for models below 1024 units; see `settings.FAR_ABOVE` |
| short warmup | without bias correction: below 2 / (1 - beta2) update steps (Ma & Yarats 2021) |
| few steps | fewer than 1000 update steps (Mosbach et al. 2021, section 4.2) |
| a head that is lost | adapters on a head that was drawn at random; see `adapted_new_heads` |
| label smoothing | any, if an alarm would do something |

The second to the fourth are about the paper's case: the fine-tuning of a pretrained encoder with a new head. They are silent
for other models and beside adapters. The second and the third also need an Adam or AdamW.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..utils.adapters import adapted_new_heads, adapter_kind, is_fine_tuned
from ..utils.optimizers import encoder_group, inner_optimizer, peak_rate
from ..utils.text import rate_text
from .settings import (
    CORRECT_OR_LOWER,
    FEW_STEPS,
    FEW_STEPS_TEXT,
    LARGE_STEPS,
    TRAIN_LONGER,
    UNCORRECTED_WARMUP_TEXT,
    as_corrected,
    far_above,
    linear_rates,
    lost_head_sentence,
    ratio_sentence,
    reference_rate,
    save_the_head,
    smaller_steps,
    smoothing_sentence,
    uncorrected_sentence,
    untuned_warmup,
    warmup_of,
)


PREFLIGHT = ("warn", "none")


def known_choice(preflight: str | None) -> str | None:
    """The callback's `preflight`, checked. Raises InputError for an unknown value; None stays None."""
    if preflight not in (None, *PREFLIGHT):
        raise InputError(f"preflight {preflight!r}: must be one of {', '.join(PREFLIGHT)}.")
    return preflight


def check_rate(
    peak: float,
    total_steps: int,
    warmup_steps: int = 0,
    bias_correction: bool = True,
    beta1: float = 0.9,
    beta2: float = 0.999,
    width: int | None = None,
) -> str:
    """A line on a learning rate that is far above the paper's for this width; empty if it is not.

    Without bias correction the rate counts at which corrected steps are as large, at its highest over the Trainer's linear
    schedule.

    Args:
        peak: learning rate after warmup.
        total_steps: update steps of the run.
        warmup_steps: update steps of warmup.
        bias_correction: whether Adam's bias correction is on.
        beta1: Adam's decay rate of the gradient's running mean.
        beta2: Adam's decay rate of the squared gradient's running mean.
        width: hidden size, in units; None if unknown.
    """
    effective, at_step = peak, 0
    if not bias_correction:
        steps = np.arange(1, total_steps + 1)
        rates = as_corrected(linear_rates(peak, total_steps, warmup_steps), steps, beta1, beta2)
        at = int(rates.argmax())
        effective, at_step = float(rates[at]), int(steps[at])
    ratio = effective / reference_rate(width)
    if ratio < far_above(width) * (1 - 1e-9):  # 5e-5 is 2.5 times 2e-5, but not in floating point
        return ""
    sentences = [f"The peak learning rate is {rate_text(peak)}."]
    sentences += [] if bias_correction else [uncorrected_sentence(effective, at_step)]
    remedy = smaller_steps(peak, width, bias_correction, warmup_steps / total_steps)
    return " ".join([*sentences, ratio_sentence(ratio, width), LARGE_STEPS, remedy])


def check_warmup(warmup_steps: int, total_steps: int, beta2: float = 0.999) -> str:
    """A line on a warmup that is too short for AdamW without bias correction; empty if it is not."""
    untuned = untuned_warmup(beta2)
    if warmup_steps >= untuned:
        return ""
    values = {"warmup_steps": warmup_steps, "total_steps": total_steps, "untuned": untuned}
    return f"{UNCORRECTED_WARMUP_TEXT.format(**values)} {CORRECT_OR_LOWER}"


def check_update_steps(total_steps: int) -> str:
    """A line on few update steps; empty if they are not few."""
    if total_steps >= FEW_STEPS:
        return ""
    return f"{FEW_STEPS_TEXT.format(total_steps=total_steps, few=FEW_STEPS)} {TRAIN_LONGER}"


def check_arguments(
    args: Mapping[str, Any],
    total_steps: int,
    width: int | None = None,
    peak: float | None = None,
    new_head: bool = True,
) -> list[str]:
    """The lines that training arguments alone give: on rate, warmup, update steps and label smoothing.

    Args:
        args: training arguments by name. A missing one has the Trainer's default.
        total_steps: update steps of the run.
        width: hidden size, in units; None if unknown.
        peak: the encoder's learning rate after warmup. Default: `learning_rate`.
        new_head: whether a pretrained encoder is fine-tuned with a new head. If not, only label smoothing is checked.

    Returns:
        a line for each finding.
    """
    lines = []
    optimizer = args.get("optim", "adamw")
    if new_head and "adam" in str(getattr(optimizer, "value", optimizer)):
        warmup = warmup_of(args, total_steps)
        betas = args.get("adam_beta1", 0.9), args.get("adam_beta2", 0.999)
        corrects = bool(args.get("bias_correction", True) or args.get("lr_bias_correction"))
        peak = args.get("learning_rate", 5e-5) if peak is None else peak
        lines.append(check_rate(peak, total_steps, warmup, corrects, *betas, width))
        lines += [] if corrects else [check_warmup(warmup, total_steps, betas[1])]
    if new_head:
        lines.append(check_update_steps(total_steps))
    if args.get("label_smoothing_factor") and args.get("on_alarm") != "none":
        lines.append(smoothing_sentence(args["label_smoothing_factor"]))
    return [line for line in lines if line]


def preflight(
    args: Any,
    total_steps: int,
    model: torch.nn.Module,
    optimizer: Any = None,
    half_precision: str = "",
    on_alarm: Any = "warn",
) -> list[str]:
    """The lines on a training that is about to begin.

    Args:
        args: the Trainer's training arguments.
        total_steps: update steps of the run.
        model: the model to be trained.
        optimizer: the training's optimizer, perhaps the user's own.
        half_precision: the line of `half_precision_weights`; empty for none.
        on_alarm: what an alarm does; see `StabilityCallback`.

    Returns:
        one line for each finding; empty if there is none.
    """
    lines = [half_precision] if half_precision else []
    values, peak = {**vars(args), "on_alarm": on_alarm}, None
    inner = inner_optimizer(optimizer)
    if groups := getattr(inner, "param_groups", ()):
        group = groups[encoder_group(groups, model)]
        peak, betas = peak_rate(group), group.get("betas", (0.9, 0.999))
        values |= {"optim": type(inner).__name__.lower(), "bias_correction": group.get("bias_correction", True)}
        values |= {"adam_beta1": float(betas[0]), "adam_beta2": float(betas[1])}
    width = getattr(getattr(model, "config", None), "hidden_size", None)
    new_head = is_fine_tuned(model) and adapter_kind(model) is None
    lines += check_arguments(values, total_steps, width, peak, new_head)
    if heads := adapted_new_heads(model):
        lines.append(f"{lost_head_sentence(heads)} {save_the_head(heads)}")
    return lines
