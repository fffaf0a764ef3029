"""What the heat map draws, against the numbers it was given."""

from __future__ import annotations

import io
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hf_stability.diagnostics.plots import color_limits, draw_heat_map, own_style, plot_heat_map, window_medians


pytestmark = pytest.mark.filterwarnings("error")  # numpy's on empty means, matplotlib's on layouts that fail

LAYERS = ["embeddings", "layer_00", "layer_01", "pooler", "classifier"]


@pytest.fixture
def ax():
    return Figure(figsize=(9.5, 3), layout="constrained").subplots()


def norms_of(steps, layers=5, seed=0):
    return 10 ** np.random.default_rng(seed).uniform(-3, 0.5, (steps, layers))


def steps_to(last):
    return np.arange(1, last + 1)


def cells(ax):
    """The norms that are drawn, `(layers, columns)`, NaN where a cell is blank."""
    return np.ma.filled(ax.collections[0].get_array(), np.nan)


def edges(ax):
    """Update steps at which the columns begin and end."""
    return ax.collections[0].get_coordinates()[0, :, 0]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []


# ---- what is drawn --------------------------------------------------------------------------------------------------


def test_a_cell_is_a_layers_norm_at_a_step_with_the_input_at_the_bottom(ax):
    norms = norms_of(20)
    assert plot_heat_map(ax, steps_to(20), norms, LAYERS) is ax
    assert np.array_equal(cells(ax), norms.T)
    assert edges(ax).tolist() == (np.arange(21) + 0.5).tolist()
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "embeddings", "layer 00", "layer 01", "pooler", "classifier",
    ]  # fmt: skip
    assert ax.get_yticks().tolist() == [0, 1, 2, 3, 4] and not ax.yaxis_inverted()
    assert ax.get_xlabel() == "update step" and legend(ax) == []


@pytest.mark.parametrize(("steps", "columns", "window"), [(500, 500, 1), (501, 251, 2), (1260, 420, 3)])
def test_many_steps_are_drawn_as_medians(ax, steps, columns, window):
    norms = norms_of(steps)
    plot_heat_map(ax, steps_to(steps), norms, LAYERS)
    slow = [np.median(norms[i : i + window], axis=0) for i in range(0, steps, window)]
    assert len(slow) == columns
    np.testing.assert_allclose(cells(ax), np.array(slow).T)
    assert edges(ax)[[0, 1, -1]].tolist() == [0.5, window + 0.5, steps + 0.5] == [0.5, edges(ax)[1], ax.get_xlim()[1]]
    assert ("median of" in ax.get_xlabel()) == (window > 1)


def test_the_colour_is_the_logarithm(ax):
    norms = np.full((3, 2), 1.0)
    norms[:, 0] = [1e-4, 1e-2, 1e0]
    plot_heat_map(ax, steps_to(3), norms, ["a", "b"])
    scale = ax.collections[0].norm
    assert [float(scale(norm)) for norm in norms[:, 0]] == pytest.approx([0, 0.5, 1])
    (bar,) = (other for other in ax.figure.axes if other is not ax)
    assert bar.get_ylabel() == "gradient norm" and {1e-4, 1e-2, 1.0} <= set(bar.get_yticks())


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ([0.3, 2.0], (1e-3, 10.0)),  # a healthy run: its range is not drawn out
        ([1e-6, 0.3], (1e-6, 1.0)),
        ([1e-12, 0.3], (1e-8, 1.0)),  # one layer that gets nothing: the others still differ
        ([np.nan, 1.0], (1e-4, 1.0)),
        ([1e-12], (1e-16, 1e-12)),
    ],
)
def test_the_colour_scale_has_four_to_eight_decades(norms, expected):
    assert color_limits(np.array(norms)) == pytest.approx(expected)


def test_zero_is_drawn_at_the_floor_and_what_is_not_finite_stays_blank(ax):
    norms = norms_of(6)
    norms[0, 0], norms[1, 1], norms[3:] = 0, np.inf, np.nan
    plot_heat_map(ax, steps_to(6), norms, LAYERS)
    assert cells(ax)[0, 0] == 1e-12
    blank = np.isnan(cells(ax))
    assert blank.sum() == 1 + 3 * len(LAYERS) and blank[1, 1] and blank[:, 3:].all()
    assert legend(ax) == ["no finite norm"]


def test_steps_that_are_missing_stay_blank(ax):
    norms = norms_of(4)
    plot_heat_map(ax, np.array([1, 2, 5, 6]), norms, LAYERS)
    assert np.isnan(cells(ax)).all(0).tolist() == [False, False, True, True, False, False]
    assert np.array_equal(cells(ax)[:, 4:], norms[2:].T)


def test_the_end_of_warmup_and_the_alarm_are_marked_after_their_step(ax):
    plot_heat_map(ax, steps_to(100), norms_of(100), LAYERS, 10, 35, "before clipping")
    assert [line.get_xdata()[0] for line in ax.lines] == [10.5, 35.5]
    assert len({line.get_linestyle() for line in ax.lines}) == 2
    assert legend(ax) == ["end of warmup, step 10", "alarm, step 35"]
    (bar,) = (other for other in ax.figure.axes if other is not ax)
    assert bar.get_ylabel() == "gradient norm, before clipping"


@pytest.mark.parametrize("warmup_steps", [0, None])
def test_no_warmup_no_line(ax, warmup_steps):
    plot_heat_map(ax, steps_to(10), norms_of(10), LAYERS, warmup_steps)
    assert not ax.lines


def test_all_of_it_is_on_the_page_and_no_label_covers_another(ax):
    names = ["embeddings", *(f"decoder_layer_{i:02d}" for i in range(60)), "classifier"]
    ax.figure.set_size_inches(9.5, 9.5)
    plot_heat_map(ax, steps_to(50), norms_of(50, len(names)), names, 5, 6)
    ax.figure.draw_without_rendering()
    page = ax.figure.bbox
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert len(boxes) == 31
    assert all(low.y1 <= high.y0 for low, high in zip(boxes, boxes[1:], strict=False))
    for box in [*boxes, ax.get_legend().get_window_extent()]:
        assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y1 <= page.y1


def test_window_medians_against_a_slow_one():
    steps, norms = np.array([1, 2, 3, 5, 9, 12]), norms_of(6, 2)
    norms[1, 0], norms[2, 0], norms[3, 1] = np.nan, np.inf, 0
    slow = np.full((4, 2), np.nan)
    for window in range(4):
        for layer in range(2):
            inside = [
                norm for step, norm in zip(steps, norms[:, layer], strict=True)
                if 3 * window < step <= 3 * window + 3 and np.isfinite(norm)
            ]  # fmt: skip
            if inside:
                slow[window, layer] = np.median(inside)
    np.testing.assert_array_equal(window_medians(steps, norms, 3, 4), slow)
    assert np.isnan(slow[1]).tolist() == [False, False] and slow[1, 1] == 0


# ---- the picture ----------------------------------------------------------------------------------------------------


def record_of(norms, **info):
    return {
        "step": steps_to(len(norms)).astype("f4"),
        "layer_norms": norms.astype("f4"),
        "layers": LAYERS,
        "info": {"max_steps": len(norms), "warmup_steps": len(norms) // 10, **info},
    }


def opened(png):
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


SENTENCE = (
    "failed: accuracy 0.482 on 500 examples is below the majority-class baseline (0.518, always 'a $ or two $'); " * 3
)


def test_the_picture_is_the_same_bytes_each_time_whatever_the_users_style(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # no global state, no display
    record = record_of(norms_of(60))
    first = draw_heat_map(record, SENTENCE, 20, "after clipping")
    height, width, _ = opened(first).shape
    assert 900 < width < 1000 and height < width
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "image.cmap": "jet"}):
        assert draw_heat_map(record, SENTENCE, 20, "after clipping") == first
        assert matplotlib.rcParams["font.size"] == 20


def test_the_verdict_is_written_above_and_fits(monkeypatch):
    seen = []
    monkeypatch.setattr("hf_stability.diagnostics.plots._png", lambda figure: seen.append(figure) or b"")
    draw_heat_map(record_of(norms_of(30)), SENTENCE)
    (figure,) = seen
    assert figure.get_suptitle().replace(r"\$", "$").replace("\n", " ") == SENTENCE.strip()
    figure.draw_without_rendering()
    title = figure._suptitle.get_window_extent()
    assert title.x1 < figure.bbox.x1 and title.y0 > figure.axes[0].get_window_extent().y1


def test_vanished_layers_are_dark_and_healthy_ones_are_not():
    norms = np.full((40, len(LAYERS)), 1.0)
    healthy = opened(draw_heat_map(record_of(norms))).mean(-1)
    norms[20:, :3] = 1e-3
    failed = opened(draw_heat_map(record_of(norms))).mean(-1)
    assert failed.shape == healthy.shape
    changed = np.argwhere(failed < healthy - 100)
    rows, columns = changed.min(0), changed.max(0)
    assert len(changed) > 0.95 * np.prod(columns - rows + 1)  # one block,
    (top, left), (bottom, right) = rows / failed.shape, columns / failed.shape
    assert top > 0.3 and bottom > 0.75 and 0.4 < left < 0.6 < right < 0.95  # the lower rows of the later steps


def test_without_norms_there_is_no_picture():
    assert draw_heat_map(record_of(np.full((5, len(LAYERS)), np.nan))) is None
    assert draw_heat_map(record_of(np.zeros((0, len(LAYERS))))) is None


@pytest.mark.parametrize("norms", [np.zeros((1, 5)), np.full((3, 5), 1e30), norms_of(1)], ids=["zero", "huge", "one"])
def test_odd_runs_are_drawn(norms):
    assert opened(draw_heat_map(record_of(norms))).size


def test_the_users_backend_is_left_alone():
    before = dict.__getitem__(matplotlib.rcParams, "backend")
    with own_style():
        assert matplotlib.rcParams["backend"].lower() == "agg"
    assert dict.__getitem__(matplotlib.rcParams, "backend") is before
