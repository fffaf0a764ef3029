"""Component-wise gradient norm clipping: each parameter tensor's gradient is clipped by its own norm.

Yang & Ma, "Improving Stability of Fine-Tuning Pretrained Language Models via Component-Wise Gradient Norm Clipping" (EMNLP
2022, arXiv 2210.10325). Clipping all gradients together scales every component by what the largest one needs; here a query
matrix, a bias or a LayerNorm weight is scaled by what it needs itself. The components are those of the released code
(github.com/yangalan123/FineTuningStability, GradClipTrainer.py): every entry of `named_parameters()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError
from .base import Method, Range


CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_'s


@torch.no_grad()
def clip_components(gradients: Sequence[Tensor], max_norm: float, norms: Tensor | None = None) -> Tensor:
    """Scale each gradient down to a norm of `max_norm` at most, in place.

        g_i <- g_i min(1, c / (||g_i|| + 1e-6))

    The released code clips after every backward pass, that is each micro-batch's running sum; this clips the gradient of
    the update step, once. Without accumulation the two are the same.

    Args:
        gradients: one a parameter.
        max_norm: c, above 0.
        norms: `(len(gradients),)`, where they are known already.

    Returns:
        `(len(gradients),)`: the norms afterwards.

    Raises:
        InputError: `max_norm` is not above 0.
    """
    if not max_norm > 0:
        raise InputError(f"--component_clip {max_norm}: give a norm above 0, or 0 for no clipping by component")
    gradients = list(gradients)
    if norms is None:
        norms = torch.stack(torch._foreach_norm(gradients))
    factors = torch.clamp(max_norm / (norms + CLIP_EPS), max=1.0)
    torch._foreach_mul_(gradients, list(factors.unbind()))
    return norms * factors


@dataclass
class ComponentClipArguments:
    """The argument of [`ComponentClip`]."""

    component_clip: float = field(
        default=0.0,
        metadata={
            "help": "Clip the gradient of each parameter tensor to this norm (Yang & Ma 2022), before --max_grad_norm clips "
            "all of them together. 0: no."
        },
    )


class ComponentClip(Method):
    """[`clip_components`] at every update step."""

    Arguments = ComponentClipArguments
    ranges = {"component_clip": Range()}
    needs_whole_gradients = True

    def clip(self, gradients: Sequence[Tensor], norms: Tensor) -> Tensor:
        return clip_components(gradients, self.settings.component_clip, norms)
