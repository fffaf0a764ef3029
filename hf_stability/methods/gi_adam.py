"""GI-Adam: Adam's second moment starts at the first gradient's square, not at 0 (arXiv 2406.09405)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import InputError
from .adamw import AdamW, check_optim
from .base import Method


class GIAdam(AdamW):
    """`AdamW` with a second moment that starts at the square of each parameter's first gradient.

    See `GIAdamMethod` for the equation. Arguments and kernels are those of `hf_stability.AdamW`. A state of this optimizer
    is one of torch's AdamW: a training that is resumed needs nothing else.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[torch.Tensor]) -> bool:
        # torch makes a parameter's state at its first gradient, with v = 0. The same step then adds (1 - beta2) g^2 to v.
        fresh = [p for p in group["params"] if p.grad is not None and not self.state.get(p)]
        has_complex = super()._init_group(group, *lists)
        for p in fresh:
            # An overflow of fp16 must not stay in v for ever: such entries start at 0.
            self.state[p]["exp_avg_sq"].copy_(p.grad.square().nan_to_num(nan=0.0, posinf=0.0))
        return has_complex


@dataclass
class GIAdamArguments:
    """The argument of `GIAdamMethod`."""

    gi_adam: bool = field(
        default=False,
        metadata={
            "help": "GI-Adam: start Adam's second moment at the square of the first gradient, not at 0 (Kalra & Barkeshli 2024). "
            "Early steps are then smaller: by sqrt(1 - beta2^t), as long as gradients are of one size."
        },
    )


class GIAdamMethod(Method):
    """GI-Adam: Adam's second moment starts at the square of the first gradient, so that early steps are small.

    Adam starts v at 0, and its bias correction makes up for that. GI-Adam starts v at g_0^2 and leaves the correction as it
    is. Now v / c2 is too large at first, by 1 / c2, and steps are too small, by sqrt(c2). This is a warmup of about 1 / (1 -
    beta2) steps that needs no tuning. Paper: Kalra & Barkeshli, "Why Warmup the Learning Rate? Underlying Mechanisms and
    Improvements" (NeurIPS 2024, [arXiv 2406.09405](https://arxiv.org/abs/2406.09405)).

    Equation:
        v_0 = g_0^2                        (Adam: 0)
        v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
        w  <- w - lr (m_t / c1) / (sqrt(v_t / c2) + eps)

        c1, c2 = 1 - beta1^t, 1 - beta2^t
        g_0      gradient of update step 1, after clipping
        t        number of the update step, from 1

        If g_t^2 stays g_0^2, the step is sqrt(c2) of Adam's:
        0.03 at t = 1, 0.31 at t = 100, 0.80 at t = 1000 (beta2 0.999).

    When to use it:
        - Try it in place of a warmup, or with one, where early steps are too large.
        - Give the learning rate time: with beta2 0.999, a run of 200 steps ends at 0.43 of Adam's step.
        - It works with torch's AdamW only (`optim` `adamw_torch` or `adamw_torch_fused`) and with bias correction. The recipe
          sets both `gi_adam` and `bias_correction` to true.

    Cost:
        None in time and memory.

    Differences:
        The authors' code (github.com/dayal-kalra/why-warmup, `grads_adam`) takes g_0 from a batch before training. Here g_0 is
        the gradient of the first update step, after clipping. Their optimizer is Adam, here it is AdamW. With warmup, the
        learning rate of update step 1 is 0, so its step changes only the moments.

    Measured here:
        Not run yet. [The protocol](remedies.md#not-run-yet) says how it will be.
    """

    Arguments = GIAdamArguments

    def check(self, args: Mapping[str, Any]) -> None:
        check_optim("--gi_adam", "leave out --gi_adam", args)
        if not args.get("bias_correction", True):
            raise InputError(
                "--gi_adam with --bias_correction false: GI-Adam keeps the correction, which makes its early steps small. Give "
                "--bias_correction true, or leave out --gi_adam."
            )

    def change_optimizer(self, optimizer_cls: Any, kwargs: dict[str, Any], args: Any) -> tuple[Any, dict[str, Any]]:
        return GIAdam, kwargs

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        if not isinstance(optimizer, GIAdam):
            raise InputError(
                f"--gi_adam, but a {type(optimizer).__name__} was passed to the Trainer. Pass "
                "hf_stability.methods.gi_adam.GIAdam(...), or none."
            )
