"""The verdict: the definition, several seeds at once, properties, and the record."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from hf_stability.errors import InputError
from hf_stability.verdicts import verdict as verdict_module
from hf_stability.verdicts.constants import best_constant_score, label_entropy
from hf_stability.verdicts.verdict import CENSORED, SCHEMA, STATUSES, Verdict, ended_early, judge, judge_seeds
from tests.verdicts.made_up_runs import (
    FAILED,
    GOOD,
    HEALED,
    LAYERS,
    LN2,
    MRPC,
    RTE,
    RTE_NAMES,
    STEPS,
    TOTAL,
    WARMUP,
    answers,
    compute_glue,
    norms_of,
    run,
)


# ---- the definition


def test_rte_at_either_constant_has_failed():
    majority = judge(eval_labels=RTE, eval_predictions=np.zeros(277, int), label_names=RTE_NAMES)
    assert majority.status == "failed" and majority.basis == "eval_accuracy"
    assert majority.sentence == (
        "failed: accuracy 0.527 on 277 examples equals the majority-class baseline (0.527, always 'entailment'); "
        "predicts one class ('entailment')."
    )
    wrong = judge(eval_labels=RTE, eval_predictions=np.ones(277, int), label_names=RTE_NAMES)
    assert wrong.sentence == (
        "failed: accuracy 0.473 on 277 examples is below the majority-class baseline (0.527, always 'entailment'); "
        "predicts one class ('not_entailment')."
    )


def test_mrpc_with_an_f1_below_always_positive_has_not_failed():
    predictions = MRPC.copy()
    predictions[:89] = 0  # 89 of the 279 positives missed
    f1 = f1_score(MRPC, predictions)
    baseline = best_constant_score(compute_glue, predictions, MRPC, 2, "f1")["score"]
    verdict = judge(eval_labels=MRPC, eval_predictions=predictions, score=f1, baseline=baseline, metric="eval_f1")
    assert verdict.sentence == (
        "ok: accuracy 0.782 on 408 examples, above the majority-class baseline 0.684 (p = 0.008); "
        "f1 0.810 is below its baseline 0.812, which alone is not a failure."
    )


def test_one_example_more_than_the_baseline_is_ok_but_noise():
    predictions = answers(RTE, 147)
    verdict = judge(eval_labels=RTE, eval_predictions=predictions)
    assert verdict.status == "ok" and verdict.evidence["within_noise"]
    assert verdict.sentence.startswith(
        "ok, but within sampling noise of the majority-class baseline: accuracy 0.531 on 277 examples, baseline 0.527 "
        "(exact McNemar test: p = "
    )
    assert judge(eval_labels=RTE, eval_predictions=answers(RTE, 146)).status == "failed"


def test_three_classes_tuples_and_ignored_labels():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    logits = np.eye(3)[labels] + rng.normal(0, 0.5, (300, 3))
    labels[:10] = -100
    verdict = judge(eval_labels=labels, eval_predictions=(logits, "hidden"), num_labels=3)
    assert verdict.status == "ok" and verdict.evidence["examples"] == 290
    assert judge(eval_labels=labels, eval_predictions=logits * [1, 0, 0] + [9, 0, 0]).status == "failed"


def test_regression_by_r2():
    labels = np.random.default_rng(0).normal(2, 1, 200)
    constant = judge(eval_labels=labels, eval_predictions=np.full((200, 1), labels.mean()), regression=True)
    assert constant.status == "failed" and constant.basis == "eval_r2"
    assert constant.sentence.endswith(
        "on 200 examples, no better than always predicting the mean; predicts one value for all examples."
    )
    good = judge(
        eval_labels=labels, eval_predictions=labels + 0.1, regression=True, score=0.9, baseline=0, metric="pearson"
    )
    assert good.status == "ok"
    assert "better than always predicting the mean; pearson 0.900, above its baseline 0.000" in good.sentence
    wild = judge(eval_labels=labels, eval_predictions=labels * -1e200, regression=True)
    assert wild.status == "failed" and wild.evidence["r2"] is None
    json.dumps(wild.to_dict(), allow_nan=False)
    stuck = judge(
        eval_labels=labels, eval_predictions=0 * labels, regression=True, losses=np.ones(20), constant_loss=1.0
    )
    assert (
        "train loss 1.00 stayed at the loss of always predicting the mean (1.00): failed optimisation"
        in stuck.sentence
    )


def test_a_headline_metric_clears_a_run_with_the_accuracy_of_the_baseline():
    labels = np.repeat([0, 1], [93, 7])
    predicted = labels.copy()
    predicted[:7] = 1  # all rare examples are found, with as many false positives
    lead = {"metric": "f1", "score": 2 / 3, "baseline": 0.13, "low": 0.3, "high": 0.7}
    verdict = judge(eval_labels=labels, eval_predictions=predicted, headline_lead=lead)
    assert verdict.evidence["accuracy"] == verdict.evidence["constant_accuracy"] == 0.93
    assert verdict.status == "ok" and verdict.evidence["paper_rule"] == "failed"
    assert "f1 0.667 is clearly above its baseline 0.130" in verdict.sentence
    for not_clear in (None, {**lead, "low": -0.01}):
        assert judge(eval_labels=labels, eval_predictions=predicted, headline_lead=not_clear).status == "failed"
    predicted[:40] = 1  # its accuracy is clearly below
    assert judge(eval_labels=labels, eval_predictions=predicted, headline_lead=lead).status == "failed"


def test_several_labels_an_example_are_judged_by_micro_f1():
    labels = np.array([[1, 0], [1, 0], [1, 1], [0, 0]] * 10)
    given = {"eval_labels": labels, "several": True, "label_names": ["a b", "c"]}
    always = judge(eval_predictions=np.broadcast_to([1, 0], labels.shape), **given)
    assert always.status == "failed" and always.basis == "eval_micro_f1"
    assert always.evidence["micro_f1"] == always.evidence["constant_micro_f1"] == 0.75
    assert always.sentence == (
        "failed: micro-F1 0.750 on 40 examples equals the best constant set of labels (0.750, always 'a b'); predicts the same "
        "labels for every example."
    )
    never = judge(eval_predictions=np.full(labels.shape, -1.5), **given)  # logits
    assert (
        never.status == "failed" and "micro-F1 0.000 on 40 examples is below the best constant set" in never.sentence
    )
    perfect = judge(eval_predictions=labels, **given)
    assert perfect.status == "ok" and not perfect.evidence["within_noise"]
    assert (
        "micro-F1 1.000 on 40 examples, above the best constant set of labels 0.750 (95% interval" in perfect.sentence
    )
    one_more = np.array([[1, 0]] * 39 + [[0, 0]])
    near = judge(eval_predictions=one_more, **given)
    assert near.sentence.startswith(
        "ok, but within sampling noise of the best constant set of labels: micro-F1 0.759 on 40"
    )
    assert judge(eval_predictions=np.full(labels.shape, np.nan), **given).status == "diverged"
    for same in (np.ones((5, 2), int), np.zeros((5, 2), int)):  # a constant is right everywhere, or nothing is
        verdict = judge(eval_labels=same, eval_predictions=same, several=True)
        assert verdict.status == "unknown" and "5 evaluation examples have the same labels" in verdict.sentence
    both = judge_seeds(2, eval_labels=labels, eval_predictions=np.stack([labels, one_more]), several=True)
    assert [one.evidence["micro_f1"] for one in both] == [1, near.evidence["micro_f1"]]
    with pytest.raises(InputError, match="several labels per example need"):
        judge(eval_labels=labels, eval_predictions=labels[:, :1], several=True)


def test_inputs_that_do_not_fit_are_named():
    with pytest.raises(InputError, match="eval_labels and eval_predictions"):
        judge(eval_labels=RTE)
    with pytest.raises(InputError, match="layer_norms and layers"):
        judge(layer_norms=norms_of(GOOD))
    with pytest.raises(InputError, match=r"shape \(276, 2\) do not fit evaluation labels of shape \(277,\)"):
        judge(eval_labels=RTE, eval_predictions=np.zeros((276, 2)))
    with pytest.raises(InputError, match="one value each"):
        judge(eval_labels=RTE, eval_predictions=np.zeros((277, 2)), regression=True)
    with pytest.raises(InputError, match="labels have NaN"):
        judge(eval_labels=[1.0, np.nan], eval_predictions=[1.0, 1.0], regression=True)
    with pytest.raises(InputError, match="187 steps"):
        judge(losses=np.zeros(188), steps=STEPS[1:])
    with pytest.raises(InputError, match="need one row for each of 188 steps and one column for each of"):
        judge(layer_norms=norms_of(GOOD), layers=LAYERS[1:])


# ---- from training alone

NOTHING_ELSE = "unknown: no evaluation gave predictions, and no metric has a known baseline"


LIKE_FAILED = "; the training looks like that of a failed run"


def test_training_alone_is_unknown_for_any_loss_and_gradients():
    verdict = judge(**run())
    assert (verdict.status, verdict.basis) == ("unknown", "training_only")
    assert verdict.sentence.startswith(
        f"{NOTHING_ELSE}{LIKE_FAILED}; train loss 0.69 stayed at the label entropy (0.69); gra"
    )
    good = judge(**run(end=0.1), train_predicted_counts=[5, 6])
    assert good.sentence == f"{NOTHING_ELSE}; train loss 0.10 is clearly below the label entropy (0.69)."
    assert judge(**run(end=0.6)).status == "unknown"


def test_training_alone_is_unknown_for_any_predicted_classes():
    verdict = judge(train_predicted_counts=[0, 700], label_names=RTE_NAMES)
    assert (
        verdict.sentence
        == f"{NOTHING_ELSE}{LIKE_FAILED}; predicted one class at the end of training ('not_entailment')."
    )
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
def test_an_evaluation_set_of_one_class_decides_nothing(predicted):
    verdict = judge(eval_labels=np.zeros(30, int), eval_predictions=np.full(30, predicted), num_labels=2)
    assert verdict.status == "unknown" and "are of one class" in verdict.sentence
    assert judge(score=1.0, baseline=1.0, metric="accuracy", examples=30).status == "unknown"


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


def test_seeds_may_have_their_own_labels_steps_and_lengths():
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


def test_an_array_with_another_number_of_seeds_is_named():
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
        with pytest.raises(InputError, match=r"schema .*: this version reads only 'hf_stability.verdict/1'"):
            Verdict.from_dict({**record, "schema": schema})
    with pytest.raises(InputError, match="without sentence, basis"):
        Verdict.from_dict({key: record[key] for key in ("schema", "status", "evidence")})
    with pytest.raises(InputError, match="status 'fine': must be one of ok, failed"):
        Verdict("fine", "")
    assert {"stopped", "crashed"} < set(STATUSES)


@pytest.mark.parametrize("path", sorted(Path(verdict_module.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_the_room_needs_neither_torch_nor_a_trainer_to_be_imported(path):
    tree = ast.parse(path.read_text())
    top = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    top |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert not any(name.startswith(("torch", "transformers", "scipy")) for name in top)


def test_a_run_that_others_ended_early_is_censored_unless_it_had_diverged():
    for status in ("ok", "failed"):
        verdict = ended_early(Verdict(status, f"{status}: accuracy 0.512.", {"a": 1}, "eval_accuracy"), 25, 100)
        assert verdict.status == "stopped early" and verdict.status in CENSORED and set(CENSORED) < set(STATUSES)
        assert (
            verdict.sentence
            == "stopped early at step 25 of 100: not counted as failed, because its end is unknown; verdict until then: "
            f"{status}: accuracy 0.512."
        )
        assert (verdict.evidence, verdict.basis) == ({"a": 1}, "eval_accuracy")
        assert Verdict.from_dict(verdict.to_dict()) == verdict
    diverged = Verdict("diverged", "diverged: NaN at step 3.")
    assert ended_early(diverged, 25, 100) is diverged
