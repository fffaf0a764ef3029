"""Component-wise gradient norm clipping: clip the gradient of each parameter tensor by its own norm (arXiv 2210.10325)."""

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
    """Scale each gradient down to a norm of at most `max_norm`, in place: the equation of `ComponentClip`.

    Args:
        gradients: one per parameter.
        max_norm: c, above 0.
        norms: `(len(gradients),)`, the norms if they are already known.

    Returns:
        `(len(gradients),)`: the norms afterwards.

    Raises:
        InputError: `max_norm` is not above 0.
    """
    if not max_norm > 0:
        raise InputError(f"--component_clip {max_norm}: must be above 0; leave it out for no component-wise clipping.")
    gradients = list(gradients)
    if norms is None:
        norms = torch.stack(torch._foreach_norm(gradients))
    factors = torch.clamp(max_norm / (norms + CLIP_EPS), max=1.0)
    torch._foreach_mul_(gradients, list(factors.unbind()))
    return norms * factors


@dataclass
class ComponentClipArguments:
    """The argument of `ComponentClip`."""

    component_clip: float = field(
        default=0.0,
        metadata={
            "help": "Clip the gradient of each parameter tensor to this norm, before --max_grad_norm clips all of them together. "
            "The grid in the code of Yang & Ma (2022) is 0.01 to 5. 0: off."
        },
    )


class ComponentClip(Method):
    """Component-wise clipping: the gradient of each parameter tensor is clipped by its own norm.

    Global clipping scales all gradients by one factor, which the largest of them decides. Here every matrix, bias and
    LayerNorm weight has its own factor, so that one large gradient does not shrink the others. Paper: Yang & Ma, "Improving
    Stability of Fine-Tuning Pretrained Language Models via Component-Wise Gradient Norm Clipping" (EMNLP 2022,
    [arXiv 2210.10325](https://arxiv.org/abs/2210.10325)).

    Equation:
        g_i <- g_i min(1, c / (||g_i|| + 1e-6))

        g_i    gradient of parameter tensor i, an entry of named_parameters()
        c      component_clip

    When to use it:
        - Try it where the gradients of single layers explode. The record (`grad_norm/LAYER`) shows whether they do.
        - It did not help here. With the threshold of the recipe its failures are not shown to be fewer.
        - Set `max_grad_norm` to 0 with it, as the recipe does. Otherwise global clipping follows.
        - It needs whole gradients in each process. DeepSpeed and FSDP are refused.

    Cost:
        About none: the norms of all parameters are computed in any case. No memory.

    Differences:
        The released code (github.com/yangalan123/FineTuningStability) clips after every backward pass. This clips once per
        update step. Without gradient accumulation the two are the same.

    Measured here:
        On top of `devlin2019`, n = 20 per row: no difference is shown on `demo_pair`, at its own learning rate nor where
        `devlin2019` fails. On `demo_cola` the mean is lower. See [the remedies compared](remedies.md).
    """

    Arguments = ComponentClipArguments
    ranges = {"component_clip": Range()}
    needs_whole_gradients = True

    def clip(self, gradients: Sequence[Tensor], norms: Tensor) -> Tensor:
        return clip_components(gradients, self.settings.component_clip, norms)
