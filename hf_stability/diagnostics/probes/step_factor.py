"""The diagnostic `step_factor`: the factor by which bias correction scales Adam's step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...methods.adamw import effective_step_factor
from ...utils.optimizers import inner_optimizer
from .base import Probe


def step_factor(step: Tensor, beta1: float = 0.9, beta2: float = 0.999) -> Tensor:
    """`hf_stability.methods.adamw.effective_step_factor` as a tensor, in the counter's precision.

        sqrt(1 - beta2^t) / (1 - beta1^t)

    For optimizers that count on the device (fused, capturable). Reading their counter would wait for the device.

    Args:
        step: `(...)` number of the update t, from 1, floating point.
        beta1: Adam's decay rate of the mean, in [0, 1).
        beta2: Adam's decay rate of the squares, in [0, 1).
    """
    # 1 - beta^t = -expm1(t log beta). This is exact in float32, too; 1 - 0.999 loses four digits there.
    log1, log2 = (math.log(beta) if beta > 0 else -math.inf for beta in (beta1, beta2))
    return torch.sqrt(-torch.expm1(step * log2)) / -torch.expm1(step * log1)


class StepFactor(Probe):
    """Column `step_factor`: the factor by which bias correction scales Adam's step.

        sqrt(1 - beta2^t) / (1 - beta1^t)        1 without bias correction

    `learning_rate` times this factor is the rate in effect. With `lr_bias_correction` the factor is already in
    `learning_rate`. t and the betas are the optimizer's, for the first parameter that it has updated. A step that fp16
    scaling skips does not count; it shows the factor of the step before. The value is NaN for optimizers other than
    torch's Adam and AdamW.

    Source: Kingma & Ba (ICLR 2015, arXiv 1412.6980), end of section 2. Mosbach et al. (ICLR 2021) show its effect.

    Cost: negligible. No memory, no pass over the parameters.
    """

    name = "step_factor"

    def before_step(
        self, optimizer: torch.optim.Optimizer, total_norm: Tensor, before_clipping: bool, step: int
    ) -> None:
        self._optimizer = inner_optimizer(optimizer)

    def after_step(self) -> Tensor:
        found = _adam_group(self._optimizer)
        if found is None:
            return self._unknown()
        step, group = found
        if not group.get("bias_correction", True):
            return torch.ones(1, device=self._device)
        beta1, beta2 = (float(beta) for beta in group["betas"])
        if isinstance(step, Tensor) and step.device.type != "cpu":
            return step_factor(step.float(), beta1, beta2).reshape(1).to(self._device)
        if step < 1:  # the first step was skipped
            return self._unknown()
        # Copying from the host would wait for the device; filling with a number does not.
        return torch.full((1,), float(effective_step_factor(float(step), beta1, beta2)), device=self._device)

    def stop(self) -> None:
        self._optimizer = None


def _adam_group(optimizer: Any) -> tuple[Any, dict[str, Any]] | None:
    """Step count and parameter group of the first parameter that torch's Adam or AdamW has updated. None if there is none."""
    if not isinstance(optimizer, torch.optim.Adam):  # AdamW is a subclass
        return None
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if state and "step" in state:
                return state["step"], group
    return None
