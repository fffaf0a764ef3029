"""Where the weights of a model come from, and which modules have adapters (PEFT)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from .layers import base_model


def was_loaded(parameter: torch.Tensor) -> bool:
    """Whether from_pretrained found it in the files. transformers 5 marks the weights that it loads."""
    return bool(getattr(parameter, "_is_hf_initialized", False))


def never_trained(bias: torch.Tensor | None) -> bool:
    """Whether a bias is 0 throughout, its initial value."""
    return bias is not None and bias.numel() > 0 and not bias.is_meta and not bool(bias.any())


def adapters_of(model: torch.nn.Module) -> str | None:
    """The kind of a model's adapters, by PEFT's name (`LORA` ...); None if it has none."""
    configs = getattr(model, "peft_config", None)
    if not configs:
        return None
    kind = getattr(next(iter(configs.values())) if isinstance(configs, dict) else configs, "peft_type", "PEFT")
    return str(getattr(kind, "value", kind))


def is_adapted(path: str, modules: Mapping[str, torch.nn.Module]) -> bool:
    """Whether PEFT has wrapped this module, with trained adapters.

    Args:
        path: the module's name, a key of `modules`.
        modules: all modules of the model by name.
    """
    parent, _, last = path.rpartition(".")
    return last == "base_layer" and any(p.requires_grad for p in modules[parent].parameters())


def plain_name(name: str, model: torch.nn.Module) -> str:
    """A module's name without the wrappers of torch.compile and PEFT."""
    name = re.sub(r"^(_orig_mod\.)+", "", name)
    if hasattr(model, "get_base_model"):  # a PeftModel
        name = re.sub(r"^base_model\.(model\.)?", "", name)
    return re.sub(r"\.(base_layer|original_module|modules_to_save\.[^.]+)(?=\.|$)", "", name)


def is_fine_tuned(model: torch.nn.Module) -> bool:
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


def adapted_new_heads(model: torch.nn.Module) -> list[str]:
    """Names of head modules that have adapters, although from_pretrained drew them at random.

    PEFT saves the adapters of such a module, but not its own weights. They are drawn anew at every load, so the trained head
    is lost.

    Args:
        model: any model. Without adapters, or if from_pretrained loaded nothing, the list is empty.
    """
    if adapters_of(model) is None or not any(map(was_loaded, model.parameters())):
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
