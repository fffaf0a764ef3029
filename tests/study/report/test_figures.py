"""A study's figures from a folder of hand-made runs: nothing is trained here."""

from __future__ import annotations

import dataclasses
import sys

import matplotlib
import numpy as np
import pytest

from hf_stability.diagnostics.step_record import StepRecord
from hf_stability.errors import InputError
from hf_stability.study.folder import read_runs
from hf_stability.study.records import RunRecord
from hf_stability.study.report import figures
from hf_stability.study.report.figures import draw_figures, pick_layers, read_step_summary, window_medians
from hf_stability.utils.files import write_json


LAYERS = ["embeddings", "layer_00", "layer_01", "pooler", "classifier"]
NAMES = [
    f"{name}.{kind}" for name in ("scores", "gradient_norms", "score_against_train_loss") for kind in ("png", "svg")
]


def leave_run(folder, recipe="a", seed=1, status="ok", steps=12, layers=LAYERS, labels=2, norms=None, **values):
    """A run as a study leaves it: `run.json` and, unless `steps` is 0, `steps.rec`. A quarter of its labels is 1."""
    given = {"last": 0.5 if status != "ok" else 0.7, "train_loss": 0.69, "baseline": 0.53, "steps": steps, **values}
    if status == "diverged":
        given |= {"last": None, "train_loss": None}
    run = RunRecord("id", recipe, seed, "rte", status, "accuracy", **given)
    path = folder / "runs" / run.name
    path.mkdir(parents=True)
    write_json(path / "run.json", run.to_dict())
    if steps:
        counts = [f"labels/{k}" for k in range(labels)]
        record = StepRecord(
            ["step", "learning_rate", "loss", *counts, *(f"grad_norm/{layer}" for layer in layers)],
            path / "steps.rec",
            info={"max_steps": steps, "warmup_steps": steps // 10},
        )
        if norms is None:
            norms = np.exp(np.random.default_rng(seed).normal(-6 * (status == "failed"), 1, (steps, len(layers))))
            norms[steps // 2 :] *= np.nan if status == "diverged" else 1
        step, rate, loss = np.arange(1, steps + 1), np.full(steps, 1e-4), np.full(steps, 0.69)
        record.append(np.column_stack([step, rate, loss, *np.array([[12] * steps, [4] * steps])[:labels], norms]))
    return run


@pytest.fixture
def study(tmp_path):
    """A study's folder: of `a` one run failed and one diverged, all of `b` are ok and twenty times as long."""
    for seed, status in enumerate(["ok", "failed", "diverged"], 1):
        leave_run(tmp_path, "a", seed, status)
    for seed in (1, 2):
        leave_run(tmp_path, "b", seed, steps=240)
    return tmp_path


@pytest.fixture
def given(monkeypatch):
    """What each plot was given, by the plot's name: a list of tuples."""
    calls = {name: [] for name in ("plot_scores", "plot_gradient_norms", "plot_score_against_train_loss")}
    for name, seen in calls.items():

        def plot(ax, *arguments, seen=seen):
            seen.append(arguments)
            return ax

        monkeypatch.setattr(figures, name, plot)
    monkeypatch.setattr(
        figures, "write_figure", lambda figure, folder, name: [folder / name]
    )  # there is nothing to lay out
    return calls


@pytest.mark.filterwarnings("error")
def test_the_files_are_whole_and_the_same_bytes_each_time(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # no global state, no display
    paths = draw_figures(study, ["a"])
    assert paths == [study / "figures" / name for name in NAMES]
    assert sorted(path.name for path in (study / "figures").iterdir()) == sorted(NAMES)
    first = [path.read_bytes() for path in paths]
    for path, content in zip(paths, first, strict=True):
        whole = {".png": (b"\x89PNG", b"IEND\xaeB`\x82"), ".svg": (b"<?xml", b"</svg>\n")}[path.suffix]
        assert content.startswith(whole[0]) and content.endswith(whole[1])
        assert str(study).encode() not in content
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red"}):  # the user's own style
        before = list(dict.items(matplotlib.rcParams))  # dict's own: asking for the backend would look for one
        assert draw_figures(study, ["a"]) == paths
        assert list(dict.items(matplotlib.rcParams)) == before
    assert [path.read_bytes() for path in paths] == first


def test_an_interrupted_write_leaves_the_old_figure(study, monkeypatch):
    (study / "figures").mkdir()
    old = study / "figures" / "scores.png"
    old.write_bytes(b"old")
    monkeypatch.setattr(figures.os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        draw_figures(study, ["a"])
    assert old.read_bytes() == b"old"


def test_the_plots_get_the_numbers_of_the_runs(study, given):
    draw_figures(study)
    ((scores, failed, metric, constant),) = given["plot_scores"]
    assert (metric, constant) == ("accuracy", 0.53)
    assert list(scores) == ["a", "b"]
    np.testing.assert_array_equal(scores["a"], [0.7, 0.5, np.nan])
    assert failed["a"].tolist() == [False, True, True] and failed["b"].tolist() == [False, False]
    ((losses, *same, entropy),) = given["plot_score_against_train_loss"]
    np.testing.assert_array_equal(losses["a"], [0.69, 0.69, np.nan])
    np.testing.assert_equal(same, [scores, failed, "accuracy", 0.53])
    assert entropy == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))


def test_a_row_for_each_recipe_and_a_panel_for_each_layer(study, given):
    draw_figures(study)
    panels = given["plot_gradient_norms"]
    assert [panel[3] for panel in panels] == [layer.replace("_", " ") for layer in LAYERS] * 2
    for steps, failed, ok, _, warmup, _ in panels[:5]:
        assert steps.tolist() == list(range(1, 13)) and warmup == 1
        assert failed.shape == (2, 12) and ok.shape == (1, 12)
        assert np.isnan(failed[1]).tolist() == [False] * 6 + [True] * 6  # the one that diverged
    steps, failed, ok, _, warmup, _ = panels[5]
    assert steps.tolist() == [2 + 3 * i for i in range(80)] and warmup == 24  # windows of 3 steps
    assert failed.shape == (0, 80) and ok.shape == (2, 80)


def test_the_norms_of_all_panels_have_one_scale(study):
    runs = read_runs(study)
    steps = {name: read_step_summary(study, [run for run in runs if run.recipe == name]) for name in "ab"}
    figure = figures.gradient_norms_figure(steps, "rte")
    axes = figure.get_axes()
    assert len(axes) == 10 and len({ax.get_ylim() for ax in axes}) == 1
    finite = np.concatenate([s.norms[layer][np.isfinite(s.norms[layer])] for s in steps.values() for layer in LAYERS])
    low, high = axes[0].get_ylim()
    assert low < finite.min() and finite.max() < high
    for ax, end in ((axes[0], 12), (axes[5], 239)):  # the middle of the last window
        assert ax.get_xlim() == pytest.approx((0, 1.03 * end))
    legends = [[text.get_text() for text in row.legends[0].get_texts()] for row in figure.subfigs]
    assert legends == [
        ["ok (1 run)", "failed (2 runs)", "end of warmup"],
        ["ok (2 runs)", "failed (none)", "end of warmup"],
    ]
    assert "median of 1 to 3 steps" in figure.get_supxlabel()


def test_recipes_and_seeds_are_chosen_and_ordered(study, given):
    draw_figures(study, ["b", "a", "b"], seeds=[2])
    ((scores, *_),) = given["plot_scores"]
    assert {name: list(values) for name, values in scores.items()} == {"b": [0.7], "a": [0.5]}
    assert list(scores) == ["b", "a"]


def test_a_recipe_without_a_finished_run_keeps_its_place_among_the_scores(study, given):
    draw_figures(study, ["a", "all_crashed", "b"])
    assert list(given["plot_scores"][0][0]) == ["a", "all_crashed", "b"]
    assert list(given["plot_score_against_train_loss"][0][0]) == ["a", "b"]
    assert len(given["plot_gradient_norms"]) == 2 * len(LAYERS)


def test_stopped_runs_are_counted_and_not_drawn(study, given):
    for seed in (4, 5):
        leave_run(study, "a", seed, "stopped", last=None, train_loss=None, steps=6)
    leave_run(study, "c", 1, "stopped", last=None, train_loss=None, steps=6)
    draw_figures(study)
    ((scores, failed, *_),) = given["plot_scores"]
    assert {name: len(values) for name, values in scores.items()} == {"a (2 stopped)": 3, "b": 2, "c (1 stopped)": 0}
    assert failed["a (2 stopped)"].tolist() == [False, True, True]
    assert list(given["plot_score_against_train_loss"][0][0]) == ["a (2 stopped)", "b"]
    panels = given["plot_gradient_norms"]
    assert len(panels) == 2 * len(LAYERS)
    assert panels[0][1].shape == (2, 12) and panels[0][2].shape == (1, 12)  # failed and ok runs, none of the stopped


@pytest.mark.filterwarnings("error")
def test_a_study_of_stopped_runs_is_drawn(tmp_path):
    leave_run(tmp_path, "a", 1, "stopped", last=None, train_loss=None)
    paths = draw_figures(tmp_path)
    assert len(paths) == 6 and b"1 stopped" in paths[1].read_bytes()


def test_nothing_to_draw_is_said(tmp_path, study):
    with pytest.raises(InputError, match="nowhere: no finished run to draw"):
        draw_figures(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no finished run of these recipes and seeds to draw"):
        draw_figures(study, seeds=[99])
    assert not (study / "figures").exists()


def test_a_regression_without_labels_records_or_baseline(tmp_path):
    run = leave_run(tmp_path, "a", 1, steps=0, baseline=None)
    changed = dataclasses.replace(run, metric="pearson", accuracy=None)
    write_json(tmp_path / "runs" / run.name / "run.json", changed.to_dict())
    assert read_step_summary(tmp_path, read_runs(tmp_path)) is None
    leave_run(tmp_path, "b", 2, labels=0)
    summary = read_step_summary(tmp_path, read_runs(tmp_path))
    assert summary.label_counts.size == 0 and summary.failed.tolist() == [False]  # of the run that has a record
    assert len(draw_figures(tmp_path, ["a"])) == 6


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("order", [None, ["vanished", "sharded", "frozen"]])
def test_layers_that_only_some_recipes_train_and_norms_nobody_knows(tmp_path, order):
    leave_run(tmp_path, "diverged", 1, "diverged")
    leave_run(tmp_path, "frozen", 1, layers=LAYERS[3:])
    leave_run(tmp_path, "sharded", 1, norms=np.full((12, 5), np.nan))
    leave_run(tmp_path, "vanished", 1, norms=np.zeros((12, 5)))
    assert len(draw_figures(tmp_path, order)) == 6


def test_a_broken_record_is_named(study):
    path = study / "runs" / "a" / "seed-001" / "steps.rec"
    path.write_bytes(b"\x00")
    with pytest.raises(InputError, match="seed-001/steps.rec: not a record"):
        draw_figures(study)


# ---- layers and windows ---------------------------------------------------------------------------------------------


def encoder(n, name="layer"):
    return [f"{name}_{i:02d}" for i in range(n)]


@pytest.mark.parametrize(
    "layers, picked",
    [
        (
            ["embeddings", *encoder(24), "pooler", "classifier"],
            ["embeddings", "layer_00", "layer_12", "layer_23", "pooler", "classifier"],
        ),
        (["embeddings", *encoder(2), "classifier"], ["embeddings", "layer_00", "layer_01", "classifier"]),
        (["embeddings", *encoder(1, "shared_layer"), "pooler"], ["embeddings", "shared_layer_00", "pooler"]),
        (
            ["embeddings", *encoder(2, "encoder_layer"), *encoder(2, "decoder_layer"), "classifier"],
            ["embeddings", "encoder_layer_00", "decoder_layer_00", "decoder_layer_01", "classifier"],
        ),
        (list("abc"), list("abc")),
        (list("abcdefghijk"), list("acegik")),
        ([], []),
    ],
)
def test_layers_from_input_to_output(layers, picked):
    assert pick_layers(layers) == picked


@pytest.mark.parametrize("steps, window", [(7, 1), (12, 3), (13, 3)])
def test_medians_of_windows_one_after_the_other(steps, window):
    rng = np.random.default_rng(steps)
    norms = rng.lognormal(size=(steps, 2))
    norms[[0, 3], [0, 1]] = np.nan, np.inf
    windows = -(-steps // window)
    medians = window_medians(np.arange(1, steps + 1), norms, window, windows)
    assert medians.shape == (windows, 2)
    for i in range(windows):
        for layer in range(2):
            part = [x for x in norms[i * window : (i + 1) * window, layer] if np.isfinite(x)]
            np.testing.assert_equal(medians[i, layer], np.median(part) if part else np.nan)


def test_a_run_cut_short_ends_early():
    medians = window_medians(np.arange(1, 5), np.ones((4, 1)), 2, 5)
    np.testing.assert_array_equal(medians[:, 0], [1, 1, np.nan, np.nan, np.nan])


def test_runs_that_recorded_other_layers_are_drawn_together(tmp_path):
    runs = [leave_run(tmp_path, seed=1), leave_run(tmp_path, seed=2, layers=["embeddings", "head"])]
    norms = read_step_summary(tmp_path, runs).norms
    assert set(norms) == {*LAYERS, "head"} and {values.shape for values in norms.values()} == {(2, 12)}
    assert np.isfinite(norms["embeddings"]).all() and np.isnan(norms["head"][0]).all()
    assert np.isfinite(norms["head"][1]).all()


def test_names_are_drawn_letter_by_letter_into_a_folder_of_choice(tmp_path):
    for name in ("_hidden", "$x_{y"):
        leave_run(tmp_path, name)
    paths = draw_figures(tmp_path, into=tmp_path / "elsewhere")
    assert [path.parent.name for path in paths] == ["elsewhere"] * 6 and not (tmp_path / "figures").exists()


def test_many_recipes_are_drawn_in_rows():
    runs = {f"r{i}": [RunRecord("id", f"r{i}", 1, "rte", "ok", "accuracy", last=0.5)] for i in range(20)}
    axes = figures.scores_figure(runs).axes
    names = [[label.get_text().split("\n")[0] for label in ax.get_xticklabels()] for ax in axes]
    assert names == [[f"r{i}" for i in range(14)], [f"r{i}" for i in range(14, 20)]]
    assert axes[0].get_ylim() == axes[1].get_ylim()
