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

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..utils.layers import base_model


FORMS = ("l2_sp", "decoupled")


class PriorDecay:
    """The pretrained values of some parameters, and the two ways to be drawn towards them.

    Memory: one copy of these parameters, on their device, and one more during a step.

    Args:
        parameters: with their pretrained values now.
        strength: alpha or lambda below, 0 or more.

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

    @torch.no_grad()
    def penalty(self) -> Tensor:
        """L2-SP's term of the objective, `alpha / 2 sum ||w - u||^2`, 0-d; training needs its gradient only."""
        distances = torch._foreach_norm(torch._foreach_sub(self.parameters, self._here()))
        return self.strength / 2 * torch.stack(distances).square().sum()

    @torch.no_grad()
    def add_gradient(self) -> None:
        """L2-SP: add the term's gradient, `alpha (w - u)`, to `.grad`; where there is no gradient, nothing is added.

        Before clipping, once an update step: the same as the term in the loss, without a pass through autograd.
        """
        chosen = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        if not chosen or not self.strength:
            return
        here = self._here()
        difference = torch._foreach_sub([self.parameters[i] for i in chosen], [here[i] for i in chosen])
        torch._foreach_add_([self.parameters[i].grad for i in chosen], difference, alpha=self.strength)

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Decoupled: `w <- w - lr lambda (w - u)`, with each parameter group's rate, before the optimizer's own step."""
        if not self.strength:
            return
        rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
        difference = torch._foreach_sub(self.parameters, self._here())
        torch._foreach_mul_(difference, [-self.strength * rates.get(id(p), 0.0) for p in self.parameters])
        torch._foreach_add_(self.parameters, difference)

    def attach(self, optimizer: torch.optim.Optimizer):
        """Make [`step`] part of every `optimizer.step()`; the handle's `remove()` ends it."""
        return optimizer.register_step_pre_hook(lambda opt, args, kwargs: self.step(opt))


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
