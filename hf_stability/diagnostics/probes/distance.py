"""The diagnostic `distance`: how far the weights are from where training began."""

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
    """L2 distance of a layer's weights: `||now - start||`; differences in the weights' precision, their sum in float32.

    Args:
        now, start: the layer's tensors, then and now.
        seed_axis: whether the first axis of each is the seeds'.

    Returns:
        0-d, or `(seeds,)` with `seed_axis`.
    """
    return norm(torch._foreach_sub(list(now), list(start)), seed_axis)


class Distance(Probe):
    """`distance/<layer>`: how far the layer's weights are from where training began; see [`distance`].

        ||w - w_start||        w_start: the pretrained weights, of a new head its random ones

    NaN in a resumed run, whose start is not known.

    Source: Radiya-Dixit & Wang, "How fine can fine-tuning be?" (AISTATS 2020, arXiv 2004.14129).
    Cost: memory for a copy of the trainable weights, on their device, and for the difference of the largest layer; each
    step a difference of all weights, and a norm of it.
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
            logger.warning("diagnostic 'distance' is NaN: in a resumed run the weights it began with are not known.")
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
    """Copies of the layers' parameters as they are now."""
    return [[parameter.detach().clone() for parameter in layer] for layer in layers]
