"""Vanished gradients: which layers got almost no gradient, in which part of training, and whether it came back.

Shapes: `T` recorded update steps, `L` layers, `B` windows; `...` are leading axes, for example seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError


def vanished_mask(
    steps: np.ndarray,
    layer_norms: np.ndarray,
    top: int,
    warmup_steps: int,
    total_steps: int,
    *,
    window: float = 0.04,
    ratio_below: float = 0.03,
    drop_to: float = 0.1,
    heal: float = 2.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Which layers have vanished gradients in which windows of training.

    Training is cut into windows, with a boundary at the end of warmup. The norm of a window is the median of its recorded
    norms, without NaN and Inf. A layer vanishes in a window after warmup if its norm is below both bounds:

    - `ratio_below` times the norm of the top layer in that window;
    - `drop_to` times its own highest window so far, warmup included.

    It stays vanished until its norm is above `heal` times one of the bounds. Only ratios count: scaling all norms by one
    factor changes nothing.

    The bounds come from medians of 11 failed and 13 successful runs without bias correction (12 layers, 188 steps). In the
    failed runs the norm of layer 1 is 0.27 in the first 6% of training, and 0.0054 at 30-40%. That is 0.02 of its own
    level, and 0.005 of the classifier's norm, 1.11. In the successful runs it is 0.48 there, half of the classifier's.

    Args:
        steps: (T,), ascending update steps, from 1.
        layer_norms: (..., T, L), gradient norm of each layer before clipping.
        top: index of the layer with which the others are compared.
        warmup_steps: update steps of warmup. No layer vanishes in them.
        total_steps: update steps of the whole training.
        window: length of a window as a fraction of `total_steps`. A window has at least 5 steps.
        ratio_below, drop_to, heal: see above.

    Returns:
        first recorded step of each window (B,), and which layers have vanished in it (..., B, L). `top` is always False.
    """
    steps = np.asarray(steps)
    norms = np.asarray(layer_norms, dtype=float)
    width = max(5.0, window * total_steps)
    # windows 0, -1, ... are in warmup, and 1, 2, ... after it
    indices, starts = np.unique(np.ceil((steps - warmup_steps) / width), return_index=True)
    levels = _window_medians(norms, starts)

    reference = levels[..., top : top + 1]
    to_top = np.divide(levels, reference, out=np.full_like(levels, np.nan), where=reference > 0)
    peak = np.fmax.accumulate(levels, axis=-2)
    to_peak = np.divide(levels, peak, out=np.full_like(levels, np.nan), where=peak > 0)

    # comparisons with NaN are False, so a window without numbers changes nothing
    below = (to_top < ratio_below) & (to_peak < drop_to)
    healed = (to_top > heal * ratio_below) | (to_peak > heal * drop_to)
    mask = np.zeros(levels.shape, dtype=bool)
    state = np.zeros(levels[..., 0, :].shape, dtype=bool)
    for b in np.flatnonzero(indices > 0):
        state = below[..., b, :] | (state & ~healed[..., b, :])
        mask[..., b, :] = state
    mask[..., top] = False
    return steps[starts], mask


def _window_medians(norms: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(..., T, L) to (..., B, L): medians over the windows that begin at rows `starts`; NaN if a window has no finite norm."""
    finite = np.where(np.isfinite(norms), norms, np.nan)
    ends = [*starts[1:], norms.shape[-2]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "All-NaN slice": NaN is the right result
        medians = [np.nanmedian(finite[..., i:j, :], axis=-2) for i, j in zip(starts, ends, strict=True)]
    return np.stack(medians, axis=-2)


def vanished_gradients(
    steps: np.ndarray,
    layer_norms: np.ndarray,
    layers: Sequence[str],
    warmup_steps: int,
    total_steps: int,
    *,
    lasting: float = 0.1,
    **bounds: float,
) -> dict[str, Any] | None:
    """Which layers have vanished gradients, since which step, and whether the gradients came back.

    This describes a finished run. It shows a correlation: a run does not learn while its lower layers get no gradient, but
    the norms do not show which of the two came first. It is not an early warning. `vanished_mask` gives the rule.

    Args:
        steps: (T,), ascending update steps, from 1.
        layer_norms: (T, L), gradient norms. NaN and Inf are left out.
        layers: L names from the bottom up (`embeddings`, `layer_00`, ..., `pooler`, `classifier`). The others are compared
            with `classifier`, or with the last layer if none has this name.
        warmup_steps: update steps of warmup, not a fraction. No layer vanishes in them.
        total_steps: update steps of the whole training.
        lasting: a layer counts only if it stays vanished for this fraction of `total_steps`. Successful runs have small
            gradients too, until shortly after warmup.
        bounds: keywords of `vanished_mask`.

    Returns:
        None if no layer vanished, else a dict of plain values:

            - `lasting`: bool, whether gradients were still vanished at the end of training;
            - `layers`: names, from the bottom up, of the layers that did not come back. If all came back: all that vanished;
            - `since`: update step by layer;
            - `first_step`, `last_step`: the smallest and the largest of these steps;
            - `healed_step`: update step by which all were back; None if `lasting`.
    """
    steps, norms = check_norms(steps, layer_norms, layers)
    if 0 < warmup_steps < 1:
        raise InputError(f"warmup_steps {warmup_steps} looks like a fraction: give a number of update steps")
    if not len(steps):
        return None
    starts, mask = vanished_mask(steps, norms, top_layer(layers), warmup_steps, total_steps, **bounds)

    spans = {
        name: _last_long_span(starts, mask[:, i], steps[-1], lasting * total_steps) for i, name in enumerate(layers)
    }
    spans = {name: span for name, span in spans.items() if span is not None}
    if not spans:
        return None
    forever = any(healed is None for _, healed in spans.values())
    chosen = {name: span for name, span in spans.items() if span[1] is None} if forever else spans
    since = {name: first for name, (first, _) in chosen.items()}
    return {
        "lasting": forever,
        "layers": list(chosen),
        "since": since,
        "first_step": min(since.values()),
        "last_step": max(since.values()),
        "healed_step": None if forever else max(healed for _, healed in chosen.values()),
    }


def top_layer(layers: Sequence[str]) -> int:
    """Index of the classifier, or of the last layer if none has this name."""
    return list(layers).index("classifier") if "classifier" in layers else len(layers) - 1


def _last_long_span(
    starts: np.ndarray, vanished: np.ndarray, last_step: int, at_least: float
) -> tuple[int, int | None] | None:
    """The last long enough row of True windows: (first step, first step after it). The second is None if it never ends."""
    edges = np.diff(np.concatenate([[0], vanished.astype(int), [0]]))
    for first, end in reversed(list(zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True))):
        open_end = end == len(starts)
        until = last_step + 1 if open_end else starts[end]
        if until - starts[first] >= at_least:
            return int(starts[first]), None if open_end else int(until)
    return None


def check_norms(steps: np.ndarray, layer_norms: np.ndarray, layers: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Steps `(T,)` and gradient norms `(T, L)` as arrays.

    Raises:
        InputError: the shapes do not fit each other or the L names, or the steps do not ascend.
    """
    steps, norms = np.asarray(steps), np.asarray(layer_norms, dtype=float)
    if steps.ndim != 1 or norms.shape != (len(steps), len(layers)):
        raise InputError(
            f"gradient norms of shape {norms.shape}: need one row for each of {steps.size} steps and one column for each of "
            f"{len(layers)} layers"
        )
    if (np.diff(steps) <= 0).any():
        raise InputError("steps must ascend, with each update step once")
    return steps, norms
