"""The diagnostic `clipping`: the factor by which clipping scales the gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...methods.component_clip import CLIP_EPS
from .base import Probe


def is_clipped(total: Tensor, max_grad_norm: float, before_clipping: bool = True) -> Tensor:
    """Whether a step was clipped: `(...)`, bool. The arguments are those of `clip_factor`.

    After clipping, the norm of a clipped step equals the limit, up to rounding in its precision and the 1e-6 in torch's
    formula.
    """
    if not max_grad_norm:
        return torch.zeros_like(total, dtype=torch.bool)
    if before_clipping:
        return total > max_grad_norm
    rounding = max(1e-4, 2 * torch.finfo(total.dtype).eps)
    return total >= max_grad_norm**2 / (max_grad_norm + CLIP_EPS) * (1 - rounding)


def clip_factor(total: Tensor, max_grad_norm: float, before_clipping: bool = True) -> Tensor:
    """Factor by which clipping scales the gradient: `min(1, max_grad_norm / (total + 1e-6))`, as in torch.

    Args:
        total: `(...)` total gradient norms.
        max_grad_norm: the limit, 0 for no clipping.
        before_clipping: whether `total` was taken before clipping. After clipping, the norm of a clipped step equals the
            limit, so its factor cannot be known.

    Returns:
        `(...)` in [0, 1]: 1 for a step without clipping, NaN if the factor is not known or `total` is NaN.
    """
    if not max_grad_norm:
        return torch.ones_like(total, dtype=torch.float32)
    if before_clipping:
        return torch.clamp(max_grad_norm / (total.float() + CLIP_EPS), max=1.0)
    lost = is_clipped(total, max_grad_norm, before_clipping) | total.isnan()
    return torch.where(lost, torch.nan, 1.0)


class Clipping(Probe):
    """Column `clip_factor`: the factor by which clipping scales the gradient.

        c = min(1, max_grad_norm / (||g|| + 1e-6))        c = 1 with max_grad_norm 0

    A norm after clipping is the norm before clipping times c. This is true of each layer, too. A callback on a stock
    Trainer sees only norms after clipping: c is then NaN at a clipped step, else 1.

    Source: Pascanu, Mikolov & Bengio (ICML 2013, arXiv 1211.5063), algorithm 1. The 1e-6 is torch's.

    Cost: negligible. No memory, no pass over the parameters.
    """

    name = "clipping"

    def start(
        self,
        model: nn.Module,
        layers: dict[str, list[nn.Parameter]],
        *,
        max_grad_norm: float = 0.0,
        resumed: bool = False,
    ) -> None:
        super().start(model, layers, max_grad_norm=max_grad_norm, resumed=resumed)
        self.columns = ["clip_factor"]
        self._max_grad_norm = max_grad_norm

    def before_step(
        self, optimizer: torch.optim.Optimizer, total_norm: Tensor, before_clipping: bool, step: int
    ) -> None:
        self._factor = clip_factor(total_norm.detach(), self._max_grad_norm, before_clipping)

    def after_step(self) -> Tensor:
        return self._factor.to(self._device)[None]

    def stop(self) -> None:
        self._factor = None
