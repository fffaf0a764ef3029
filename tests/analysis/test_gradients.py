"""Gradient norms of failed and ok runs: hand-made step records with known medians, and independent loops."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hf_stability.analysis import FinishedStudy
from hf_stability.analysis.gradients import ANALYSIS, EVERYTHING, LOWER, MEDIAN_RUN, GradientsOptions
from hf_stability.analysis.norms_over_training import (
    PHASES,
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
