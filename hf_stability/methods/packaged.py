"""All packaged methods, in one ordered tuple, and what goes for all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from .adamw import BiasCorrection
from .base import Method
from .child_tuning import ChildTuningMethod
from .component_clip import ComponentClip
from .layerwise_lr import LayerwiseLR
from .mixout import Mixout
from .prior_decay import PriorDecayMethod
from .r3f import R3F
from .r_drop import RDrop
from .reinit import Reinit


METHODS: tuple[type[Method], ...] = (
    BiasCorrection,
    Reinit,
    Mixout,
    PriorDecayMethod,
    LayerwiseLR,
    ComponentClip,
    RDrop,
    R3F,
    ChildTuningMethod,
)
"""All of them, in the order in which a trainer calls their hooks."""

MethodArguments = dataclasses.make_dataclass(
    "MethodArguments",
    [],
    bases=tuple(method.Arguments for method in reversed(METHODS)),  # fields come in the order of METHODS
    namespace={"__module__": __name__, "__doc__": "The arguments of all methods."},
)


def argument_names(methods: Sequence[type[Method]] = METHODS) -> tuple[str, ...]:
    """The names of these methods' arguments."""
    return tuple(field.name for method in methods for field in dataclasses.fields(method.Arguments))


def methods_of(args: Any) -> tuple[type[Method], ...]:
    """The methods that these training arguments have values for: ours, then the user's own."""
    return METHODS + tuple(getattr(args, "own_methods", ()))


def make_methods(args: Any) -> list[Method]:
    """An object of each method, with the values of these training arguments."""
    return [method.from_arguments(args) for method in methods_of(args)]


def check_methods(args: Mapping[str, Any], methods: Sequence[type[Method]] = METHODS) -> None:
    """Refuse values that no training could start with, and methods that contradict each other.

    Args:
        args: training arguments by name; what is missing has its default.
    """
    made = [method.from_arguments(args) for method in methods]
    for method in made:
        method.check_values()
    for method in made:
        if method.is_on:
            method.check(args)
