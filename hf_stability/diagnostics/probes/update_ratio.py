"""The diagnostic `update_ratio`: size of the update relative to the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Probe
from .distance import copies, distance, norm


@torch.no_grad()
def update_ratio(after: Sequence[Tensor], before: Sequence[Tensor], seed_axis: bool = False) -> Tensor:
    """Size of an update relative to a layer's weights: `||after - before|| / ||before||`.

    Args:
        after: the layer's tensors after the step.
        before: the layer's tensors before the step.
        seed_axis: whether the first axis of each tensor is the seed.

    Returns:
        0-d, or `(seeds,)` with `seed_axis`. NaN if the weights were all zero.
    """
    size = norm(before, seed_axis)
    return torch.where(size > 0, distance(after, before, seed_axis) / size, torch.nan)


class UpdateRatio(Probe):
    """Columns `update_ratio/<layer>`: size of the update relative to the layer's weights.

        ||w_after - w_before|| / ||w_before||

    Weight decay is part of the update. The value is 0 at a step that fp16 scaling skips.

    Source: the inverse of the ratio in You, Gitman & Ginsburg ("Large batch training of convolutional networks", 2017,
    arXiv 1708.03888), with the update in place of the gradient.

    Cost: memory, on the model's device, for a copy of the trainable weights and for the difference of the largest layer.
    In each step a copy and a difference of all weights, and two norms of them.
    """

    name = "update_ratio"

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
        self._layers = [list(layer) for layer in layers.values()]
        self._before = copies(self._layers)

    @torch.no_grad()
    def before_step(
        self, optimizer: torch.optim.Optimizer, total_norm: Tensor, before_clipping: bool, step: int
    ) -> None:
        for before, layer in zip(self._before, self._layers, strict=True):
            torch._foreach_copy_(before, list[Tensor](layer))

    def after_step(self) -> Tensor:
        ratios = [update_ratio(layer, before) for layer, before in zip(self._layers, self._before, strict=True)]
        return torch.stack([ratio.to(self._device) for ratio in ratios])

    def stop(self) -> None:
        self._layers, self._before = [], []
