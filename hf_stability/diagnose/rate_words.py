"""The sentences, remedies and flags of the learning rate's check; see `words`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..diagnostics import settings


STABLE_RECIPE = "--recipe mosbach2021"

RATE_MEANINGS = {
    "small": "At so small a rate the weights hardly move.",
    "large": settings.LARGE_STEPS,
    "small for adapters": "This is a whole model's rate, at which adapters hardly learn.",
    "large for adapters": "This is far above the usual range.",
}
"""The meaning of each fault of the rate."""

RATE_REMEDIES = {
    "small": "Raise the learning rate.",
    "large": settings.SMALLER_STEPS,
    "small for adapters": "Raise the learning rate.",
    "large for adapters": "Use a third of the rate and 10% warmup.",
}


def rate_sentence(values: Mapping[str, Any]) -> str:
    """The finding of the check of the learning rate."""
    text = "The peak learning rate is {peak:.2g}"
    if values["bias_correction"] and values["assumed"]:
        text += " (bias correction is assumed on)"
    text += ", for {adapters} adapters." if values["adapters"] else "."
    if not values["bias_correction"]:
        text += f" {settings.uncorrected_sentence(values['effective_peak'], values['at_step'])}"
    if values["adapters"]:
        text += " Adapters take higher rates than a whole model, and the paper has no bound for them."
        if "reference" in values:
            text += " LoRA's authors use {reference[0]:.0e} to {reference[1]:.0e}."
    else:
        text += f" {settings.ratio_sentence(values['ratio'], values['hidden_size'])}"
    meaning = "".join(f" {RATE_MEANINGS[kind]}" for kind in values["kinds"])
    return text.format(**values) + meaning + (f" {values['note']}" if values["note"] else "")


def rate_flags(values: Mapping[str, Any]) -> str:
    """The flags for another rate; empty if no recipe helps."""
    (kind,) = values["kinds"]
    if kind == "small":
        return f"--learning_rate {values['reference']:.2g}"
    return f"{STABLE_RECIPE} --learning_rate {values['lower_rate']:.2g}" if kind == "large" else ""
