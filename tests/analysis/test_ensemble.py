"""Averaged logits of n seeds: identical runs, and loops over sets and draws. One study is trained (slow)."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, matthews_corrcoef

from hf_stability.analysis import FinishedStudy
from hf_stability.analysis.ensemble import ANALYSIS, EnsembleOptions, averaged, gains, scores, sizes, subsets
from hf_stability.diagnostics.metrics import accuracy, matthews
from hf_stability.errors import InputError
from hf_stability.utils.files import finite, plain
from tests.analysis.made_study import leave_run


N = 60
LABELS = np.random.default_rng(1).integers(0, 2, N)
FEW = {"sets": 5, "draws": 50}


def logits_of(seed, skill=1.0):
    return np.random.default_rng(seed).normal(0, 1, (N, 2)) + skill * np.eye(2)[LABELS]


def numbers_of(folder, **options):
    found = ANALYSIS.numbers(FinishedStudy(folder), EnsembleOptions(**{**FEW, **options}))
    return json.loads(json.dumps(finite(plain(found)), allow_nan=False))


def test_the_ensemble_of_identical_runs_is_the_run(tmp_path):
    for seed in (1, 2, 3):
        leave_run(tmp_path, "a", seed, logits=logits_of(0), labels=LABELS)
    numbers = numbers_of(tmp_path)
    (row,) = numbers["tables"]["ensembles"]
    own = accuracy_score(LABELS, logits_of(0).argmax(1))
    assert row["ensemble"] == row["mean_run"] == row["best_run"] == pytest.approx(own)
    ends = [row[f"{gain}{end}"] for gain in ("over_mean", "over_best") for end in ("", "_low", "_high")]
    assert ends == pytest.approx([0.0] * 6, abs=1e-12)  # a mean of equal scores may differ in its last digit
    assert row["halves_ensemble"] == pytest.approx(row["halves_best_run"]) == pytest.approx(row["halves_mean_run"])
    assert [(size["seeds"], size["sets"]) for size in numbers["tables"]["sizes"]] == [(1, 3), (2, 3), (3, 1)]
    assert {size[key] for size in numbers["tables"]["sizes"] for key in ("mean", "low", "high")} == {row["ensemble"]}


def test_what_is_left_out_is_said(tmp_path):
    leave_run(tmp_path, "a", 1, logits=logits_of(1), labels=LABELS)
    leave_run(tmp_path, "a", 2, logits=logits_of(2), labels=LABELS)
    leave_run(tmp_path, "a", 3, "failed", logits=logits_of(3), labels=LABELS)
    leave_run(tmp_path, "a", 4, logits=np.full((N, 2), np.nan), labels=LABELS)
    leave_run(tmp_path, "a", 5, logits=logits_of(5)[:10], labels=LABELS[:10])
    leave_run(tmp_path, "b", 1, logits=logits_of(1), labels=LABELS)
    numbers = numbers_of(tmp_path)
    assert numbers["tables"]["ensembles"][0]["n"] == 2 and numbers["tables"]["weights"] == []
    first, weights, without = ANALYSIS.sentences(numbers)
    assert first.startswith("a, accuracy on 60 examples: ") and "of 2 ok runs" in first
    assert weights.startswith("No averaged weights of a: the models were not kept.") and "--keep_model last" in weights
    assert without == "Fewer than two ok runs with predictions, so no ensemble: b (1)."
    assert numbers_of(tmp_path, runs="all")["tables"]["ensembles"][0]["n"] == 3
    (ax,) = ANALYSIS.draw(numbers).axes
    assert ax.lines[0].get_xdata().tolist() == [1, 2]


def test_a_regression_and_a_study_without_predictions_are_refused(tmp_path):
    leave_run(tmp_path / "a", "a", 1)
    leave_run(tmp_path / "b", "a", 1, logits=np.ones((4, 1)), labels=np.arange(4.0))
    for name, why in (("a", "predictions.npz"), ("b", "regression")):
        assert why in ANALYSIS.missing(FinishedStudy(tmp_path / name), EnsembleOptions())[0]
    with pytest.raises(InputError, match="--draws 0"):
        ANALYSIS.missing(FinishedStudy(tmp_path / "a"), EnsembleOptions(draws=0))


# ---- pure functions -------------------------------------------------------------------------------------------------


def test_gains_against_a_loop_with_the_same_draws():
    """Oracle: scikit-learn's metric on the drawn examples, one draw after the other."""
    logits = np.array([logits_of(seed, 0.5) for seed in (1, 2, 3)])
    found = gains(logits, LABELS, matthews, draws=20, seed=7)
    rng = np.random.default_rng(7)
    counts = rng.multinomial(N, np.full(N, 1 / N), size=20)
    own = [matthews_corrcoef(LABELS, each.argmax(1)) for each in logits]
    best, mean = int(np.argmax(own)), logits.mean(0).argmax(1)
    over = []
    for count in counts:
        drawn = np.repeat(np.arange(N), count)
        runs = [matthews_corrcoef(LABELS[drawn], each.argmax(1)[drawn]) for each in logits]
        together = matthews_corrcoef(LABELS[drawn], mean[drawn])
        over.append([together - np.mean(runs), together - runs[best]])
    (mean_low, best_low), (mean_high, best_high) = np.quantile(over, [0.025, 0.975], axis=0)
    assert found["best"] == best and found["best_run"] == pytest.approx(max(own))
    assert (found["over_mean_low"], found["over_mean_high"]) == (pytest.approx(mean_low), pytest.approx(mean_high))
    assert (found["over_best_low"], found["over_best_high"]) == (pytest.approx(best_low), pytest.approx(best_high))


def test_the_best_run_of_one_half_is_no_better_on_the_other():
    """Runs of equal skill: the best of 20 on the same examples looks better than the mean run; on the other half it does not."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    logits = rng.normal(0, 1, (20, 400, 2)) + 0.5 * np.eye(2)[labels]
    found = gains(logits, labels, accuracy, draws=100)
    assert found["best_run"] - found["mean_run"] > 0.03
    assert abs(found["halves_best_run"] - found["halves_mean_run"]) < 0.015


def test_sizes_against_all_sets():
    logits = np.array([logits_of(seed, 0.5) for seed in range(4)])
    for row in sizes(logits, LABELS, accuracy):
        own = [accuracy_score(LABELS, logits[list(s)].mean(0).argmax(1)) for s in combinations(range(4), row["seeds"])]
        assert row["mean"] == pytest.approx(np.mean(own)) and row["sets"] == len(own)


def test_subsets_are_all_or_drawn_the_same_each_time():
    assert subsets(4, 2, 6) == list(combinations(range(4), 2))
    drawn = subsets(30, 15, 10)
    assert len(drawn) == 10 and drawn == subsets(30, 15, 10) and all(len(set(each)) == 15 for each in drawn)


def test_averages_of_logits_and_of_probabilities():
    logits = np.log([[[0.9, 0.1]], [[0.2, 0.8]]])
    assert averaged(logits).argmax() == 0 and averaged(logits, "probabilities") == pytest.approx(
        np.array([[0.55, 0.45]])
    )
    assert scores(averaged(logits)[0][None], np.array([0]), accuracy).tolist() == [1.0]
    with pytest.raises(InputError, match="1 run or more"):
        averaged(np.zeros((0, 3, 2)))


@pytest.mark.slow
def test_kept_models_reproduce_their_logits_and_are_averaged(tmp_path, tiny_jobs):
    from hf_stability.study.run import run_job

    for job in tiny_jobs(tmp_path, seeds=(1, 2, 3), keep_model="last"):
        run_job(job, tmp_path / "runs" / job.name)
    rows = numbers_of(tmp_path, runs="all")["tables"]["weights"]
    assert [row["n"] for row in rows] == [2, 3] and all(row["reproduced"] < 1e-5 for row in rows)
    assert all(0 <= row["score"] <= 1 and math.isfinite(row["averaged_logits"]) for row in rows)
