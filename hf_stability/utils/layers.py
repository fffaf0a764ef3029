"""Finds the layer of each parameter, and the pretrained encoder inside a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel


HEADS = ("pooler", "classifier")
"""Layers that are no part of the encoder's body."""
POOLERS = ("pooler", "pre_classifier")  # pre_classifier: DistilBERT's name for it
EMBEDDINGS = ("wte", "wpe", "shared")  # GPT-2's and T5's embeddings, without "embed" in their names
EMBEDDING_WORDS = {"emb", "pos"}  # of names such as layer_norm_emb (XLM) and rel_pos_bias (LayoutLMv3)


def layers_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters of a model by layer, from input to output, grouped from the module tree.

    | name | parameters |
    | --- | --- |
    | `embeddings` | all embeddings, the projections of them in ELECTRA and ALBERT, norms before the first layer |
    | `layer_00` ... | one name for each element of the encoder's layer list; two digits, so that the names sort |
    | `shared_layer_00` ... | the same for layers that are used many times (ALBERT: one for each group) |
    | `encoder_layer_00`, `decoder_layer_00` ... | the same for models with two stacks |
    | `pooler` | the pooler; DistilBERT's `pre_classifier` |
    | `classifier` | everything outside the base model |

    The rest of the base model has the name of its outermost submodule without layers: `final_norm` in ModernBERT,
    `encoder_final_layer_norm` in T5, which has two stacks, `vision_tower` in Gemma 3.

    A layer may be spread over several lists of equal length, side by side (XLM: `attentions`, `ffns`), or be in a list of lists
    (Funnel's blocks).

    In a plain `nn.Module`, without Hugging Face's `base_model_prefix`, any other parameter belongs to its outermost
    submodule. Frozen parameters are left out. DistributedDataParallel, DataParallel and `torch.compile` do not change the
    names. An adapter (PEFT) belongs to the layer that it adapts. In a model with several adapters its name comes first:
    `french_layer_00`.
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
    wrapper, inner = _inner(model) if hasattr(model, "get_base_model") else ("", model)
    sides, places = _places_of_layers(inner or model)
    prefix = getattr(model, "base_model_prefix", "")
    if not (prefix and hasattr(model, prefix)):
        prefix = None  # a plain module, or the base model itself
    tables = {name for name, module in (inner or model).named_modules() if isinstance(module, nn.Embedding)}
    adapters = adapter_names(model)
    layer_seen = False
    for name, parameter in model.named_parameters():
        path = name.removeprefix(f"{wrapper}.").split(".")[:-1]  # PEFT's wrapper has a part `model`, as Llama has
        layer = next((places[place] for place in _ancestors(path) if place in places), None)
        layer_seen = layer_seen or layer is not None
        if layer is None:
            is_table = ".".join(path) in tables
            layer = _other_name(path or [name], sides, prefix, is_table, before_layers=not layer_seen)
        own = [part for part in name.split(".")[-2:] if part in adapters and len(adapters) > 1 and layer not in HEADS]
        yield "_".join([*own, layer]), name, parameter


def adapter_names(model: nn.Module) -> list[str]:
    """Names of a model's adapters (PEFT), trained or not. Empty if it has none."""
    configs = getattr(unwrapped(model), "peft_config", None)
    return list(configs) if isinstance(configs, dict) else []


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


def _places_of_layers(model: nn.Module) -> tuple[dict[str, str], dict[str, str]]:
    """Where a model's layers are.

    Returns:
        the modules that hold layers, each with the prefix of its layers' names ("encoder_", or "" in a model with one
        stack); and the path of each layer with its name.
    """
    stacks = _layer_stacks(model)
    parents = {stack.rpartition(".")[0] for stack in stacks}
    sides = _sides([stack.split(".") for stack in stacks]) if len(parents) > 1 else {}
    shared = "shared_" if hasattr(getattr(model, "config", None), "num_hidden_groups") else ""  # ALBERT
    holders, places = {}, {}
    for stack, lists in stacks.items():
        side = sides.get(stack, "")
        holders.update(dict.fromkeys(_ancestors(stack.split(".")), side))
        for beside in lists:
            numbered = enumerate(_flat(beside, model.get_submodule(beside)))
            places.update({path: f"{side}{shared}layer_{number:02d}" for number, path in numbered})
    common = [holder for holder in holders if all(stack.startswith(holder + ".") for stack in stacks)]
    holders.update(dict.fromkeys(common, ""))
    return holders, places


def _layer_stacks(model: nn.Module) -> dict[str, list[str]]:
    """The outermost module lists that contain a model's layers, each with the lists beside it that hold parts of the same layers."""
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    lists = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)
    }
    sizes: dict[str, int] = {}
    for name, module in lists.items():
        inside = any(name.startswith(stack + ".") for stack in sizes)
        same_class = len({type(child) for child in module}) == 1
        compound = all(next(child.children(), None) is not None for child in module)
        if not inside and compound and (same_class or len(module) == depth):
            sizes[name] = sum(p.numel() for p in module.parameters())
    largest = max(sizes.values(), default=0)
    stacks: dict[str, list[str]] = {}
    for name, size in sizes.items():
        beside = [other for other in lists if _are_beside(name, other) and len(lists[other]) == len(lists[name])]
        is_encoder = 10 * size >= largest  # and not a list of small heads
        if is_encoder and not any(other in stacks for other in beside):
            stacks[name] = beside
    return stacks


def _are_beside(a: str, b: str) -> bool:
    return a.rpartition(".")[0] == b.rpartition(".")[0]


def _sides(stacks: list[list[str]]) -> dict[str, str]:
    """A prefix that tells each stack of layers from the others: the first part of their paths in which they differ."""
    first = next(i for i, parts in enumerate(zip(*stacks, strict=False)) if len(set(parts)) > 1)
    return {".".join(parts): f"{parts[first]}_" if len(parts) - 1 > first else "" for parts in stacks}


def _flat(name: str, stack: nn.Module) -> Iterator[str]:
    """The paths of a list's modules. In a list of lists, those of the inner ones."""
    for number, child in stack.named_children():
        inner = isinstance(child, nn.ModuleList)
        yield from _flat(f"{name}.{number}", child) if inner else [f"{name}.{number}"]


def _ancestors(parts: Sequence[str]) -> list[str]:
    """`a`, `a.b`, `a.b.c` of the path `a.b.c`."""
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _other_name(
    parts: list[str], holders: Mapping[str, str], prefix: str | None, is_table: bool, before_layers: bool
) -> str:
    """The name for a parameter outside of the layers.

    Args:
        parts: the path of its module.
        holders: the modules that hold layers, see `_places_of_layers`.
        prefix: name of the base model inside a model with a head; None without one.
        is_table: whether its module is an `nn.Embedding`.
        before_layers: whether its module comes before the first layer.
    """
    if any("embed" in part.lower() or part in EMBEDDINGS for part in parts):
        return "embeddings"
    if any(part in POOLERS for part in parts):
        return "pooler"
    if prefix is None:
        return parts[0]
    if prefix not in parts:
        return "classifier"
    inside = parts.index(prefix) + 1
    if len(parts) == inside:  # the base model's own parameter, such as the vector for a mask
        return "embeddings"
    own = next((i for i, place in enumerate(_ancestors(parts)) if place not in holders), len(parts) - 1)
    name = parts[max(own, inside)]
    if "norm" in name.lower():  # the final norm, or one of the embeddings
        of_embeddings = before_layers and (own <= inside or EMBEDDING_WORDS & set(name.split("_")))
    else:
        of_embeddings = is_table or EMBEDDING_WORDS & set(name.split("_"))
    return "embeddings" if of_embeddings else holders.get(".".join(parts[:own]), "") + name


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
