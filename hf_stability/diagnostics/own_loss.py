"""Is the loss that is minimised the plain mean cross entropy of the logits, or a loss of one's own?

The gradient at the logits tells. For the plain mean cross entropy of n examples, times any one factor (loss scaling,
gradient accumulation, number of processes),

    d loss / d logits = c (softmax(logits) - onehot(labels)) = c d      with one c > 0 for all examples

Class weights, label smoothing, focal loss and weighted examples have another direction. With g the gradient that arrived,

    c   = <g, d> / <d, d>                                              the best single factor (least squares)
    own = c <= 0  or  |g - c d| > tolerance |g| + c noise

`tolerance` is 4 eps of the logits' type, at least 1e-3 (bfloat16: 0.03). `noise` is the rounding of d itself, eps for each of
its numbers: without it a batch that is fitted to the last digit would look like a loss of one's own. A batch with |d| not
above it says nothing.

One batch is not always enough. With examples of one class only, class weights change c and nothing else; with two classes
and even probabilities, label smoothing does. So one watched step that says "own" is enough, and none takes it back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..verdicts.constants import IGNORED_LABEL


MIN_TOLERANCE = 1e-3
"""Relative; for float32 and float64 logits."""


class LossCheck:
    """Watches the gradient at the logits of some steps. It changes no bit of the training and never waits for the device.

    ```python
    check = LossCheck()
    check.watch(logits, labels)  # after the model's forward pass, before the backward pass
    loss.backward()
    check.is_own()  # tensor(False) for the plain mean cross entropy
    ```

    It keeps one boolean. A watched batch is held by autograd's graph, and released with it.

    Args:
        steps: number of steps to watch; more would cost time and tell nothing new.
        run: calls our function in the backward pass, where its error would end the training: a guard's `run` without its
            first argument. Default: a plain call.
    """

    def __init__(self, steps: int = 64, run: Callable[..., None] = lambda function, *args: function(*args)) -> None:
        self._own: Tensor | None = None
        self._left, self._run = steps, run

    def watch(self, logits: Tensor, labels: Tensor) -> None:
        """Look at the gradient of these logits once it arrives.

        Args:
            logits: `(..., classes)`, of any floating type. Nothing happens where they need no gradient.
            labels: `(...)` class ids; `IGNORED_LABEL` does not count. Labels of another shape are not watched.
        """
        if not self._left or not logits.requires_grad or logits.ndim < 2 or labels.shape != logits.shape[:-1]:
            return
        self._left -= 1
        outputs, targets = logits.detach(), labels.detach()  # a hook that holds `logits` itself would never be freed

        def look(gradient: Tensor | None) -> None:
            if gradient is None:  # under torch.compile the loss is not made of these logits
                return
            own = differs(gradient, outputs, targets)
            self._own = own if self._own is None else self._own | own.to(self._own.device)

        run = self._run
        logits.register_hook(lambda gradient: run(look, gradient))

    def is_own(self) -> Tensor | None:
        """Whether some watched step had another gradient: 0-d bool tensor on the device; None if none arrived yet."""
        return self._own


@torch.no_grad()
def differs(gradient: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Whether a gradient at the logits is not that of the plain mean cross entropy, as a 0-d bool tensor.

    Ignored examples are left out, and those with a NaN logit or a gradient that is not finite. Logits of -inf are masked
    classes. False if no example is left, if all are fitted to the last digit, or if the gradient is exactly 0.

    Args:
        gradient, logits: `(..., classes)`.
        labels: `(...)` class ids.
    """
    classes = logits.shape[-1]
    eps = torch.finfo(logits.dtype).eps
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    g, outputs, targets = gradient.reshape(-1, classes).to(exact), logits.reshape(-1, classes), labels.reshape(-1)
    ids = torch.arange(classes, device=logits.device)
    d = outputs.to(exact).softmax(-1) - (targets[:, None] == ids).to(exact)
    counts = (targets != IGNORED_LABEL) & (d.isfinite() & g.isfinite()).all(-1)
    g, d = (torch.where(counts[:, None], part, torch.zeros_like(part)) for part in (g, d))
    g = g / g.abs().amax().clamp_min(torch.finfo(exact).tiny)  # else squares of small gradients underflow
    factor = (g * d).sum() / d.square().sum().clamp_min(torch.finfo(exact).tiny)
    noise = eps * (counts.sum() * classes).to(exact).sqrt()
    allowed = max(MIN_TOLERANCE, 4 * eps) * g.norm() + factor * noise
    says_something = (g != 0).any() & (d.norm() > noise)
    return says_something & ((factor <= 0) | ((g - factor * d).norm() > allowed))
