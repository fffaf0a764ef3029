"""AdamW with Adam's bias correction as a switch: off in BERT's original recipe, on in the stable one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.optim.lr_scheduler import LambdaLR

from ..errors import InputError
from .base import Method


# Without bias correction the step counter starts here. Both factors, 1 - beta1^t and 1 - beta2^t, are then exactly 1 in
# double precision (for any beta up to 0.999996), so torch's own kernels run uncorrected and unchanged. A larger start is
# not possible: the counter is a float32 and counts in ones only up to 2^24 = 16 777 216. That leaves 6.7 million updates.
# After them the counter no longer moves, and the factors stay 1.
UNCORRECTED_START = 10_000_000

# The values of --optim that run torch's AdamW kernels: only they have a bias correction to leave out.
TORCH_ADAMW = ("adamw_torch", "adamw_torch_fused")


def effective_step_factor(
    step: ArrayLike, beta1: float = 0.9, beta2: float = 0.999, bias_correction: bool = True
) -> float | NDArray[np.float64]:
    """The factor by which bias correction multiplies Adam's step, up to the effect of eps.

    `factor(t) = sqrt(1 - beta2^t) / (1 - beta1^t)` at update t, and 1 without bias correction. With the default betas:

    | t      | 1     | 10    | 100   | 156   | 468   | 1000  |
    | ------ | ----- | ----- | ----- | ----- | ----- | ----- |
    | factor | 0.3162 | 0.1532 | 0.3086 | 0.3801 | 0.6115 | 0.7952 |

    The factor stays below 1 for the first thousands of updates. Without the correction early steps are therefore larger:
    3.2 times at the first update, 6.5 times at the tenth. Fine-tuning on a small data set ends before that has worn off
    (RTE, 3 epochs: 468 updates).

    Source: Kingma & Ba, "Adam" (ICLR 2015, arXiv 1412.6980), end of section 2. Its effect on fine-tuning: Mosbach,
    Andriushchenko & Klakow (ICLR 2021, arXiv 2006.04884).

    Args:
        step: number of the update step, from 1. A number, or an array of any shape.
        beta1: Adam's decay rate of the gradient's running mean, in [0, 1).
        beta2: Adam's decay rate of the squared gradient's running mean, in [0, 1).
        bias_correction: False gives 1 everywhere.

    Returns:
        A float for a number, else a float64 array of the shape of `step`.

    Raises:
        InputError: a step is below 1, or a beta is outside [0, 1).
    """
    t = np.asarray(step, dtype=np.float64)
    if not np.all(t >= 1):
        raise InputError(f"step={step!r}: update steps are counted from 1; give 1 or more.")
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= beta < 1:
            raise InputError(f"{name}={beta!r}: must be 0 or more, and below 1.")
    factor = np.sqrt(1 - beta2**t) / (1 - beta1**t) if bias_correction else np.ones_like(t)
    return float(factor) if factor.ndim == 0 else factor


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` with one more keyword, `bias_correction`.

    Update t with gradient g, learning rate lr, weight decay wd:

        theta <- theta - lr wd theta
        m     <- beta1 m + (1 - beta1) g
        v     <- beta2 v + (1 - beta2) g^2
        theta <- theta - lr (m / c1) / (sqrt(v / c2) + eps)

        c1, c2 = 1 - beta1^t, 1 - beta2^t    with bias correction
        c1, c2 = 1, 1                        without

    With correction this is torch's AdamW bit for bit: same state, same code. Without correction it still runs torch's code,
    fused and foreach included. The step counter then starts at 10 000 000, where c1 and c2 are exactly 1. So
    `state["step"]` is 10 000 000 plus the updates of that parameter.

    The optimizer in the released code of Mosbach et al. differs in two places:

    - Their eps is outside the correction: `lr sqrt(c2) / c1 * m / (sqrt(v) + eps)`. In that form the eps here is
      `eps sqrt(c2)`. Without correction the two are the same. So `bias_correction=False` with the learning rate
      `lr sqrt(c2) / c1` is their corrected step (`lr_bias_correction`, recipe `mosbach2021_released`).
    - Their weights decay after the step. This changes an update by lr wd of its size: 2e-7 of it at lr 2e-5 and wd 0.01.
      Their decay uses lr without the factor. In the recipe `mosbach2021_released` it has the factor.

    Sources: Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019, arXiv 1711.05101). BERT's own optimizer
    has no correction: Devlin et al. (NAACL 2019, arXiv 1810.04805). Its effect on fine-tuning: Mosbach, Andriushchenko &
    Klakow (ICLR 2021, arXiv 2006.04884).

    Args:
        params: parameters, named parameters or parameter groups. A group may have its own `bias_correction`.
        lr: learning rate, default 1e-3 as in torch.
        betas: decay rates of the running means of the gradient and of its square, default (0.9, 0.999) as in torch.
        eps: added to the denominator, default 1e-8 as in torch. BERT's is 1e-6.
        weight_decay: decoupled weight decay, default 0.01 as in torch.
        amsgrad: as in torch.
        bias_correction: divide the moments by c1 and c2. Default True, as in torch. The value is kept in the parameter
            groups, and so in the `state_dict`. A parameter takes it up at its first gradient. Changing the group's value
            later has no effect on parameters that were already updated.
        kwargs: torch's other keywords: `fused`, `foreach`, `capturable`, `differentiable`, `maximize`.

    Raises:
        InputError: a subclass of `ValueError`. `bias_correction` is not a bool. Or it is False with a beta so close to 1
            that c1 and c2 would not be 1. Or, from `load_state_dict`, the saved groups have another `bias_correction`
            (a state of `torch.optim.AdamW` counts as True).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | torch.Tensor = 1e-3,
        betas: tuple[float | torch.Tensor, float | torch.Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        bias_correction: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **kwargs)
        self.defaults["bias_correction"] = bias_correction
        for group in self.param_groups:
            group.setdefault("bias_correction", bias_correction)
            _check_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, checked before it is added; see `torch.optim.Optimizer.add_param_group`."""
        # torch's __init__ calls this too, before our default is known. Our __init__ checks those groups.
        if "bias_correction" in self.defaults:
            _check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def _init_group(self, group: dict[str, Any], *lists: list[torch.Tensor]) -> bool:
        # torch makes a parameter's state at its first gradient, and decides the counter's device and type. Only the
        # start of the counter is ours.
        fresh = []
        if not group["bias_correction"]:
            fresh = [p for p in group["params"] if p.grad is not None and not self.state.get(p)]
        has_complex = super()._init_group(group, *lists)
        for p in fresh:
            self.state[p]["step"].fill_(UNCORRECTED_START)
        return has_complex

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; its groups must have the same `bias_correction` as this optimizer's."""
        for i, (ours, saved) in enumerate(zip(self.param_groups, state_dict["param_groups"], strict=False)):
            # torch's own AdamW has no such key and always corrects.
            theirs = saved.get("bias_correction", True)
            if theirs != ours["bias_correction"]:
                raise InputError(
                    f"Cannot load this optimizer state: its parameter group {i} was trained with "
                    f"bias_correction={theirs}, this optimizer has bias_correction={ours['bias_correction']}. "
                    f"Resume with bias_correction={theirs}, or start a new training."
                )
        super().load_state_dict(state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("bias_correction", True)  # loaded from torch's AdamW
            _check_group(group)


def _check_group(group: dict[str, Any]) -> None:
    """Raise InputError unless `bias_correction` is a bool that these betas allow."""
    bias_correction = group["bias_correction"]
    if not isinstance(bias_correction, bool):
        raise InputError(f"bias_correction={bias_correction!r}: must be True or False.")
    if bias_correction:
        return
    for i, beta in enumerate(group["betas"], start=1):
        beta = float(beta)
        if 1 - beta**UNCORRECTED_START != 1:
            raise InputError(
                f"beta{i}={beta!r} is too close to 1 for bias_correction=False: the correction would still have an effect "
                f"at step {UNCORRECTED_START}, where the counter starts. Give beta{i} at most 0.999996."
            )


def check_optim(flag: str, way_out: str, args: Mapping[str, Any]) -> None:
    """Refuse training arguments with another optimizer than torch's AdamW: `flag` does not work with it."""
    optim = args.get("optim", TORCH_ADAMW[0])
    if optim not in TORCH_ADAMW:
        raise InputError(
            f"--optim {getattr(optim, 'value', optim)}: {flag} works only with torch's AdamW. "
            f"Give --optim {' or '.join(TORCH_ADAMW)}, or {way_out}."
        )


@dataclass
class BiasCorrectionArguments:
    """The arguments of `BiasCorrection`."""

    bias_correction: bool = field(
        default=True,
        metadata={
            "help": "Adam's bias correction. BERT's original optimizer leaves it out: early steps are then up to 6.5 times as "
            "large, and runs fail (Mosbach et al. 2021). With false, --optim must be torch's AdamW."
        },
    )
    lr_bias_correction: bool = field(
        default=False,
        metadata={
            "help": "Multiply the learning rate at update step t by sqrt(1 - beta2^t) / (1 - beta1^t), as in the code of Mosbach "
            "et al. (2021). Needs --bias_correction false. Equals --bias_correction true, up to eps and weight decay."
        },
    )


class BiasCorrection(Method):
    """Bias correction: Adam's correction of its running means, which BERT's original fine-tuning leaves out.

    Adam's running means start at 0. The correction divides them by c1 and c2, so that they are right from the first step.
    Without it the early steps are up to 6.5 times as large. Mosbach, Andriushchenko & Klakow (ICLR 2021,
    [arXiv 2006.04884](https://arxiv.org/abs/2006.04884)) recommend it, with a small learning rate, against vanishing gradients
    early in training. The correction is from Kingma & Ba (ICLR 2015,
    [arXiv 1412.6980](https://arxiv.org/abs/1412.6980)).

    Equation:
        w <- w - lr (m / c1) / (sqrt(v / c2) + eps)

        with correction         c1 = 1 - beta1^t,  c2 = 1 - beta2^t
        without                 c1 = c2 = 1
        in the learning rate    c1 = c2 = 1, and lr is multiplied by
                                sqrt(1 - beta2^t) / (1 - beta1^t)

        t        number of the update step, from 1
        m, v     running means of the gradient and of its square
        lr       learning rate; weight decay is a step of its own (AdamW)

    When to use it:
        - Leave `bias_correction` on, as it is by default.
        - Switch it off to reproduce BERT's original fine-tuning (recipe `devlin2019`).
        - `lr_bias_correction` with `bias_correction` off is the update step in the released code of Mosbach et al. (recipe
          `mosbach2021_released`).
        - Off, it works with torch's AdamW only (`optim` `adamw_torch` or `adamw_torch_fused`). Every other optimizer is
          refused. `lr_bias_correction` refuses a scheduler that you pass in, and one that is not a function of the step.

    Cost:
        None in time and memory. torch's own kernels run with and without it.

    Differences:
        The code of Mosbach et al. adds eps to sqrt(v), this adds it to sqrt(v / c2), as torch does. Their weights decay after
        the step, here before it. See `hf_stability.AdamW`, which also works without a Trainer.

    Measured here:
        On `demo_pair` at learning rate 2.5e-4, 11 of 20 runs of `devlin2019` failed, and none of 20 with the correction on and
        all else equal (Fisher's exact test, p < 0.001 after Holm's correction). None of 20 failed either with a learning rate
        lower by the correction's mean factor, or with 20 epochs and no correction. See [the demo](demo.md).
    """

    Arguments = BiasCorrectionArguments
    is_common = True

    def check_values(self) -> None:
        super().check_values()
        if self.settings.lr_bias_correction and self.settings.bias_correction:
            raise InputError(
                "--lr_bias_correction true: the optimizer already corrects, so the step would be corrected twice. "
                "Add --bias_correction false."
            )

    def check(self, args: Mapping[str, Any]) -> None:
        check_optim("--bias_correction false", "--bias_correction true", args)

    def change_optimizer(self, optimizer_cls: Any, kwargs: dict[str, Any], args: Any) -> tuple[Any, dict[str, Any]]:
        if optimizer_cls is not torch.optim.AdamW:
            raise InputError(
                f"--bias_correction false: --optim {args.optim} is not torch's AdamW. Give --optim adamw_torch."
            )
        return AdamW, {**kwargs, "bias_correction": False}

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        # change_optimizer does not see an optimizer that was passed in: the argument must not be ignored silently.
        if any(group.get("bias_correction", True) for group in optimizer.param_groups):
            raise InputError(
                "--bias_correction false, but the optimizer that was passed to the Trainer has it on. "
                "Pass hf_stability.AdamW(..., bias_correction=False)."
            )

    def change_scheduler(self, scheduler: Any, trainer: Any, passed_in: bool) -> Any:
        if not self.settings.lr_bias_correction:
            return scheduler
        if passed_in:
            raise InputError(
                "--lr_bias_correction true, but a scheduler was passed to the Trainer. Pass the optimizer alone."
            )
        if not isinstance(scheduler, LambdaLR):
            kind = getattr(trainer.args.lr_scheduler_type, "value", trainer.args.lr_scheduler_type)
            raise InputError(
                f"--lr_bias_correction true: --lr_scheduler_type {kind} is not a function of the step. Give another one, "
                "such as linear."
            )
        betas = trainer.args.adam_beta1, trainer.args.adam_beta2

        def corrected(shape: Callable[[int], float]) -> Callable[[int], float]:
            return lambda done: (
                shape(done) * float(effective_step_factor(done + 1, *betas))
            )  # `done` counts from 0, t from 1

        return LambdaLR(scheduler.optimizer, [corrected(shape) for shape in scheduler.lr_lambdas])
