"""Re-initialisation: the pooler and the top layers start from random weights (arXiv 2006.05987)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from ..errors import InputError
from ..utils.layers import base_model, without_weights
from .base import Method, Range


logger = logging.getLogger(__name__)


def reinit_layers(model: nn.Module, num_layers: int, generator: torch.Generator | None = None) -> list[str]:
    """Re-initialise the pooler, if there is one, and the top `num_layers` encoder layers, in place: see `Reinit`.

    Numbers are drawn on the CPU, so that they are the same on every device. The classifier is not touched: it is new already.

    Args:
        model: a Hugging Face encoder (BERT, RoBERTa, ELECTRA, DistilBERT, DeBERTa-v2 ...), with or without a head.
        num_layers: L, from 1 to the number of encoder layers.
        generator: on the CPU. Default: torch's global one.

    Returns:
        The names of the re-initialised modules, from the bottom up: `bert.encoder.layer.11`, `bert.pooler`.

    Raises:
        InputError: there is no such number of layers; layers are shared (ALBERT) or of an unknown kind; or they are frozen,
            so that they could not be trained again.
    """
    modules = top_modules(model, num_layers)
    config: Any = model.config
    std = config.initializer_range
    module: Any
    with torch.no_grad():
        for module in (inner for top in modules.values() for inner in top.modules()):
            if isinstance(module, nn.Linear):
                drawn = torch.normal(0.0, std, module.weight.shape, generator=generator)
                module.weight.copy_(drawn)
                if module.bias is not None:
                    module.bias.zero_()
            elif _is_layer_norm(module):
                module.weight.fill_(1.0)
                module.bias.zero_()
    return list(modules)


def top_modules(model: nn.Module, num_layers: int) -> dict[str, nn.Module]:
    """The modules that `reinit_layers` would re-initialise, by name. Raises what it would raise, and changes nothing."""
    name, stack = _encoder_layers(model)
    config: Any = model.config
    if not 1 <= num_layers <= len(stack):
        raise InputError(
            f"--reinit_layers {num_layers}: this {config.model_type} has {len(stack)} layers; give 1 to "
            f"{len(stack)}, or 0 to keep all of them."
        )
    modules: dict[str, nn.Module] = {f"{name}.{i}": stack[i] for i in range(len(stack) - num_layers, len(stack))}
    prefix, base = base_model(model)
    pooler = getattr(base, "pooler", None)
    if isinstance(pooler, nn.Module):
        modules[f"{prefix}pooler"] = pooler
    for where, module in modules.items():
        _check(where, module)
    return modules


def check_config(config: PretrainedConfig, num_layers: int) -> None:
    """Raise what `reinit_layers` would raise on a sequence classifier with this config, without making one."""
    top_modules(without_weights(config), num_layers)


def _encoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", type(model).__name__)
    if hasattr(config, "num_hidden_groups"):
        raise InputError(
            f"--reinit_layers: {kind} uses one layer many times over; re-initialising it would leave no pretrained "
            "layer. Give 0, or another model."
        )
    depth = getattr(config, "num_hidden_layers", None)
    stacks = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    }
    if len(stacks) != 1 or getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"--reinit_layers: this {kind} has no single stack of encoder layers (a list of num_hidden_layers = {depth}); "
            "give 0, or an encoder such as BERT or RoBERTa."
        )
    return next(iter(stacks.items()))


def _check(where: str, module: nn.Module) -> None:
    """Raise unless every parameter is in a Linear or a LayerNorm, and is trained."""
    for name, inner in module.named_modules():
        path = f"{where}.{name}" if name else where
        own = dict(inner.named_parameters(recurse=False))
        if own and not isinstance(inner, nn.Linear) and not _is_layer_norm(inner):
            raise InputError(
                f"--reinit_layers: {path} is a {type(inner).__name__}, and only Linear and LayerNorm (with a bias) can be "
                "re-initialised; give 0."
            )
        frozen = [key for key, parameter in own.items() if not parameter.requires_grad]
        if frozen:
            raise InputError(
                f"--reinit_layers: {path}.{frozen[0]} is frozen, and would keep its random values; unfreeze it, or give 0."
            )


def _is_layer_norm(module: nn.Module) -> bool:
    """Whether a module is torch's LayerNorm, or a model's own class of this name, with a weight and a bias."""
    return type(module).__name__.endswith("LayerNorm") and getattr(module, "bias", None) is not None


@dataclass
class ReinitArguments:
    """The argument of `Reinit`."""

    reinit_layers: int = field(
        default=0,
        metadata={
            "help": "Re-initialise the pooler and this many top encoder layers before training (Zhang et al. 2021: 5 of 24). "
            "0: off. Not for ALBERT: it has one layer, used many times."
        },
    )


class Reinit(Method):
    """Re-initialisation: the pooler and the top layers of the encoder start from random weights.

    The top layers are specialised to pre-training and may be a poor start for another task. Paper: Zhang, Wu, Katiyar,
    Weinberger & Artzi, "Revisiting Few-sample BERT Fine-tuning" (ICLR 2021,
    [arXiv 2006.05987](https://arxiv.org/abs/2006.05987)).

    Equation:
        Linear       weight ~ N(0, s^2), bias 0
        LayerNorm    weight 1, bias 0

        in the pooler and the top L encoder layers

        L    reinit_layers
        s    initializer_range of the model's config (BERT: 0.02)

    When to use it:
        - Only where training is long enough to learn these layers again. The authors' runs re-initialise 5 of 24.
        - It did harm here: 5 of 12 layers on a small model, with few update steps. Fewer layers were not tried.
        - ALBERT is refused, as it has one layer that it uses many times. So are frozen layers, models with two stacks of
          layers, and Mixout or prior decay beside it.

    Cost:
        None in time per step and memory. The model may need more update steps.

    Measured here:
        On top of `devlin2019`, n = 20 per row, 5 of 12 layers: the scores are near the majority-class baseline on both tasks,
        and most runs fail. See [the remedies compared](remedies.md).
    """

    Arguments = ReinitArguments
    ranges = {"reinit_layers": Range()}

    def check(self, args: Mapping[str, Any]) -> None:
        for name in ("mixout", "prior_decay"):
            if args.get(name):
                raise InputError(
                    f"--reinit_layers {self.settings.reinit_layers} with --{name} {args[name]}: re-initialised layers have no "
                    "pretrained weights to return to. Use only one of the two."
                )

    def check_model(self, config: PretrainedConfig, task: Any) -> None:
        check_config(config, self.settings.reinit_layers)

    def prepare_model(self, model: nn.Module, trainer: Any, generator: torch.Generator | None = None) -> None:
        names = reinit_layers(model, self.settings.reinit_layers, generator)
        logger.info(f"--reinit_layers {self.settings.reinit_layers}: re-initialised {', '.join(names)}")
