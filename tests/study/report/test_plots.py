"""What the plots draw, against the numbers they were given."""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from hf_stability.study.report.plots import (
    plot_gradient_norms,
    plot_restarts,
    plot_score_against_train_loss,
    plot_scores,
    sideways,
    wrap_name,
)


pytestmark = pytest.mark.filterwarnings("error")  # numpy's on empty means, matplotlib's on odd limits

SCORES = {"devlin2019": [0.47, 0.7, 0.47, 0.53, 0.72], "mosbach2021": [0.7, 0.71, 0.75]}
FAILED = {"devlin2019": [True, False, True, True, False], "mosbach2021": [False] * 3}
LONG = [
    "devlin2019_with_bias_correction_and_a_smaller_rate",
    "averyverylongnamewithoutanyseparatorinit",
    *(f"recipe-{i}" for i in range(6)),
]


@pytest.fixture
def ax():
    return Figure(figsize=(6.5, 4.4), layout="constrained").subplots()


def scattered(ax, label):
    """Marks of this label, `(marks, 2)`."""
    return np.concatenate([c.get_offsets() for c in ax.collections if c.get_label() == label])


def lines(ax, label):
    """y of each line whose label starts so, in the order drawn."""
    return [line.get_ydata() for line in ax.lines if str(line.get_label()).startswith(label)]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def names(ax):
    return [label.get_text() for label in ax.get_xticklabels()]


def drawn(ax):
    """The plot, its layout worked out, as extents on the page need."""
    ax.figure.draw_without_rendering()
    return ax


# ---- scores ---------------------------------------------------------------------------------------------------------


def test_every_run_is_a_mark_and_failed_ones_are_of_another_kind(ax):
    assert plot_scores(ax, SCORES, FAILED, "accuracy", 0.53) is ax
    ok, failed = scattered(ax, "ok run"), scattered(ax, "failed run")
    assert sorted(ok[:, 1]) == [0.7, 0.7, 0.71, 0.72, 0.75] and sorted(failed[:, 1]) == [0.47, 0.47, 0.53]
    assert (np.abs(failed[:, 0]) < 0.31).all()  # in the first recipe's box
    assert sorted(ok[:, 0].round()) == [0, 0, 1, 1, 1]
    kinds = {c.get_label(): c for c in ax.collections}
    assert len(kinds["ok run"].get_paths()[0]) != len(kinds["failed run"].get_paths()[0])  # a disc, a cross
    assert (kinds["ok run"].get_facecolor() != kinds["failed run"].get_edgecolor()).any()


def test_median_mean_maximum_and_constant_stand_where_numpy_says(ax):
    plot_scores(ax, SCORES, FAILED, "matthews_correlation", 0.53)
    assert [y[0] for y in lines(ax, "median")] == [np.median(s) for s in SCORES.values()]
    assert [y[0] for y in lines(ax, "mean")] == pytest.approx([np.mean(s) for s in SCORES.values()])
    assert [list(y) for y in lines(ax, "best constant predictor")] == [[0.53, 0.53]]
    assert texts(ax) == ["max 0.720", "max 0.750", "0.530"]
    assert ax.get_ylabel() == "matthews correlation on the\ndevelopment set, end of training"
    assert legend(ax) == ["ok run", "failed run", "median", "mean", "best constant predictor"]


def test_failed_runs_are_counted_below_the_name_and_runs_without_a_score_too(ax):
    plot_scores(ax, {**SCORES, "c": [np.nan, 0.6], "d": []}, {**FAILED, "c": [True, False], "d": []}, "accuracy")
    assert names(ax) == [
        "devlin2019\n3 of 5 failed",
        "mosbach2021\n0 of 3 failed",
        "c\n1 of 2 failed\n(1 without score)",
        "d\nno runs",
    ]
    assert len(lines(ax, "median")) == 3 and not lines(ax, "best constant predictor")


@pytest.mark.parametrize("scores", [{"a": [0.6]}, {"a": [0.6, 0.6]}, {"a": [np.nan]}, {"a": []}, {}])
def test_few_scores_or_none(ax, scores):
    plot_scores(ax, scores, {recipe: np.zeros(len(s), bool) for recipe, s in scores.items()}, "accuracy", 0.5)
    low, high = drawn(ax).get_ylim()
    assert low < 0.5 < high


def test_the_legend_has_every_recipe_whatever_its_name(ax):
    names = ["_hidden", "$x_{y"]
    plot_score_against_train_loss(
        ax, *({name: [0.5] for name in names} for _ in range(2)), {name: [False] for name in names}, "f1"
    )
    assert legend(ax) == [" _hidden (0/1 failed)", r"\$x_{y (0/1 failed)"]


def test_eight_long_names_do_not_touch_and_the_legend_covers_no_data():
    ax = Figure(figsize=(9.8, 4.4), layout="constrained").subplots()
    plot_scores(ax, dict.fromkeys(LONG, [0.5, 0.7]), dict.fromkeys(LONG, [True, False]), "accuracy", 0.5)
    boxes = [label.get_window_extent() for label in drawn(ax).get_xticklabels()]
    assert len(boxes) == 8
    assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))
    assert all(box.y0 >= 0 for box in boxes)
    assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1


def test_the_same_marks_each_time():
    axes = [plot_scores(Figure().subplots(), SCORES, FAILED, "accuracy") for _ in range(2)]
    assert (scattered(axes[0], "ok run") == scattered(axes[1], "ok run")).all()


@pytest.mark.parametrize("n", [1, 2, 5, 12, 25, 100])
def test_equal_scores_stand_apart_in_their_box(n):
    x = sideways(np.full(n, 0.473))
    assert (np.abs(x) <= 0.25).all()
    assert n == 1 or np.diff(np.sort(x)).min() > 0.5 / n / 3  # evenly spread runs are 0.5 / n apart


@given(st.text("abc_- .", max_size=60), st.integers(0, 30))
def test_a_wrapped_name_is_the_name(name, width):
    wrapped = wrap_name(name, width)
    assert "".join(wrapped).replace(" ", "") == name.replace(" ", "")
    assert max(map(len, wrapped)) <= max(width, 8)


def test_a_name_is_cut_where_its_parts_meet():
    assert wrap_name("lee2020_mixout_0.9", 12) == ["lee2020_", "mixout_0.9"]
    assert wrap_name("devlin2019+mixout,p=0.9", 12) == ["devlin2019+", "mixout,p=0.9"]
    assert wrap_name("grid,bias_correction=false", 15) == ["grid,bias_", "correction=", "false"]
    assert wrap_name("mixout+at_4e-5", 13) == ["mixout+at_", "4e-5"]  # never 4e- and 5
    assert wrap_name("a-b-c-d-e-f", 8) == ["a-b-c-d-", "e-f"]


# ---- gradient norms -------------------------------------------------------------------------------------------------


STEPS = np.arange(1, 41)
RNG = np.random.default_rng(0)
VANISHED, HEALTHY = np.exp(RNG.normal(-6, 1, (3, 40))), np.exp(RNG.normal(0, 1, (4, 40)))


def test_a_line_for_each_run_and_the_median_of_each_group(ax):
    assert plot_gradient_norms(ax, STEPS, VANISHED, HEALTHY, "layer 00", warmup_steps=4) is ax
    assert len([line for line in ax.lines if line.get_linewidth() < 1]) == 7
    (ok,), (failed,) = lines(ax, "ok (4 runs)"), lines(ax, "failed (3 runs)")
    assert (ok == np.median(HEALTHY, axis=0)).all() and (failed == np.median(VANISHED, axis=0)).all()
    assert ax.get_yscale() == "log"
    (warmup,) = [line for line in ax.lines if line.get_label() == "end of warmup"]
    assert list(warmup.get_xdata()) == [4, 4]
    styles = {line.get_linestyle() for line in ax.lines if line.get_linewidth() > 1.5}
    assert styles == {"-", "--"}  # the groups are told apart without colour
    assert ax.get_legend().get_title().get_text() == "layer 00" and ax.get_xlabel() == "update step"


def test_a_group_without_runs_is_said_to_have_none(ax):
    plot_gradient_norms(ax, STEPS, np.zeros((0, 40)), HEALTHY[:1])
    assert legend(ax) == ["ok (1 run)", "failed (none)"]


def test_a_diverged_run_ends_where_its_norms_do_and_leaves_the_median(ax):
    norms = VANISHED.copy()
    norms[0, 10:], norms[1, 20] = np.nan, np.inf
    plot_gradient_norms(ax, STEPS, norms, HEALTHY[:0])
    (median,) = lines(ax, "failed")
    assert (median[:10] == np.median(VANISHED[:, :10], axis=0)).all()
    assert median[20] == VANISHED[2, 20]
    assert (median[21:] == np.median(VANISHED[1:, 21:], axis=0)).all()
    assert ax.get_xlim()[1] > 40


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_norms_at_all_are_said(ax, value):
    plot_gradient_norms(ax, STEPS, np.full((2, 40), value), HEALTHY[:0], panel=True)
    assert texts(ax) == ["no norms"]
    drawn(ax)


@pytest.mark.parametrize("norms", [np.zeros((2, 40)), np.full((2, 40), 0.3), np.where(STEPS > 5, 0.0, HEALTHY[:2])])
def test_norms_of_zero_and_norms_that_never_change(ax, norms):
    drawn(plot_gradient_norms(ax, STEPS, norms, HEALTHY[:0]))
    assert texts(ax) == ([] if norms.any() else ["all norms are 0"])


def test_a_single_step_is_a_point(ax):
    plot_gradient_norms(ax, [1], [[0.1], [0.2]], np.zeros((0, 1)), panel=True, label="pooler")
    assert [line.get_marker() for line in ax.lines if line.get_label() == "failed (2 runs)"] == ["."]
    assert ax.get_title() == "pooler" and ax.get_legend() is None


# ---- score against train loss ---------------------------------------------------------------------------------------


LOSSES = {"devlin2019": [0.69, 0.1, 0.7, 0.69, 0.2], "mosbach2021": [0.001, 0.002, 0.003]}


def marks(ax, hollow):
    """Losses and scores of the marks, `(marks, 2)`."""
    return np.concatenate([c.get_offsets() for c in ax.collections if (len(c.get_facecolor()) == 0) == hollow])


def test_every_run_is_a_mark_at_its_loss_and_score_and_failed_ones_are_hollow(ax):
    assert plot_score_against_train_loss(ax, LOSSES, SCORES, FAILED, "accuracy", 0.53, 0.693) is ax
    runs = [(loss, score) for name in SCORES for loss, score in zip(LOSSES[name], SCORES[name], strict=True)]
    failed = [run for run, is_failed in zip(runs, sum(FAILED.values(), []), strict=True) if is_failed]
    assert sorted(map(tuple, marks(ax, hollow=True))) == sorted(failed)
    assert sorted(map(tuple, marks(ax, hollow=False))) == sorted(set(runs) - set(failed))
    assert ax.get_xscale() == "log"
    assert lines(ax, "best constant predictor (0.530)")[0][0] == 0.53
    (entropy,) = [line for line in ax.lines if "label entropy" in line.get_label()]
    assert list(entropy.get_xdata()) == [0.693, 0.693]
    assert legend(ax)[:3] == ["devlin2019 (3/5 failed)", "mosbach2021 (0/3 failed)", "hollow: failed"]
    assert drawn(ax).get_legend().get_window_extent().y0 >= ax.get_window_extent().y1


@pytest.mark.parametrize(
    "losses, entropy, scale",
    [
        ([0.6, 0.07], None, "linear"),
        ([0.6, 0.05], None, "log"),
        ([0.05], 0.69, "log"),
        ([0.6, 0.0], 0.69, "linear"),
        ([0.6], None, "linear"),
    ],
)
def test_the_scale_is_logarithmic_over_more_than_a_decade(ax, losses, entropy, scale):
    n = len(losses)
    plot_score_against_train_loss(ax, {"a": losses}, {"a": [0.7] * n}, {"a": [False] * n}, "f1", None, entropy)
    assert drawn(ax).get_xscale() == scale


def test_runs_without_loss_or_score_are_counted(ax):
    losses, scores = [np.nan, 0.5, np.inf, 0.6], [0.5, np.nan, 0.5, 0.7]
    plot_score_against_train_loss(ax, {"a": losses}, {"a": scores}, {"a": [True] * 3 + [False]}, "accuracy")
    assert len(marks(ax, hollow=True)) == 0 and marks(ax, hollow=False).tolist() == [[0.6, 0.7]]
    assert legend(ax) == ["a (3/4 failed)", "not drawn: 3 runs without loss or score"]


def test_no_run_that_can_be_drawn(ax):
    plot_score_against_train_loss(ax, {"a": [np.nan]}, {"a": [np.nan]}, {"a": [True]}, "accuracy", 0.5)
    assert legend(drawn(ax))[-1] == "not drawn: 1 run without loss or score"


def test_twenty_recipes_are_twenty_pairs_of_colour_and_marker(ax):
    recipes = [f"r{i}" for i in range(20)]
    one = dict.fromkeys(recipes, [0.5])
    plot_score_against_train_loss(ax, one, one, dict.fromkeys(recipes, [False]), "accuracy")
    pairs = {(line.get_color(), line.get_marker()) for line in ax.lines if line.get_marker() != "None"}
    assert len(pairs) == 20


def test_pyplot_is_not_used(ax, monkeypatch):
    matplotlib.use(
        "agg"
    )  # a box plot reads all settings, and the backend's is looked for through pyplot while it has none
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    plot_scores(ax, SCORES, FAILED, "accuracy")
    plot_score_against_train_loss(Figure().subplots(), LOSSES, SCORES, FAILED, "accuracy")
    plot_gradient_norms(Figure().subplots(), STEPS, VANISHED, HEALTHY)


# ---- restarts -------------------------------------------------------------------------------------------------------


def test_restarts_are_lines_over_the_budget_and_early_stoppings_marks(ax):
    without, replaced = [0.5, 0.6, 0.65], [0.5, 0.58, 0.62]
    assert plot_restarts(ax, without, replaced, [2.0, 2.4], [0.61, 0.62], [2.2], [0.63], "f1", "a $b") is ax
    (first,), (second,) = lines(ax, "best of n, without"), lines(ax, "best of n, with replacement")
    assert list(first) == without and list(second) == replaced
    assert list(ax.lines[0].get_xdata()) == [1, 2, 3]
    np.testing.assert_array_equal(scattered(ax, "early stoppings of the table"), [[2, 0.61], [2.4, 0.62]])
    assert list(lines(ax, "early stopping by the rule")[0]) == [0.63]
    assert len(legend(ax)) == 4 and ax.get_legend().get_title().get_text() == r"a \$b"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("budget, runs", "expected f1 of the best run")
    drawn(ax)


def test_restarts_without_early_stopping_are_two_lines(ax):
    plot_restarts(ax, [0.5], [0.5], [], [], [], [], "accuracy", panel=True)
    assert len(ax.lines) == 2 and not ax.collections and ax.get_legend() is None and ax.get_ylabel() == ""
    drawn(ax)
