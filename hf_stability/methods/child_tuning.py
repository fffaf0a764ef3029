"""Child-Tuning: only a part of the gradient, that of a child network, reaches the optimizer.

Xu et al., "Raise a Child in Large Language Model: Towards Effective and Generalizable Fine-tuning" (EMNLP 2021, arXiv
2109.05687); the released code: github.com/alibaba/AliceMind, ChildTuning. As there, gradients are masked inside the optimizer,
after clipping: Adam's momentum, and weight decay, move the other weights too.

    F (task-free)      g <- g Bernoulli(p) / p      a new child at every step
    D (task-driven)    g <- g [F_i >= threshold]    one child: the weights of the encoder's layers with the largest p of
                                                    the Fisher information F_i = mean over batches of (dL/dw_i)^2
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError
from .component_clip import CLIP_EPS


FORMS = ("F", "D")


class ChildTuning:
    """Masks gradients before an optimizer's step.

    Args:
        share: p, of the gradient's entries that are kept, in (0, 1]; 1 changes nothing.
        seed: of the random masks of form F. Masks depend on the seed and the number of the step alone, so that processes
            and a resumed run draw the same.
        parameters: those that are masked: of form F all that are trained, of form D the encoder's layers.
        masks: of form D, one a parameter, bool; None is form F.
        steps_done: update steps before this one (a resumed run).

    Raises:
        InputError: `share` is outside of (0, 1], or there is no parameter.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        share: float,
        seed: int = 0,
        masks: Sequence[Tensor] | None = None,
        steps_done: int = 0,
    ):
        if not 0 < share <= 1:
            raise InputError(f"--child_tuning_share {share}: give a share of the weights, above 0 and up to 1")
        if not parameters:
            raise InputError("--child_tuning: no parameter to mask was found in this model")
        self.parameters, self.share, self.seed, self.masks = list(parameters), share, seed, masks
        self.steps_done = steps_done

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Mask `.grad`, in place, for the next update step."""
        self.steps_done += 1
        if self.share == 1:
            return
        if self.masks is not None:
            for parameter, mask in zip(self.parameters, self.masks, strict=True):
                if parameter.grad is not None:
                    parameter.grad.mul_(mask.to(parameter.grad.device))
            return
        generators: dict[torch.device, torch.Generator] = {}
        for parameter in self.parameters:
            if parameter.grad is None:
                continue
            device = parameter.grad.device
            if device not in generators:
                # large prime: neighbouring seeds share no step's masks
                state = (self.seed * 1_000_003 + self.steps_done) % 2**63
                generators[device] = torch.Generator(device).manual_seed(state)
            mask = torch.empty_like(parameter.grad).bernoulli_(self.share, generator=generators[device])
            parameter.grad.mul_(mask / self.share)

    def attach(self, optimizer: torch.optim.Optimizer, steps_done: Callable[[], int] | None = None):
        """Make it part of every `optimizer.step()`; the handle's `remove()` ends it.

        Args:
            steps_done: says how many update steps lie behind, where somebody else counts them.
        """

        def before_step(*_):
            self.steps_done = self.steps_done if steps_done is None else steps_done()
            self.mask_gradients()

        return optimizer.register_step_pre_hook(before_step)


def fisher_information(
    parameters: Sequence[nn.Parameter], losses: Iterable[Tensor], max_grad_norm: float | None = None
) -> list[Tensor]:
    """Diagonal of the empirical Fisher information: mean over batches of the squared gradient of the batch's loss.

    As in the released code the gradient is a batch's, not an example's (it is the smaller, the larger the batch), and each
    parameter's gradient is clipped by its own norm before it is squared.

    Args:
        parameters: whose information is wanted.
        losses: the loss of each batch (0-d), with its graph; a generator, so that one is alive at a time.
        max_grad_norm: of each parameter's gradient; None: not clipped.

    Returns:
        one tensor a parameter, of its shape, float32.

    Raises:
        InputError: there is no batch.
    """
    information, batches = [torch.zeros_like(p, dtype=torch.float32) for p in parameters], 0
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
        for total, gradient in zip(information, gradients, strict=True):
            if gradient is not None:
                factor = (
                    1.0 if max_grad_norm is None else (max_grad_norm / (gradient.norm() + CLIP_EPS)).clamp(max=1.0)
                )
                total.add_((gradient * factor).float().square())
        batches += 1
    if not batches:
        raise InputError("--child_tuning D: there are no training examples to estimate the Fisher information on")
    return [total / batches for total in information]


def child_masks(information: Sequence[Tensor], share: float) -> list[Tensor]:
    """The weights with the largest information, over all tensors together.

    Args:
        information: one tensor a parameter.
        share: p, of all weights, in (0, 1]. With ties at the threshold a few more are kept, as in the released code.

    Returns:
        bool tensors of the same shapes.
    """
    every = torch.cat([part.flatten() for part in information])
    kept = max(1, round(share * every.numel()))
    threshold = every.kthvalue(every.numel() - kept + 1).values
    return [part >= threshold for part in information]
