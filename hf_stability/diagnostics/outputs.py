"""Statistics of a model's outputs in a training step: how far its logits differ between examples, and the predicted classes.

Each process sees only its own examples of the step. The statistics of several processes can be combined exactly, as if one
process had seen all examples (for the variance: Chan, Golub & LeVeque 1983).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def output_statistics(
    logits: Tensor | None, labels: Tensor | None, width: int, num_classes: int, device: torch.device
) -> Tensor:
    """Statistics of a batch's outputs, on the device, without synchronisation.

    Args:
        logits: `(examples, width)`. None, or another shape, if there are no logits.
        labels: `(examples,)` class ids, or the values of a regression.
        width: number of the model's outputs, 0 if it is not known.
        num_classes: number of classes to count, 0 for none.
        device: device of the result.

    Returns:
        `(1 + 2 * width + 2 * num_classes,)`. First the number of examples. Then, for each output after subtracting the
        mean over outputs, its mean and the sum of squares about it. Then the number of labels and of predictions of each
        class. NaN if not known.
    """
    size = 1 + 2 * width + 2 * num_classes
    if logits is None or logits.shape[-1] != width:
        return torch.full((size,), torch.nan, device=device)
    logits = logits.float()
    centred = logits - logits.mean(-1, keepdim=True) if width > 1 else logits
    mean = centred.mean(0)
    parts = [torch.full((1,), float(len(logits)), device=logits.device), mean, (centred - mean).square().sum(0)]
    if num_classes:
        classes = torch.arange(num_classes, device=logits.device)
        parts += [(ids[:, None] == classes).float().sum(0) for ids in (labels, logits.argmax(-1))]
    return torch.cat(parts).to(device)


def combine_statistics(parts: np.ndarray, width: int) -> np.ndarray:
    """Combine the processes' statistics of each step.

    Args:
        parts: `(processes, steps, 1 + 2 * width + 2 * classes)`, as `output_statistics` returns them.
        width: number of the model's outputs.

    Returns:
        `(steps, 1 + 2 * classes)`. First the standard deviation (ddof = 1) of an output over examples, mean over
        outputs; then the counts.
    """
    parts = np.asarray(parts, np.float64)
    number, means, squares, counts = np.split(parts, [1, 1 + width, 1 + 2 * width], axis=-1)
    total = number.sum(0)
    if not width:
        return np.concatenate([np.full_like(total, np.nan), counts.sum(0)], -1)
    grand_mean = (number * means).sum(0) / total
    squares = (squares + number * (means - grand_mean) ** 2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        std = np.sqrt(squares / (total - 1)).mean(-1, keepdims=True)
    return np.concatenate([std, counts.sum(0)], -1)
