"""Where the weights of a model come from, which of them are trained, and which modules have adapters (PEFT)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .layers import base_model, parameters_with_layers, unwrapped


def was_loaded(parameter: torch.Tensor) -> bool:
    """Whether from_pretrained found it in the files. transformers 5 marks the weights that it loads."""
    return bool(getattr(parameter, "_is_hf_initialized", False))


def never_trained(bias: torch.Tensor | None) -> bool:
    """Whether a bias is 0 throughout, its initial value."""
    return bias is not None and bias.numel() > 0 and not bias.is_meta and not bool(bias.any())


def adapter_kind(model: nn.Module) -> str | None:
    """The kind of a model's adapters, by PEFT's name (`LORA` ...); None if it has none."""
    configs = getattr(unwrapped(model), "peft_config", None)
    if not configs:
        return None
    kind = getattr(next(iter(configs.values())) if isinstance(configs, dict) else configs, "peft_type", "PEFT")
    return str(getattr(kind, "value", kind))


def trained_parts(model: nn.Module) -> dict[str, Any] | None:
    """The trained parts of a model with frozen parameters; None if all are trained.

    Returns:
        plain values: `adapters`, their kind by PEFT's name (`LORA`), or None; `layers`, the trained ones; `frozen`, the layers
        without any trained parameter; `share`, the trained share of all parameters.
    """
    layers: dict[str, list[nn.Parameter]] = {}
    for layer, _, parameter in parameters_with_layers(model):
        layers.setdefault(layer, []).append(parameter)
    every = [parameter for group in layers.values() for parameter in group]
    if all(parameter.requires_grad for parameter in every):
        return None
    trained = {name for name, group in layers.items() if any(p.requires_grad for p in group)}
    size = sum(parameter.numel() for parameter in every)
    return {
        "adapters": adapter_kind(model),
        "layers": [name for name in layers if name in trained],
        "frozen": [name for name in layers if name not in trained],
        "share": sum(p.numel() for p in every if p.requires_grad) / size if size else 0.0,
    }


def is_adapted(path: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether PEFT has wrapped this module, with trained adapters.

    Args:
        path: the module's name, a key of `modules`.
        modules: all modules of the model by name.
    """
    parent, _, last = path.rpartition(".")
    return last == "base_layer" and any(p.requires_grad for p in modules[parent].parameters())


def plain_name(name: str, model: nn.Module) -> str:
    """A module's name without the wrappers of torch.compile and PEFT."""
    name = re.sub(r"^(_orig_mod\.)+", "", name)
    if hasattr(model, "get_base_model"):  # a PeftModel
        name = re.sub(r"^base_model\.(model\.)?", "", name)
    return re.sub(r"\.(base_layer|original_module|modules_to_save\.[^.]+)(?=\.|$)", "", name)


def is_fine_tuned(model: nn.Module) -> bool:
    """Whether this is the fine-tuning of a pretrained encoder with a new head.

    It is if from_pretrained loaded matrices of the encoder that are trained, but not all weights outside the encoder. False
    also for weights that your own code loaded: they have no mark.
    """
    prefix, _ = base_model(model)
    named = dict(model.named_parameters())
    encoder = [parameter for name, parameter in named.items() if name.startswith(prefix)]
    head = [parameter for name, parameter in named.items() if not name.startswith(prefix)]
    trained = any(was_loaded(p) and p.requires_grad and p.ndim > 1 for p in encoder)
    return trained and not all(map(was_loaded, head))


def new_modules(model: nn.Module) -> list[str]:
    """Names of the modules that no pre-training has seen: the head's, and those of the encoder that from_pretrained drew at random.

    The outermost ones with parameters. In an encoder without any loaded weight (made from a config) none counts as new.

    Args:
        model: a Hugging Face model without adapters. A bare encoder has no head.
    """
    prefix, encoder = base_model(model)
    head = [name for name, module in model.named_children() if module is not encoder] if prefix else []
    found = [name for name in head if next(model.get_submodule(name).parameters(), None) is not None]
    if any(map(was_loaded, encoder.parameters())):
        for name, module in encoder.named_modules(prefix=prefix.rstrip(".")):
            parameters = list(module.parameters())
            inside = any(name.startswith(f"{outer}.") for outer in found)
            if parameters and not inside and not any(map(was_loaded, parameters)):
                found.append(name)
    return found


def merged(model: Any) -> Any:
    """The model with its adapters added to the weights, in place: a plain model. A model without a PEFT wrapper is returned as it is."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def adapted_new_heads(model: nn.Module) -> list[str]:
    """Names of head modules that have adapters, although from_pretrained drew them at random.

    PEFT saves the adapters of such a module, but not its own weights. They are drawn anew at every load, so the trained head
    is lost.

    Args:
        model: any model. Without adapters, or if from_pretrained loaded nothing, the list is empty.
    """
    if adapter_kind(model) is None or not any(map(was_loaded, model.parameters())):
        return []
    (prefix, _), modules, found = base_model(model), dict(model.named_modules()), []
    for path, module in modules.items():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        inside = not prefix or f"{path}.".startswith(prefix)
        if inside or not isinstance(weight, torch.Tensor) or not is_adapted(path, modules):
            continue
        if not was_loaded(weight) and (bias is None or never_trained(bias)):
            found.append(plain_name(path, model))
    return found
