"""What can be set: Hugging Face's training arguments, ours, and each method's."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from transformers import TrainingArguments

from ..diagnostics.probes import PROBES
from ..errors import InputError
from ..methods import Method, MethodArguments


@dataclass
class StabilityArguments(MethodArguments):
    """Our own arguments, after those of the methods."""

    total_train_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Examples an update step over all devices and accumulation steps. The per-device size is derived: "
            "this / (processes x gradient_accumulation_steps)."
        },
    )
    seed_streams: bool = field(
        default=False,
        metadata={
            "help": "Draw initialisation, data order and dropout from three separate random streams, made from --seed "
            "by numpy's SeedSequence. Off: Hugging Face's habit, where seeds 1 and 2 share the order of most epochs."
        },
    )
    init_seed: int | None = field(
        default=None,
        metadata={"help": "Seed of the new head's initialisation. Default with --seed_streams: from --seed."},
    )
    dropout_seed: int | None = field(
        default=None, metadata={"help": "Seed of dropout. Default with --seed_streams: from --seed."}
    )
    on_alarm: str = field(
        default="warn",
        metadata={
            "help": "What the early warning does to a run that looks like one that will fail: log a warning, also stop it "
            "(it is then censored, not failed), or neither. The alarm is recorded in any case.",
            "choices": ["none", "warn", "stop"],
        },
    )
    audit_alarms: float = field(
        default=0.2,
        metadata={
            "help": "With --on_alarm stop, in a study: finish each alarmed run anyway with this probability, drawn from the "
            "run's seed, to learn how many of the stopped ones would have failed."
        },
    )
    diagnostics: list[str] | None = field(
        default=None,
        metadata={
            "help": f"More to record at each update step: {', '.join(PROBES)}, or all. Changes no result, takes time."
        },
    )


@lru_cache
def argument_types(methods: tuple[type[Method], ...] = ()) -> dict[str, Any]:
    """Every training argument that can be set, with its type.

    Args:
        methods: the user's own, whose arguments come with the others.

    Raises:
        InputError: one of their arguments is there already.
    """
    types: dict[str, Any] = {}
    for part in (TrainingArguments, StabilityArguments, *(method.Arguments for method in methods)):
        hints = typing.get_type_hints(part)
        own = {f.name: hints[f.name] for f in dataclasses.fields(part) if f.init}
        if twice := types.keys() & own.keys():
            raise InputError(f"{part.__name__}: there is an argument {min(twice)} already; give this one another name")
        types |= own
    return types
