"""Update clipping: AdamW's step of each parameter tensor is clipped by its own size, as in StableAdamW (arXiv 2304.13013)."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .adamw import check_optim
from .base import Method, Range


def update_rms(gradient: Tensor, second_moment: Tensor, eps: float) -> Tensor:
    """The size of AdamW's step for a parameter tensor, `sqrt(mean(g^2 / max(v, eps^2)))`, 0-d: 1 where g^2 is what v expects.

    Args:
        gradient: g.
        second_moment: v, of the same shape: the running mean of g^2 with this g, corrected as the optimizer corrects it.
        eps: the optimizer's.
    """
    return (gradient.square() / second_moment.clamp(min=eps**2)).mean().sqrt()


@dataclass
class UpdateClipArguments:
    """The argument of `UpdateClip`."""

    update_clip: float = field(
        default=0.0,
        metadata={
            "help": "StableAdamW's update clipping: divide AdamW's step of a parameter tensor by RMS / this, where the RMS of "
            "g / sqrt(v) is above this (Wortsman et al. 2023: 1). It replaces --max_grad_norm. 0: off."
        },
    )


class UpdateClip(Method):
    """Update clipping: a parameter tensor takes a smaller step where its gradient is larger than AdamW expects.

    AdamW divides by the root of v, a slow mean of g^2. Where the gradient suddenly grows, v is too small for a while and the
    steps are too large. Clipping the gradient does not prevent that, because AdamW's step does not depend on its scale. With
    it AdamW is StableAdamW. Paper: Wortsman et al., "Stable and low-precision training for large-scale vision-language
    models" (NeurIPS 2023, [arXiv 2304.13013](https://arxiv.org/abs/2304.13013)), algorithm 2. The idea is Adafactor's
    (Shazeer & Stern 2018).

    Equation:
        w <- w + (AdamW's step of w) / max(1, RMS / d)

        RMS    sqrt(mean(g^2 / max(v, eps^2))), one per parameter tensor
        g      gradient
        v      running mean of g^2, with this g, corrected (if the
               optimizer corrects)
        d      update_clip; the paper has d = 1

        Weight decay is a part of the step, as in the paper.

    When to use it:
        - Try it where the loss jumps after the gradients grew. It replaces clipping of the gradient: the recipe sets
          `max_grad_norm` to 0, and `bias_correction` to true, as in the paper.
        - It works with torch's AdamW only (`optim` `adamw_torch` or `adamw_torch_fused`), with and without bias correction.
        - It needs whole gradients in each process. DeepSpeed and FSDP are refused.

    Cost:
        Time: two more passes over the weights per update step. Memory: one copy of the weights, during the step.

    Differences:
        The Trainer's `--optim stable_adamw` takes the same steps, with the package torch-optimi. This needs no package.

    Measured here:
        Not run yet. [The protocol](remedies.md#not-run-yet) says how it will be.
    """

    Arguments = UpdateClipArguments
    ranges = {"update_clip": Range()}
    needs_whole_gradients = True
    before: list[tuple[dict[str, Any], Any, Tensor]]  # group, parameter, its values before the step

    def check(self, args: Mapping[str, Any]) -> None:
        check_optim("--update_clip", "leave out --update_clip", args)

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        if not isinstance(optimizer, torch.optim.AdamW):
            raise InputError(
                f"--update_clip: works only with torch's AdamW, but a {type(optimizer).__name__} was passed to the Trainer. "
                "Pass none, or leave out --update_clip."
            )

    def before_step(self, optimizer: torch.optim.Optimizer, steps_done: int) -> None:
        moving = ((group, p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
        self.before = [(group, p, p.detach().clone()) for group, p in moving]

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, steps_done: int) -> None:
        for group, p, before in self.before:
            state, beta2 = optimizer.state[p], float(group["betas"][1])
            # 1 - beta2^t on the counter's device, exact for small t in float32
            correction = -torch.expm1(state["step"] * math.log(max(beta2, sys.float_info.min)))
            rms = update_rms(p.grad, state["exp_avg_sq"] / correction, group["eps"])
            # NaN: the fused kernel left out a step of fp16 that overflowed, so the weights are those of before
            share = torch.nan_to_num(self.settings.update_clip / rms, nan=1.0).clamp(max=1.0)
            p.copy_(torch.lerp(before, p, share.to(p.dtype)))
        self.before = []
