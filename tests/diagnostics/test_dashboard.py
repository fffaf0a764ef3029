"""The curves of a record and their layout: what TensorBoard is given, without it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hf_stability.diagnostics.dashboard import CHARTS, RISK, curves, custom_layout
from hf_stability.diagnostics.probes import PROBES, make_probes
from hf_stability.utils.layers import layers_of
from tests import toy


LAYERS = ["embeddings", "layer_00", "classifier"]
COLUMNS = [
    *("step", "learning_rate", "loss", "logit_std", "grad_norm", "clipped"),
    *("labels/0", "labels/1", "predicted/0", "predicted/1"),
    *(f"grad_norm/{layer}" for layer in LAYERS),
    *(f"update_ratio/{layer}" for layer in LAYERS),
    "clip_factor",
]


@pytest.fixture
def rows():
    """A record's, `(4, columns)`."""
    rows = np.random.default_rng(0).uniform(0.1, 2, (4, len(COLUMNS)))
    rows[:, 0] = [1, 2, 3, 4]
    rows[:, 6:8] = [[2, 0], [0, 2], [1, 1], [4, 0]]
    return rows


def column(rows, name):
    return rows[:, COLUMNS.index(name)]


# ---- curves ---------------------------------------------------------------------------------------------------------


def test_every_column_but_step_and_counts_is_a_curve(rows):
    found = curves(COLUMNS, rows)
    kept = [name for name in COLUMNS if name != "step" and not name.startswith(("labels/", "predicted/"))]
    for name in kept:
        tag = "grad_norm/total" if name == "grad_norm" else name
        assert np.array_equal(found.pop(tag), column(rows, name))
    added = {tag: f"{tag.split('/')[0].removeprefix('log10_')}/" for tag in found if tag != "label_entropy"}
    assert len(added) == 1 + 2 * len(LAYERS) and set(added.values()) == {"grad_norm/", "update_ratio/"}


def test_what_has_a_value_for_each_layer_comes_as_its_logarithm_too(rows):
    found = curves(COLUMNS, rows)
    for name in ("grad_norm/layer_00", "update_ratio/classifier"):
        np.testing.assert_allclose(10 ** found[f"log10_{name}"], column(rows, name))
    np.testing.assert_allclose(10 ** found["log10_grad_norm/total"], column(rows, "grad_norm"))
    assert "log10_clip_factor" not in found and "log10_loss" not in found


@pytest.mark.filterwarnings("error")
def test_zero_has_a_floor_and_what_is_not_finite_stays(rows):
    rows[:, COLUMNS.index("grad_norm/layer_00")] = [0, 1e-30, np.nan, np.inf]
    assert curves(COLUMNS, rows)["log10_grad_norm/layer_00"].tolist() == pytest.approx(
        [-12, -12, np.nan, np.inf], nan_ok=True
    )


def test_the_label_entropy_is_of_all_examples_so_far(rows):
    slow = []
    for seen in ([2, 0], [2, 2], [3, 3], [7, 3]):
        shares = [number / sum(seen) for number in seen if number]
        slow.append(-sum(share * np.log(share) for share in shares))
    np.testing.assert_allclose(curves(COLUMNS, rows)["label_entropy"], slow)
    blocks = [curves(COLUMNS, rows[:1]), curves(COLUMNS, rows[1:], np.array([2.0, 0.0]))]
    np.testing.assert_allclose(np.concatenate([block["label_entropy"] for block in blocks]), slow)


def test_without_labels_there_is_no_label_entropy(rows):
    rows[:, 6:8] = np.nan  # a causal model's
    assert "label_entropy" not in curves(COLUMNS, rows)
    bare = [i for i, name in enumerate(COLUMNS) if "labels/" not in name]
    assert "label_entropy" not in curves([COLUMNS[i] for i in bare], rows[:, bare])


# ---- layout ---------------------------------------------------------------------------------------------------------


def drawn(columns):
    """Title -> the tags that TensorBoard finds for it among a run's: it matches from a tag's beginning."""
    rows = np.ones((1, len(columns)))
    tags = [*curves(columns, rows), RISK, "eval/loss", "loss/other", "final/failed"]
    layout = custom_layout(columns)
    return {
        title: [tag for tag in tags if any(re.match(pattern, tag) for pattern in patterns)]
        for charts in layout.values()
        for title, (kind, patterns) in charts.items()
        if kind == "Multiline"
    }


def test_all_layers_are_in_one_chart_and_each_diagnostic_has_its_own():
    charts = drawn(COLUMNS)
    assert charts == {
        "gradient norms by layer (log10)": [f"log10_grad_norm/{layer}" for layer in LAYERS],
        "gradient norm of the first layer (log10)": ["log10_grad_norm/layer_00"],
        "total gradient norm (log10)": ["log10_grad_norm/total"],
        "steps that hit max_grad_norm": ["clipped"],
        "clip factor": ["clip_factor"],
        "loss, and the label entropy (best constant prediction)": ["loss", "label_entropy"],
        "alarm: risk of failing": ["alarm/risk"],
        "learning rate": ["learning_rate"],
        "logit std over examples": ["logit_std"],
        "update ratio by layer (log10)": [f"log10_update_ratio/{layer}" for layer in LAYERS],
    }


def test_models_with_other_layers_share_the_layout():
    shared = [name.replace("layer_00", "shared_layer_00") for name in COLUMNS]
    assert custom_layout(shared) == custom_layout(COLUMNS)


def test_a_column_that_no_chart_knows_has_its_own():
    charts = custom_layout(["step", "loss", "a.b", "my_norm/embeddings", "my_norm/classifier"])["more"]
    assert charts == {
        "a.b": ["Multiline", [r"^a\.b$"]],
        "my norm by layer (log10)": ["Multiline", ["^log10_my_norm/.+$"]],
    }


def test_a_model_without_numbered_layers_has_no_chart_of_the_first():
    charts = custom_layout(["step", "loss", "grad_norm/embeddings", "grad_norm/head"])["gradients"]
    assert list(charts) == ["gradient norms by layer (log10)"]


def test_the_layout_knows_all_probes():
    model = toy.model()
    probes = make_probes("all")
    for probe in probes:
        probe.start(model, layers_of(model))
    columns = [*COLUMNS, *(name for probe in probes for name in probe.columns if name not in COLUMNS)]
    for probe in probes:
        probe.stop()
    assert len(probes) == len(PROBES)
    layout = custom_layout(columns)
    assert {category: list(charts) for category, charts in layout.items()} == {
        category: list(charts) for category, charts in CHARTS.items()
    }
    assert all(drawn(columns).values())
