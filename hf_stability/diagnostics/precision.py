"""Finds weights that are trained in half precision (float16 or bfloat16) by accident.

transformers 5 loads a checkpoint in the dtype in which it was saved. Some checkpoints are saved in float16, for example
microsoft/deberta-v3-base. Training then fails without an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch


WAY_OUT = (
    "Load the weights in float32: from_pretrained(..., dtype=torch.float32). For mixed precision also set bf16=True or "
    "fp16=True."
)


def half_precision_weights(model: torch.nn.Module) -> str:
    """A warning about trainable weights in half precision.

    Only trainable weights count. Adapters in float32 on a frozen or quantised base in half precision are fine. Weights
    with a float32 copy in DeepSpeed do not count either.

    Args:
        model: the model to be trained, on any device.

    Returns:
        a few sentences with the way out. Empty if all trainable weights are float32 or wider.
    """
    total, half = 0, Counter[torch.dtype]()
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        count = getattr(parameter, "ds_numel", None) or parameter.numel()  # ZeRO-3 leaves an empty tensor in place
        total += count
        if _is_half(parameter.dtype) and not _has_float32_copy(parameter):
            half[parameter.dtype] += count
    if not half:
        return ""
    names = " or ".join(_name(dtype) for dtype in half)
    count = f"{sum(half.values()):,} of {total:,} trainable weights are {names}."
    return " ".join([count, rounding_sentences(list(map(str, half))), WAY_OUT])


def rounding_sentences(dtypes: Sequence[str]) -> str:
    """Why weights in half precision train badly.

    Args:
        dtypes: their dtypes, by name: `torch.float16` or `torch.bfloat16`, or both.
    """
    found = [getattr(torch, dtype.removeprefix("torch.")) for dtype in dtypes]
    lost = " or ".join(f"1/{round(2 / torch.finfo(dtype).eps)} ({_name(dtype)})" for dtype in found)
    eps = " AdamW's default eps (1e-8) rounds to 0 in float16." if torch.float16 in found else ""
    return f"An update below about {lost} of its weight is lost in rounding.{eps}"


def _is_half(dtype: torch.dtype) -> bool:
    """Whether a dtype is float16, bfloat16 or a smaller float. Quantised weights are integers."""
    return dtype.is_floating_point and dtype.itemsize < 4


def _has_float32_copy(parameter: torch.nn.Parameter) -> bool:
    """Whether DeepSpeed's optimizer has a float32 copy of these weights (ZeRO-3; ZeRO-1 and 2 with bf16)."""
    return hasattr(parameter, "ds_id") or getattr(parameter, "_hp_mapping", None) is not None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
