"""The diagnostic `prediction_entropy`: how sure, and how one-sided, the predictions are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..named_output import named_output
from .outputs import OutputProbe


def prediction_entropy(logits: Tensor) -> Tensor:
    """Mean over examples of the entropy of `softmax(logits)`: `(..., examples, classes)` -> `(...)`.

    In nats: `-sum_k p_k log p_k`, between 0 (every prediction is sure) and `log(classes)`.
    """
    return torch.special.entr(logits.softmax(-1)).sum(-1).mean(-1)


def one_class_share(logits: Tensor) -> Tensor:
    """Share of the most predicted class: `(..., examples, classes)` -> `(...)`, between 1 / classes and 1."""
    classes = torch.arange(logits.shape[-1], device=logits.device)
    return (logits.argmax(-1, keepdim=True) == classes).float().mean(-2).amax(-1)


class PredictionEntropy(OutputProbe):
    """Columns `prediction_entropy` and `one_class_share`: how sure, and how one-sided, the step's predictions are.

        prediction_entropy = mean over examples of -sum_k p_k log p_k, p = softmax(logits), in nats
        one_class_share    = largest share of the examples predicted as one class

    A failed run predicts one class, with an entropy near the label entropy. Both values are NaN unless the task is a
    classification with one label per example. With several processes the share is the mean of the processes' shares.
    It is the run's share if the processes have the same most predicted class; otherwise it is larger.

    Source: `softmax_entropy` in the code of Mosbach et al.

    Cost: memory for examples x classes numbers until the step. No pass over the parameters.
    """

    name = "prediction_entropy"

    def start(
        self,
        model: nn.Module,
        layers: dict[str, list[nn.Parameter]],
        *,
        max_grad_norm: float = 0.0,
        resumed: bool = False,
    ) -> None:
        super().start(model, layers, max_grad_norm=max_grad_norm, resumed=resumed)
        self.columns = ["prediction_entropy", "one_class_share"]

    def modules(self, model: nn.Module) -> list[nn.Module]:
        return [model]

    def read(self, module: nn.Module, output: Any) -> Tensor | None:
        problem = getattr(getattr(module, "config", None), "problem_type", None)  # the first batch's labels may set it
        if problem not in (None, "single_label_classification"):
            return None
        logits = named_output(output, or_first=False)
        return logits if isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[-1] > 1 else None

    def numbers(self, seen: Tensor) -> Tensor:
        return torch.stack([prediction_entropy(seen), one_class_share(seen)])
