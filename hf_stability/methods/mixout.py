"""Mixout: at each forward pass some neurons have their pretrained weights (arXiv 1909.11299)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from .base import Method, Range


logger = logging.getLogger(__name__)

PLACES = ("dropout", "all")


class _Mixout(torch.autograd.Function):
    """The equation of `Mixout`. The backward pass is exact, or that of the authors' code."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, pretrained: Tensor, keep: Tensor, p: float, rescale_grad: bool) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = 1 / (1 - p) if rescale_grad else 1.0
        return torch.where(keep, (weight - p * pretrained) / (1 - p), pretrained)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (keep,) = ctx.saved_tensors
        return torch.where(keep, grad * ctx.scale, 0.0), None, None, None, None


def mixout(
    weight: Tensor, pretrained: Tensor, p: float, rescale_grad: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """A layer's weight with the columns of some input neurons set to their pretrained values: the equation of `Mixout`.

    Args:
        weight: `(out, in)`.
        pretrained: the same shape; takes no gradient.
        p: probability that an input neuron has its pretrained weights, in [0, 1).
        rescale_grad: True gives the exact gradient, False that of the authors' code, without its factor 1 / (1 - p).
        generator: on the weight's device. Default: torch's global one, as for dropout.

    Returns:
        `(out, in)`; `weight` itself at p = 0.

    Raises:
        InputError: p is not in [0, 1).
    """
    _check_probability(p)
    if p == 0:
        return weight
    share = torch.full((weight.shape[-1],), 1 - p, device=weight.device)
    keep = torch.bernoulli(share, generator=generator).bool()
    return _Mixout.apply(weight, pretrained, keep, p, rescale_grad)


class MixLinear(nn.Linear):
    """A linear layer that uses `mixout` on its weight in training. In evaluation it is a plain linear layer.

    Attributes:
        pretrained_weight: `(out, in)`, a buffer that is not saved: a checkpoint is that of a plain model.
        mixout_p: p of `mixout`.
        rescale_grad: as in `mixout`.
    """

    pretrained_weight: Tensor
    mixout_p: float
    rescale_grad: bool

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.weight
        if self.training:
            weight = mixout(weight, self.pretrained_weight, self.mixout_p, self.rescale_grad)
        return F.linear(inputs, weight, self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mixout={self.mixout_p}"


def apply_mixout(model: nn.Module, p: float, where: str = "dropout", rescale_grad: bool = False) -> list[str]:
    """Make a model's linear layers `MixLinear` layers, in place. Their present weights count as the pretrained ones.

    Weights, their names and what is saved stay as they are: `save_pretrained` gives a plain model. Mixout replaces dropout, but
    this does not change the model's dropout. Set `hidden_dropout_prob` to 0 in its config, as the recipe does.

    Args:
        model: a Hugging Face model with its pretrained weights.
        p: as in `mixout`; 0 changes nothing.
        where: `dropout`: linear layers that have a dropout beside them in their module, as we read the authors. In BERT these
            are query, key, value, the two output layers of a block, and the classifier, but not the intermediate layer ("we
            skipped the intermediate layers of BERT because there is no dropout in them": github.com/bloodwass/mixout, pull
            request 13). `all`: every linear layer, as in the usual ports. Frozen layers are left out. A new head is mixed
            with its own initial values.
        rescale_grad: as in `mixout`.

    Returns:
        The names of the layers. Where a model uses one layer many times (ALBERT), each use draws its own neurons.

    Raises:
        InputError: `where` or p is not valid, or no trained layer matches.
    """
    if where not in PLACES:
        raise InputError(f"--mixout_where {where}: must be {' or '.join(PLACES)}.")
    _check_probability(p)
    if p == 0:
        return []
    linears = {name: layer for name, layer in _linears(model, where) if type(layer) is nn.Linear}
    found = {name: layer for name, layer in linears.items() if layer.weight.requires_grad}
    if not found:
        raise InputError(
            f"--mixout: no trained linear layer in this {type(model).__name__} matches --mixout_where {where}. Set --mixout 0, "
            "or unfreeze some."
        )
    layer: Any
    for layer in found.values():
        pretrained = layer.weight.detach().clone()
        layer.__class__ = MixLinear  # in place: tied weights, hooks and names stay
        layer.mixout_p, layer.rescale_grad = p, rescale_grad
        layer.register_buffer("pretrained_weight", pretrained, persistent=False)
    # Otherwise DistributedDataParallel would send the copies to all processes at every forward pass. They never change.
    whole: Any = model
    kept = set(getattr(whole, "_ddp_params_and_buffers_to_ignore", ()))
    whole._ddp_params_and_buffers_to_ignore = [*kept, *(f"{name}.pretrained_weight" for name in found)]
    return list(found)


def _check_probability(p: float) -> None:
    if not 0 <= p < 1:
        raise InputError(f"--mixout {p}: must be 0 or more, and below 1.")


def warn_of_dropout(config: Any, p: float) -> None:
    """Warn if a model's config has hidden dropout, which mixout with probability `p` is meant to replace."""
    dropout = getattr(config, "hidden_dropout_prob", 0.0)
    if p and dropout:
        logger.warning(
            f"--mixout {p}: Mixout replaces hidden dropout, but this model has hidden_dropout_prob {dropout}. Set it to 0: "
            "--recipe ...+mixout does, and from_pretrained(..., hidden_dropout_prob=0) in code."
        )


def _linears(model: nn.Module, where: str) -> Iterator[tuple[str, nn.Linear]]:
    config = getattr(model, "config", None)
    width = getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None)  # DistilBERT: hidden_dim
    for prefix, module in model.named_modules():
        children = dict(module.named_children())
        if where == "dropout" and not any(isinstance(child, nn.Dropout) for child in children.values()):
            continue
        for name, child in children.items():
            intermediate = isinstance(child, nn.Linear) and child.out_features == width
            if isinstance(child, nn.Linear) and not (where == "dropout" and intermediate):
                yield f"{prefix}.{name}" if prefix else name, child


@dataclass
class MixoutArguments:
    """The arguments of `Mixout`."""

    mixout: float = field(
        default=0.0,
        metadata={
            "help": "Mixout's probability p: the share of a layer's input neurons that have their pretrained weights at each "
            "forward pass (Lee et al. 2020: 0.7 to 0.9). It replaces dropout: set the model's hidden_dropout_prob to 0."
        },
    )
    mixout_where: str = field(
        default="dropout",
        metadata={
            "help": "Which linear layers use Mixout: those with a dropout beside them in their module, or all.",
            "choices": list(PLACES),
        },
    )
    mixout_rescale_grad: bool = field(
        default=False,
        metadata={"help": "Use Mixout's exact gradient. The authors' code leaves out its factor 1 / (1 - p)."},
    )


class Mixout(Method):
    """Mixout: at each forward pass some neurons have their pretrained weights, in place of dropout.

    Where dropout switches a neuron off, Mixout gives it back the weights that it had before fine-tuning. So the model stays
    near the pretrained one. Paper: Lee, Cho & Kang, "Mixout: Effective Regularization to Finetune Large-scale Pretrained
    Language Models" (ICLR 2020, [arXiv 1909.11299](https://arxiv.org/abs/1909.11299), equation 5).

    Equation:
        w' = (M w + (1 - M) u - p u) / (1 - p),    M ~ Bernoulli(1 - p)

        w     a layer's weight
        u     its pretrained value
        w'    the weight in this forward pass; its mean over M is w
        M     one number per input neuron, shared by all outputs
        p     mixout

        M = 0: w' = u.    M = 1: w' = (w - p u) / (1 - p).
        With u = 0 this is dropout on the layer's input.

    When to use it:
        - Try it where runs fail at the learning rate that you need. In our comparison it prevented those failures.
        - Set `hidden_dropout_prob` to 0 with it, as the recipe `mixout` does. There is a warning if it is not 0.
        - Do not combine it with re-initialised layers, which have no pretrained weights to return to. This is refused.

    Cost:
        Time: one more pass over the weights per forward pass. Memory: one more copy of the weights of these layers, on the
        model's device (with `all`, 86 of the 109 million weights of BERT-base).

    Differences:
        - The exact gradient for w is that of w' times M / (1 - p). The authors' code (github.com/bloodwass/mixout) leaves out
          1 / (1 - p), and so does this by default. Adam hardly sees the difference; clipping does.
        - The authors skip the intermediate layers of BERT, which have no dropout. `mixout_where` `dropout` is our reading of
          that. Usual ports use `all`.

    Measured here:
        On top of `devlin2019`, n = 20 per row. On `demo_pair` the recipe `mixout` has the best mean of all 14 (not a planned
        comparison). Most of the gain comes from hidden dropout 0, which the recipe also sets: Mixout is not shown to add to it.
        At 2.5e-4, where 10 of 20 runs of `devlin2019` fail, 10 of 20 fail with dropout 0 alone and none with Mixout (against
        `devlin2019`: Fisher's exact test, p = 0.006 after Holm's correction). See [the remedies compared](remedies.md).
    """

    Arguments = MixoutArguments
    ranges = {"mixout": Range(0, 1)}

    def check_model(self, config: Any, task: Any) -> None:
        warn_of_dropout(config, self.settings.mixout)

    def prepare_model(self, model: nn.Module, trainer: Any, generator: torch.Generator | None = None) -> None:
        own = self.settings
        names = apply_mixout(model, own.mixout, own.mixout_where, own.mixout_rescale_grad)
        logger.info(f"--mixout {own.mixout}: in {', '.join(names)}")
        warn_of_dropout(model.config, own.mixout)
