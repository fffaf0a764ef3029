"""Agreement of runs against loops over pairs and examples, scipy, scikit-learn and published tables."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hf_stability.errors import InputError
from hf_stability.statistics import (
    class_errors,
    class_failures,
    ensemble,
    fleiss_kappa,
    hard_examples,
    jensen_shannon,
    pairwise_disagreement,
    softmax,
    vote_counts,
)


K = 3
shapes = st.tuples(st.integers(2, 6), st.integers(1, 8))
votes = shapes.flatmap(lambda shape: arrays.arrays(np.int64, shape, elements=st.integers(0, K - 1)))
logit_shapes = st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(2, 4))
logits = logit_shapes.flatmap(lambda shape: arrays.arrays(float, shape, elements=st.floats(-9, 9)))
quick = settings(max_examples=40, deadline=None)

FLEISS_1971 = (
    "444444 222555 233335 555555 222444 113333 333355 113334 114444 555555 144444 124444 222333 144444 224445 "
    "333335 111455 111112 224444 133555 555555 244444 224555 114444 144445 222224 111155 224444 133333 555555"
)
"""Fleiss 1971, table 1: six psychiatrists' diagnoses, of five kinds, for each of thirty patients. Kappa is 0.430."""

FOURTEEN_RATERS = (
    "0 0 0 0 14,0 2 6 4 2,0 0 3 5 6,0 3 9 2 0,2 2 8 1 1,7 7 0 0 0,3 2 6 3 0,2 5 3 2 2,6 5 2 1 0,0 2 2 3 7"
)
"""The usual worked example: ten subjects, fourteen raters, five categories. Kappa is 0.210."""


# ---- disagreement and kappa -----------------------------------------------------------------------------------------


@given(votes)
@quick
def test_disagreement_is_the_mean_over_pairs_of_runs(predictions):
    pairs = [np.mean(a != b) for a, b in combinations(predictions, 2)]
    assert pairwise_disagreement(predictions) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_kappa_of_fleiss_own_table():
    patients = np.array([[int(digit) - 1 for digit in patient] for patient in FLEISS_1971.split()])
    assert patients.shape == (30, 6)
    assert fleiss_kappa(patients.T, 5) == pytest.approx(0.430, abs=5e-4)
    assert 1 - pairwise_disagreement(patients.T) == pytest.approx(0.556, abs=5e-4)  # his P


def test_kappa_of_the_usual_worked_example():
    table = np.array([line.split() for line in FOURTEEN_RATERS.split(",")], dtype=int)
    predictions = np.array([np.repeat(np.arange(5), row) for row in table]).T
    np.testing.assert_array_equal(vote_counts(predictions, 5), table)
    assert fleiss_kappa(predictions, 5) == pytest.approx(0.210, abs=5e-4)


@given(votes)
@quick
def test_kappa_is_a_loop_over_pairs_and_all_pairs_of_votes(predictions):
    agree = np.mean([a == b for row in predictions.T for a, b in combinations(row, 2)])
    everything = predictions.ravel()
    by_chance = np.mean(everything[:, None] == everything)
    if by_chance == 1:
        assert np.isnan(fleiss_kappa(predictions, K))
    else:
        assert fleiss_kappa(predictions, K) == pytest.approx((agree - by_chance) / (1 - by_chance), abs=1e-9)


@given(votes, st.permutations(range(K)), st.randoms(use_true_random=False))
@quick
def test_neither_the_order_of_runs_nor_the_names_of_classes_matter(predictions, names, random):
    other = np.array(names)[predictions][random.sample(range(len(predictions)), len(predictions))]
    assert pairwise_disagreement(other) == pytest.approx(pairwise_disagreement(predictions), abs=1e-12)
    np.testing.assert_allclose(fleiss_kappa(other, K + 4), fleiss_kappa(predictions, K), atol=1e-9)


def test_runs_that_always_predict_the_majority_class_agree_but_kappa_is_undefined():
    predictions = np.ones((5, 9), dtype=int)
    assert pairwise_disagreement(predictions) == 0 and np.isnan(fleiss_kappa(predictions, 2))


def test_kappa_is_one_for_the_same_predictions_and_near_zero_for_random_ones():
    rng = np.random.default_rng(0)
    assert fleiss_kappa(np.tile(rng.integers(0, K, 50), (4, 1)), K) == 1
    assert abs(fleiss_kappa(rng.integers(0, K, (10, 4000)), K)) < 0.01


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (2, 0)])
def test_without_pairs_of_predictions_agreement_is_undefined(shape):
    predictions = np.zeros(shape, dtype=int)
    predictions[:, 1:] = 1
    assert np.isnan(pairwise_disagreement(predictions)) and np.isnan(fleiss_kappa(predictions, 2))


# ---- divergence -----------------------------------------------------------------------------------------------------


@given(logits)
@quick
def test_the_divergence_is_the_square_of_scipys_distance(logits):
    from scipy.spatial.distance import jensenshannon

    probabilities = softmax(logits)
    with np.errstate(invalid="ignore"):  # scipy's root of a negative rounding error is NaN: the divergence is 0 there
        distances = [jensenshannon(a, b, axis=-1) for a, b in combinations(probabilities, 2)]
    expected = [np.mean(np.nan_to_num(distance) ** 2) for distance in distances]
    divergence = jensen_shannon(probabilities)
    assert divergence == pytest.approx(np.mean(expected), abs=1e-7) and 0 <= divergence <= np.log(2) + 1e-12


def test_the_divergence_of_opposite_certain_runs_is_ln_2():
    certain = np.eye(2)[[[0, 1], [1, 0], [0, 1]]]  # three runs: two alike, one opposite
    assert jensen_shannon(certain) == pytest.approx(np.log(2) * 2 / 3, abs=1e-12)
    assert jensen_shannon(certain[[0, 2]]) == 0
    assert np.isnan(jensen_shannon(certain[:1]))


@pytest.mark.parametrize("wrong", [np.full((2, 3, 2), 0.6), np.full((2, 3, 2), np.nan), np.full((2, 3), 0.5)])
def test_what_are_no_probabilities_is_refused(wrong):
    with pytest.raises(InputError, match="need .runs, examples, classes"):
        jensen_shannon(wrong)


# ---- examples and classes -------------------------------------------------------------------------------------------


@given(votes, st.data())
@quick
def test_hard_examples_by_a_loop(predictions, data):
    runs, n = predictions.shape
    labels = data.draw(arrays.arrays(np.int64, n, elements=st.integers(0, K - 1)))
    hard = hard_examples(predictions, labels)
    wrong = [sum(int(run[i]) != labels[i] for run in predictions) for i in range(n)]
    assert hard.wrong.tolist() == wrong and hard.runs == runs
    assert hard.every.tolist() == [i for i in range(n) if wrong[i] == runs]
    assert hard.half.tolist() == [i for i in range(n) if wrong[i] >= runs / 2]


def test_without_runs_no_example_is_hard():
    hard = hard_examples(np.zeros((0, 3), dtype=int), [0, 1, 2])
    assert hard.every.size == hard.half.size == 0 and hard.runs == 0


@given(votes, st.data())
@quick
def test_class_errors_are_one_minus_scikit_learns_recall(predictions, data):
    from sklearn.metrics import recall_score

    labels = data.draw(arrays.arrays(np.int64, predictions.shape[1], elements=st.integers(0, K - 1)))
    errors = class_errors(predictions, labels, K)
    for run, own in zip(predictions, errors, strict=True):
        recall = recall_score(labels, run, labels=range(K), average=None, zero_division=np.nan)
        np.testing.assert_allclose(own, 1 - recall)


def test_a_majority_class_run_misses_the_other_classes():
    labels = np.array([0, 1, 1, 1, 1])
    predictions = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 1, 1, 1, 0]])
    errors = class_errors(predictions, labels, 3)
    np.testing.assert_array_equal(errors, [[1, 0, np.nan], [0, 0.5, np.nan], [0, 0.25, np.nan]])
    assert class_failures(errors).tolist() == [1, 1, 0]
    assert class_failures(errors, 1.0).tolist() == [1, 0, 0]


# ---- ensemble -------------------------------------------------------------------------------------------------------


@given(logits)
@quick
def test_the_ensemble_is_the_mean_of_scipys_softmax_also_of_a_generator(logits):
    from scipy.special import softmax as scipys

    expected = np.mean([scipys(run, axis=-1) for run in logits], axis=0)
    np.testing.assert_allclose(ensemble(logits), expected, atol=1e-12)
    np.testing.assert_array_equal(ensemble(run for run in logits), ensemble(logits))


def test_runs_that_err_on_different_examples_are_better_together():
    right = np.full((3, 3), 2.0)  # logit of class 0, which is right everywhere; each run has one error
    np.fill_diagonal(right, -1.0)
    logits = np.stack([right, np.zeros((3, 3))], -1)
    assert (logits.argmax(-1) == 0).mean(1).tolist() == [2 / 3] * 3
    assert (ensemble(logits).argmax(1) == 0).all()


def test_a_masked_class_has_probability_zero_and_an_undefined_row_is_nan():
    rows = [[0.0, -np.inf], [np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]]
    np.testing.assert_array_equal(softmax(rows), [[1, 0]] + [[np.nan, np.nan]] * 3)


# ---- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: pairwise_disagreement([0, 1]),
        lambda: pairwise_disagreement([[0.5, 1.0]]),
        lambda: fleiss_kappa([[0, 2], [0, 1]], 2),
        lambda: vote_counts([[-100, 1]], 2),
        lambda: hard_examples([[0, 1]], [0, 1, 1]),
        lambda: hard_examples([[0, 1]], [0.5, 1.0]),
        lambda: class_errors([[0, 1]], [0, 2], 2),
        lambda: class_failures([[0.5]], 0.0),
        lambda: ensemble([]),
        lambda: ensemble([np.zeros((2, 2)), np.zeros((3, 2))]),
    ],
)
def test_wrong_input_is_refused_in_one_line(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
