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


# Where the step counter starts without bias correction. Both factors, 1 - beta1^t and 1 - beta2^t, are then exactly 1
# in double precision (for any beta below 0.999996), so that torch's own kernels run uncorrected and unchanged. It is
# not larger because the counter is a float32, which counts in ones only up to 2^24 = 16 777 216: this leaves 6.7
# million updates, after which the counter stands still and the factors still are 1.
UNCORRECTED_START = 10_000_000

# The optimizers that run torch's AdamW kernels, the ones that have a bias correction to leave out.
TORCH_ADAMW = ("adamw_torch", "adamw_torch_fused")


def effective_step_factor(
    step: ArrayLike, beta1: float = 0.9, beta2: float = 0.999, bias_correction: bool = True
) -> float | NDArray[np.float64]:
    """What bias correction multiplies Adam's step by at update `step`, up to the effect of eps.

        factor(t) = sqrt(1 - beta2^t) / (1 - beta1^t)        1 without bias correction

    With the default betas:

    | t      | 1     | 10    | 100   | 156   | 468   | 1000  |
    | ------ | ----- | ----- | ----- | ----- | ----- | ----- |
    | factor | 0.3162 | 0.1532 | 0.3086 | 0.3801 | 0.6115 | 0.7952 |

    The factor stays below 1 for the first thousands of updates: leaving the correction out enlarges the steps of the
    start, 3.2-fold at the first update and 6.5-fold at the tenth. A fine-tuning run on a small data set ends before
    that has worn off (RTE, 3 epochs: 468 updates).

    Source: Kingma & Ba, "Adam" (ICLR 2015, arXiv 1412.6980), end of section 2, and Mosbach, Andriushchenko & Klakow
    (ICLR 2021, arXiv 2006.04884) on what it does to fine-tuning.

    Args:
        step: number of the update, from 1, unit: optimizer updates. A number, or an array of any shape.
        beta1, beta2: Adam's decay rates, in [0, 1).
        bias_correction: False gives 1 everywhere.

    Returns:
        A float for a number, else a float64 array of `step`'s shape.

    Raises:
        InputError: a step is below 1, or a beta is outside [0, 1).
    """
    t = np.asarray(step, dtype=np.float64)
    if not np.all(t >= 1):
        raise InputError(f"step counts the updates from 1, got {step!r}")
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= beta < 1:
            raise InputError(f"{name} must lie in [0, 1), got {beta!r}")
    factor = np.sqrt(1 - beta2**t) / (1 - beta1**t) if bias_correction else np.ones_like(t)
    return float(factor) if factor.ndim == 0 else factor


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` with one more keyword, `bias_correction`.

    One update t with gradient g, learning rate lr, weight decay wd:

        theta <- theta - lr wd theta
        m     <- beta1 m + (1 - beta1) g
        v     <- beta2 v + (1 - beta2) g^2
        theta <- theta - lr (m / c1) / (sqrt(v / c2) + eps)

        c1, c2 = 1 - beta1^t, 1 - beta2^t    with bias correction
        c1, c2 = 1, 1                        without

    With correction this is torch's AdamW bit for bit: same state, same code. Without, it still is torch's code, fused
    and foreach included, with the step counter started at `UNCORRECTED_START`, where c1 and c2 are exactly 1: what
    `state["step"]` then counts is `UNCORRECTED_START` plus the updates of that parameter.

    The optimizer of the paper's released code differs in two places:

    - eps is outside the correction there, `lr sqrt(c2) / c1 * m / (sqrt(v) + eps)`. Written like that, the eps here is
      `eps sqrt(c2)`. Without correction the two are the same. So `bias_correction=False` at the rate `lr sqrt(c2) / c1`
      is their corrected step (`lr_bias_correction`, recipe `mosbach2021_released`).
    - The weights decay after the step there. One update then differs by lr wd of the step: 2e-7 of it at lr 2e-5 and
      wd 0.01. Their decay's rate is lr, without the factor; in the recipe `mosbach2021_released` it has the factor.

    Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019, arXiv 1711.05101); BERT's own
    optimizer has no correction (Devlin et al., NAACL 2019, arXiv 1810.04805); what that does to fine-tuning: Mosbach,
    Andriushchenko & Klakow (ICLR 2021, arXiv 2006.04884).

    Args:
        params: parameters, named parameters or parameter groups. A group may have a `bias_correction` of its own.
        lr, betas, eps, weight_decay, amsgrad: as in torch, with torch's defaults. BERT's eps is 1e-6.
        bias_correction: divide the moments by c1 and c2. Default True, as in torch. It is kept in the parameter
            groups and thus in the `state_dict`. A parameter takes it up at its first gradient: changing the group's
            value later has no effect on parameters that were already updated.
        kwargs: torch's other keywords, `fused`, `foreach`, `capturable`, `differentiable`, `maximize`.

    Raises:
        InputError (a ValueError): `bias_correction` is not a bool; or it is False with a beta so close to 1 that
            c1 and c2 would not be 1; or, from `load_state_dict`, the saved groups have another `bias_correction`
            than this optimizer's (a state of `torch.optim.AdamW` counts as True).
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
        # torch's __init__ comes through here as well, before our default is known: __init__ checks those groups.
        if "bias_correction" in self.defaults:
            _check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def _init_group(self, group: dict[str, Any], *lists: list[torch.Tensor]) -> bool:
        # torch makes the state of a parameter at its first gradient. It decides where the counter lives and of which
        # type it is; only the counter's start is ours.
        fresh = []
        if not group["bias_correction"]:
            fresh = [p for p in group["params"] if p.grad is not None and not self.state.get(p)]
        has_complex = super()._init_group(group, *lists)
        for p in fresh:
            self.state[p]["step"].fill_(UNCORRECTED_START)
        return has_complex

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, after checking that its groups agree with ours on `bias_correction`."""
        for i, (ours, saved) in enumerate(zip(self.param_groups, state_dict["param_groups"], strict=False)):
            # torch's own AdamW has no such key and always corrects.
            theirs = saved.get("bias_correction", True)
            if theirs != ours["bias_correction"]:
                raise InputError(
                    f"cannot load this optimizer state: its parameter group {i} was trained with "
                    f"bias_correction={theirs}, this optimizer has bias_correction={ours['bias_correction']}. "
                    f"Resume with bias_correction={theirs}, or start afresh"
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
        raise InputError(f"bias_correction must be True or False, got {bias_correction!r}")
    if bias_correction:
        return
    for i, beta in enumerate(group["betas"], start=1):
        beta = float(beta)
        if 1 - beta**UNCORRECTED_START != 1:
            raise InputError(
                f"beta{i}={beta!r} is too close to 1 for bias_correction=False: the correction would still be felt "
                f"at step {UNCORRECTED_START}, where the counter starts. Use a beta{i} of at most 0.999996"
            )


@dataclass
class BiasCorrectionArguments:
    """The arguments of [`BiasCorrection`]."""

    bias_correction: bool = field(
        default=True,
        metadata={
            "help": "Adam's bias correction. BERT's original optimizer leaves it out, which makes early steps larger "
            "by up to 6.5 times and runs fail (Mosbach et al. 2021)."
        },
    )
    lr_bias_correction: bool = field(
        default=False,
        metadata={
            "help": "Put what bias correction does to the step into the learning rate: at update t it is multiplied by "
            "sqrt(1 - beta2^t) / (1 - beta1^t). Goes with --bias_correction false, and equals true up to eps and weight decay."
        },
    )


class BiasCorrection(Method):
    """AdamW without bias correction, and the same correction as a factor of the learning rate. With correction: torch's own."""

    Arguments = BiasCorrectionArguments
    is_common = True

    def check_values(self) -> None:
        super().check_values()
        if self.settings.lr_bias_correction and self.settings.bias_correction:
            raise InputError(
                "--lr_bias_correction true: the optimizer corrects already, and the step would be corrected twice; "
                "give --bias_correction false, too"
            )

    def check(self, args: Mapping[str, Any]) -> None:
        optim = args.get("optim", TORCH_ADAMW[0])
        if optim not in TORCH_ADAMW:
            raise InputError(
                f"--optim {getattr(optim, 'value', optim)}: bias correction can be left out of torch's AdamW only. "
                f"Give --optim {' or '.join(TORCH_ADAMW)}, or --bias_correction true."
            )

    def change_optimizer(self, optimizer_cls: Any, kwargs: dict[str, Any], args: Any) -> tuple[Any, dict[str, Any]]:
        if optimizer_cls is not torch.optim.AdamW:
            raise InputError(f"--bias_correction false: --optim {args.optim} is not torch's AdamW")
        return AdamW, {**kwargs, "bias_correction": False}

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        # An optimizer that was passed in goes past change_optimizer: the argument must not be lost on it.
        if any(group.get("bias_correction", True) for group in optimizer.param_groups):
            raise InputError(
                "--bias_correction false, but the optimizer passed to the Trainer has it on: "
                "pass hf_stability.AdamW(..., bias_correction=False)"
            )

    def change_scheduler(self, scheduler: Any, trainer: Any, passed_in: bool) -> Any:
        if not self.settings.lr_bias_correction:
            return scheduler
        if passed_in:
            raise InputError(
                "--lr_bias_correction true, but a scheduler was passed to the Trainer: pass the optimizer alone"
            )
        if not isinstance(scheduler, LambdaLR):
            kind = getattr(trainer.args.lr_scheduler_type, "value", trainer.args.lr_scheduler_type)
            raise InputError(
                f"--lr_bias_correction true: --lr_scheduler_type {kind} is no function of the step; give another"
            )
        betas = trainer.args.adam_beta1, trainer.args.adam_beta2

        def corrected(shape: Callable[[int], float]) -> Callable[[int], float]:
            return lambda done: (
                shape(done) * float(effective_step_factor(done + 1, *betas))
            )  # update t follows t - 1 done

        return LambdaLR(scheduler.optimizer, [corrected(shape) for shape in scheduler.lr_lambdas])
