"""Mixout: some of the weights are, at each forward pass, those of the pretrained model.

Lee, Cho & Kang, "Mixout: Effective Regularization to Finetune Large-scale Pretrained Language Models" (ICLR 2020, arXiv
1909.11299); the released code: github.com/bloodwass/mixout. It takes the place of dropout: where dropout switches a
neuron off, mixout gives it back the weights that it had before fine-tuning.
"""

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
    """The equation of [`mixout`]; its backward as the authors' code has it, or exact."""

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
    """A layer's weight with some input neurons' columns put back to their pretrained values.

        M ~ Bernoulli(1 - p), one number an input neuron, shared by all outputs
        w' = (M w + (1 - M) u - p u) / (1 - p)        u the pretrained weight

    which is u where M = 0, and (w - p u) / (1 - p) where M = 1: in the mean over M it is w. With u = 0 this is dropout on the
    layer's input. Source: Lee et al. (2020), equation 5.

    The gradient with respect to w is M / (1 - p) times that of w'. The authors' code leaves the 1 / (1 - p) out, and so does
    this unless `rescale_grad`. Adam hardly sees the difference, clipping does.

    Args:
        weight: `(out, in)`.
        pretrained: the same shape; takes no gradient.
        p: probability with which a neuron's weights are the pretrained ones, in [0, 1).
        rescale_grad: whether the gradient is exact.
        generator: of the weight's device; default: torch's global one, as dropout's.

    Returns:
        `(out, in)`; `weight` itself at p = 0.

    Raises:
        InputError: p is not in [0, 1).
    """
    if not 0 <= p < 1:
        raise InputError(f"--mixout {p}: give a probability from 0 up to, and not, 1")
    if p == 0:
        return weight
    share = torch.full((weight.shape[-1],), 1 - p, device=weight.device)
    keep = torch.bernoulli(share, generator=generator).bool()
    return _Mixout.apply(weight, pretrained, keep, p, rescale_grad)


class MixLinear(nn.Linear):
    """A linear layer whose weight goes through [`mixout`] in training; in evaluation it is the layer that it was.

    Attributes:
        pretrained_weight: `(out, in)`, a buffer that is not saved: a checkpoint is a plain model's.
        mixout_p, rescale_grad: as in [`mixout`].
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
    """Make a model's linear layers [`MixLinear`]s, in place; their weights now are the pretrained ones.

    Weights, their names and what is saved stay as they are; `save_pretrained` gives a plain model. Memory: one more copy of
    the weights of the layers concerned (of BERT-base with `all`, 86 of its 109 million), on the model's device.

    Dropout is not touched: mixout takes its place, so set the config's `hidden_dropout_prob` to 0, as the recipe does.

    Args:
        model: a Hugging Face model, with its pretrained weights.
        p: as in [`mixout`]; 0 changes nothing.
        where: `dropout`, our reading of the authors: layers that have a dropout beside them in their module (query, key,
            value, and the two output layers of a BERT block, the classifier), and not the block's intermediate layer ("we
            skipped the intermediate layers of BERT because there is no dropout in them": github.com/bloodwass/mixout, pull
            request 13); or `all` linear layers, as in the usual ports. Frozen layers are left out, a new head mixes with
            its own first values.
        rescale_grad: as in [`mixout`].

    Returns:
        names of the layers. Where a model uses one layer many times over (ALBERT), each use draws neurons of its own.

    Raises:
        InputError: `where` or p is not known, or no trained layer matches.
    """
    if where not in PLACES:
        raise InputError(f"--mixout_where {where}: give {' or '.join(PLACES)}")
    if not 0 <= p < 1:
        raise InputError(f"--mixout {p}: give a probability from 0 up to, and not, 1")
    if p == 0:
        return []
    linears = {name: layer for name, layer in _linears(model, where) if type(layer) is nn.Linear}
    found = {name: layer for name, layer in linears.items() if layer.weight.requires_grad}
    if not found:
        raise InputError(
            f"--mixout: no trained linear layer in this {type(model).__name__} matches --mixout_where {where}"
        )
    layer: Any
    for layer in found.values():
        pretrained = layer.weight.detach().clone()
        layer.__class__ = MixLinear  # in place: tied weights, hooks and names stay
        layer.mixout_p, layer.rescale_grad = p, rescale_grad
        layer.register_buffer("pretrained_weight", pretrained, persistent=False)
    # DistributedDataParallel would send the copies around at every forward pass, though they never change.
    whole: Any = model
    kept = set(getattr(whole, "_ddp_params_and_buffers_to_ignore", ()))
    whole._ddp_params_and_buffers_to_ignore = [*kept, *(f"{name}.pretrained_weight" for name in found)]
    return list(found)


def warn_of_dropout(config: Any, p: float) -> None:
    """Say so where a model's config has hidden dropout, whose place mixout with probability `p` is to take."""
    dropout = getattr(config, "hidden_dropout_prob", 0.0)
    if p and dropout:
        logger.warning(
            f"--mixout {p}: it is to take hidden dropout's place, and the model has hidden_dropout_prob {dropout}, too; "
            "--recipe ...+mixout sets it to 0, from_pretrained(..., hidden_dropout_prob=0) in code"
        )


def _linears(model: nn.Module, where: str) -> Iterator[tuple[str, nn.Linear]]:
    config = getattr(model, "config", None)
    width = getattr(config, "intermediate_size", None) or getattr(
        config, "hidden_dim", None
    )  # the latter: DistilBERT's
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
    """The arguments of [`Mixout`]."""

    mixout: float = field(
        default=0.0,
        metadata={
            "help": "Mixout's probability (Lee et al. 2020: 0.7 to 0.9): so many input neurons of a layer have their pretrained "
            "weights at each forward pass. It takes dropout's place: set the model's hidden_dropout_prob to 0."
        },
    )
    mixout_where: str = field(
        default="dropout",
        metadata={
            "help": "Which linear layers: those with a dropout beside them, or all.",
            "choices": list(PLACES),
        },
    )
    mixout_rescale_grad: bool = field(
        default=False,
        metadata={"help": "Mixout with its exact gradient; the authors' code leaves out its factor 1 / (1 - p)."},
    )


class Mixout(Method):
    """[`apply_mixout`] on a model before its training."""

    Arguments = MixoutArguments
    ranges = {"mixout": Range(0, 1)}

    def check_model(self, config: Any, task: Any) -> None:
        warn_of_dropout(config, self.settings.mixout)

    def prepare_model(self, model: nn.Module, trainer: Any, generator: torch.Generator | None = None) -> None:
        own = self.settings
        names = apply_mixout(model, own.mixout, own.mixout_where, own.mixout_rescale_grad)
        logger.info(f"--mixout {own.mixout}: {', '.join(names)}")
        warn_of_dropout(model.config, own.mixout)
