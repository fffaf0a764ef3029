"""What a probe is: it sees a training, and gives numbers for each update step."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Probe:
    """Sees a run, and gives numbers for each of its update steps. It changes no bit of the training.

    `start`, then for each update step `before_step` and `after_step`, at the end `stop`.

    Attributes:
        name: what the user writes.
        columns: names of the record's columns, known after `start`.
        mean_over_processes: True where a process sees its own examples only; the mean of the processes' values is then
            the run's. False where all processes hold the same values.
    """

    name = ""
    mean_over_processes = False

    def __init__(self) -> None:
        self.columns: list[str] = []

    def start(
        self,
        model: nn.Module,
        layers: dict[str, list[nn.Parameter]],
        *,
        max_grad_norm: float = 0.0,
        resumed: bool = False,
    ) -> None:
        """At the beginning of training; a second time, the first is forgotten.

        Args:
            model: without the wrappers of distributed training, on its device.
            layers: its trainable parameters, as in `layers_of`.
            max_grad_norm: the clipping's limit, 0 for none.
            resumed: whether the training goes on from a checkpoint.
        """
        self.stop()
        self.columns = [self.name]
        self._device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def before_step(
        self, optimizer: torch.optim.Optimizer, total_norm: Tensor, before_clipping: bool, step: int
    ) -> None:
        """After clipping, before the optimizer's step.

        Args:
            optimizer: the one whose step comes, accelerate's wrapper around it included.
            total_norm: 0-d, the total gradient norm.
            before_clipping: whether `total_norm` was taken before clipping.
            step: number of the update step, from 1.
        """

    def after_step(self) -> Tensor:
        """This step's numbers, `(len(columns),)` float32 on the model's device, without host synchronisation."""
        raise NotImplementedError

    def stop(self) -> None:
        """Remove hooks, free copies."""

    def _unknown(self) -> Tensor:
        return torch.full((len(self.columns),), torch.nan, device=self._device)
