"""Layer-wise learning-rate decay: the lower a layer, the smaller its rate.

Howard & Ruder ("Universal Language Model Fine-tuning", ACL 2018, arXiv 1801.06146, "discriminative fine-tuning"); the form
here is that of Zhang et al. (ICLR 2021, arXiv 2006.05987, github.com/asappresearch/revisit-bert-finetuning).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..errors import InputError
from ..utils.layers import layers_of, without_weights
from ..utils.text import markdown_table
from .base import Method, Range


logger = logging.getLogger(__name__)


def layer_rates(layers: Sequence[str], learning_rate: float, decay: float) -> dict[str, float]:
    """The rate of each layer: the head and the pooler have the full one, each layer below `decay` times the one above.

        rate of the k-th layer below the head = learning_rate decay^k,    k = 1 for the top layer; the embeddings are last

    What is neither embeddings nor one of the encoder's layers (head, pooler, a final norm) has the full rate.

    Args:
        layers: names from input to output, as [`layers_of`][hf_stability.utils.layers.layers_of] gives them. A
            layer that a model uses many times over (ALBERT) is one layer, one power below the head.
        learning_rate: of the head.
        decay: in (0, 1]; Zhang et al.: 0.95. 1 is one rate for all.

    Raises:
        InputError: `decay` is outside of (0, 1].
    """
    if not 0 < decay <= 1:
        raise InputError(f"--layerwise_lr_decay {decay}: give a number above 0, up to 1 (one rate for all layers)")
    body = [name for name in layers if _is_below(name)]
    below = {name: len(body) - i for i, name in enumerate(body)}
    return {name: learning_rate * decay ** below.get(name, 0) for name in layers}


def layerwise_lr_groups(
    layers: Mapping[str, Sequence[nn.Parameter]],
    learning_rate: float,
    decay: float,
    weight_decay: float = 0.0,
    undecayed: Collection[nn.Parameter] = (),
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer, from the head down to the embeddings.

    A scheduler multiplies each group's own rate, so that the ratios hold throughout training. The first group is the head's:
    its rate is what a Trainer logs. (Zhang's released code leaves head and pooler without weight decay; here they have it.)

    Args:
        layers: name -> its trainable parameters, from input to output.
        learning_rate, decay: as in [`layer_rates`].
        weight_decay: of all parameters but `undecayed` (biases and LayerNorm weights).

    Returns:
        groups with `params`, `lr`, `weight_decay` and `name` (`layer_03`, `layer_03, no decay`).

    Raises:
        InputError: as in [`layer_rates`]; or there is no layer below the head.
    """
    if not any(map(_is_below, layers)):
        raise InputError("--layerwise_lr_decay: no layer below the head was found in this model")
    rates = layer_rates(list(layers), learning_rate, decay)
    left_out = {id(parameter) for parameter in undecayed}
    groups = []
    for name in reversed(list(layers)):
        for decayed in (True, False):
            chosen = [p for p in layers[name] if (id(p) not in left_out) == decayed]
            if chosen:
                label = name if decayed else f"{name}, no decay"
                decay_of = weight_decay if decayed else 0.0
                groups.append({"params": chosen, "lr": rates[name], "weight_decay": decay_of, "name": label})
    return groups


def _is_below(name: str) -> bool:
    return name == "embeddings" or re.search(r"layer_\d+$", name) is not None


def groups_table(groups: Sequence[Mapping[str, Any]]) -> str:
    """The groups as a Markdown table: name, rate, weight decay, number of parameters."""
    rows = []
    for group in groups:
        count = sum(parameter.numel() for parameter in group["params"])
        rows.append([group["name"], f"{group['lr']:.3g}", f"{group['weight_decay']:g}", f"{count:,}"])
    return markdown_table(["group", "learning rate", "weight decay", "parameters"], rows, lined_up=False)


@dataclass
class LayerwiseLRArguments:
    """The argument of [`LayerwiseLR`]."""

    layerwise_lr_decay: float = field(
        default=1.0,
        metadata={
            "help": "Rate of each layer as a share of the one above; head and pooler have the full rate (Zhang et al. 2021: "
            "0.95). 1: one rate for all."
        },
    )


class LayerwiseLR(Method):
    """[`layerwise_lr_groups`] as the optimizer's parameter groups."""

    Arguments = LayerwiseLRArguments
    ranges = {"layerwise_lr_decay": Range(0, 1, takes_high=True)}

    def describe(self, config: Any, args: Mapping[str, Any]) -> list[str]:
        """`learning rates: classifier 2e-05, pooler 2e-05, layer_11 1.9e-05, ..., embeddings 1.08e-05`."""
        layers = list(layers_of(without_weights(config)))
        rates = layer_rates(layers, args["learning_rate"], self.settings.layerwise_lr_decay)
        return ["learning rates: " + ", ".join(f"{name} {rates[name]:.3g}" for name in reversed(rates))]

    def parameter_groups(self, trainer: Any, learning_rate: float) -> list[dict[str, Any]] | None:
        model, decay = trainer.model, self.settings.layerwise_lr_decay
        decayed = set(trainer.get_decay_parameter_names(model))
        undecayed = [p for name, p in model.named_parameters() if name not in decayed]
        groups = layerwise_lr_groups(layers_of(model), learning_rate, decay, trainer.args.weight_decay, undecayed)
        logger.info(f"--layerwise_lr_decay {decay}:\n{groups_table(groups)}")
        return groups
