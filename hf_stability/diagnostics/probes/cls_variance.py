"""The diagnostic `cls_variance`: how much the [CLS] states of different inputs differ."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...utils.layers import base_model
from ..named_output import named_output
from .outputs import OutputProbe


def cls_variance(states: Tensor) -> Tensor:
    """Variance over examples (ddof = 1), mean over dimensions: `(..., examples, width)` -> `(...)`. NaN for one example."""
    squares = (states - states.mean(-2, keepdim=True)).square().sum(-2)
    return (squares / (states.shape[-2] - 1)).mean(-1)


class ClsVariance(OutputProbe):
    """Column `cls_variance`: how much the [CLS] states of the step's examples differ.

        variance over examples (ddof = 1) of the last hidden state at position 0, mean over its dimensions

    Near 0, the encoder gives every input the same state. Position 0 is [CLS] in BERT and similar models. In an
    encoder-decoder it is the decoder's first position; in a causal model it is the first token, which sees only itself.
    The value is NaN for a step with one example, and if the base model returns no such states. With several processes it
    is the mean of their variances.

    Source: the sample variance; not from a paper.

    Cost: memory for examples x hidden size numbers until the step. No pass over the parameters.
    """

    name = "cls_variance"

    def modules(self, model: nn.Module) -> list[nn.Module]:
        return [base_model(model)[1]]

    def read(self, module: nn.Module, output: Any) -> Tensor | None:
        states = named_output(output, key="last_hidden_state", or_first=False)
        return states[:, 0] if isinstance(states, Tensor) and states.ndim == 3 else None

    def numbers(self, seen: Tensor) -> Tensor:
        return cls_variance(seen)[None]
