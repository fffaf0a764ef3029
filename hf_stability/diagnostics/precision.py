"""Half precision by accident: weights that are trained in float16 or bfloat16 themselves.

transformers 5 loads a checkpoint in the dtype that it was saved in, and some are saved in float16
(microsoft/deberta-v3-base). Training then fails without an error.
"""

from __future__ import annotations

from collections import Counter

import torch


WAY_OUT = (
    "Load the weights in float32: from_pretrained(..., dtype=torch.float32). For mixed precision set bf16=True or "
    "fp16=True beside it."
)


def half_precision_weights(model: torch.nn.Module) -> str:
    """Why this model must not be trained as it is: a few sentences; empty where all trainable weights are float32 or wider.

    Only trainable weights count: a frozen base in half precision, or a quantised one, under adapters in float32 is in
    order. Weights of which DeepSpeed keeps a float32 copy do not count either.

    Args:
        model: as it is trained, on any device.
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
    lost = " or ".join(f"1/{round(2 / torch.finfo(dtype).eps)} ({_name(dtype)})" for dtype in half)
    sentences = [
        f"{sum(half.values()):,} of {total:,} trainable weights are {names}.",
        f"An update below about {lost} of its weight is lost in rounding.",
    ]
    if torch.float16 in half:
        sentences.append("AdamW's default eps (1e-8) rounds to 0 in float16.")
    return " ".join([*sentences, WAY_OUT])


def _is_half(dtype: torch.dtype) -> bool:
    """float16, bfloat16 and smaller floats; quantised weights are integers."""
    return dtype.is_floating_point and dtype.itemsize < 4


def _has_float32_copy(parameter: torch.nn.Parameter) -> bool:
    """DeepSpeed's marks on weights of which its optimizer has a float32 copy (ZeRO-3; bf16, ZeRO-1 and 2)."""
    return hasattr(parameter, "ds_id") or getattr(parameter, "_hp_mapping", None) is not None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
