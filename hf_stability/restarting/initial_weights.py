"""A copy of a ready model's weights, with which the next attempt begins. A trainer with `model_init` needs none."""

from __future__ import annotations

import logging
from itertools import chain
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn


logger = logging.getLogger(__name__)

LARGEST_SHARE = 0.5
"""Largest share of the free memory that the copy may take. A larger copy is written to disk."""


class InitialWeights:
    """Copies a model's parameters and buffers. They take their size in CPU memory: 4 bytes per parameter in float32.

    A copy that would take more than half of the free memory is written to disk.

    Args:
        model: the model, on any device.
        folder: for a copy on disk.
        rank: number of this process: each has its own file.
        free: bytes of free memory. Default: those of this machine.
    """

    def __init__(self, model: nn.Module, folder: Path, rank: int = 0, free: int | None = None) -> None:
        self._tensors: list[Tensor] = list(chain(model.parameters(), model.buffers()))
        self._trained = [tensor.requires_grad for tensor in self._tensors]
        self._copies: list[Tensor] = []
        self.path: Path | None = None
        size = sum(tensor.numel() * tensor.element_size() for tensor in self._tensors)
        if size > LARGEST_SHARE * (psutil.virtual_memory().available if free is None else free):
            self.path = folder / f"initial_weights_{rank}.pt"
            folder.mkdir(parents=True, exist_ok=True)
            torch.save([tensor.detach() for tensor in self._tensors], self.path)
            logger.info(
                f"The initial weights ({size / 2**30:.1f} GiB) are kept in {self.path} until training has ended."
            )
        else:
            self._copies = [tensor.detach().to("cpu", copy=True) for tensor in self._tensors]

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the model its initial weights and buffers again. The tensors stay the same objects."""
        copies = self._copies if self.path is None else torch.load(self.path, map_location="cpu", mmap=True)
        for tensor, copy, trained in zip(self._tensors, copies, self._trained, strict=True):
            tensor.copy_(copy)
            tensor.grad = None
            tensor.requires_grad_(trained)

    def close(self) -> None:
        """Free the memory, or delete the file."""
        self._copies = []
        if self.path is not None:
            self.path.unlink(missing_ok=True)
