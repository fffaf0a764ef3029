"""What a model's outputs show of a training step: how far its logits differ between examples, and which classes it predicts.

A process sees its own examples of the step; what is kept of them can be put together exactly, as if one process had seen
all of them (Chan, Golub & LeVeque 1983, for the variance).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def output_statistics(
    logits: Tensor | None, labels: Tensor | None, width: int, num_classes: int, device: torch.device | str
) -> Tensor:
    """Statistics of a batch's outputs, on the device, without synchronisation.

    Args:
        logits: `(examples, width)`, or None where there are none; an output of another shape counts as none.
        labels: `(examples,)` class ids, or values of a regression.
        width: outputs of the model, 0 where it is not known.
        num_classes: classes that are counted, 0 for none.

    Returns:
        `(1 + 2 * width + 2 * num_classes,)`: number of examples; of each output, with the mean over outputs taken off,
        the mean and the sum of squares about it; labels of each class; predictions of each class. NaN where unknown.
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
    """Put the processes' statistics of each step together.

    Args:
        parts: `(processes, steps, 1 + 2 * width + 2 * classes)`, as [`output_statistics`] makes them.

    Returns:
        `(steps, 1 + 2 * classes)`: the standard deviation (ddof = 1) of an output over examples, mean over outputs;
        then the counts.
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
