"""The plot of one run: its gradient norms by layer and update step, as a heat map.

The plot takes an `ax` and numbers, draws, and returns the `ax`. Its colours go from dark to light, also when printed in grey.
"""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


ALARM = "#0072B2"  # blue, which is not a colour of the map
BLANK = "0.85"
FLOOR = 1e-12  # 0 has no logarithm: smaller norms are drawn as this one
FEWEST_DECADES, MOST_DECADES = 4, 8  # of the colour scale
MOST_COLUMNS = 500  # more update steps than this are drawn as medians of windows
STYLE: dict[str, Any] = {"font.size": 9, "svg.hashsalt": "hf_stability"}


def draw_heat_map(
    record: Mapping[str, Any], sentence: str = "", alarm_step: int | None = None, kind: str = ""
) -> bytes | None:
    """`plot_heat_map` of a run as a PNG, with the same bytes each time.

    Args:
        record: as `read_steps` returns it.
        sentence: the verdict's sentence, shown above the plot.
        alarm_step: update step of the alarm. None without an alarm.
        kind: for the colour bar: `before clipping` or `after clipping`.

    Returns:
        the PNG. None if no gradient norm was recorded.
    """
    steps, norms, layers = record["step"], record["layer_norms"], record["layers"]
    if not np.isfinite(norms).any():
        return None
    with own_style():
        figure = _figure(len(layers), sentence)
        plot_heat_map(figure.gca(), steps, norms, layers, record["info"].get("warmup_steps"), alarm_step, kind)
        return _png(figure)


def plot_heat_map(
    ax: Axes,
    steps: np.ndarray,
    layer_norms: np.ndarray,
    layers: Sequence[str],
    warmup_steps: float | None = None,
    alarm_step: int | None = None,
    kind: str = "",
) -> Axes:
    """Gradient norms over training: a row for each layer, the input at the bottom. The colour is the norm's logarithm.

    Mosbach et al. (ICLR 2021, section 5.1) plot these norms for some layers; this plot has all layers. If a run fails, the
    lower rows go dark. With more than 500 update steps, medians of windows are drawn. The colour scale spans the norms
    that are drawn, with at least 4 decades and at most 8. The minimum keeps a healthy run from looking like a failed one.

    Args:
        ax: where to draw.
        steps: update steps, from 1, `(steps,)`. Missing steps stay blank.
        layer_norms: `(steps, layers)`. NaN and Inf stay blank. Norms below 1e-12 are drawn as 1e-12.
        layers: names, from input to output.
        warmup_steps: update steps of warmup. A dotted line marks its end.
        alarm_step: update step of the alarm. A solid line marks it.
        kind: for the colour bar: `before clipping` or `after clipping`.

    Returns:
        `ax`.
    """
    from matplotlib.colors import LogNorm

    last = int(np.max(steps, initial=1))
    window = math.ceil(last / MOST_COLUMNS)
    columns = math.ceil(last / window)
    shown = np.maximum(window_medians(np.asarray(steps), np.asarray(layer_norms), window, columns), FLOOR)
    edges = np.append(np.arange(columns) * window, last) + 0.5  # the last window may be a shorter one
    rows = np.arange(len(layers) + 1) - 0.5
    image = ax.pcolormesh(edges, rows, np.ma.masked_invalid(shown.T), norm=LogNorm(*color_limits(shown)), cmap="magma")
    ax.set_facecolor(BLANK)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.01, fraction=0.03)
    bar.set_label(f"gradient norm{f', {kind}' if kind else ''}")
    bar.minorticks_off()
    if warmup_steps:
        _mark(ax, warmup_steps, ":", "black", "end of warmup")
    if alarm_step:
        _mark(ax, alarm_step, "-", ALARM, "alarm")
    if not np.isfinite(shown).all():
        ax.fill_between([], [], [], color=BLANK, label="no finite norm")
    every = math.ceil(len(layers) / 40)
    ax.set_yticks(range(len(layers))[::every], [name.replace("_", " ") for name in layers[::every]], fontsize="small")
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", integer=True)
    ax.set_xlim(0.5, last + 0.5)
    ax.set_xlabel(f"update step (a column: median of {window} steps)" if window > 1 else "update step")
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        above: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 3, "frameon": False}
        ax.legend(handles, labels, fontsize="small", handlelength=1.6, borderaxespad=0.1, **above)
    return ax


def color_limits(norms: np.ndarray) -> tuple[float, float]:
    """Lowest and highest norm of the colour scale, both powers of ten. See `plot_heat_map`."""
    logs = np.log10(norms[np.isfinite(norms)])
    highest = math.ceil(logs.max(initial=math.log10(FLOOR)))
    lowest = math.floor(logs.min(initial=highest))
    return 10.0 ** max(min(lowest, highest - FEWEST_DECADES), highest - MOST_DECADES), 10.0**highest


def window_medians(steps: np.ndarray, norms: np.ndarray, window: int, windows: int) -> np.ndarray:
    """Median of each `window` update steps, `(steps, layers)` -> `(windows, layers)`, without NaN and Inf.

    A window without a finite norm is NaN. Steps count from 1. Steps after the last window are left out.
    """
    padded = np.full((windows * window, norms.shape[1]), np.nan)
    rows = steps.astype(int) - 1
    kept = rows < len(padded)
    padded[rows[kept]] = np.where(np.isfinite(norms[kept]), norms[kept], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a window without a norm
        return np.nanmedian(padded.reshape(windows, window, -1), axis=1)


@contextmanager
def own_style() -> Iterator[None]:
    """Use our own matplotlib style and a backend without windows; restore the user's style and backend afterwards.

    Drawing a box plot asks for the backend. Without this, matplotlib would look for one through pyplot.
    """
    import matplotlib

    backend = dict.__getitem__(matplotlib.rcParams, "backend")  # read without making matplotlib look for one
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        style: Any = {**STYLE, "backend": "agg"}
        matplotlib.rcParams.update(style)
        try:
            yield
        finally:
            dict.__setitem__(matplotlib.rcParams, "backend", backend)  # rc_context does not restore the backend


def _mark(ax: Axes, step: float, style: str, color: str, label: str) -> None:
    """A line after an update step, visible on dark and on light colours."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=3.5, foreground="white")]
    ax.axvline(
        step + 0.5, linestyle=style, color=color, linewidth=1.5, path_effects=halo, label=f"{label}, step {step:g}"
    )


def _figure(num_layers: int, sentence: str) -> Figure:
    """An empty figure with one `ax` and a title. It avoids pyplot, which keeps figures and may look for a display."""
    from matplotlib.figure import Figure

    lines = textwrap.wrap(sentence, 108)
    height = 1.1 + 0.18 * len(lines) + max(1.5, 0.21 * min(num_layers, 40))
    figure = Figure(figsize=(8, height), layout="constrained")
    figure.suptitle("\n".join(lines).replace("$", r"\$"), x=0.01, ha="left", fontsize="medium")
    figure.subplots()
    return figure


def _png(figure: Figure) -> bytes:
    content = BytesIO()
    figure.savefig(content, format="png", dpi=120, facecolor="white", metadata={"Software": None})
    return content.getvalue()
