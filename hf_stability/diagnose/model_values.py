"""The checks' values on a model, its config, its adapters and its tokenizer: plain values, no files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from ..utils.adapters import adapted_new_heads, adapter_kind, is_adapted, never_trained, plain_name, was_loaded
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
        "adapters": adapter_kind(model),
        "weights_dtype": half[0] if half else next(iter(dtypes), None),
    }


def frozen_parts(model: torch.nn.Module) -> dict[str, str]:
    """Frozen modules of the head, the pooler and the token embeddings -> the origin of their values.

    Fine-tuning often draws these at random. A module with trained adapters does not count as frozen, unless it is `adapted`.

    | value | what |
    | --- | --- |
    | `new` | drawn at random: its bias is 0 throughout, or the pretrained files lack it |
    | `adapted` | head: drawn at random, with trained adapters; see `adapted_new_heads` |
    | `loaded` | from the pretrained files |
    | `kept` | pooler and embeddings: no sign that they are new |
    | `unknown` | head: no sign of where its values come from |
    """
    (prefix, _), found = base_model(model), {}
    modules = dict(model.named_modules(remove_duplicate=False))
    some_loaded = any(map(was_loaded, model.parameters()))
    token_embeddings = _token_embeddings(model)
    for path, module in modules.items():
        own = dict(module.named_parameters(recurse=False))
        matrices = [p for p in own.values() if p.ndim > 1 and not p.requires_grad]
        if not matrices or _is_replaced(f"{path}.") or is_adapted(path, modules):
            continue
        name, weight, bias = plain_name(path, model), matrices[0], own.get("bias")
        if token_embeddings is not None and weight is token_embeddings:
            found[name] = "kept"
        elif prefix and not f"{path}.".startswith(prefix):
            found[name] = _head_origin(weight, bias, some_loaded)
        elif "pooler" in name.split("."):
            new = never_trained(bias) and some_loaded and not was_loaded(weight)
            found[name] = "new" if new else "kept"
    return found | dict.fromkeys(adapted_new_heads(model), "adapted")


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
    if never_trained(bias):
        return "new"
    if was_loaded(weight):
        return "loaded"
    # A frozen bias that is not 0 and has no mark: perhaps the user loaded the head by hand.
    return "new" if some_loaded and (bias is None or bias.requires_grad) else "unknown"


def _is_replaced(name: str) -> bool:
    """Whether it is PEFT's unused copy of a module in `modules_to_save`."""
    return ".original_module." in name


def adapter_values(config: Mapping[str, Any], missing_weights: list[str] | None, base_prefix: str) -> dict[str, Any]:
    """The checks' values on PEFT's adapter_config.json: the kind of adapters, and the frozen parts of the head.

    Args:
        config: the file's content.
        missing_weights, base_prefix: of the pretrained model, as in `causes`; None and "" if unknown.
    """
    values = {"adapters": str(config.get("peft_type") or "PEFT"), "frozen_parts": {}}
    trained, targets = set(config.get("modules_to_save") or []), config.get("target_modules") or []

    def is_target(module: str) -> bool:
        if isinstance(targets, str):  # a pattern
            return re.fullmatch(targets, module) is not None
        return any(module == name or module.endswith(f".{name}") for name in targets)

    if config.get("task_type") not in (None, "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"):
        return values  # a language model's head is not new
    new = sorted({name.rpartition(".")[0] for name in missing_weights or ()})
    new = [name for name in new if not name.startswith(f"{base_prefix}.") or "pooler" in name.split(".")]
    if new:
        left = [name for name in new if not trained & set(name.split("."))]
        # A new pooler counts as trained if it has adapters: its own weights are lost at a reload, too, but it is no head.
        values["frozen_parts"] = {
            name: "adapted" if is_target(name) else "new"
            for name in left
            if not (is_target(name) and "pooler" in name.split("."))
        }
    elif missing_weights is None and not config.get("modules_to_save"):
        values["frozen_parts"] = {"no modules_to_save": "unknown"}
    return values


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
