"""The diagnostic `step_factor`: what bias correction multiplies Adam's step by."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...methods.adamw import effective_step_factor
from ...utils.optimizers import inner_optimizer
from .base import Probe


def step_factor(step: Tensor, beta1: float = 0.9, beta2: float = 0.999) -> Tensor:
    """[`effective_step_factor`][hf_stability.methods.adamw.effective_step_factor] as a tensor, in the counter's precision.

        sqrt(1 - beta2^t) / (1 - beta1^t)

    For optimizers that count on the device (fused, capturable): reading their counter would wait for the device.

    Args:
        step: `(...)` number of the update t, from 1, of a floating type.
        beta1, beta2: Adam's decay rates, in [0, 1).
    """
    # 1 - beta^t = -expm1(t log beta): exact in float32 too, where 1 - 0.999 has lost four digits.
    log1, log2 = (math.log(beta) if beta > 0 else -math.inf for beta in (beta1, beta2))
    return torch.sqrt(-torch.expm1(step * log2)) / -torch.expm1(step * log1)


class StepFactor(Probe):
    """`step_factor`: what bias correction multiplies Adam's step by.

        sqrt(1 - beta2^t) / (1 - beta1^t)        1 without bias correction

    t and the betas are the optimizer's own, of the first parameter that it has updated: a step that fp16 scaling skips
    does not count, and shows the factor of the one before it. Times `learning_rate`, this is the rate in effect; with
    `lr_bias_correction` the factor is in `learning_rate` already. NaN for what is not torch's Adam or AdamW.

    Source: Kingma & Ba (ICLR 2015, arXiv 1412.6980), end of section 2; Mosbach et al. (ICLR 2021) on what it does.
    Cost: none to speak of; no memory, no pass over the parameters.
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
        # A copy from the host would wait for the device, filling with a number does not.
        return torch.full((1,), float(effective_step_factor(float(step), beta1, beta2)), device=self._device)

    def stop(self) -> None:
        self._optimizer = None


def _adam_group(optimizer: Any) -> tuple[Any, dict[str, Any]] | None:
    """Step count and parameter group of the first parameter that torch's Adam or AdamW has updated; None without."""
    if not isinstance(optimizer, torch.optim.Adam):  # AdamW is one of them
        return None
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if state and "step" in state:
                return state["step"], group
    return None
