"""The diagnostic `pooler_saturation`: share of the pooler's tanh outputs beyond 0.99."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from .outputs import OutputProbe


SATURATED = 0.99  # tanh outputs beyond this count as saturated, as in the paper's code


def saturated_share(outputs: Tensor, bound: float = SATURATED) -> Tensor:
    """Share of tanh outputs with `|y| > bound`: `(..., examples, width)` -> `(...)`, in [0, 1]."""
    return (outputs.abs() > bound).float().mean((-2, -1))


class PoolerSaturation(OutputProbe):
    """Column `pooler_saturation`: share of the pooler's tanh outputs beyond 0.99, before its dropout.

        mean over the step's examples and the pooler's units of [|tanh| > 0.99]

    A saturated unit passes almost no gradient to the encoder. The tanh is in the pooler of BERT, ALBERT and similar
    models, or in a classification head like RoBERTa's (`dense`, then tanh). The value is NaN for a model without such a
    tanh, like ELECTRA and DistilBERT.

    Source: `tanh_saturation` in the code of Mosbach et al. That code looks behind the dropout and includes 0.99 itself.

    Cost: memory for examples x width numbers until the step. No pass over the parameters.
    """

    name = "pooler_saturation"

    def modules(self, model: nn.Module) -> list[nn.Module]:
        return tanh_modules(model)

    def read(self, module: nn.Module, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor) or output.ndim != 2:
            return None
        return output if isinstance(module, nn.Tanh) else torch.tanh(output)

    def numbers(self, seen: Tensor) -> Tensor:
        return saturated_share(seen)[None]


def tanh_modules(model: nn.Module) -> list[nn.Module]:
    """The pooler's tanh: `nn.Tanh` modules, or Linear layers before a tanh that is not a module.

    They are found by the names and classes of the modules, so that wrappers (DistributedDataParallel, PEFT) do not
    matter. There are several if a wrapper keeps copies of a module; only one of them runs.
    """
    heads: list[Any] = [module.dense for module in model.modules() if _is_tanh_head(module)]
    return heads or [m for name, m in model.named_modules() if isinstance(m, nn.Tanh) and "pooler" in name]


def _is_tanh_head(module: nn.Module) -> bool:
    """Whether a module is a head like RobertaClassificationHead: its forward has `dense`, then `torch.tanh`."""
    name = type(module).__name__
    if not name.endswith(("ClassificationHead", "Pooler")) or not isinstance(
        getattr(module, "dense", None), nn.Module
    ):
        return False
    code = getattr(
        inspect.unwrap(type(module).forward), "__code__", None
    )  # other heads, such as BigBird's, have another activation
    return code is not None and "tanh" in code.co_names
