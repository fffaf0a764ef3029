"""Decay towards the pretrained weights instead of towards zero: what was learned before is the prior.

Two forms: L2-SP, a term of the objective (Li, Grandvalet & Davoine, "Explicit Inductive Bias for Transfer Learning with
Convolutional Networks", ICML 2018, arXiv 1802.01483), and the decoupled one, a step of its own as in AdamW (Zhang et al.,
"Revisiting Few-sample BERT Fine-tuning", ICLR 2021, arXiv 2006.05987, github.com/asappresearch/revisit-bert-finetuning).
A new head has no pretrained weights, and is left out. (L2-SP as commonly given decays it towards zero; here that is for
`weight_decay` to do, which is 0 in the recipe `l2_sp`. Zhang's released optimizer means to leave the head out, but compares
an index with a length that it never reaches: it pulls the head towards its random start.) Only the term's gradient is
added: the logged loss is without it, the recorded norms are with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import InputError
from ..utils.layers import base_model
from .base import Method, Range


FORMS = ("l2_sp", "decoupled")


@torch.no_grad()
def l2_sp_penalty(parameters: Sequence[Tensor], pretrained: Sequence[Tensor], strength: float) -> Tensor:
    """L2-SP's term of the objective, 0-d; training needs its gradient only.

    alpha / 2 sum ||w - u||^2        u the pretrained weights, alpha the strength
    """
    distances = torch._foreach_norm(torch._foreach_sub(list(parameters), list(pretrained)))
    return strength / 2 * torch.stack(distances).square().sum()


@torch.no_grad()
def add_l2_sp_gradient(parameters: Sequence[nn.Parameter], pretrained: Sequence[Tensor], strength: float) -> None:
    """Add the gradient of [`l2_sp_penalty`], `alpha (w - u)`, to `.grad`; where there is no gradient, nothing is added.

    Before clipping, once an update step: the same as the term in the loss, without a pass through autograd.
    """
    chosen = [i for i, p in enumerate(parameters) if p.grad is not None]
    if not chosen or not strength:
        return
    difference = torch._foreach_sub([parameters[i] for i in chosen], [pretrained[i] for i in chosen])
    gradients = [p.grad for p in parameters if p.grad is not None]
    torch._foreach_add_(gradients, difference, alpha=strength)


@torch.no_grad()
def decoupled_step(
    parameters: Sequence[nn.Parameter], pretrained: Sequence[Tensor], strength: float, optimizer: torch.optim.Optimizer
) -> None:
    """`w <- w - lr lambda (w - u)`, with the rate of each parameter's group, before the optimizer's own step."""
    if not strength:
        return
    rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    difference = torch._foreach_sub(list(parameters), list(pretrained))
    torch._foreach_mul_(difference, [-strength * rates.get(id(p), 0.0) for p in parameters])
    torch._foreach_add_(list(parameters), difference)


def pretrained_parameters(model: nn.Module, names: Sequence[str] | None = None) -> list[nn.Parameter]:
    """The trainable parameters of a Hugging Face model without its head.

    Args:
        model: with its head, or a bare encoder.
        names: only these parameters of the model, where given.
    """
    prefix, _ = base_model(model)
    chosen = None if names is None else set(names)
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name.startswith(prefix) and (chosen is None or name in chosen)
    ]


class PriorDecay:
    """The pretrained values of some parameters, and the two ways to be drawn towards them.

    Memory: one copy of these parameters, on their device, and one more during a step.

    Args:
        parameters: with their pretrained values now.
        strength: alpha or lambda above, 0 or more.

    Raises:
        InputError: no parameter is given, or the strength is below 0.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], strength: float):
        if not strength >= 0:
            raise InputError(f"--prior_decay {strength}: give 0 or more")
        if not parameters:
            raise InputError("--prior_decay: no pretrained parameter is trained, so that there is nothing to decay")
        self.strength = strength
        self.parameters = list(parameters)
        self.pretrained = [parameter.detach().clone() for parameter in self.parameters]

    def _here(self) -> list[Tensor]:
        """The pretrained values, where the parameters are by now."""
        if self.pretrained[0].device != self.parameters[0].device:
            self.pretrained = [u.to(p.device) for u, p in zip(self.pretrained, self.parameters, strict=True)]
        return self.pretrained

    def penalty(self) -> Tensor:
        """See [`l2_sp_penalty`]."""
        return l2_sp_penalty(self.parameters, self._here(), self.strength)

    def add_gradient(self) -> None:
        """See [`add_l2_sp_gradient`]."""
        add_l2_sp_gradient(self.parameters, self._here(), self.strength)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """See [`decoupled_step`]."""
        decoupled_step(self.parameters, self._here(), self.strength, optimizer)

    def attach(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Make [`step`] part of every `optimizer.step()`; the handle's `remove()` ends it."""
        return optimizer.register_step_pre_hook(lambda opt, args, kwargs: self.step(opt))


@dataclass
class PriorDecayArguments:
    """The arguments of [`PriorDecayMethod`]."""

    prior_decay: float = field(
        default=0.0,
        metadata={
            "help": "Decay towards the pretrained weights, the new head left out: lambda of the decoupled form (Zhang et al. "
            "2021), alpha of L2-SP (Li et al. 2018). Give --weight_decay 0 with it, or both act."
        },
    )
    prior_decay_form: str = field(
        default="decoupled",
        metadata={
            "help": "decoupled: w -= lr lambda (w - pretrained) before each step, on what weight decay touches. l2_sp: the "
            "gradient of alpha / 2 ||w - pretrained||^2, on all of the encoder, clipped with the rest; not in the logged loss.",
            "choices": list(FORMS),
        },
    )


class PriorDecayMethod(Method):
    """[`PriorDecay`] of a model's pretrained weights, in one of the two forms."""

    Arguments = PriorDecayArguments
    ranges = {"prior_decay": Range()}
    needs_whole_gradients = True
    prior: PriorDecay | None = None  # where it was off when the model was prepared

    def prepare_model(self, model: nn.Module, trainer: Any, generator: torch.Generator | None = None) -> None:
        decoupled = self.settings.prior_decay_form == "decoupled"
        names = trainer.get_decay_parameter_names(model) if decoupled else None
        self.prior = PriorDecay(pretrained_parameters(model, names), self.settings.prior_decay)

    def add_gradients(self) -> None:
        if self.prior is not None and self.settings.prior_decay_form == "l2_sp":
            self.prior.add_gradient()

    def before_step(self, optimizer: torch.optim.Optimizer, steps_done: int) -> None:
        if self.prior is not None and self.settings.prior_decay_form == "decoupled":
            self.prior.step(optimizer)
