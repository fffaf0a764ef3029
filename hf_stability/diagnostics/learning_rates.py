"""Learning rates of an optimizer's parameter groups: which one is the encoder's, and whether they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..utils.layers import layers_of


def rates_differ(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an optimizer's groups have different peak rates."""
    return len({float(group.get("initial_lr", group["lr"])) for group in groups}) > 1


def encoders_group(groups: Sequence[Mapping[str, Any]], model: nn.Module) -> int:
    """Index of the parameter group that has most of the encoder's layers' parameters; of equals the highest rate's."""
    layers = layers_of(model)
    encoder = {id(p) for name, group in layers.items() if "layer_" in name for p in group}
    sizes = [sum(p.numel() for p in group["params"] if id(p) in encoder) for group in groups]
    keys = [(size, float(group.get("initial_lr", group["lr"]))) for size, group in zip(sizes, groups, strict=True)]
    return max(range(len(keys)), key=lambda i: (*keys[i], -i), default=0)
