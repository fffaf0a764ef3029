"""Vanished gradients: which layers got next to no gradient, in which part of training, and whether it came back.

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
    """Which layers' gradients have vanished in which windows of training.

    Training is cut into windows, with a boundary at the end of warmup. A window's norm is the median of its recorded norms
    without NaN and Inf. A layer vanishes in a window after warmup if its norm is below BOTH
    `ratio_below` x the top layer's norm in that window and
    `drop_to` x its own highest window so far, warmup included;
    it stays so until it is above `heal` times either bound. Only ratios enter: scaling all norms changes nothing.

    Where the bounds come from (12 layers, 188 steps, medians of 11 failed and 13 successful runs without bias
    correction): in failed runs layer 1 falls from 0.27 in the first 6% of training to 0.0054 at 30-40% (to 0.02 of its
    own level), which is 0.005 of the classifier's 1.11; in successful runs it is at 0.48 there, half of the classifier's.

    Args:
        steps: (T,), ascending update steps, from 1.
        layer_norms: (..., T, L), gradient norms, each layer's before clipping.
        top: index of the layer with which the others are compared.
        warmup_steps: update steps of warmup; windows in it are never vanished.
        total_steps: update steps of the whole training.
        window: length of a window as a fraction of `total_steps`; at least 5 steps.
        ratio_below, drop_to, heal: see above.

    Returns:
        first recorded step of each window (B,), and which layers have vanished in it (..., B, L), False for `top`.
    """
    steps = np.asarray(steps)
    norms = np.asarray(layer_norms, dtype=float)
    width = max(5.0, window * total_steps)
    # windows 0, -1, ... lie in warmup and 1, 2, ... after it
    indices, starts = np.unique(np.ceil((steps - warmup_steps) / width), return_index=True)
    levels = _window_medians(norms, starts)

    reference = levels[..., top : top + 1]
    to_top = np.divide(levels, reference, out=np.full_like(levels, np.nan), where=reference > 0)
    peak = np.fmax.accumulate(levels, axis=-2)
    to_peak = np.divide(levels, peak, out=np.full_like(levels, np.nan), where=peak > 0)

    # NaN compares as False on both sides: a window without numbers changes nothing
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
    """(..., T, L) to (..., B, L): medians over the windows beginning at rows `starts`, NaN where none is finite."""
    finite = np.where(np.isfinite(norms), norms, np.nan)
    ends = [*starts[1:], norms.shape[-2]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "All-NaN slice": the NaN is the answer
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
    """Which layers' gradients vanished, since when, and whether they came back.

    This describes a finished run and is correlational evidence: a run does not learn while its lower layers get no gradient,
    but nothing here says which came first. It is no early warning. See `vanished_mask` for the rule.

    Args:
        steps: (T,), ascending update steps, from 1.
        layer_norms: (T, L), gradient norms; NaN and Inf are left out.
        layers: L names from the bottom up (`embeddings`, `layer_00`, ..., `pooler`, `classifier`). The others are compared
            with `classifier`, or with the last one if none has this name.
        warmup_steps: update steps of warmup, not a fraction; no layer counts as vanished in them. Successful runs too have
            small gradients until shortly after warmup, hence `lasting`.
        total_steps: update steps of the whole training.
        lasting: a layer counts only if it stays vanished for this fraction of `total_steps`.
        bounds: keywords of `vanished_mask`.

    Returns:
        None if no layer vanished, else a dict of plain values: `lasting` (bool: to the end); `layers` (names, bottom
        up: those that did not come back; if all did, all that had vanished); `since` (step by layer);
        `first_step` and `last_step` (the range of these); `healed_step` (int, by when all were back; None if lasting).
    """
    steps, norms = check_norms(steps, layer_norms, layers)
    if 0 < warmup_steps < 1:
        raise InputError(f"warmup_steps {warmup_steps} looks like a fraction: give the number of update steps")
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
    """The last stretch of True windows that is long enough: (first step, step of healing or None if it never ends)."""
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
        InputError: their shapes do not fit each other and the L names, or the steps do not ascend.
    """
    steps, norms = np.asarray(steps), np.asarray(layer_norms, dtype=float)
    if steps.ndim != 1 or norms.shape != (len(steps), len(layers)):
        raise InputError(
            f"gradient norms of shape {norms.shape} do not fit steps {steps.shape} and {len(layers)} layers"
        )
    if (np.diff(steps) <= 0).any():
        raise InputError("steps must ascend, each update step once")
    return steps, norms
