"""The paper's experiments: each takes a study's folder and gives numbers, tables, a figure and sentences.

A module has one analysis: its pure functions, its options, and a subclass of `Analysis`, of which `ANALYSIS` is the only object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .packaged import ANALYSES


if TYPE_CHECKING:  # for editors and type checkers
    from .analysis import Analysis as Analysis
    from .analysis import Result as Result
    from .analysis import analyze as analyze
    from .finished_study import FinishedStudy as FinishedStudy

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
