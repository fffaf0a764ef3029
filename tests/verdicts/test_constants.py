"""Constant predictions: the paper's numbers, and the baselines."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from hf_stability.errors import InputError
from hf_stability.verdicts.constants import (
    at_or_below,
    best_constant_score,
    best_constant_set,
    constant_accuracy,
    label_entropy,
    majority_accuracy,
    mean_label_entropy,
    r_squared,
)
from tests.verdicts.made_up_runs import LN2, MRPC, RTE, compute_glue


def test_label_entropy_of_even_and_single_classes():
    assert label_entropy([50, 50]) == pytest.approx(LN2)
    assert label_entropy([7, 0]) == 0
    np.testing.assert_allclose(label_entropy([[1, 1, 1], [2, 2, 0]]), [math.log(3), LN2])
    for bad in ([0, 0], [-1, 2]):
        with pytest.raises(InputError, match="label counts"):
            label_entropy(bad)


def test_constants_of_the_papers_dev_sets():
    assert majority_accuracy(RTE) == 146 / 277 == pytest.approx(0.5271, abs=5e-5)
    np.testing.assert_array_equal(constant_accuracy(RTE, 2), [146 / 277, 131 / 277])
    assert majority_accuracy(MRPC) == pytest.approx(0.6838, abs=5e-5)


def test_ignored_labels_do_not_count_and_wrong_ones_are_named():
    np.testing.assert_array_equal(constant_accuracy([0, 1, 1, -100], 2), [1 / 3, 2 / 3])
    with pytest.raises(InputError, match="label -1"):
        majority_accuracy([-1, -1])
    with pytest.raises(InputError, match="label 3: must be one of the classes 0..1"):
        constant_accuracy([0, 3], 2)
    with pytest.raises(InputError, match="whole numbers"):
        majority_accuracy([0.5, 1.0])
    with pytest.raises(InputError, match="all labels are -100"):
        majority_accuracy([-100])
    with pytest.raises(InputError, match="at least one"):
        majority_accuracy([])


def test_r_squared_is_sklearns():
    rng = np.random.default_rng(0)
    labels, predictions = rng.normal(size=(3, 20)), rng.normal(size=(3, 20))
    expected = [r2_score(y, p) for y, p in zip(labels, predictions, strict=True)]
    np.testing.assert_allclose(r_squared(predictions, labels), expected)
    assert r_squared(labels[0] * 0 + labels[0].mean(), labels[0]) == pytest.approx(0, abs=1e-12)
    assert r_squared([1.0, 1.0], [1.0, 1.0]) == 0
    with pytest.raises(InputError, match="same shape"):
        r_squared([1.0], [1.0, 2.0])


@pytest.mark.parametrize("shape", ["logits", "ids", "tuple"])
def test_best_constant_of_mrpc_by_any_shape_of_predictions(shape):
    logits = np.zeros((408, 2), dtype=np.float32)
    predictions = {"logits": logits, "ids": np.zeros(408, dtype=np.int64), "tuple": (logits, "hidden")}[shape]
    best = best_constant_score(compute_glue, predictions, MRPC, 2, "f1")
    assert best == {"score": pytest.approx(0.8122, abs=5e-5), "constant": 1}
    assert best_constant_score(compute_glue, predictions, MRPC, 2, "eval_accuracy")["score"] == 279 / 408
    assert best_constant_score(compute_glue, predictions, MRPC, 2, "matthews") == {"score": 0, "constant": 0}


def test_best_constant_keeps_shape_type_and_the_rest_of_a_tuple():
    seen = []

    def compute(p):
        seen.append(p.predictions)
        return {"eval_score": 1.0}

    best_constant_score(compute, (np.zeros((4, 3), dtype=np.float16), "hidden"), np.zeros(4, int), 3, "score")
    assert [(p[0].shape, p[0].dtype, p[1]) for p in seen] == [((4, 3), np.float16, "hidden")] * 3
    np.testing.assert_array_equal(seen[2][0], [[0, 0, 1]] * 4)


def test_best_constant_of_a_regression_is_the_mean_and_undefined_correlations_are_0():
    def compute(p):
        return {"pearson": np.corrcoef(p.predictions.reshape(-1), p.label_ids)[0, 1]}  # warns, and NaN

    labels = np.array([0.0, 1.0, 5.0], dtype=np.float32)
    for predictions in (np.zeros((3, 1), np.float32), np.zeros(3)):
        assert best_constant_score(compute, predictions, labels, 1, "pearson", True) == {"score": 0.0, "constant": 2.0}


def test_with_very_many_classes_only_those_that_occur_are_tried():
    tried = []

    def compute(p):
        tried.append(int(p.predictions[0]))
        return {"accuracy": (p.predictions == p.label_ids).mean()}

    best = best_constant_score(compute, np.zeros(4, int), np.array([150, 7, 150, -100]), 200, "accuracy")
    assert tried == [7, 150] and best == {"score": 0.5, "constant": 150}


def test_best_constant_names_wrong_inputs():
    with pytest.raises(InputError, match="'bleu'.*accuracy, f1, matthews"):
        best_constant_score(compute_glue, np.zeros((408, 2)), MRPC, 2, "bleu")
    with pytest.raises(InputError, match="need logits"):
        best_constant_score(compute_glue, np.zeros(408), MRPC, 2, "f1")

    def broken(p):
        raise ZeroDivisionError("the user's own")

    with pytest.raises(ZeroDivisionError, match="the user's own"):
        best_constant_score(broken, np.zeros((408, 2)), MRPC, 2, "f1")


@pytest.mark.parametrize(
    ("score", "baseline", "examples", "smaller", "expected"),
    [
        (float(np.float32(146 / 277)), 146 / 277, None, False, True),  # 1.5e-8 above it in float32
        (float(np.float32(146 / 277)), 146 / 277, 277, False, True),
        (147 / 277, 146 / 277, 277, False, False),
        (145 / 277, 146 / 277, 277, False, True),
        (float(np.float16(146 / 277)), 146 / 277, 277, False, True),
        (0.09, 0.12, None, True, False),
        (0.12, 0.12, None, True, True),
        (0.13, 0.12, None, True, True),
        (1e-12, 0.0, None, False, True),
        (0.01, 0.0, None, False, False),
    ],
)
def test_scores_are_compared_in_examples(score, baseline, examples, smaller, expected):
    assert at_or_below(score, baseline, examples, smaller) is expected


@given(st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_constants_of_several_seeds_equal_a_loop(seeds, entropy):
    rng = np.random.default_rng(entropy)
    labels, values = rng.integers(0, 3, (seeds, 17)), rng.normal(size=(2, seeds, 17))
    labels[:, 0] = 2  # every row gets the same highest class
    pairs = [
        (label_entropy(labels + 1), [label_entropy(x + 1) for x in labels]),
        (constant_accuracy(labels, 3), [constant_accuracy(x, 3) for x in labels]),
        (majority_accuracy(labels), [majority_accuracy(x) for x in labels]),
        (r_squared(*values), [r_squared(p, y) for p, y in zip(*values, strict=True)]),
    ]
    for together, one_by_one in pairs:
        np.testing.assert_array_equal(together, np.stack(one_by_one))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_no_constant_set_of_labels_is_better_than_the_most_frequent_ones(examples, width, seed, share):
    """Against all 2^L sets."""
    labels = (np.random.default_rng(seed).random((examples, width)) < share).astype(int)
    sets = [np.array(one) for one in itertools.product((0, 1), repeat=width)]
    scores = [micro_f1(labels, np.broadcast_to(one, labels.shape)) for one in sets]
    score, best = best_constant_set(labels)
    assert score == pytest.approx(max(scores), abs=1e-12)
    own = np.isin(np.arange(width), best).astype(int)
    assert micro_f1(labels, np.broadcast_to(own, labels.shape)) == pytest.approx(score, abs=1e-12)
    assert len(best) == min(one.sum() for one, its in zip(sets, scores, strict=True) if its >= score - 1e-12)


def micro_f1(labels, answers):
    return 2 * (labels * answers).sum() / max((labels + answers).sum(), 1)


def test_the_label_entropy_of_several_labels_is_the_least_binary_cross_entropy():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 0]])
    logits = torch.zeros(3, requires_grad=True)  # a constant prediction
    loss = torch.nn.BCEWithLogitsLoss()
    optimizer = torch.optim.LBFGS([logits], max_iter=200)

    def closure():
        optimizer.zero_grad()
        value = loss(logits.expand(4, 3), torch.tensor(labels, dtype=torch.float32))
        value.backward()
        return value

    optimizer.step(closure)
    assert mean_label_entropy(labels) == pytest.approx(float(closure().detach()), abs=1e-3)
