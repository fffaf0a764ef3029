"""The loss and the gradient norm of a model on a plane of weights.

    f(a, b) = L(theta + a d1 + b d2)

Goodfellow et al. (2015) walk along one line of weights; Li et al. (2018, "Visualizing the Loss Landscape of Neural Nets") draw planes.
Li et al. scale random directions by the norm of each filter. Here the directions are taken as they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError


Loss = Callable[[nn.Module], "Tensor | Iterable[Tensor]"]
"""A function of the model. It returns the loss, a scalar, or yields parts that sum to it, such as one part per batch."""

Point = tuple[int, int]


def surface(
    model: nn.Module,
    directions: tuple[Sequence[Tensor], Sequence[Tensor]],
    grid: tuple[Sequence[float], Sequence[float]],
    loss_of: Loss,
    known: Mapping[Point, tuple[float, float]] | None = None,
    on_point: Callable[[int, int, float, float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The loss and the norm of its gradient on a plane through a model's weights.

    The weights are written in place: there is one model for all points. Besides, there is a copy of its weights, and one sum of
    gradients. The model is in evaluation mode meanwhile. Afterwards it has its weights and modes again, bit for bit, also after
    an error or Ctrl-C. The `grad` of its parameters is not touched.

    Args:
        model: its weights are the point (0, 0).
        directions: two directions, each with a tensor for every parameter, in the order of `model.parameters()`.
        grid: the coordinates `(a, b)` along the two directions, of lengths A and B.
        loss_of: see `Loss`.
        known: finished points, `(i, j) -> (loss, norm)`; they are not computed again.
        on_point: is called with `(i, j, loss, norm)` after each new point.

    Returns:
        The loss and the gradient's Euclidean norm over all trainable parameters, both `(A, B)`.

    Raises:
        InputError: a direction does not fit the model.

    Example:
        ```python
        import torch
        from hf_stability.analysis.plane import surface

        model = torch.nn.Linear(2, 1, bias=False)
        x, y = torch.randn(8, 2), torch.randn(8, 1)
        directions = [torch.tensor([[1.0, 0.0]])], [torch.tensor([[0.0, 1.0]])]
        loss, norm = surface(model, directions, ([-1, 0, 1], [-1, 0, 1]), lambda m: ((m(x) - y) ** 2).mean())
        ```
    """
    parameters = list(model.parameters())
    for number, direction in enumerate(directions, 1):
        if [value.shape for value in direction] != [value.shape for value in parameters]:
            raise InputError(
                f"direction {number} does not fit the model: give a tensor for each parameter, of its shape, in the order of model.parameters()"
            )
    losses, norms = (np.full((len(grid[0]), len(grid[1])), np.nan) for _ in range(2))
    with restored(model) as start:
        model.eval()
        for (i, a), (j, b) in itertools.product(enumerate(grid[0]), enumerate(grid[1])):
            if known is not None and (i, j) in known:
                losses[i, j], norms[i, j] = known[i, j]
                continue
            move(parameters, start, directions, (a, b))
            losses[i, j], norms[i, j] = loss_and_gradient_norm(model, loss_of)
            if on_point is not None:
                on_point(i, j, float(losses[i, j]), float(norms[i, j]))
    return losses, norms


@contextmanager
def restored(model: nn.Module) -> Iterator[list[Tensor]]:
    """Give a model its weights and modes back afterwards, bit for bit. The value is a copy of its weights, in their order."""
    parameters = list(model.parameters())
    start = [parameter.detach().clone() for parameter in parameters]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield start
    finally:
        write_weights(parameters, start)
        for module, training in modes:
            module.training = training


@torch.no_grad()
def write_weights(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write values into parameters, in place."""
    torch._foreach_copy_(list(parameters), list(values))


@torch.no_grad()
def move(
    parameters: Sequence[Tensor],
    start: Sequence[Tensor],
    directions: tuple[Sequence[Tensor], Sequence[Tensor]],
    point: tuple[float, float],
) -> None:
    """Write `start + a * directions[0] + b * directions[1]` into parameters, in place, for a point `(a, b)`."""
    values = list(parameters)
    torch._foreach_copy_(values, list(start))
    for direction, length in zip(directions, point, strict=True):
        torch._foreach_add_(values, list(direction), alpha=float(length))


def loss_and_gradient_norm(model: nn.Module, loss_of: Loss) -> tuple[float, float]:
    """The loss, and the Euclidean norm of its gradient over all trainable parameters. No `grad` is touched."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total, sums = 0.0, [torch.zeros_like(parameter) for parameter in trained]
    with torch.enable_grad():
        parts = loss_of(model)
        for part in [parts] if isinstance(parts, Tensor) else parts:
            found = torch.autograd.grad(part, trained, allow_unused=True)
            used = [(old, new) for old, new in zip(sums, found, strict=True) if new is not None]
            torch._foreach_add_([old for old, _ in used], [new for _, new in used])
            total += part.item()
    return total, math.hypot(*(value.item() for value in torch._foreach_norm(sums)))


def plane_coordinates(
    offset: Sequence[Tensor], directions: tuple[Sequence[Tensor], Sequence[Tensor]]
) -> tuple[float, float, float]:
    """The point of the plane that is nearest to given weights, by least squares, in float64.

    Args:
        offset: the weights minus those at (0, 0), a tensor for each parameter.
        directions: the two directions of the plane. They may be parallel: then the solution of the smallest norm is taken.

    Returns:
        a, b, and the distance of the weights to the plane, in the weights' unit.
    """
    first, second = directions
    gram = np.array([[dot(one, other) for other in (first, second)] for one in (first, second)])
    a, b = np.linalg.lstsq(gram, np.array([dot(first, offset), dot(second, offset)]), rcond=None)[0]
    rest = 0.0
    for value, one, other in zip(offset, first, second, strict=True):
        rest += (value.double() - a * one.double() - b * other.double()).square().sum().item()
    return float(a), float(b), math.sqrt(rest)


def dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The scalar product of two directions, in float64."""
    return sum((x.double() * y.double()).sum().item() for x, y in zip(one, other, strict=True))


def difference(end: Sequence[Tensor], start: Sequence[Tensor]) -> list[Tensor]:
    """A direction of the plane."""
    return [one - other for one, other in zip(end, start, strict=True)]


def length(direction: Sequence[Tensor]) -> float:
    """The Euclidean norm of a direction."""
    return math.sqrt(dot(direction, direction))


def grid_values(lowest: float, highest: float, points: int) -> list[float]:
    """Evenly spaced coordinates. They are rounded, so that 0 and 1 are exact where the grid has them."""
    return [round(value, 12) + 0.0 for value in np.linspace(lowest, highest, points).tolist()]
