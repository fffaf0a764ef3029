"""The names of all analyses."""

from __future__ import annotations


ANALYSES: dict[str, str] = {
    "gradients": "gradient norms by layer over training: failed runs against ok runs",
    "generalisation": "development score against train loss: does training longer hurt?",
    "churn": "on how many examples do two seeds of a recipe disagree?",
    "ensemble": "the mean of n seeds (logits, weights) against one run and the best run",
}
"""Name of an analysis -> its purpose. The module has this name, with `_` for `-`."""
