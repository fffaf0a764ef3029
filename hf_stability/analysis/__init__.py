"""The paper's experiments: each takes a study's folder and gives numbers, tables, a figure and sentences.

A module has one analysis: its pure functions, its options, and a subclass of `Analysis`, of which `ANALYSIS` is the only object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:  # for editors and type checkers
    from .analysis import Analysis as Analysis
    from .analysis import Result as Result
    from .analysis import analyze as analyze
    from .finished_study import FinishedStudy as FinishedStudy

ANALYSES: dict[str, str] = {
    "gradients": "gradient norms by layer over training: failed runs against ok runs",
    "generalisation": "development score against train loss: does training longer hurt?",
    "churn": "on how many examples do two seeds of a recipe disagree?",
    "lr-bias-correction": "learning rate x bias correction x beta2, at nominal and effective rates",
    "dataset-size": "few examples: is it their number, or the number of update steps?",
    "interventions": "does a change in the middle of training save a failing run?",
    "ensemble": "the mean of n seeds (logits, weights) against one run and the best run",
}
"""Name of an analysis -> its purpose. The module has this name, with `_` for `-`."""

_HOME = {
    "Analysis": ".analysis",
    "Result": ".analysis",
    "analyze": ".analysis",
    "FinishedStudy": ".finished_study",
}

__all__ = ["ANALYSES", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name], __name__), name)
