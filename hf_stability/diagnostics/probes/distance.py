"""The diagnostic `distance`: distance of the weights from the start of training."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..gradients import tensor_norms
from .base import Probe


logger = logging.getLogger(__name__)


@torch.no_grad()
def distance(now: Sequence[Tensor], start: Sequence[Tensor], seed_axis: bool = False) -> Tensor:
    """L2 distance of a layer's weights: `||now - start||`. Differences in the weights' precision, their sum in float32.

    Args:
        now: the layer's tensors now.
        start: the layer's tensors at the start.
        seed_axis: whether the first axis of each tensor is the seed.

    Returns:
        0-d, or `(seeds,)` with `seed_axis`.
    """
    return norm(torch._foreach_sub(list(now), list(start)), seed_axis)


class Distance(Probe):
    """Columns `distance/<layer>`: distance of the layer's weights from the start of training.

        ||w - w_start||        w_start: the pretrained weights; for a new head, its random initial weights

    The value is NaN in a resumed run, because the weights at its start are not known.

    Source: Radiya-Dixit & Wang, "How fine can fine-tuning be?" (AISTATS 2020, arXiv 2004.14129).

    Cost: memory, on the model's device, for a copy of the trainable weights and for the difference of the largest layer.
    In each step a difference of all weights and one norm of it.
    """

    name = "distance"

    def start(
        self,
        model: nn.Module,
        layers: dict[str, list[nn.Parameter]],
        *,
        max_grad_norm: float = 0.0,
        resumed: bool = False,
    ) -> None:
        super().start(model, layers, max_grad_norm=max_grad_norm, resumed=resumed)
        self.columns = [f"{self.name}/{layer}" for layer in layers]
        if resumed:
            logger.warning(
                "diagnostic 'distance' is NaN: this run was resumed, and its weights at the start are not known."
            )
            return
        self._layers = [list(layer) for layer in layers.values()]
        self._start = copies(self._layers)

    def after_step(self) -> Tensor:
        if not self._start:
            return self._unknown()
        distances = [distance(layer, start) for layer, start in zip(self._layers, self._start, strict=True)]
        return torch.stack([d.to(self._device) for d in distances])

    def stop(self) -> None:
        self._layers, self._start = [], []


def norm(tensors: Sequence[Tensor], seed_axis: bool) -> Tensor:
    """L2 norm of all tensors together, the sum of their squares in float32."""
    return torch.linalg.vector_norm(tensor_norms(tensors, seed_axis).float(), dim=-1)


def copies(layers: list[list[nn.Parameter]]) -> list[list[Tensor]]:
    """Copies of the layers' current parameters."""
    return [[parameter.detach().clone() for parameter in layer] for layer in layers]
