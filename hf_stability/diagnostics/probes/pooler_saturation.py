"""The diagnostic `pooler_saturation`: share of the pooler's tanh outputs beyond 0.99."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from .outputs import OutputProbe


SATURATED = 0.99  # a tanh output beyond this counts as saturated, as in the paper's code


def saturated_share(outputs: Tensor, bound: float = SATURATED) -> Tensor:
    """Share of tanh outputs with `|y| > bound`: `(..., examples, width)` -> `(...)`, in [0, 1]."""
    return (outputs.abs() > bound).float().mean((-2, -1))


class PoolerSaturation(OutputProbe):
    """`pooler_saturation`: share of the pooler's tanh outputs beyond 0.99, before its dropout; see [`saturated_share`].

        mean over the step's examples and the pooler's units of [|tanh| > 0.99]

    A saturated unit passes no gradient on to the encoder. The tanh is that of BERT's and ALBERT's pooler (and of others
    of their make), or of the classification head of RoBERTa's kind (`dense`, then tanh). NaN for a model without one,
    as ELECTRA and DistilBERT.

    Source: `tanh_saturation` in the code of Mosbach et al. (which looks behind the dropout, and takes 0.99 itself in).
    Cost: memory for examples x width numbers until the step; no pass over the parameters.
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
    """The pooler's tanh: `nn.Tanh` modules, or the Linear layers whose output goes into a tanh that is no module.

    Found by the names and classes of the modules, so that wrappers (DistributedDataParallel, PEFT) do no harm. Several
    where a wrapper keeps copies of a module, of which one runs.
    """
    heads: list[Any] = [module.dense for module in model.modules() if _is_tanh_head(module)]
    return heads or [m for name, m in model.named_modules() if isinstance(m, nn.Tanh) and "pooler" in name]


def _is_tanh_head(module: nn.Module) -> bool:
    """Whether it is a head like RobertaClassificationHead: `dense`, then `torch.tanh`, inside its forward."""
    name = type(module).__name__
    if not name.endswith(("ClassificationHead", "Pooler")) or not isinstance(
        getattr(module, "dense", None), nn.Module
    ):
        return False
    code = getattr(
        inspect.unwrap(type(module).forward), "__code__", None
    )  # BigBird's head, say, has another activation
    return code is not None and "tanh" in code.co_names
