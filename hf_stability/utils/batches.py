"""Counts batches and update steps as the Trainer does, before there is a Trainer.

`args` has the training arguments that are set, by name. The others have the Trainer's defaults. `devices` is the number of
processes that train together, times the GPUs per process.
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
        devices: processes, times the GPUs per process.
        accumulation: accumulation steps.
        per_device: the user's value. None if it was not given.

    Raises:
        InputError: `total` cannot be divided, or `per_device` is another number.
    """
    if accumulation < 1:
        raise InputError(f"--gradient_accumulation_steps {accumulation}: must be 1 or more.")
    parts = devices * accumulation
    if total < 1 or total % parts:
        raise InputError(
            f"--total_train_batch_size {total} cannot be divided by {devices} device(s) x {accumulation} accumulation "
            f"step(s). Give a multiple of {parts}, or change --gradient_accumulation_steps or the number of processes."
        )
    if per_device not in (None, total // parts):
        raise InputError(
            f"--per_device_train_batch_size {per_device} contradicts --total_train_batch_size {total}, which makes it "
            f"{total // parts}. Leave it out. To save memory, raise --gradient_accumulation_steps; for another batch size, "
            "change --total_train_batch_size."
        )
    return total // parts


def steps_per_epoch(args: Mapping[str, Any], examples: int, devices: int = 1) -> int:
    """Update steps per epoch, at least 1.

    The last update step of an epoch may have fewer micro-batches than the others. The last micro-batch may have fewer
    examples, unless `dataloader_drop_last` is set.

    Args:
        args: training arguments by name.
        examples: number of training examples.
        devices: processes, times the GPUs per process.
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
