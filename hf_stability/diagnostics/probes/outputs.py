"""The base class of probes that read a module's outputs: it collects those of an update step for one computation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .base import Probe


class OutputProbe(Probe):
    """A probe of a module's outputs, for the examples of all micro-batches of an update step together.

    Only forward passes in training mode count. A subclass defines `modules`, `read` and `numbers`. `torch.compile` breaks
    the graph at these modules.
    """

    mean_over_processes: bool = True
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
        """The modules to read. Modules that do not run are ignored."""
        raise NotImplementedError

    def read(self, module: nn.Module, output: Any) -> Tensor | None:
        """The values of a forward pass, `(examples, width)`. None if it has no such values."""
        raise NotImplementedError

    def numbers(self, seen: Tensor) -> Tensor:
        """The numbers, `(len(columns),)`, from the values of the step's examples, `(examples, width)` float32."""
        raise NotImplementedError

    @torch.compiler.disable  # otherwise it is compiled again for each number of micro-batches
    @torch.no_grad()
    def _see(self, module: nn.Module, args: Any, output: Any) -> None:
        values = self.read(module, output) if self._model.training else None
        if values is not None:
            self._seen.append(values.to(torch.float32, copy=True))  # a view would keep the whole output in memory

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
