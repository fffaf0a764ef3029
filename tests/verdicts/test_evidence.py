"""The evidence: predictions, the exact test, NaN and Inf, losses and gradients."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from hf_stability.errors import InputError
from hf_stability.verdicts.evidence import mcnemar_exact, one_class_share, predicted_classes
from hf_stability.verdicts.verdict import judge
from tests.verdicts.made_up_runs import FAILED, GOOD, HEALED, LAYERS, RTE, STEPS, answers, norms_of, run


# ---- predictions


def test_predicted_classes_and_their_share():
    logits = np.array([[0.1, 0.9], [0.2, 0.1], [0.0, 3.0]])
    np.testing.assert_array_equal(predicted_classes((logits, None)), [1, 0, 1])
    assert one_class_share(predicted_classes(logits)) == (2 / 3, 1)
    assert one_class_share(np.array([0, 1])) == (0.5, 0)
    with pytest.raises(InputError, match="regression=True"):
        predicted_classes(np.zeros((3, 1)))


def mcnemar_by_enumeration(b, c):
    """Enumerates all 2^(b+c) outcomes on the examples on which the two differ, and counts those at least as unlikely as ours."""
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


@given(st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_predictions_of_several_seeds_equal_a_loop(seeds, entropy):
    rng = np.random.default_rng(entropy)
    labels, classes = rng.integers(0, 3, (seeds, 17)), rng.integers(0, 3, (seeds, 17))
    right = classes == labels
    pairs = [
        (mcnemar_exact(right, labels == 2), [mcnemar_exact(x, y == 2) for x, y in zip(right, labels, strict=True)]),
        (one_class_share(classes)[0], [one_class_share(x)[0] for x in classes]),
        (one_class_share(classes)[1], [one_class_share(x)[1] for x in classes]),
    ]
    for together, one_by_one in pairs:
        np.testing.assert_array_equal(together, np.stack(one_by_one))


# ---- NaN and Inf


def test_nan_that_the_trainers_filter_hides_is_divergence():
    losses = np.full(188, 0.6)
    losses[60:] = np.nan
    verdict = judge(eval_labels=RTE, eval_predictions=answers(RTE, 220), losses=losses)
    assert verdict.status == "diverged" and verdict.evidence["first_nonfinite_step"] == 61
    assert verdict.sentence == (
        "diverged: NaN or Inf in the train loss, first at step 61 of 188 (the Trainer's log does not show it: "
        "logging_nan_inf_filter hides it); accuracy 0.794 on 277 examples, above the majority-class baseline 0.527 (p < 0.001)."
    )
    losses[:] = 0.6
    losses[5] = np.inf
    assert judge(losses=losses).evidence["nonfinite_losses"] == 1


def test_nan_outputs_and_weights_are_divergence():
    logits = np.zeros((277, 2))
    logits[3] = np.nan
    verdict = judge(eval_labels=RTE, eval_predictions=logits, weights_finite=False, steps=STEPS, losses=STEPS * 1.0)
    assert verdict.sentence == "diverged: NaN or Inf in the evaluation outputs and weights."
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
    norms[-1] = np.inf  # the very last one: only later evidence can decide
    assert judge(layer_norms=norms, **common).status == "diverged"
    assert judge(layer_norms=norms, weights_finite=True, **common).status == "unknown"
    norms[-2:] = np.nan
    ends = judge(layer_norms=norms, weights_finite=True, **common)
    assert ends.status == "diverged" and "gradient norms, first at step 187 of 188" in ends.sentence
    frozen = norms_of(GOOD)
    frozen[:, 0] = np.nan
    assert judge(layer_norms=frozen, **common).status == "unknown"
    assert judge(layer_norms=frozen * np.nan, layers=LAYERS).status == "diverged"


# ---- losses and gradients


def test_failed_generalisation_and_no_gradient_verdict_for_a_fitted_run():
    verdict = judge(eval_labels=RTE, eval_predictions=answers(RTE, 140), **run(end=0.001))
    assert verdict.evidence["failure"] == "failed generalisation" and "gradients" not in verdict.evidence
    assert verdict.sentence.endswith(
        "train loss 0.001 is clearly below the label entropy (0.69): failed generalisation."
    )
    between = judge(eval_labels=RTE, eval_predictions=answers(RTE, 140), **run(end=0.62))
    assert "train loss 0.62 is only a little below the label entropy (0.69); gradients of" in between.sentence
    assert "failure" not in between.evidence


def test_gradient_evidence_on_an_ok_run():
    good = {"eval_labels": RTE, "eval_predictions": answers(RTE, 220)}
    healed = judge(**good, **run(lower=HEALED, end=0.45))
    assert healed.status == "ok" and " were back by step " in healed.sentence and "train loss" not in healed.sentence
    assert "gradients" not in judge(**good, **run(lower=FAILED, end=0.1)).evidence
    assert "gradients" not in judge(**good, **run(lower=FAILED, losses=None)).evidence
    assert "gradients" not in judge(**good, **run(lower=FAILED, end=0.6, warmup_steps=None)).evidence
    assert judge(**good, **run(lower=GOOD, end=0.6)).evidence["gradients"] is None
