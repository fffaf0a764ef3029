"""The sentences, remedies and flags of the learning rate's check; see `words`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..diagnostics import settings
from ..utils.text import rate_text


STABLE_RECIPE = "--recipe mosbach2021"

RATE_MEANINGS = {
    "small": "At so small a rate the weights hardly move.",
    "large": settings.LARGE_STEPS,
    "small for adapters": "This is a whole model's rate, at which adapters hardly learn.",
    "large for adapters": "This is far above the usual range.",
}
"""The meaning of each fault of the rate."""

RATE_REMEDIES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "small": lambda values: "Raise the learning rate.",
    "large": lambda values: settings.smaller_steps(values["peak"], values["hidden_size"], values["bias_correction"]),
    "small for adapters": lambda values: "Raise the learning rate.",
    "large for adapters": lambda values: "Use a third of the rate and 10% warmup.",
}
"""The way out of each fault of the rate, from the check's values."""


def rate_sentence(values: Mapping[str, Any]) -> str:
    """The finding of the check of the learning rate."""
    text = f"The peak learning rate is {rate_text(values['peak'])}"
    if values["bias_correction"] and values["assumed"]:
        text += " (bias correction is assumed on)"
    text += ", for {adapters} adapters." if values["adapters"] else "."
    if not values["bias_correction"]:
        text += f" {settings.uncorrected_sentence(values['effective_peak'], values['at_step'])}"
    if values["adapters"]:
        text += " Adapters take higher rates than a whole model, and the paper has no bound for them."
        if "reference" in values:
            low, high = map(rate_text, values["reference"])
            text += f" LoRA's authors use {low} to {high}."
    else:
        text += f" {settings.ratio_sentence(values['ratio'], values['hidden_size'])}"
    meaning = "".join(f" {RATE_MEANINGS[kind]}" for kind in values["kinds"])
    return text.format(**values) + meaning + (f" {values['note']}" if values["note"] else "")


def rate_flags(values: Mapping[str, Any]) -> str:
    """The flags for another rate; empty if no recipe helps."""
    (kind,) = values["kinds"]
    if kind == "small":
        return f"--learning_rate {rate_text(values['reference'])}"
    return f"{STABLE_RECIPE} --learning_rate {rate_text(values['lower_rate'])}" if kind == "large" else ""
