"""Finds the optimizer inside its wrappers, and the parameter group that trains the encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .layers import layers_of


def inner_optimizer(optimizer: Any) -> Any:
    """The optimizer inside accelerate's wrappers. Without a wrapper it is returned as it is, and so is None."""
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def peak_rate(group: Mapping[str, Any]) -> float:
    """A parameter group's learning rate before any schedule."""
    return float(group.get("initial_lr", group["lr"]))


def rates_differ(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Whether parameter groups have different peak rates."""
    return len({peak_rate(group) for group in groups}) > 1


def encoder_group(groups: Sequence[Mapping[str, Any]], model: nn.Module) -> int:
    """Index of the parameter group with most of the parameters of the encoder's layers.

    Ties go to the group with the highest peak learning rate, then to the first group. If the encoder's layers are frozen
    or missing, all groups tie. Without any group the index is 0.
    """
    layers = layers_of(model)
    encoder = {id(p) for name, group in layers.items() if "layer_" in name for p in group}
    sizes = [sum(p.numel() for p in group["params"] if id(p) in encoder) for group in groups]
    keys = [(size, peak_rate(group)) for size, group in zip(sizes, groups, strict=True)]
    return max(range(len(keys)), key=lambda i: (*keys[i], -i), default=0)
