"""Gradient norms of failed and ok runs: hand-made step records with known medians, and independent loops."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from hf_stability.analysis import FinishedStudy
from hf_stability.analysis.gradients import (
    ANALYSIS,
    EVERYTHING,
    LOWER,
    MEDIAN_RUN,
    PHASES,
    GradientsOptions,
    first_lasting,
    lower_layers,
    phase_medians,
    quartiles,
    separation,
    stays_below,
    windowed,
)
from hf_stability.errors import InputError
from hf_stability.utils.files import finite, plain
from tests.analysis.made_study import LAYERS, leave_run


STEPS, WARMUP, VANISHED_FROM = 100, 10, 41


def norms_of(level, vanished_from=None, to=0.01):
    """(STEPS, layers): all layers at `level`; from a step on the lower ones are `to` times that."""
    norms = np.full((STEPS, len(LAYERS)), float(level))
    if vanished_from is not None:
        norms[vanished_from - 1 :, :-1] *= to
    return norms


def numbers_of(folder, **options):
    """The numbers, as read from the JSON file."""
    found = ANALYSIS.numbers(FinishedStudy(folder), GradientsOptions(**{"windows": 10, **options}))
    return json.loads(json.dumps(finite(plain(found)), allow_nan=False))


@pytest.fixture
def study(tmp_path):
    """Recipe a: ok runs at levels 1, 2 and 3, failed runs at 2, 4 and 6 that vanish to a hundredth from step 41 on."""
    for seed, level in enumerate((1, 2, 3), 1):
        leave_run(tmp_path, "a", seed, norms=norms_of(level), warmup=WARMUP)
        leave_run(tmp_path, "a", seed + 3, "failed", norms_of(2 * level, VANISHED_FROM), warmup=WARMUP)
    return tmp_path


def test_known_medians_ratios_and_quartiles(study):
    numbers = numbers_of(study)
    rows = {(row["layer"], row["phase"]): row for row in numbers["tables"]["phases"]}
    assert {phase for _, phase in rows} == set(PHASES) and {layer for layer, _ in rows} == {*LAYERS, LOWER}
    for layer in LAYERS:
        row = rows[layer, "warmup"]
        assert (row["median_ok"], row["median_failed"], row["ratio"]) == (2, 4, 2)
        assert (row["n_ok"], row["n_failed"]) == (3, 3)
    # the last third is steps 71 to 100: the lower layers are at a hundredth, the classifier is not
    assert rows["layer_00", "last third"]["ratio"] == pytest.approx(0.02)
    assert rows["classifier", "last third"]["ratio"] == 2
    assert rows["layer_00", "last third"]["separation"] == 1
    # the joint norm of two equal lower layers (embeddings, layer_00) is sqrt(2) times that of one
    assert rows[LOWER, "warmup"]["median_ok"] == pytest.approx(2 * math.sqrt(2))
    first = next(r for r in numbers["tables"]["curves"] if r["layer"] == "classifier" and r["status"] == "ok")
    assert (first["first_quartile"], first["median"], first["third_quartile"], first["n"]) == (1.5, 2, 2.5, 3)
    assert (first["part"], first["step"]) == (0.05, 1)


def test_the_step_from_which_failed_runs_stay_below_a_tenth(study):
    rows = numbers_of(study)["tables"]["vanishing"]
    # steps 41 to 50 are the first window in which all are at a hundredth; the run at level 6 is at 0.06 of 2, also below a tenth
    assert [row["run"] for row in rows] == [MEDIAN_RUN, "a/seed-004", "a/seed-005", "a/seed-006"]
    assert [row["first_step"] for row in rows] == [41] * 4 and rows[0]["first_part"] == 0.4
    assert [row["first_step"] for row in numbers_of(study, below=0.005)["tables"]["vanishing"]] == [None] * 4


def test_sentences_say_n_and_what_came_out(study):
    first, ratios, step = ANALYSIS.sentences(numbers_of(study))
    assert first == "a: 3 runs failed and 3 ended ok."
    assert "0.02 in the last third" in ratios and "2 in the warmup" in ratios and "n = 3 and 3" in ratios
    assert step == (
        "The failed runs' median stays below 0.1 times the ok runs' median from step 41 of 100, 40% of training on; 3 of 3 "
        "failed runs do."
    )
    assert "does not stay below" in ANALYSIS.sentences(numbers_of(study, below=0.005))[-1]


@pytest.mark.parametrize(
    ("status", "sentence"),
    [("ok", "No failed runs here: 1 run of a ended ok"), ("failed", "No ok runs here: all 1 run of a failed")],
)
def test_one_kind_of_runs_is_said_and_drawn(tmp_path, status, sentence):
    leave_run(tmp_path, "a", 1, status, norms_of(1))
    numbers = numbers_of(tmp_path)
    assert ANALYSIS.sentences(numbers)[0].startswith(sentence)
    assert numbers["tables"]["vanishing"] == [] and numbers["tables"]["phases"][0]["separation"] is None
    failed, ok = ANALYSIS.draw(numbers).axes
    lines = {"failed": len(failed.lines), "ok": len(ok.lines)}
    assert lines.pop(status) > 0 and set(lines.values()) == {0}
    assert (failed if status == "ok" else ok).texts[0].get_text() == "no such runs here"


def test_recipes_of_one_kind_are_compared_together_in_shares_of_training(tmp_path):
    leave_run(tmp_path, "bad", 1, "failed", norms_of(1, 1))
    leave_run(tmp_path, "good", 1, norms=np.ones((20, len(LAYERS))))
    leave_run(tmp_path, "good", 2, "stopped", norms_of(1))
    numbers = numbers_of(tmp_path)
    groups = {row["group"]: row for row in numbers["tables"]["groups"]}
    assert numbers["drawn"] == EVERYTHING and groups[EVERYTHING]["steps"] is None
    assert groups["good"]["left_out"] == 1 and groups["good"]["steps"] == 20
    text = " ".join(ANALYSIS.sentences(numbers))
    assert "different recipes" in text and "Without a failed run: good (1 ok)." in text
    assert "Without an ok run: bad (1 failed)." in text
    assert ANALYSIS.draw(numbers).get_supxlabel().startswith("share of training")


def test_diverged_runs_count_as_failed_and_their_infinities_are_left_out(tmp_path):
    norms = norms_of(1)
    norms[50:] = np.inf
    leave_run(tmp_path, "a", 1, "diverged", norms)
    leave_run(tmp_path, "a", 2, norms=norms_of(2))
    numbers = numbers_of(tmp_path)
    (group,) = numbers["tables"]["groups"]
    assert (group["failed"], group["diverged"]) == (1, 1)
    rows = {row["phase"]: row for row in numbers["tables"]["phases"] if row["layer"] == "layer_00"}
    assert rows["first third"]["ratio"] == 0.5 and rows["last third"]["ratio"] is None


def test_a_study_without_records_is_refused(tmp_path):
    leave_run(tmp_path, "a", 1)
    assert "steps.rec" in ANALYSIS.missing(FinishedStudy(tmp_path), GradientsOptions())[0]
    for options in (GradientsOptions(windows=0), GradientsOptions(below=-1)):
        with pytest.raises(InputError, match="^--(windows|below) "):
            ANALYSIS.missing(FinishedStudy(tmp_path), options)


# ---- pure functions -------------------------------------------------------------------------------------------------


def test_lower_layers():
    layers = ["embeddings", *(f"layer_{i:02d}" for i in range(12)), "pooler", "classifier"]
    assert lower_layers(layers) == layers[:5]
    assert lower_layers(["embeddings", "shared_layer_00", "classifier"]) == ["embeddings", "shared_layer_00"]
    assert lower_layers(["one", "two", "three"]) == ["one"]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 15), st.integers(0, 2**32 - 1))
def test_windows_and_phases_against_loops(total, windows, warmup, seed):
    windows, warmup = min(windows, total), min(warmup, total)
    rng = np.random.default_rng(seed)
    norms = rng.lognormal(size=(total, 2))
    norms[rng.random((total, 2)) < 0.2] = np.nan
    steps = np.arange(1, total + 1)
    kept = rng.random(total) < 0.8
    found = windowed(steps[kept], norms[kept], total, windows)
    phases = phase_medians(steps[kept], norms[kept], warmup, total)
    for layer in range(2):
        by_window, by_phase = {}, {}
        for step, norm in zip(steps[kept], norms[kept, layer], strict=True):
            if math.isfinite(norm):
                by_window.setdefault(int((step - 1) * windows / total), []).append(norm)
                later = sum(3 * (step - 1 - warmup) >= k * (total - warmup) for k in (1, 2))
                phase = 0 if step <= warmup else 1 + later
                by_phase.setdefault(phase, []).append(norm)
        for result, expected in ((found, by_window), (phases, by_phase)):
            for part in range(len(result)):
                want = float(np.median(expected[part])) if part in expected else math.nan
                assert result[part, layer] == pytest.approx(want, nan_ok=True)


@settings(max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_the_first_lasting_true(below):
    every = [i for i in range(len(below)) if all(below[i:])]
    assert first_lasting(np.array(below)) == (every[0] if every else None)


def test_windows_without_a_norm_are_passed_over():
    norms = np.array([1, 0.01, np.nan, 0.01])
    assert stays_below(norms, np.ones(4), 0.1) == 1
    assert stays_below(np.full(3, np.nan), np.ones(3), 0.1) is None


def test_quartiles_are_numpys_without_nan():
    norms = np.array([[1.0, np.nan], [2.0, np.nan], [4.0, np.nan]])
    (first, middle, third), n = quartiles(norms)
    assert (first[0], middle[0], third[0], n.tolist()) == (1.5, 2, 3, [3, 0]) and np.isnan(middle[1])
    assert np.isnan(quartiles(np.zeros((0, 2)))[0]).all()


def test_separation_is_mann_whitneys_u_over_the_pairs():
    ok, failed = np.array([1, 2, 5, np.nan]), np.array([1, 0.5, 3])
    u = mannwhitneyu(ok[:3], failed).statistic
    share, low, high = separation(ok, failed)
    assert share == pytest.approx(u / 9) and low < share < high
    assert all(math.isnan(value) for value in separation(ok, []))
