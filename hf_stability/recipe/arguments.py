"""The training arguments that a recipe or flag can set: Hugging Face's, ours, and those of each method."""

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
from ..packed.support import HF, STEPS


SEED, GENTLE = "seed", "gentle"
"""Values of `restart_with` besides the names of recipes."""


@dataclass
class StabilityArguments(MethodArguments):
    """Our own arguments. They come after those of the methods."""

    total_train_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Examples per update step, over all devices and accumulation steps. The batch size per device follows: "
            "this / (processes x gradient_accumulation_steps). Default: none; per_device_train_batch_size counts."
        },
    )
    seed_streams: bool = field(
        default=False,
        metadata={
            "help": "Draw initialisation, data order and dropout from three independent random streams, made from --seed "
            "by numpy's SeedSequence. Default: off, as in Hugging Face's Trainer, where seeds 1 and 2 share the data order of "
            "most epochs. All packaged recipes switch it on."
        },
    )
    init_seed: int | None = field(
        default=None,
        metadata={"help": "Seed of the new head's initialisation. Default with --seed_streams: made from --seed."},
    )
    dropout_seed: int | None = field(
        default=None, metadata={"help": "Seed of dropout. Default with --seed_streams: made from --seed."}
    )
    on_alarm: str = field(
        default="warn",
        metadata={
            "help": "At an alarm: none, warn, stop (end the run) or restart (from its start). Default: warn. A stopped run counts as "
            "censored, not failed. A restart begins again at update step 0, with other seeds and --restart_with; it also reacts "
            "to a loss or gradients that are NaN or Inf.",
            "choices": ["none", "warn", "stop", "restart"],
        },
    )
    max_restarts: int = field(
        default=2,
        metadata={
            "help": "With --on_alarm restart: how often a run may begin again. Default: 2. Its last attempt is trained to the "
            "end and judged as any run."
        },
    )
    restart_with: str = field(
        default="gentle",
        metadata={
            "help": "With --on_alarm restart: what changes, besides the seeds. seed: nothing else. gentle: bias correction on, a "
            "third of the learning rate at each restart, warmup over at least a tenth of training. A recipe's name: its values. "
            "Default: gentle."
        },
    )
    audit_alarms: float = field(
        default=0.2,
        metadata={
            "help": "With --on_alarm stop or restart, in a study: the probability of finishing a run (or its first attempt) in spite of "
            "its alarm. The finished ones show how many of the others would have failed. The run's seed decides. Default: 0.2."
        },
    )
    diagnostics: list[str] | None = field(
        default=None,
        metadata={
            "help": f"More to record at each update step: {', '.join(PROBES)}, or all. It changes no result and takes time. "
            "Default: none."
        },
    )
    preflight: str = field(
        default="warn",
        metadata={
            "help": "Before the first step, log a line for each setting that often makes runs fail: or none. A study says these "
            "lines in --dry_run. Default: warn.",
            "choices": ["warn", "none"],
        },
    )
    step: str = field(
        default=HF,
        metadata={
            "help": "The forward pass of a sequence classifier. hf: Hugging Face's. packed: the same function without padding, and "
            "with the last layer for [CLS] only, for BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA and ALBERT. It is faster. It draws "
            "dropout in another order, so single runs differ. Default: hf.",
            "choices": list(STEPS),
        },
    )


@lru_cache
def argument_types(methods: tuple[type[Method], ...] = ()) -> dict[str, Any]:
    """Every training argument that a recipe or flag can set: name -> type.

    Args:
        methods: the user's own methods. Their arguments are added.

    Raises:
        InputError: one of their arguments has a name that is taken.
    """
    types: dict[str, Any] = {}
    for part in (TrainingArguments, StabilityArguments, *(method.Arguments for method in methods)):
        hints = typing.get_type_hints(part)
        own = {f.name: hints[f.name] for f in dataclasses.fields(part) if f.init}
        if twice := types.keys() & own.keys():
            raise InputError(f"{part.__name__}: there is an argument {min(twice)} already; give this one another name")
        types |= own
    return types
