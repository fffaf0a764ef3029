"""All packaged methods, in one ordered tuple, and functions over several methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from .adamw import BiasCorrection, BiasCorrectionArguments
from .averaging import Averaging, AveragingArguments
from .base import Method
from .child_tuning import ChildTuningArguments, ChildTuningMethod
from .component_clip import ComponentClip, ComponentClipArguments
from .gi_adam import GIAdamArguments, GIAdamMethod
from .head_first import HeadFirst, HeadFirstArguments
from .layerwise_lr import LayerwiseLR, LayerwiseLRArguments
from .lora import LoRA, LoRAArguments
from .mixout import Mixout, MixoutArguments
from .prior_decay import PriorDecayArguments, PriorDecayMethod
from .r3f import R3F, R3FArguments
from .r_drop import RDrop, RDropArguments
from .reinit import Reinit, ReinitArguments
from .update_clip import UpdateClip, UpdateClipArguments


METHODS: tuple[type[Method], ...] = (
    BiasCorrection,
    GIAdamMethod,
    Reinit,
    Mixout,
    HeadFirst,
    PriorDecayMethod,
    LoRA,
    LayerwiseLR,
    ComponentClip,
    RDrop,
    R3F,
    ChildTuningMethod,
    UpdateClip,
    Averaging,
)
"""The packaged methods, in the order in which a trainer calls their hooks."""


@dataclasses.dataclass
class MethodArguments(
    AveragingArguments,
    UpdateClipArguments,
    ChildTuningArguments,
    R3FArguments,
    RDropArguments,
    ComponentClipArguments,
    LayerwiseLRArguments,
    LoRAArguments,
    PriorDecayArguments,
    HeadFirstArguments,
    MixoutArguments,
    ReinitArguments,
    GIAdamArguments,
    BiasCorrectionArguments,
):
    """The arguments of all packaged methods: METHODS backwards, because a dataclass takes the fields of its last base first.

    The bases are written out for type checkers.
    """


def argument_names(methods: Sequence[type[Method]] = METHODS) -> tuple[str, ...]:
    """The names of these methods' arguments."""
    return tuple(field.name for method in methods for field in dataclasses.fields(method.Arguments))


def methods_of(args: Any) -> tuple[type[Method], ...]:
    """The methods that these training arguments have values for: the packaged ones, then the user's own."""
    return METHODS + tuple(getattr(args, "own_methods", ()))


def make_methods(args: Any) -> list[Method]:
    """One object per method, with the values of these training arguments."""
    return [method.from_arguments(args) for method in methods_of(args)]


def check_methods(args: Mapping[str, Any], methods: Sequence[type[Method]] = METHODS) -> None:
    """Check the values of methods, and whether the methods that are on can be used together.

    Args:
        args: training arguments by name. Missing ones have their defaults.
        methods: the methods to check.

    Raises:
        InputError: a value is out of its range, or two methods contradict each other.
    """
    made = [method.from_arguments(args) for method in methods]
    for method in made:
        method.check_values()
    for method in made:
        if method.is_on:
            method.check(args)
