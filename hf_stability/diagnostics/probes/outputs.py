"""What a probe of a module's outputs is: it gathers those of an update step, and makes numbers of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .base import Probe


class OutputProbe(Probe):
    """A probe of what a module puts out, for the examples of an update step: those of all its micro-batches together.

    Forward passes count while the model is in training mode. A subclass says which modules (`modules`), what of their
    output (`read`), and the numbers (`numbers`). Under `torch.compile` the graph breaks at these modules.
    """

    mean_over_processes = True
    _seen: list[Tensor]
    _model: nn.Module | None

    def start(
        self,
        model: nn.Module,
        layers: dict[str, list[nn.Parameter]],
        *,
        max_grad_norm: float = 0.0,
        resumed: bool = False,
    ) -> None:
        super().start(model, layers, max_grad_norm=max_grad_norm, resumed=resumed)
        self._model = model
        self._hooks = [module.register_forward_hook(self._see) for module in self.modules(model)]

    def modules(self, model: nn.Module) -> list[nn.Module]:
        """The modules to look at; of several only those that run show anything."""
        raise NotImplementedError

    def read(self, module: nn.Module, output: Any) -> Tensor | None:
        """`(examples, width)` of a forward pass, or None where it has no such thing."""
        raise NotImplementedError

    def numbers(self, seen: Tensor) -> Tensor:
        """`(examples, width)` of the step's examples, float32 -> `(len(columns),)`."""
        raise NotImplementedError

    @torch.compiler.disable  # else it is compiled again for each number of micro-batches
    @torch.no_grad()
    def _see(self, module: nn.Module, args: Any, output: Any) -> None:
        values = self.read(module, output) if self._model.training else None
        if values is not None:
            self._seen.append(values.to(torch.float32, copy=True))  # a view would keep all of the output in memory

    @torch.no_grad()
    def after_step(self) -> Tensor:
        seen, self._seen = self._seen, []
        if len({values.shape[-1] for values in seen}) != 1:
            return self._unknown()
        return self.numbers(torch.cat([values.to(self._device) for values in seen]))

    def stop(self) -> None:
        for hook in getattr(self, "_hooks", []):
            hook.remove()
        self._hooks, self._seen, self._model = [], [], None
