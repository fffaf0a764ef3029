"""Is the training loss the plain mean cross entropy of the logits, or a custom loss?

The gradient at the logits shows it. Take the plain mean cross entropy of n examples, times any one factor (loss scaling,
gradient accumulation, number of processes). Its gradient is

    d loss / d logits = c (softmax(logits) - onehot(labels)) = c d      with one c > 0 for all examples

Class weights, label smoothing, focal loss and weighted examples give another direction. Let g be the gradient of a batch:

    c   = <g, d> / <d, d>                                              the best single factor (least squares)
    own = c <= 0  or  |g - c d| > tolerance |g| + c noise

`tolerance` is 4 eps of the logits' type, at least 1e-3 (bfloat16: 0.03). `noise` is the rounding error of d: eps for each of
its numbers. Without it a batch that is fitted to the last digit would look like a custom loss. A batch with |d| <= noise
shows nothing.

One batch is not always enough. If all examples are of one class, class weights change only c. With two classes and equal
probabilities, label smoothing changes only c. So the loss is custom if any watched step shows it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..verdicts.constants import IGNORED_LABEL


MIN_TOLERANCE = 1e-3
"""Relative tolerance for float32 and float64 logits."""


class LossCheck:
    """Watches the gradient at the logits in some steps. It changes no bit of the training and never waits for the device.

    ```python
    check = LossCheck()
    check.watch(logits, labels)  # after the model's forward pass, before the backward pass
    loss.backward()
    check.is_own()  # tensor(False) for the plain mean cross entropy
    ```

    It keeps one boolean. The watched batch is part of autograd's graph, and is released with it.

    Args:
        steps: number of steps to watch. More would cost time and show nothing new.
        run: calls our function in the backward pass. There its error would end the training, so the callback passes the
            `run` of a guard, without its first argument. Default: a plain call.
    """

    def __init__(self, steps: int = 64, run: Callable[..., None] = lambda function, *args: function(*args)) -> None:
        self._own: Tensor | None = None
        self._left, self._run = steps, run

    def watch(self, logits: Tensor, labels: Tensor) -> None:
        """Look at the gradient of these logits in the backward pass.

        Args:
            logits: `(..., classes)`, of any floating type. They are not watched if they need no gradient.
            labels: `(...)` class ids. `IGNORED_LABEL` does not count. Labels of another shape are not watched.
        """
        if not self._left or not logits.requires_grad or logits.ndim < 2 or labels.shape != logits.shape[:-1]:
            return
        self._left -= 1
        outputs, targets = logits.detach(), labels.detach()  # a hook with a reference to `logits` would never be freed

        def look(gradient: Tensor | None) -> None:
            if gradient is None:  # under torch.compile the loss does not depend on these logits
                return
            own = differs(gradient, outputs, targets)
            self._own = own if self._own is None else self._own | own.to(self._own.device)

        run = self._run
        logits.register_hook(lambda gradient: run(look, gradient))

    def is_own(self) -> Tensor | None:
        """Whether a watched step had another gradient: a 0-d bool tensor on the device. None before the first gradient."""
        return self._own


@torch.no_grad()
def differs(gradient: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Whether a gradient at the logits is not the gradient of the plain mean cross entropy, as a 0-d bool tensor.

    Three kinds of examples are left out: ignored ones, those with a NaN logit, and those with a gradient that is not finite.
    A logit of -inf is a masked class.

    Args:
        gradient, logits: `(..., classes)`.
        labels: `(...)` class ids.

    Returns:
        False also if no example is left, if all are fitted to the last digit, or if the gradient is exactly 0.
    """
    classes = logits.shape[-1]
    eps = torch.finfo(logits.dtype).eps
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    g, outputs, targets = gradient.reshape(-1, classes).to(exact), logits.reshape(-1, classes), labels.reshape(-1)
    ids = torch.arange(classes, device=logits.device)
    d = outputs.to(exact).softmax(-1) - (targets[:, None] == ids).to(exact)
    counts = (targets != IGNORED_LABEL) & (d.isfinite() & g.isfinite()).all(-1)
    g, d = (torch.where(counts[:, None], part, torch.zeros_like(part)) for part in (g, d))
    g = g / g.abs().amax().clamp_min(torch.finfo(exact).tiny)  # without it, squares of small gradients underflow
    factor = (g * d).sum() / d.square().sum().clamp_min(torch.finfo(exact).tiny)
    noise = eps * (counts.sum() * classes).to(exact).sqrt()
    allowed = max(MIN_TOLERANCE, 4 * eps) * g.norm() + factor * noise
    says_something = (g != 0).any() & (d.norm() > noise)
    return says_something & ((factor <= 0) | ((g - factor * d).norm() > allowed))
