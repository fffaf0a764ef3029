"""Rules on a run's settings, and their sentences. Used before training (`preflight`) and after it (`hf_stability.diagnose`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..methods.adamw import effective_step_factor
from ..utils.text import joined, rate_text


# ---- the learning rate ----------------------------------------------------------------------------------------------

PAPER_RATE, PAPER_WIDTH = 2e-5, 1024  # Mosbach et al. 2021, section 6; units of their models, all of them large

FAR_ABOVE, FAR_ABOVE_NARROW = 2.5, 4.0
"""Bounds of the effective peak rate, in multiples of `reference_rate`, from which on steps are too large.

The first is for models of the paper's width. Du & Nguyen (ACL 2023, arXiv 2302.07778) trained bert-large-uncased at 5e-5 with
bias correction, which is 2.5 times: 10, 11 and 13 of 20 runs failed on RTE, MRPC and CoLA.

The second is for narrower models, and for an unknown width. On the demo's model of 64 units 0 of 10 runs of `devlin2019`
failed at 3.9 times, 4 of 10 at 4.9, and 9 of 10 at 5.9 (benchmarks/demo_study). The paper's `devlin2019` on RTE has 4.6. So
bert-base at the Trainer's default of 5e-5 (1.9 times) is within it.
"""

LARGE_STEPS = "Steps this large are a known cause of instability."


def reference_rate(width: int | None = None) -> float:
    """The paper's learning rate for a model of this width: 2e-5 x 1024 / width, and 2e-5 from 1024 units on.

    This is a rule of thumb: good rates of Adam fall about as one over the width (Yang & Hu 2021). It is measured here for
    one narrow model only, and for no model of more than 1024 units. There the paper's rate itself counts.

    Args:
        width: hidden size, in units. None if unknown: the paper's.
    """
    return PAPER_RATE * PAPER_WIDTH / min(width or PAPER_WIDTH, PAPER_WIDTH)


def far_above(width: int | None = None) -> float:
    """The bound for this width, in multiples of `reference_rate`; see `FAR_ABOVE`."""
    return FAR_ABOVE if width and width >= PAPER_WIDTH else FAR_ABOVE_NARROW


def linear_rates(peak: float, total_steps: int, warmup_steps: int = 0) -> NDArray[np.float64]:
    """The Trainer's linear schedule: the learning rate at each update step, `(total_steps,)`."""
    steps = np.arange(1, total_steps + 1)
    if not warmup_steps:
        return peak * (total_steps - steps + 1) / total_steps
    decay = (total_steps - steps + 1) / max(1, total_steps - warmup_steps)
    return peak * np.minimum((steps - 1) / warmup_steps, decay)


def as_corrected(rates: ArrayLike, steps: ArrayLike, beta1: float = 0.9, beta2: float = 0.999) -> NDArray[np.float64]:
    """The rates at which AdamW with bias correction makes the same steps as AdamW without it at `rates`.

    Args:
        rates: `(T,)`, the learning rates of the run without bias correction.
        steps: `(T,)`, their update steps, from 1.
        beta1: see `effective_step_factor`.
        beta2: see `effective_step_factor`.
    """
    return np.asarray(rates, float) / effective_step_factor(steps, beta1, beta2)


def uncorrected_sentence(effective_peak: float, at_step: int) -> str:
    """A sentence on the effect of a missing bias correction."""
    rate = rate_text(effective_peak)
    return f"Without bias correction, early steps are as large as at a rate of {rate} with it (step {at_step})."


def ratio_sentence(ratio: float, width: int | None = None) -> str:
    """A sentence that compares an effective peak rate with the paper's.

    Args:
        ratio: the effective peak rate over `reference_rate(width)`.
        width: hidden size, in units; None if unknown.
    """
    times = f"{ratio:.2g} times " if f"{ratio:.2g}" != "1" else ""
    scaled = width and width < PAPER_WIDTH
    end = f", scaled from {PAPER_WIDTH} to {width} units ({rate_text(reference_rate(width))})." if scaled else "."
    return f"This is {times}the paper's {rate_text(PAPER_RATE)}{end}"


def lower_rate(peak: float, width: int | None = None) -> float:
    """A rate for a run with too large steps: the paper's for this width, but no higher rate than the run has."""
    return min(peak, reference_rate(width))


def smaller_steps(peak: float, width: int | None = None, bias_correction: bool = False, warmup: float = 0.0) -> str:
    """The way out for too large steps: each of the paper's settings that the run does not have.

    Args:
        peak: learning rate after warmup.
        width: hidden size, in units; None if unknown.
        bias_correction: whether Adam's bias correction is on.
        warmup: share of the update steps.
    """
    lower = lower_rate(peak, width)
    changes = [f"a learning rate of at most {rate_text(lower)}"] if lower < peak else []
    changes += [] if bias_correction else ["bias correction"]
    changes += [] if warmup >= 0.1 else ["10% warmup"]
    return f"Use {joined(changes)}."


# ---- update steps and warmup ----------------------------------------------------------------------------------------

FEW_STEPS = 1000  # update steps; the paper, section 4.2: 3 epochs on 1000 examples are unstable

FEW_STEPS_TEXT = "The run has {total_steps} update steps, fewer than {few}. Short runs on small data are less stable."
TRAIN_LONGER = "Train longer. The paper's baseline trains for 20 epochs."

UNCORRECTED_WARMUP_TEXT = (
    "Warmup is {warmup_steps} of {total_steps} update steps, and Adam's bias correction is off. Until about step {untuned}, "
    "early steps are larger than they should be (Ma & Yarats 2021: warm up over 2 / (1 - beta2) steps)."
)
CORRECT_OR_LOWER = "Switch bias correction on, or use a third of the learning rate."
WARM_UP = "Raise the learning rate over the first 10% of the update steps."


def warmup_remedy(faults: Sequence[str]) -> tuple[str, str]:
    """The way out for a warmup, and the flag for it.

    Args:
        faults: `none`, `short`, or `uncorrected` (too short without bias correction), or several of them.
    """
    if list(faults) == ["uncorrected"]:
        return CORRECT_OR_LOWER, "--bias_correction true"
    return WARM_UP, "--warmup_steps 0.1"


def warmup_of(args: Mapping[str, Any], total_steps: int) -> int:
    """Update steps of warmup, as the Trainer takes them from its arguments.

    Args:
        args: training arguments by name. `warmup_steps` below 1 is a share of the update steps.
        total_steps: update steps of the run.
    """
    schedule = args.get("lr_scheduler_type")
    if getattr(schedule, "value", schedule) == "constant":  # this schedule ignores the warmup
        return 0
    given = args.get("warmup_steps") or args.get("warmup_ratio") or 0  # warmup_ratio: an older Trainer's
    return int(given) if given >= 1 else math.ceil(given * total_steps)


def untuned_warmup(beta2: float) -> int:
    """The update steps of an untuned linear warmup: 2 / (1 - beta2), 2000 for 0.999 and 100 for 0.98.

    Source: Ma & Yarats, "On the Adequacy of Untuned Warmup for Adaptive Optimization" (AAAI 2021, arXiv 1910.04209). Their
    rule is for Adam with bias correction. We ask for it only without the correction: there it is the time that the running
    mean of squares needs. With correction, shorter warmups did not fail (`mosbach2021` and the Trainer's defaults, 0 of 20
    runs each, benchmarks/demo_study).
    """
    return round(2 / (1 - beta2))


# ---- the head, and the loss -----------------------------------------------------------------------------------------


def lost_head_sentence(heads: Sequence[str]) -> str:
    """A sentence on head modules that have adapters, but were drawn at random; see `adapted_new_heads`."""
    return (
        f"The head ({', '.join(heads)}) is among the adapters' target modules, but its own weights were drawn at random. PEFT "
        "does not save them: each load draws them anew, and the trained head is lost."
    )


def save_the_head(heads: Sequence[str]) -> str:
    """The way out for `lost_head_sentence`."""
    names = list(dict.fromkeys(head.split(".")[0] for head in heads))
    return f"Set modules_to_save={names} in PEFT's config, and leave these modules out of target_modules."


def smoothing_sentence(smoothing: float) -> str:
    """A warning that label smoothing silences the early warning, with the way out."""
    return (
        f"label_smoothing_factor is {smoothing}: the model does not see the labels. Loss and classes are not recorded, and the "
        "early warning is silent. For an early warning, leave it out."
    )
