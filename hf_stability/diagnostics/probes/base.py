"""The base class of probes. A probe watches a training and returns numbers for each update step."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Probe:
    """Watches a training and returns numbers for each update step. It must not change the training.

    The recorder calls `start` once, `before_step` and `after_step` for each update step, and `stop` at the end. If a method
    raises, the probe gives one warning, its numbers are NaN from then on, and training continues.

    Attributes:
        name (str): the name for `diagnostics`.
        columns (list[str]): names of the record's columns, known after `start`.
        mean_over_processes (bool): True if each process sees only its own examples: the run's value is then the mean of
            the processes' values. False if all processes have the same value.
    """

    name: str = ""
    mean_over_processes: bool = False

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
        """Called at the beginning of training. A second call begins a new training.

        Args:
            model: the model on its device, without the wrappers of distributed training.
            layers: layer name -> its trainable parameters, from input to output.
            max_grad_norm: the clipping limit, 0 for no clipping.
            resumed: whether the training continues from a checkpoint.
        """
        self.stop()
        self.columns = [self.name]
        self._device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def before_step(
        self, optimizer: torch.optim.Optimizer, total_norm: Tensor, before_clipping: bool, step: int
    ) -> None:
        """Called after clipping, before the optimizer's step.

        Args:
            optimizer: the optimizer that will step, in accelerate's wrapper if it has one.
            total_norm: 0-d, the total gradient norm.
            before_clipping: whether `total_norm` was taken before clipping.
            step: number of the update step, from 1.
        """

    def after_step(self) -> Tensor:
        """Called after the optimizer's step.

        Returns:
            this step's numbers, `(len(columns),)`, float32, on the model's device. Do not synchronise with the host.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """Called at the end of training: remove hooks, free copies."""

    def _unknown(self) -> Tensor:
        return torch.full((len(self.columns),), torch.nan, device=self._device)
