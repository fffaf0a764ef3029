"""Finds the layer of each parameter, and the pretrained encoder inside a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel


POOLERS = ("pooler", "pre_classifier")  # pre_classifier: DistilBERT's name for it
EMBEDDINGS = ("wte", "wpe", "shared")  # GPT-2's and T5's embeddings, without "embed" in their names


def layers_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters of a model by layer, from input to output, grouped from the module tree.

    | name | parameters |
    | --- | --- |
    | `embeddings` | all embeddings, and the projections of them in ELECTRA and ALBERT |
    | `layer_00` ... | one name for each element of the encoder's layer list; two digits, so that the names sort |
    | `shared_layer_00` ... | the same for layers that are used many times (ALBERT: one for each group) |
    | `encoder_layer_00`, `decoder_layer_00` ... | the same for models with two stacks |
    | `pooler` | the pooler; DistilBERT's `pre_classifier` |
    | `classifier` | everything outside the base model |

    In a plain `nn.Module`, without Hugging Face's `base_model_prefix`, any other parameter belongs to its outermost
    submodule. Frozen parameters are left out. DistributedDataParallel, DataParallel and `torch.compile` do not change the
    names. An adapter (PEFT) belongs to the layer that it adapts.
    """
    layers: dict[str, list[nn.Parameter]] = {}
    for layer, _, parameter in parameters_with_layers(model):
        if parameter.requires_grad:
            layers.setdefault(layer, []).append(parameter)
    return layers


def parameters_with_layers(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """`(layer, name, parameter)` of every parameter, frozen ones included.

    Layers are named as in `layers_of`. Parameters are named without wrappers.
    """
    model = unwrapped(model)
    stacks = _layer_stacks(model)
    prefix = getattr(model, "base_model_prefix", "")
    if not (prefix and hasattr(model, prefix)):
        prefix = None  # a plain module, or the base model itself
    shared = hasattr(getattr(model, "config", None), "num_hidden_groups")  # ALBERT
    for name, parameter in model.named_parameters():
        yield _layer_name(name, stacks, prefix, shared), name, parameter


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without wrappers that only add a prefix to its parameters' names."""
    inner: Any = model
    while True:
        if isinstance(inner, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = inner.module
        elif "_orig_mod" in inner._modules:  # torch.compile
            inner = inner._orig_mod
        else:
            return inner


def _layer_stacks(model: nn.Module) -> list[str]:
    """Names of the outermost module lists that contain a model's layers."""
    stacks: dict[str, int] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(stack + ".") for stack in stacks)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            same_class = len({type(child) for child in module}) == 1
            compound = all(next(child.children(), None) is not None for child in module)
            if same_class and compound:
                stacks[name] = sum(p.numel() for p in module.parameters())
    largest = max(stacks.values(), default=0)
    return [name for name, size in stacks.items() if 10 * size >= largest]  # a list of small heads is not an encoder


def _layer_name(parameter: str, stacks: Iterable[str], prefix: str | None, shared: bool) -> str:
    stacks = list(stacks)
    for stack in stacks:
        if parameter.startswith(stack + "."):
            number = int(parameter[len(stack) + 1 :].split(".")[0])
            side = f"{stack.split('.')[-2]}_" if len(stacks) > 1 and "." in stack else ""
            return f"{side}{'shared_' if shared else ''}layer_{number:02d}"
    parts = parameter.split(".")[:-1] or [parameter]
    if any("embed" in part.lower() or part in EMBEDDINGS for part in parts):
        return "embeddings"
    if any(part in POOLERS for part in parts):
        return "pooler"
    if prefix is None:
        return parts[0]
    if prefix not in parts:
        return "classifier"
    return (parts[parts.index(prefix) + 1 :] or [prefix])[0]


def base_model(model: nn.Module) -> tuple[str, nn.Module]:
    """The pretrained encoder inside a model, and the prefix of its parameters' names.

    | model | prefix | encoder |
    | --- | --- | --- |
    | a Hugging Face model with a head | `bert.` | the module that `base_model_prefix` names |
    | the same with adapters (PEFT) | `base_model.model.bert.` | the same |
    | the same in DistributedDataParallel, DataParallel or `torch.compile` | `module.bert.`, `_orig_mod.bert.` | the same |
    | a custom module around a pretrained model | `encoder.` | that model, without its head |
    | a bare encoder, a plain module | the empty string | the module itself |

    Returns:
        the prefix and the encoder.
    """
    path: list[str] = []
    while True:
        name, inner = _inner(model)
        if inner is not None:
            path, model = [*path, name], inner
            continue
        prefix = getattr(model, "base_model_prefix", "")
        inner = getattr(model, prefix, None) if prefix else None
        if isinstance(inner, nn.Module):
            return ".".join([*path, prefix, ""]), inner
        name, inner = _pretrained_child(model)
        if inner is None:
            return ".".join([*path, ""]) if path else "", model
        path, model = [*path, name], inner


def without_adapters(model: nn.Module) -> nn.Module:
    """The model without PEFT's wrapper. Any other model is returned as it is."""
    get_base_model = getattr(model, "get_base_model", None)
    return model if get_base_model is None else get_base_model()


def _inner(model: nn.Module) -> tuple[str, nn.Module | None]:
    """The name and the model inside a wrapper. None if the model is not a wrapper."""
    inner = unwrapped(model)
    inner = without_adapters(model) if inner is model else inner
    if inner is model:
        return "", None
    return next(name for name, module in model.named_modules() if module is inner), inner


def _pretrained_child(model: nn.Module) -> tuple[str, nn.Module | None]:
    """The name and the pretrained model inside a custom module. None if there is none.

    A Hugging Face model that consists of two models (encoder and decoder), or of only one (T5's encoder), is itself the
    encoder.
    """
    children = [(name, child) for name, child in model.named_children() if isinstance(child, PreTrainedModel)]
    if isinstance(model, PreTrainedModel):
        held = {id(parameter) for _, child in children for parameter in child.parameters()}
        if len(children) != 1 or all(id(parameter) in held for parameter in model.parameters()):
            return "", None
    return next(iter(children), ("", None))


def without_weights(config: PretrainedConfig) -> nn.Module:
    """A sequence classifier of this config with modules and shapes but no weights. It needs no memory."""
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)
