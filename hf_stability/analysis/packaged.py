"""The names of all analyses."""

from __future__ import annotations


ANALYSES: dict[str, str] = {
    "gradients": "gradient norms by layer over training: failed runs against ok runs",
    "loss-surface": "loss and gradient norm on the plane through the start, a failed and an ok end",
    "layer-replacement": "forgetting: masked-LM perplexity with the top k layers put back to pretrained",
    "lr-bias-correction": "learning rate x bias correction x beta2, at nominal and effective rates",
    "dataset-size": "few examples: is it their number, or the number of update steps?",
    "generalisation": "development score against train loss: does training longer hurt?",
    "churn": "on how many examples do two seeds of a recipe disagree?",
    "ensemble": "the mean of n seeds (logits, weights) against one run and the best run",
    "interventions": "does a change in the middle of training save a failing run?",
}
"""Name of an analysis -> its purpose. The module has this name, with `_` for `-`."""
