"""Disagreement between seeds: identical runs, and simulated independent errors."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_stability.analysis import FinishedStudy
from hf_stability.analysis.analysis import NoOptions
from hf_stability.analysis.churn import ANALYSIS, expected_disagreement, least_disagreement
from hf_stability.errors import InputError
from hf_stability.utils.files import finite, plain
from tests.analysis.made_study import leave_run


LABELS = np.array([0, 1] * 20)


def logits_of(predictions):
    return 2.0 * np.eye(2)[predictions]


def numbers_of(folder):
    found = ANALYSIS.numbers(FinishedStudy(folder), NoOptions())
    return json.loads(json.dumps(finite(plain(found)), allow_nan=False))


def row_of(numbers, runs):
    return next(row for row in numbers["tables"]["churn"] if row["runs"] == runs)


def test_identical_runs_have_no_churn_and_kappa_1(tmp_path):
    predictions = LABELS.copy()
    predictions[:8] = 1 - predictions[:8]  # 20% wrong
    for seed in (1, 2, 3):
        leave_run(tmp_path, "a", seed, logits=logits_of(predictions), labels=LABELS, rate=3e-5)
    numbers = numbers_of(tmp_path)
    row = row_of(numbers, "ok")
    assert (row["disagreement"], row["fleiss_kappa"], row["least"], row["learning_rate"]) == (0, 1, 0, 3e-5)
    assert row["jensen_shannon"] == pytest.approx(0, abs=1e-12)
    assert row["expected"] == pytest.approx(2 * 0.2 * 0.8) and row["accuracy"] == pytest.approx(0.8)
    (text,) = ANALYSIS.sentences(numbers)
    assert text == (
        "a: two ok runs disagree on 0 of 40 examples (n = 3 runs with a mean accuracy of 0.800; Fleiss' kappa 1.00). With the "
        "same accuracies and independent errors it would be 0.32."
    )


def test_failed_runs_are_in_one_row_and_out_of_the_other_and_kappa_is_undefined_for_one_class(tmp_path):
    for seed in (1, 2):
        leave_run(tmp_path, "a", seed, "failed", logits=logits_of(np.ones(40, int)), labels=LABELS)
    numbers = numbers_of(tmp_path)
    assert row_of(numbers, "all")["disagreement"] == 0 and row_of(numbers, "all")["fleiss_kappa"] is None
    assert {
        "recipe": "a",
        "runs": "all",
        "figure": "fleiss_kappa",
        "why": "all runs predict the same class for every example",
    } in (numbers["tables"]["undefined"])
    assert ANALYSIS.sentences(numbers)[-1] == "Without two ok runs: a."
    leave_run(tmp_path, "a", 3, logits=logits_of(LABELS), labels=LABELS)
    leave_run(tmp_path, "a", 4, logits=logits_of(LABELS), labels=LABELS)
    numbers = numbers_of(tmp_path)
    assert row_of(numbers, "ok")["disagreement"] == 0 and row_of(numbers, "ok")["n"] == 2
    # 4 of 6 pairs are of a failed and an ok run, which differ on half of the examples
    assert row_of(numbers, "all")["disagreement"] == pytest.approx(4 / 6 / 2)
    assert "a with its 2 failed runs: 0.33 (n = 4" in " ".join(ANALYSIS.sentences(numbers))
    (ax,) = ANALYSIS.draw(numbers).axes
    assert [len(marks.get_offsets()) for marks in ax.collections] == [1, 1, 1, 1]


def test_a_study_without_predictions_and_a_regression(tmp_path):
    leave_run(tmp_path / "a", "a", 1)
    assert "predictions.npz" in ANALYSIS.missing(FinishedStudy(tmp_path / "a"), NoOptions())[0]
    for seed in (1, 2):
        leave_run(
            tmp_path / "b", "a", seed, logits=np.arange(40.0)[:, None] * seed, labels=np.arange(40.0), metric="pearson"
        )
    numbers = numbers_of(tmp_path / "b")
    assert "regression" in ANALYSIS.sentences(numbers)[0]
    ANALYSIS.draw(numbers)


# ---- pure functions -------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.integers(2, 5))
def test_both_against_a_loop_over_pairs(errors, classes):
    pairs = list(combinations(errors, 2))
    expected = np.mean([1 - (1 - a) * (1 - b) - a * b / (classes - 1) for a, b in pairs])
    assert expected_disagreement(errors, classes) == pytest.approx(expected, abs=1e-9)
    assert least_disagreement(errors) == pytest.approx(np.mean([abs(a - b) for a, b in pairs]), abs=1e-9)


def test_the_expected_disagreement_is_that_of_simulated_independent_errors():
    rng = np.random.default_rng(0)
    n, classes, errors = 200_000, 3, (0.1, 0.4)
    labels = rng.integers(0, classes, n)
    runs = [np.where(rng.random(n) < e, (labels + rng.integers(1, classes, n)) % classes, labels) for e in errors]
    found = (runs[0] != runs[1]).mean()
    assert expected_disagreement(errors, classes) == pytest.approx(found, abs=4 * math.sqrt(0.25 / n))


def test_one_run_has_no_pair_and_wrong_shares_are_refused():
    assert math.isnan(expected_disagreement([0.1], 2)) and math.isnan(least_disagreement([0.1]))
    with pytest.raises(InputError, match="a share per run"):
        expected_disagreement([1.2, 0.1], 2)
