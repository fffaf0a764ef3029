"""Batches and update steps, as the Trainer counts them, before it is made.

`args` are training arguments by name, those that are set; the rest have the Trainer's defaults. `devices` is the number
of processes that train together, times the GPUs of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import InputError


PER_DEVICE, EPOCHS = 8, 3.0  # the Trainer's defaults


def total_batch_size(args: Mapping[str, Any], devices: int = 1) -> int:
    """Examples per update step: `total_train_batch_size` if set, else per device x devices x accumulation steps."""
    total = args.get("total_train_batch_size")
    return total or args.get("per_device_train_batch_size", PER_DEVICE) * devices * _accumulation(args)


def derived_batch_size(total: int, devices: int, accumulation: int, per_device: int | None = None) -> int:
    """Examples per device and micro-batch, so that an update step sees `total` examples.

    Args:
        total: examples per update step.
        devices: processes, times the GPUs of each.
        accumulation: accumulation steps.
        per_device: what the user gave; None for nothing.

    Raises:
        InputError: it cannot be divided, or `per_device` is another number.
    """
    if accumulation < 1:
        raise InputError(f"--gradient_accumulation_steps {accumulation}: give 1 or more")
    parts = devices * accumulation
    if total < 1 or total % parts:
        raise InputError(
            f"--total_train_batch_size {total} cannot be divided by {devices} device(s) x {accumulation} accumulation "
            f"step(s): give a multiple of {parts}, or another --gradient_accumulation_steps or number of processes."
        )
    if per_device not in (None, total // parts):
        raise InputError(
            f"--per_device_train_batch_size {per_device} contradicts --total_train_batch_size {total}, from which it is "
            f"derived ({total // parts}): to save memory give --gradient_accumulation_steps, for another batch give "
            "--total_train_batch_size."
        )
    return total // parts


def steps_per_epoch(args: Mapping[str, Any], examples: int, devices: int = 1) -> int:
    """Update steps per epoch, at least 1.

    The last update step of an epoch may have fewer micro-batches than the others, and the last micro-batch fewer examples
    unless `dataloader_drop_last` is set.

    Args:
        examples: in the training set.
    """
    micro_batch = total_batch_size(args, devices) // _accumulation(args)  # of all devices together
    if args.get("dataloader_drop_last"):
        batches = examples // micro_batch
    else:
        batches = math.ceil(examples / micro_batch)
    return max(1, math.ceil(batches / _accumulation(args)))


def planned_steps(args: Mapping[str, Any], examples: int, devices: int = 1) -> int:
    """Update steps per run: `max_steps` if set, else `num_train_epochs` x `steps_per_epoch`, rounded up."""
    if (args.get("max_steps") or -1) > 0:
        return args["max_steps"]
    return math.ceil(args.get("num_train_epochs", EPOCHS) * steps_per_epoch(args, examples, devices))


def _accumulation(args: Mapping[str, Any]) -> int:
    return args.get("gradient_accumulation_steps") or 1
