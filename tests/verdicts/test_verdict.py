"""Verdicts: the paper's facts, hand-made traces, properties, and every branch of the sentence."""

from __future__ import annotations

import ast
import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import f1_score, matthews_corrcoef, r2_score

from hf_stability.errors import InputError
from hf_stability.verdicts import verdict as failures
from hf_stability.verdicts.verdict import (
    CENSORED,
    SCHEMA,
    STATUSES,
    Verdict,
    at_or_below,
    best_constant_score,
    constant_accuracy,
    ended_early,
    judge,
    judge_seeds,
    label_entropy,
    majority_accuracy,
    mcnemar_exact,
    one_class_share,
    predicted_classes,
    r_squared,
    vanished_gradients,
    vanished_mask,
)


RTE = np.array([0] * 146 + [1] * 131)
RTE_NAMES = ("entailment", "not_entailment")
MRPC = np.array([1] * 279 + [0] * 129)
LAYERS = ["embeddings", *(f"layer_{i:02d}" for i in range(12)), "pooler", "classifier"]
STEPS, WARMUP, TOTAL = np.arange(1, 189), 19, 188
LN2 = math.log(2)


def answers(labels, correct):
    """Predictions that are right on the first `correct` examples of two classes, counted over a fixed shuffle."""
    order = np.random.default_rng(0).permutation(len(labels))
    out = 1 - labels
    out[order[:correct]] = labels[order[:correct]]
    return out


def trace(*points, steps=STEPS):
    """Norms by step, straight lines in the log between (fraction of training, norm)."""
    fractions, norms = zip(*points, strict=True)
    return np.exp(np.interp(steps / steps[-1], fractions, np.log(norms)))


def norms_of(lower, upper=None, rng=None):
    """(T, L): embeddings and layers 00-09 follow `lower`, layers 10-11 and pooler stand at .2, the classifier at 1."""
    norms = np.full((len(STEPS), len(LAYERS)), 0.2)
    norms[:, :11] = lower[:, None]
    norms[:, -1] = 1.0 if upper is None else upper
    return norms if rng is None else norms * np.exp(rng.normal(0, 0.3, norms.shape))


# the medians of failed and successful runs at a small scale: two orders down, against back up after warmup
FAILED = trace((0, 0.27), (0.18, 0.057), (0.35, 0.005), (1, 0.004))
GOOD = trace((0, 0.27), (0.05, 0.01), (0.14, 0.005), (0.2, 0.5), (1, 0.5))
HEALED = trace((0, 0.27), (0.2, 0.005), (0.5, 0.005), (0.6, 0.3), (1, 0.32))


# ---- constants


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
    with pytest.raises(InputError, match="label 3 is none of the classes 0..1"):
        constant_accuracy([0, 3], 2)
    with pytest.raises(InputError, match="whole numbers"):
        majority_accuracy([0.5, 1.0])
    with pytest.raises(InputError, match="nothing to compare"):
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


def compute_glue(p):
    assert type(p).__name__ == "EvalPrediction"
    logits = p.predictions[0] if isinstance(p.predictions, tuple) else p.predictions
    classes = logits if logits.ndim == 1 else logits.argmax(-1)
    return {
        "accuracy": (classes == p.label_ids).mean(),
        "f1": f1_score(p.label_ids, classes),
        "matthews": matthews_corrcoef(p.label_ids, classes),
    }


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


def test_best_constant_tries_only_classes_that_occur_among_very_many():
    tried = []

    def compute(p):
        tried.append(int(p.predictions[0]))
        return {"accuracy": (p.predictions == p.label_ids).mean()}

    best = best_constant_score(compute, np.zeros(4, int), np.array([150, 7, 150, -100]), 200, "accuracy")
    assert tried == [7, 150] and best == {"score": 0.5, "constant": 150}


def test_best_constant_says_what_is_wrong():
    with pytest.raises(InputError, match="'bleu'.*accuracy, f1, matthews"):
        best_constant_score(compute_glue, np.zeros((408, 2)), MRPC, 2, "bleu")
    with pytest.raises(InputError, match="neither logits"):
        best_constant_score(compute_glue, np.zeros(408), MRPC, 2, "f1")

    def broken(p):
        raise ZeroDivisionError("the user's own")

    with pytest.raises(ZeroDivisionError, match="the user's own"):
        best_constant_score(broken, np.zeros((408, 2)), MRPC, 2, "f1")


# ---- predictions


def test_predicted_classes_and_their_share():
    logits = np.array([[0.1, 0.9], [0.2, 0.1], [0.0, 3.0]])
    np.testing.assert_array_equal(predicted_classes((logits, None)), [1, 0, 1])
    assert one_class_share(predicted_classes(logits)) == (2 / 3, 1)
    assert one_class_share(np.array([0, 1])) == (0.5, 0)
    with pytest.raises(InputError, match="regression=True"):
        predicted_classes(np.zeros((3, 1)))


def mcnemar_by_enumeration(b, c):
    """All 2^(b+c) ways to toss the examples on which the two differ, those at least as unlikely as ours counted."""
    tosses = [sum(toss) for toss in product((0, 1), repeat=b + c)]
    ours = tosses.count(b)
    return sum(tosses.count(k) for k in range(b + c + 1) if tosses.count(k) <= ours) / len(tosses)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (5, 0), (2, 6), (4, 4), (3, 8), (7, 4)])
def test_mcnemar_against_enumeration(b, c):
    a_right = np.array([True] * b + [False] * c + [True, False])
    b_right = np.array([False] * b + [True] * c + [True, False])
    assert mcnemar_exact(a_right, b_right) == pytest.approx(mcnemar_by_enumeration(b, c))


@given(st.integers(0, 400), st.integers(0, 400))
@settings(max_examples=50, deadline=None)
def test_mcnemar_is_the_binomial_test(b, c):
    only_a = np.array([True] * b + [False] * c, dtype=bool)
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar_exact(only_a, ~only_a) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_needs_the_same_examples():
    with pytest.raises(InputError, match="same examples"):
        mcnemar_exact([True], [True, False])


# ---- vanished gradients


def vanished(norms, steps=STEPS, layers=LAYERS, warmup=WARMUP, total=TOTAL, **bounds):
    return vanished_gradients(steps, norms, layers, warmup, total, **bounds)


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_a_failed_run_says_where_and_since_when(seed):
    found = vanished(norms_of(FAILED, rng=None if seed is None else np.random.default_rng(seed)))
    assert found["lasting"] and found["layers"] == LAYERS[:11] and found["healed_step"] is None
    assert 0.15 * TOTAL < found["first_step"] <= found["last_step"] < 0.35 * TOTAL
    assert found["since"].keys() == set(LAYERS[:11])
    json.dumps(found)


def test_small_gradients_until_shortly_after_warmup_are_no_finding():
    assert vanished(norms_of(GOOD)) is None
    assert vanished(norms_of(np.full(len(STEPS), 0.3))) is None


def test_a_collapse_that_heals_is_reported_as_healed():
    found = vanished(norms_of(HEALED))
    assert not found["lasting"] and found["layers"] == LAYERS[:11]
    assert WARMUP < found["first_step"] < 0.25 * TOTAL < 0.45 * TOTAL < found["healed_step"] < 0.65 * TOTAL
    mixed = norms_of(HEALED)
    mixed[:, 0] = FAILED
    assert vanished(mixed)["layers"] == ["embeddings"] and vanished(mixed)["lasting"]


def test_nothing_is_said_within_warmup():
    for last in (WARMUP, WARMUP + 1):
        assert vanished(norms_of(FAILED)[:last], steps=STEPS[:last]) is None
    assert vanished(norms_of(FAILED), warmup=TOTAL) is None
    late = vanished(norms_of(FAILED), warmup=100)
    assert late["first_step"] > 100
    with pytest.raises(InputError, match="fraction"):
        vanished(norms_of(FAILED), warmup=0.1)


def test_a_layer_that_was_always_small_or_fell_with_the_top_has_not_vanished():
    assert vanished(norms_of(np.full(len(STEPS), 0.01))) is None
    fall = trace((0, 1), (1, 1e-4))
    assert (
        vanished(norms_of(0.3 * fall, upper=fall)[:, [0, 1, 14]], layers=["embeddings", "layer_00", "classifier"])
        is None
    )


def test_the_last_layer_is_the_top_where_there_is_no_classifier():
    names = ["embeddings", "layer_00", "head"]
    found = vanished(norms_of(FAILED)[:, [0, 1, 14]], layers=names)
    assert found["layers"] == names[:2]


def test_holes_overflows_and_a_coarse_record_do_not_matter():
    norms = norms_of(FAILED)
    holed = norms.copy()
    holed[::7] = np.nan
    holed[3, 2], holed[100] = np.inf, np.inf
    assert vanished(holed)["layers"] == LAYERS[:11]
    coarse = vanished(norms[::5], steps=STEPS[::5])
    assert coarse["layers"] == LAYERS[:11] and coarse["first_step"] in STEPS[::5]
    frozen = norms.copy()
    frozen[:, 0] = np.nan
    assert vanished(frozen)["layers"] == LAYERS[1:11]
    assert vanished(norms * np.nan) is None
    assert vanished(norms[:0], steps=STEPS[:0]) is None


def test_norms_must_fit_steps_and_layers():
    with pytest.raises(InputError, match="do not fit"):
        vanished(norms_of(FAILED)[:, 1:])
    with pytest.raises(InputError, match="ascend"):
        vanished(norms_of(FAILED), steps=STEPS[::-1])


@given(st.floats(-8, 8), st.sampled_from([FAILED, GOOD, HEALED]))
@settings(max_examples=15, deadline=None)
def test_scaling_all_norms_changes_nothing(exponent, lower):
    assert vanished(norms_of(lower) * 10**exponent) == vanished(norms_of(lower))


# ---- a leading seed axis


@given(st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_leading_seed_axis_equals_a_loop_over_seeds(seeds, entropy):
    rng = np.random.default_rng(entropy)
    labels, classes = rng.integers(0, 3, (seeds, 17)), rng.integers(0, 3, (seeds, 17))
    labels[:, 0] = 2  # so that each has the same highest class
    right = classes == labels
    values = rng.normal(size=(2, seeds, 17))
    pairs = [
        (label_entropy(labels + 1), [label_entropy(x + 1) for x in labels]),
        (constant_accuracy(labels, 3), [constant_accuracy(x, 3) for x in labels]),
        (majority_accuracy(labels), [majority_accuracy(x) for x in labels]),
        (r_squared(*values), [r_squared(p, y) for p, y in zip(*values, strict=True)]),
        (mcnemar_exact(right, labels == 2), [mcnemar_exact(x, y == 2) for x, y in zip(right, labels, strict=True)]),
        (one_class_share(classes)[0], [one_class_share(x)[0] for x in classes]),
        (one_class_share(classes)[1], [one_class_share(x)[1] for x in classes]),
    ]
    for together, one_by_one in pairs:
        np.testing.assert_array_equal(together, np.stack(one_by_one))


def test_vanished_mask_takes_a_leading_seed_axis():
    stack = np.stack([norms_of(FAILED), norms_of(GOOD), norms_of(HEALED)])
    starts, together = vanished_mask(STEPS, stack, 14, WARMUP, TOTAL)
    assert together.shape == (3, len(starts), len(LAYERS))
    for norms, mask in zip(stack, together, strict=True):
        np.testing.assert_array_equal(vanished_mask(STEPS, norms, 14, WARMUP, TOTAL)[1], mask)


# ---- the verdict: the definition


def test_rte_at_either_constant_has_failed():
    majority = judge(eval_labels=RTE, eval_predictions=np.zeros(277, int), label_names=RTE_NAMES)
    assert majority.status == "failed" and majority.basis == "eval_accuracy"
    assert majority.sentence == (
        "failed: accuracy .527 on 277 examples is the constant's (.527, always 'entailment'); "
        "predicts one class ('entailment')."
    )
    wrong = judge(eval_labels=RTE, eval_predictions=np.ones(277, int), label_names=RTE_NAMES)
    assert wrong.sentence == (
        "failed: accuracy .473 on 277 examples is below the constant's (.527, always 'entailment'); "
        "predicts one class ('not_entailment')."
    )


def test_mrpc_with_an_f1_below_always_positive_has_not_failed():
    predictions = MRPC.copy()
    predictions[:89] = 0  # 89 of the 279 positives missed
    f1 = f1_score(MRPC, predictions)
    baseline = best_constant_score(compute_glue, predictions, MRPC, 2, "f1")["score"]
    verdict = judge(eval_labels=MRPC, eval_predictions=predictions, score=f1, baseline=baseline, metric="eval_f1")
    assert verdict.sentence == (
        "ok: accuracy .782 on 408 examples, above the constant's .684 (p = .008); "
        "f1 .810 is below the best constant's .812, which by itself is no failure."
    )


def test_one_example_more_than_the_constant_is_ok_but_noise():
    predictions = answers(RTE, 147)
    verdict = judge(eval_labels=RTE, eval_predictions=predictions)
    assert verdict.status == "ok" and verdict.evidence["within_noise"]
    assert verdict.sentence.startswith(
        "ok, but within sampling noise of the constant: accuracy .531 on 277 examples against .527 (exact McNemar p = "
    )
    assert judge(eval_labels=RTE, eval_predictions=answers(RTE, 146)).status == "failed"


def test_clearly_above_the_constant():
    verdict = judge(
        eval_labels=RTE, eval_predictions=answers(RTE, 220), score=220 / 277, baseline=0.5, metric="accuracy"
    )
    assert verdict.sentence == "ok: accuracy .794 on 277 examples, above the constant's .527 (p < .001)."


def test_below_the_constant_with_two_classes_gives_the_test():
    verdict = judge(eval_labels=RTE, eval_predictions=answers(RTE, 140), score=0.1, metric="matthews")
    assert "is below the constant's (.527, always class 0; exact McNemar p = " in verdict.sentence
    assert verdict.sentence.endswith("; matthews .100.")


def test_three_classes_tuples_and_ignored_labels():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    logits = np.eye(3)[labels] + rng.normal(0, 0.5, (300, 3))
    labels[:10] = -100
    verdict = judge(eval_labels=labels, eval_predictions=(logits, "hidden"), num_labels=3)
    assert verdict.status == "ok" and verdict.evidence["examples"] == 290
    assert judge(eval_labels=labels, eval_predictions=logits * [1, 0, 0] + [9, 0, 0]).status == "failed"


def test_scores_that_look_alike_get_more_decimals():
    labels = np.array([0] * 5001 + [1] * 4999)
    predictions = np.zeros(10000, int)
    predictions[-1] = 1
    sentence = judge(eval_labels=labels, eval_predictions=predictions).sentence
    assert "accuracy .5002 on 10000 examples against .5001 (exact McNemar p = 1.00)" in sentence


def test_nearly_one_class_gives_its_share():
    labels = np.array([0, 1] * 500)
    predictions = np.zeros(1000, int)
    predictions[0] = 1
    sentence = judge(eval_labels=labels, eval_predictions=predictions).sentence
    assert sentence.endswith("predicts one class 99.9% of the time (class 0).")


def test_regression_by_r2():
    labels = np.random.default_rng(0).normal(2, 1, 200)
    constant = judge(eval_labels=labels, eval_predictions=np.full((200, 1), labels.mean()), regression=True)
    assert constant.status == "failed" and constant.basis == "eval_r2"
    assert constant.sentence.endswith("on 200 examples, no better than the mean label; predicts one value.")
    good = judge(
        eval_labels=labels, eval_predictions=labels + 0.1, regression=True, score=0.9, baseline=0, metric="pearson"
    )
    assert good.status == "ok"
    assert "better than always answering the mean; pearson .900, above the best constant's .000" in good.sentence
    wild = judge(eval_labels=labels, eval_predictions=labels * -1e200, regression=True)
    assert wild.status == "failed" and wild.evidence["r2"] is None
    json.dumps(wild.to_dict(), allow_nan=False)
    stuck = judge(
        eval_labels=labels, eval_predictions=0 * labels, regression=True, losses=np.ones(20), constant_loss=1.0
    )
    assert "train loss 1.00 stayed at the best constant's (1.00): failed optimisation" in stuck.sentence


@pytest.mark.parametrize(
    ("score", "status", "text"),
    [
        (0.0, "failed", "matthews .000 is the best constant's .000"),
        (math.nan, "failed", "matthews .000 is the best constant's .000"),
        (-0.1, "failed", "matthews -.100 is below the best constant's .000"),
        (0.4, "ok", "matthews .400, above the best constant's .000"),
    ],
)
def test_a_score_against_its_baseline(score, status, text):
    verdict = judge(score=score, baseline=0.0, metric="eval_matthews")
    assert (verdict.status, verdict.basis) == (status, "baseline")
    assert verdict.sentence == f"{status}: {text}; there were no eval predictions to take the accuracy of."


# ---- the verdict: divergence


def test_nan_that_the_trainers_filter_hides_is_divergence():
    losses = np.full(188, 0.6)
    losses[60:] = np.nan
    verdict = judge(eval_labels=RTE, eval_predictions=answers(RTE, 220), losses=losses)
    assert verdict.status == "diverged" and verdict.evidence["first_nonfinite_step"] == 61
    assert verdict.sentence == (
        "diverged: NaN or Inf in train loss, first at step 61 of 188 (the Trainer's logging_nan_inf_filter hides it "
        "from the log); accuracy .794 on 277 examples, above the constant's .527 (p < .001)."
    )
    losses[:] = 0.6
    losses[5] = np.inf
    assert judge(losses=losses).evidence["nonfinite_losses"] == 1


def test_nan_outputs_and_weights_are_divergence():
    logits = np.zeros((277, 2))
    logits[3] = np.nan
    verdict = judge(eval_labels=RTE, eval_predictions=logits, weights_finite=False, steps=STEPS, losses=STEPS * 1.0)
    assert verdict.sentence == "diverged: NaN or Inf in eval outputs and weights."
    assert verdict.evidence["first_nonfinite_step"] is None and "accuracy" not in verdict.evidence
    assert judge(weights_finite=False).status == "diverged"
    assert judge(weights_finite=True).status == "unknown"


def test_a_masked_class_is_no_divergence():
    logits = np.eye(3)[answers(RTE, 220)]
    logits[:, 2] = -np.inf
    verdict = judge(eval_labels=RTE, eval_predictions=logits)
    assert verdict.status == "ok" and verdict.evidence["accuracy"] == 220 / 277
    for wrong in (np.nan, np.inf):
        logits[5, 0] = wrong
        assert judge(eval_labels=RTE, eval_predictions=logits).status == "diverged"
    logits[5] = -np.inf  # nothing is left of this example
    assert judge(eval_labels=RTE, eval_predictions=logits).status == "diverged"


def test_a_loss_that_is_not_finite_beside_finite_gradients_is_no_divergence():
    losses, norms = np.full(188, 0.3), norms_of(GOOD)
    losses[90] = np.nan  # a batch without labels
    common = {
        "layers": LAYERS,
        "train_label_counts": [1, 1],
        "eval_labels": RTE,
        "eval_predictions": answers(RTE, 220),
    }
    verdict = judge(losses=losses, layer_norms=norms, **common)
    assert verdict.status == "ok" and verdict.evidence["nonfinite_losses"] == 1
    losses[-1] = np.nan
    assert judge(losses=losses, layer_norms=norms, **common).evidence["train_loss"] == pytest.approx(0.3)
    norms[90] = np.nan
    verdict = judge(losses=losses, layer_norms=norms, **common)
    assert verdict.status == "diverged" and verdict.evidence["first_nonfinite_step"] == 91


def test_an_overflowed_norm_is_no_divergence_while_the_loss_is_finite():
    losses, norms = np.full(188, 0.3), norms_of(GOOD)
    norms[:3], norms[90] = np.inf, np.nan
    common = {"losses": losses, "layers": LAYERS, "train_label_counts": [1, 1]}
    verdict = judge(layer_norms=norms, **common)
    assert verdict.status == "unknown" and verdict.evidence["overflowed_norms"] == 4
    norms[-1] = np.inf  # the very last one: only what came after it can tell
    assert judge(layer_norms=norms, **common).status == "diverged"
    assert judge(layer_norms=norms, weights_finite=True, **common).status == "unknown"
    norms[-2:] = np.nan
    ends = judge(layer_norms=norms, weights_finite=True, **common)
    assert ends.status == "diverged" and "gradient norms, first at step 187 of 188" in ends.sentence
    frozen = norms_of(GOOD)
    frozen[:, 0] = np.nan
    assert judge(layer_norms=frozen, **common).status == "unknown"
    assert judge(layer_norms=frozen * np.nan, layers=LAYERS).status == "diverged"


# ---- the verdict: evidence


def run(lower=FAILED, end=0.69, counts=(10, 10), **more):
    losses = np.linspace(0.7, end, 188)
    losses[-20:] = end
    return {
        "losses": losses,
        "layer_norms": norms_of(lower),
        "layers": LAYERS,
        "warmup_steps": WARMUP,
        "total_steps": TOTAL,
        "train_label_counts": counts,
        **more,
    }


def test_the_whole_sentence_of_a_failed_run():
    verdict = judge(eval_labels=RTE, eval_predictions=np.zeros((277, 2)), label_names=RTE_NAMES, **run())
    first = verdict.evidence["gradients"]["first_step"]
    assert verdict.sentence == (
        "failed: accuracy .527 on 277 examples is the constant's (.527, always 'entailment'); predicts one class "
        "('entailment'); train loss .69 stayed at the label entropy (.69): failed optimisation; "
        f"gradients of embeddings and layers 00-09 vanished from step {first} on."
    )
    assert verdict.evidence["failure"] == "failed optimisation"


def test_failed_generalisation_and_no_gradient_verdict_for_a_fitted_run():
    verdict = judge(eval_labels=RTE, eval_predictions=answers(RTE, 140), **run(end=0.001))
    assert verdict.evidence["failure"] == "failed generalisation" and "gradients" not in verdict.evidence
    assert verdict.sentence.endswith(
        "train loss 0.001 is clearly below the label entropy (.69): failed generalisation."
    )
    between = judge(eval_labels=RTE, eval_predictions=answers(RTE, 140), **run(end=0.62))
    assert "train loss .62 is little below the label entropy (.69); gradients of" in between.sentence
    assert "failure" not in between.evidence


def test_gradient_evidence_on_an_ok_run():
    good = {"eval_labels": RTE, "eval_predictions": answers(RTE, 220)}
    healed = judge(**good, **run(lower=HEALED, end=0.45))
    assert healed.status == "ok" and " were back by step " in healed.sentence and "train loss" not in healed.sentence
    assert "gradients" not in judge(**good, **run(lower=FAILED, end=0.1)).evidence
    assert "gradients" not in judge(**good, **run(lower=FAILED, losses=None)).evidence
    assert "gradients" not in judge(**good, **run(lower=FAILED, end=0.6, warmup_steps=None)).evidence
    assert judge(**good, **run(lower=GOOD, end=0.6)).evidence["gradients"] is None


def test_since_is_a_range_where_layers_vanish_at_different_steps():
    norms = norms_of(FAILED)
    norms[:, 1] = trace((0, 0.27), (0.5, 0.27), (0.6, 0.004), (1, 0.004))
    sentence = judge(eval_labels=RTE, eval_predictions=0 * RTE, **run(layer_norms=norms)).sentence
    first, last = (vanished(norms)[key] for key in ("first_step", "last_step"))
    assert first < last and f"vanished from steps {first} to {last} on" in sentence


# ---- the verdict: from training alone

NOTHING_ELSE = "unknown: there was no evaluation with predictions, and no metric with a known baseline"


LIKE_FAILED = "; training looks like that of a failed run"


def test_training_alone_is_unknown_whatever_loss_and_gradients_say():
    verdict = judge(**run())
    assert (verdict.status, verdict.basis) == ("unknown", "training_only")
    assert verdict.sentence.startswith(
        f"{NOTHING_ELSE}{LIKE_FAILED}; train loss .69 stayed at the label entropy (.69); gra"
    )
    good = judge(**run(end=0.1), train_predicted_counts=[5, 6])
    assert good.sentence == f"{NOTHING_ELSE}; train loss .10 is clearly below the label entropy (.69)."
    assert judge(**run(end=0.6)).status == "unknown"


def test_training_alone_is_unknown_whatever_classes_it_predicted():
    verdict = judge(train_predicted_counts=[0, 700], label_names=RTE_NAMES)
    assert verdict.sentence == f"{NOTHING_ELSE}{LIKE_FAILED}; predicts one class in training ('not_entailment')."
    assert LIKE_FAILED not in judge(train_predicted_counts=[4, 996], train_label_counts=[3, 997]).sentence
    assert LIKE_FAILED in judge(train_predicted_counts=[0, 1000], train_label_counts=[3, 997]).sentence
    with pytest.raises(InputError, match="nothing to judge by"):
        judge()


def test_gradients_alone_never_decide():
    verdict = judge(**run(losses=None))
    assert verdict.status == "unknown" and "gradients of" in verdict.sentence and LIKE_FAILED not in verdict.sentence
    healed = judge(**run(lower=HEALED, losses=None))
    assert healed.status == "unknown" and "were back by step" in healed.sentence
    bare = judge(losses=np.full(9, 0.5), train_predicted_counts=[0, 0])
    assert bare.sentence == f"{NOTHING_ELSE}."
    assert (
        judge(losses=np.full(9, 0.5), train_label_counts=[5, 0]).status == "unknown"
    )  # one class: nothing to compare


@pytest.mark.parametrize("predicted", [0, 1])
def test_an_evaluation_set_of_one_class_tells_nothing(predicted):
    verdict = judge(eval_labels=np.zeros(30, int), eval_predictions=np.full(30, predicted), num_labels=2)
    assert verdict.status == "unknown" and "are of one class" in verdict.sentence
    assert judge(score=1.0, baseline=1.0, metric="accuracy", examples=30).status == "unknown"


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


def test_a_smaller_error_is_a_better_one():
    common = {"metric": "mse", "baseline": 0.12, "smaller_is_better": True}
    good, bad, equal = (judge(score=score, **common) for score in (0.05, 0.2, 0.12))
    assert [good.status, bad.status, equal.status] == ["ok", "failed", "failed"]
    assert "mse .050, below the best constant's .120" in good.sentence
    assert "mse .200 is above the best constant's .120" in bad.sentence and "is the best" in equal.sentence


def test_a_headline_metric_clears_a_run_whose_accuracy_equals_the_constants():
    labels = np.repeat([0, 1], [93, 7])
    predicted = labels.copy()
    predicted[:7] = 1  # all rare examples are found, with as many false alarms
    lead = {"metric": "f1", "score": 2 / 3, "baseline": 0.13, "low": 0.3, "high": 0.7}
    verdict = judge(eval_labels=labels, eval_predictions=predicted, headline_lead=lead)
    assert verdict.evidence["accuracy"] == verdict.evidence["constant_accuracy"] == 0.93
    assert verdict.status == "ok" and verdict.evidence["paper_rule"] == "failed"
    assert "f1 .667 is clearly above the best constant's .130" in verdict.sentence
    for not_clear in (None, {**lead, "low": -0.01}):
        assert judge(eval_labels=labels, eval_predictions=predicted, headline_lead=not_clear).status == "failed"
    predicted[:40] = 1  # its accuracy is clearly below
    assert judge(eval_labels=labels, eval_predictions=predicted, headline_lead=lead).status == "failed"


def test_several_labels_an_example_have_a_majority_each():
    labels = np.array([[1, 0], [1, 0], [1, 1], [0, 0]] * 10)
    constant = np.broadcast_to([1, 0], labels.shape)
    parts = {"eval_labels": labels.ravel(), "eval_constant": constant.ravel(), "num_labels": 2}
    always = judge(eval_predictions=constant.ravel(), **parts)
    assert always.status == "failed" and always.evidence["constant_accuracy"] == 0.75
    perfect = judge(eval_predictions=labels.ravel(), **parts)
    assert perfect.status == "ok" and "on 80 labels (several per example)" in perfect.sentence


def test_weights_in_half_precision_stand_first():
    verdict = judge(eval_labels=RTE, eval_predictions=answers(RTE, 220), half_precision="4 of 4 weights are float16.")
    assert verdict.sentence.startswith("ok: 4 of 4 weights are float16; accuracy .794")
    assert verdict.evidence["half_precision"]


def test_a_loss_far_above_the_constants_did_not_stay_there():
    values = np.linspace(0, 5, 40)
    verdict = judge(
        eval_labels=values,
        eval_predictions=np.zeros(40),
        regression=True,
        losses=np.full(9, 14.19),
        constant_loss=1.62,
    )
    assert "train loss 14.19 is above the best constant's (1.62): failed optimisation" in verdict.sentence


def test_inputs_that_do_not_fit_are_named():
    with pytest.raises(InputError, match="eval_labels and eval_predictions"):
        judge(eval_labels=RTE)
    with pytest.raises(InputError, match="layer_norms and layers"):
        judge(layer_norms=norms_of(GOOD))
    with pytest.raises(InputError, match="do not fit eval labels"):
        judge(eval_labels=RTE, eval_predictions=np.zeros((276, 2)))
    with pytest.raises(InputError, match="one value each"):
        judge(eval_labels=RTE, eval_predictions=np.zeros((277, 2)), regression=True)
    with pytest.raises(InputError, match="labels hold NaN"):
        judge(eval_labels=[1.0, np.nan], eval_predictions=[1.0, 1.0], regression=True)
    with pytest.raises(InputError, match="187 steps"):
        judge(losses=np.zeros(188), steps=STEPS[1:])
    with pytest.raises(InputError, match="do not fit"):
        judge(layer_norms=norms_of(GOOD), layers=LAYERS[1:])


# ---- several seeds at once


def test_verdicts_on_several_seeds_equal_a_loop():
    rng = np.random.default_rng(0)
    shared = {"eval_labels": RTE, "layers": LAYERS, "warmup_steps": WARMUP, "total_steps": TOTAL, "steps": STEPS}
    shared |= {"label_names": RTE_NAMES, "train_label_counts": [10, 10], "baseline": 0.0, "metric": "matthews"}
    per_seed = {
        "eval_predictions": np.stack([np.eye(2)[np.zeros(277, int)], np.eye(2)[answers(RTE, 220)], np.ones((277, 2))]),
        "losses": np.stack([np.full(188, 0.69), np.linspace(0.7, 0.3, 188), np.full(188, np.nan)]),
        "layer_norms": np.stack([norms_of(lower, rng=rng) for lower in (FAILED, GOOD, HEALED)]),
        "train_predicted_counts": np.array([[20, 0], [9, 11], [0, 0]]),
        "score": np.array([0.0, 0.6, np.nan]),
        "weights_finite": [True, True, False],
    }
    together = judge_seeds(3, **shared, **{**per_seed, "weights_finite": np.array([True, True, False])})
    alone = [judge(**shared, **{name: value[i] for name, value in per_seed.items()}) for i in range(3)]
    assert together == alone
    assert [verdict.status for verdict in together] == ["failed", "ok", "diverged"]
    assert "gradients of" in together[0].sentence and "weights" in together[2].sentence


def test_seeds_may_have_labels_steps_and_lengths_of_their_own():
    short = STEPS[:100]
    verdicts = judge_seeds(
        2,
        eval_labels=np.stack([RTE, 1 - RTE]),
        eval_predictions=(np.stack([np.zeros(277, int)] * 2), "hidden"),
        steps=[STEPS, short],
        losses=[np.full(188, 0.5), np.full(100, 0.5)],
        layer_norms=[norms_of(FAILED), norms_of(FAILED)[:100]],
        layers=LAYERS,
        train_label_counts=np.array([[10, 10], [19, 1]]),
        warmup_steps=WARMUP,
        total_steps=np.array([188, 100]),
    )
    assert [v.evidence["accuracy"] for v in verdicts] == pytest.approx([146 / 277, 131 / 277])
    assert [v.evidence["constant_loss"] for v in verdicts] == pytest.approx([LN2, float(label_entropy([19, 1]))])
    assert verdicts[1] == judge(
        eval_labels=1 - RTE,
        eval_predictions=0 * RTE,
        losses=np.full(100, 0.5),
        layer_norms=norms_of(FAILED)[:100],
        layers=LAYERS,
        train_label_counts=[19, 1],
        warmup_steps=WARMUP,
        total_steps=100,
    )


@given(st.integers(1, 4), st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_any_verdicts_on_several_seeds_equal_a_loop(seeds, classes, logits, own_labels, entropy):
    rng = np.random.default_rng(entropy)
    n, steps = rng.integers(1, 6), rng.integers(1, 9)
    predictions = rng.normal(size=(seeds, n, classes + 1)) if logits else rng.integers(0, classes + 1, (seeds, n))
    labels = rng.integers(0, classes + 1, (seeds, n) if own_labels else n)
    losses, norms = rng.lognormal(size=(seeds, steps)), rng.lognormal(size=(seeds, steps, 3))
    for values in (losses, norms, predictions if logits else norms):
        values[rng.random(values.shape) < 0.02] = np.nan
    shared = {"num_labels": classes + 1, "layers": ["embeddings", "layer_00", "classifier"], "warmup_steps": 1}
    together = judge_seeds(
        seeds, eval_labels=labels, eval_predictions=predictions, losses=losses, layer_norms=norms, **shared
    )
    for i, verdict in enumerate(together):
        own = {"eval_labels": labels[i] if own_labels else labels, "eval_predictions": predictions[i]}
        assert verdict == judge(**own, losses=losses[i], layer_norms=norms[i], **shared)


def test_regressions_of_several_seeds():
    labels = np.random.default_rng(0).normal(size=50)
    values = np.stack([labels + 0.1, np.full(50, labels.mean())])
    for predictions in (values, values[..., None]):
        verdicts = judge_seeds(2, eval_labels=labels, eval_predictions=predictions, regression=True)
        assert [verdict.status for verdict in verdicts] == ["ok", "failed"]


def test_what_is_not_of_as_many_seeds_is_named():
    with pytest.raises(InputError, match=r"losses of shape \(2, 9\): need 3 seeds"):
        judge_seeds(3, losses=np.zeros((2, 9)))
    with pytest.raises(InputError, match=r"eval_labels of shape \(2, 5\): need 3 seeds"):
        judge_seeds(3, eval_labels=np.zeros((2, 5), int), eval_predictions=np.zeros((3, 5), int))
    with pytest.raises(InputError, match=r"score of shape \(\): need 2 seeds"):
        judge_seeds(2, score=0.5, baseline=0.4)
    with pytest.raises(InputError, match="num_seeds 0"):
        judge_seeds(0, losses=np.zeros((0, 9)))


# ---- properties of the verdict


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_constant_predictors_have_always_failed(labels, constant):
    labels = [*labels, 0, 1]  # labels of one class are unknown
    for predictions in (np.full(len(labels), constant), np.eye(4)[[constant] * len(labels)]):
        verdict = judge(eval_labels=labels, eval_predictions=predictions, num_labels=4)
        assert verdict.status == "failed" and verdict.evidence["one_class"]


@given(
    st.lists(st.floats(-1e3, 1e3).map(lambda x: float(np.float32(x))), min_size=1, max_size=30), st.floats(-1e3, 1e3)
)
@settings(max_examples=60, deadline=None)
def test_constant_values_have_always_failed(labels, constant):
    for value in (constant, float(np.mean(labels))):
        verdict = judge(eval_labels=labels, eval_predictions=np.full(len(labels), value), regression=True)
        assert verdict.status == "failed"


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40), st.permutations(range(3)))
@settings(max_examples=60, deadline=None)
def test_relabelling_the_classes_changes_nothing(pairs, names):
    labels, classes = np.array(pairs).T
    before = judge(eval_labels=labels, eval_predictions=classes, num_labels=3)
    after = judge(eval_labels=np.array(names)[labels], eval_predictions=np.array(names)[classes], num_labels=3)
    assert before.status == after.status
    for key in ("accuracy", "constant_accuracy", "mcnemar_p", "predicted_share"):
        assert before.evidence[key] == after.evidence[key]


@given(st.floats(-6, 6), st.sampled_from([FAILED, GOOD, HEALED]), st.floats(0.01, 0.7))
@settings(max_examples=20, deadline=None)
def test_scaling_the_norms_changes_no_verdict(exponent, lower, end):
    scaled = run(lower, end)
    scaled["layer_norms"] = scaled["layer_norms"] * 10**exponent
    assert judge(**scaled) == judge(**run(lower, end))


# ---- the record


def test_a_verdict_survives_json():
    for verdict in (
        judge(eval_labels=RTE, eval_predictions=np.zeros((277, 2), np.float32), **run()),
        judge(losses=np.array([1, np.nan], np.float32)),
        Verdict("crashed", "crashed: out of memory."),
    ):
        text = json.dumps(verdict.to_dict(), allow_nan=False)
        assert Verdict.from_dict(json.loads(text)) == verdict


def test_from_dict_reads_minor_versions_and_refuses_others():
    record = judge(weights_finite=True).to_dict()
    assert Verdict.from_dict({**record, "schema": f"{SCHEMA}.2", "later": 1}).schema == f"{SCHEMA}.2"
    for schema in ("hf_stability.verdict/2", "hf_stability.verdict/10", "hf_stability.steps/1", None):
        with pytest.raises(InputError, match="cannot be read here"):
            Verdict.from_dict({**record, "schema": schema})
    with pytest.raises(InputError, match="lacks sentence, basis"):
        Verdict.from_dict({key: record[key] for key in ("schema", "status", "evidence")})
    with pytest.raises(InputError, match="status 'fine' is none of ok, failed"):
        Verdict("fine", "")
    assert {"stopped", "crashed"} < set(STATUSES)


def test_layers_are_named_in_short():
    names = ["embeddings", "layer_00", "layer_02", "layer_03", "encoder_layer_04", "encoder_layer_05", "pooler"]
    assert failures._name_layers(names) == "embeddings, layer 00, layers 02-03, encoder layers 04-05 and pooler"
    assert failures._name_layers(["shared_layer_00"]) == "shared layer 00"


def test_the_module_needs_neither_torch_nor_a_trainer_to_be_imported():
    tree = ast.parse(Path(failures.__file__).read_text())
    top = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    top |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert not any(name.startswith(("torch", "transformers", "scipy")) for name in top)


def test_a_run_that_others_ended_early_is_censored_unless_it_had_diverged():
    for status in ("ok", "failed"):
        verdict = ended_early(Verdict(status, f"{status}: accuracy .512.", {"a": 1}, "eval_accuracy"), 25, 100)
        assert verdict.status == "stopped early" and verdict.status in CENSORED and set(CENSORED) < set(STATUSES)
        assert (
            verdict.sentence
            == f"stopped early at step 25 of 100: censored, not failed; until then {status}: accuracy .512."
        )
        assert (verdict.evidence, verdict.basis) == ({"a": 1}, "eval_accuracy")
        assert Verdict.from_dict(verdict.to_dict()) == verdict
    diverged = Verdict("diverged", "diverged: NaN at step 3.")
    assert ended_early(diverged, 25, 100) is diverged
