"""The checks' values on a model, its config, its adapters and its tokenizer: plain values, no files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from ..utils.layers import base_model, parameters_with_layers


CLS_IS_BOS = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "albert")
"""For these model types, the config calls the tokenizer's cls and sep tokens `bos` and `eos`."""

ANY_MODELS = (PreTrainedTokenizer, PreTrainedTokenizerFast)
"""Tokenizer classes that fit any model: they show no mismatch."""

LOOK_AT = 10_000  # examples; the tokens of later ones are not read


def config_values(config: Any) -> dict[str, Any]:
    """The checks' values on a model's config."""
    kind = getattr(config, "model_type", "")
    ids = {"pad": getattr(config, "pad_token_id", None)}
    if kind in CLS_IS_BOS:
        ids |= {"cls": getattr(config, "bos_token_id", None), "sep": getattr(config, "eos_token_id", None)}
    return {
        "hidden_size": getattr(config, "hidden_size", None),
        "embedding_rows": getattr(config, "vocab_size", None),
        "config_ids": ids,
        "expected_class": _tokenizer_class(kind),
    }


def _tokenizer_class(kind: str) -> type | None:
    """The tokenizer class of a model type; None if it fits any model."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    names = TOKENIZER_MAPPING_NAMES.get(kind)
    name = names if isinstance(names, str) else next(filter(None, names or ()), None)
    found = tokenizer_class_from_name(name) if name else None
    return None if found in ANY_MODELS else found


def model_values(model: torch.nn.Module) -> dict[str, Any]:
    """The checks' values on a model: config, precision, adapters, trained and frozen layers."""
    trainable: dict[str, int] = {}
    frozen: dict[str, int] = {}
    config = getattr(model, "config", None)
    for layer, name, parameter in parameters_with_layers(model):
        if not _is_replaced(name):
            counts = trainable if parameter.requires_grad else frozen
            counts[layer] = counts.get(layer, 0) + parameter.numel()
    dtypes = {str(p.dtype) for p in model.parameters() if p.requires_grad and p.is_floating_point()}
    half = sorted(dtypes & {"torch.float16", "torch.bfloat16"})
    return {
        **(config_values(config) if config is not None else {}),
        "num_labels": getattr(config, "num_labels", None),
        "trainable": trainable,
        "frozen": frozen,
        "frozen_parts": frozen_parts(model),
        "adapters": _adapters_of(model),
        "weights_dtype": half[0] if half else next(iter(dtypes), None),
    }


def frozen_parts(model: torch.nn.Module) -> dict[str, str]:
    """Frozen modules of the head, the pooler and the token embeddings -> the origin of their values.

    Fine-tuning often draws these at random. A module with trained adapters does not count as frozen.

    | value | what |
    | --- | --- |
    | `new` | drawn at random: its bias is 0 throughout, or the pretrained files lack it |
    | `loaded` | from the pretrained files |
    | `kept` | pooler and embeddings: no sign that they are new |
    | `unknown` | head: no sign of where its values come from |
    """
    (prefix, _), found = base_model(model), {}
    modules = dict(model.named_modules(remove_duplicate=False))
    some_loaded = any(map(_was_loaded, model.parameters()))
    token_embeddings = _token_embeddings(model)
    for path, module in modules.items():
        own = dict(module.named_parameters(recurse=False))
        matrices = [p for p in own.values() if p.ndim > 1 and not p.requires_grad]
        if not matrices or _is_replaced(f"{path}.") or _is_adapted(path, modules):
            continue
        name, weight, bias = _plain_name(path, model), matrices[0], own.get("bias")
        if token_embeddings is not None and weight is token_embeddings:
            found[name] = "kept"
        elif prefix and not f"{path}.".startswith(prefix):
            found[name] = _head_origin(weight, bias, some_loaded)
        elif "pooler" in name.split("."):
            new = _never_trained(bias) and some_loaded and not _was_loaded(weight)
            found[name] = "new" if new else "kept"
    return found


def _token_embeddings(model: Any) -> torch.Tensor | None:
    """The weight of a model's token embeddings; None if the model does not name them."""
    try:
        embeddings = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    return getattr(embeddings, "weight", None)


def _head_origin(weight: torch.Tensor, bias: torch.Tensor | None, some_loaded: bool) -> str:
    """The origin of a frozen module of the head: `new`, `loaded` or `unknown`.

    Args:
        some_loaded: whether from_pretrained loaded any weight of the model.
    """
    if _never_trained(bias):
        return "new"
    if _was_loaded(weight):
        return "loaded"
    # A frozen bias that is not 0 and has no mark: perhaps the user loaded the head by hand.
    return "new" if some_loaded and (bias is None or bias.requires_grad) else "unknown"


def _never_trained(bias: torch.Tensor | None) -> bool:
    """Whether a bias is 0 throughout, its initial value."""
    return bias is not None and bias.numel() > 0 and not bias.is_meta and not bool(bias.any())


def _was_loaded(parameter: torch.Tensor) -> bool:
    """Whether from_pretrained found it in the files. transformers 5 marks the weights that it loads."""
    return bool(getattr(parameter, "_is_hf_initialized", False))


def _is_replaced(name: str) -> bool:
    """Whether it is PEFT's unused copy of a module in `modules_to_save`."""
    return ".original_module." in name


def _is_adapted(path: str, modules: Mapping[str, torch.nn.Module]) -> bool:
    """Whether PEFT has wrapped this module, with trained adapters."""
    parent, _, last = path.rpartition(".")
    return last == "base_layer" and any(p.requires_grad for p in modules[parent].parameters())


def _adapters_of(model: torch.nn.Module) -> str | None:
    """The kind of a model's adapters, by PEFT's name (`LORA` ...); None if it has none."""
    configs = getattr(model, "peft_config", None)
    if not configs:
        return None
    kind = getattr(next(iter(configs.values())) if isinstance(configs, dict) else configs, "peft_type", "PEFT")
    return str(getattr(kind, "value", kind))


def adapter_values(config: Mapping[str, Any], missing_weights: list[str] | None, base_prefix: str) -> dict[str, Any]:
    """The checks' values on PEFT's adapter_config.json: the kind of adapters, and the frozen parts of the head.

    Args:
        config: the file's content.
        missing_weights, base_prefix: of the pretrained model, as in `causes`; None and "" if unknown.
    """
    values = {"adapters": str(config.get("peft_type") or "PEFT"), "frozen_parts": {}}
    trained, targets = list(config.get("modules_to_save") or []), config.get("target_modules") or []
    if not isinstance(targets, str):  # else a pattern
        trained += targets

    def is_trained(module: str) -> bool:
        return bool(set(module.split(".")) & set(trained)) or (
            isinstance(targets, str) and re.fullmatch(targets, module) is not None
        )

    if config.get("task_type") not in (None, "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"):
        return values  # a language model's head is not new
    new = sorted({name.rpartition(".")[0] for name in missing_weights or ()})
    new = [name for name in new if not name.startswith(f"{base_prefix}.") or "pooler" in name.split(".")]
    if new:
        values["frozen_parts"] = {name: "new" for name in new if not is_trained(name)}
    elif missing_weights is None and not config.get("modules_to_save"):
        values["frozen_parts"] = {"no modules_to_save": "unknown"}
    return values


def _plain_name(name: str, model: torch.nn.Module) -> str:
    """A module's name without the wrappers of torch.compile and PEFT."""
    name = re.sub(r"^(_orig_mod\.)+", "", name)
    if hasattr(model, "get_base_model"):  # a PeftModel
        name = re.sub(r"^base_model\.(model\.)?", "", name)
    return re.sub(r"\.(base_layer|original_module|modules_to_save\.[^.]+)(?=\.|$)", "", name)


def tokenizer_values(tokenizer: Any) -> dict[str, Any]:
    """The checks' values on a tokenizer. Its class is None if it fits any model."""
    return {
        "tokenizer_size": len(tokenizer),
        "tokenizer_ids": {part: getattr(tokenizer, f"{part}_token_id", None) for part in ("pad", "cls", "sep")},
        "tokenizer_class": None if type(tokenizer) in ANY_MODELS else type(tokenizer),
    }


def token_values(rows: Any, unknown_id: int | None) -> dict[str, Any]:
    """The largest token id in the first 10,000 examples, and the share of unknown tokens."""
    try:
        ids = np.concatenate([np.asarray(row, np.int64) for row in rows["input_ids"][:LOOK_AT]])
    except (ValueError, TypeError):  # no rows, or several texts per example
        return {}
    share = None if unknown_id is None or not ids.size else float((ids == unknown_id).mean())
    return {"largest_id": int(ids.max()) if ids.size else None, "unknown_share": share}


def class_names(config: Any) -> list[str] | None:
    """A config's class names; None for `LABEL_0` ..., the defaults."""
    names = [str(config.id2label[i]) for i in sorted(config.id2label)] if getattr(config, "id2label", None) else []
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names
