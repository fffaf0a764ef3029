"""Every branch of the sentence."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hf_stability.verdicts.sentence import layers_in_words, verdict_sentence
from hf_stability.verdicts.verdict import judge
from tests.verdicts.made_up_runs import FAILED, HEALED, RTE, RTE_NAMES, answers, norms_of, run, trace, vanished


def test_the_whole_sentence_of_a_failed_run():
    verdict = judge(eval_labels=RTE, eval_predictions=np.zeros((277, 2)), label_names=RTE_NAMES, **run())
    first = verdict.evidence["gradients"]["first_step"]
    assert verdict.sentence == (
        "failed: accuracy 0.527 on 277 examples equals the majority-class baseline (0.527, always 'entailment'); predicts one class "
        "('entailment'); train loss 0.69 stayed at the label entropy (0.69): failed optimisation; "
        f"gradients of embeddings and layers 00-09 vanished from step {first} on."
    )
    assert verdict.evidence["failure"] == "failed optimisation"


def test_since_is_a_range_where_layers_vanish_at_different_steps():
    norms = norms_of(FAILED)
    norms[:, 1] = trace((0, 0.27), (0.5, 0.27), (0.6, 0.004), (1, 0.004))
    sentence = judge(eval_labels=RTE, eval_predictions=0 * RTE, **run(layer_norms=norms)).sentence
    first, last = (vanished(norms)[key] for key in ("first_step", "last_step"))
    assert first < last and f"vanished from steps {first} to {last} on" in sentence


def test_clearly_above_the_baseline():
    verdict = judge(
        eval_labels=RTE, eval_predictions=answers(RTE, 220), score=220 / 277, baseline=0.5, metric="accuracy"
    )
    assert (
        verdict.sentence == "ok: accuracy 0.794 on 277 examples, above the majority-class baseline 0.527 (p < 0.001)."
    )


def test_below_the_baseline_with_two_classes_gives_the_test():
    verdict = judge(eval_labels=RTE, eval_predictions=answers(RTE, 140), score=0.1, metric="matthews")
    assert "is below the majority-class baseline (0.527, always class 0; exact McNemar test: p = " in verdict.sentence
    assert verdict.sentence.endswith("; matthews 0.100.")


def test_scores_that_look_alike_get_more_decimals():
    labels = np.array([0] * 5001 + [1] * 4999)
    predictions = np.zeros(10000, int)
    predictions[-1] = 1
    sentence = judge(eval_labels=labels, eval_predictions=predictions).sentence
    assert "accuracy 0.5002 on 10000 examples, baseline 0.5001 (exact McNemar test: p = 1.00)" in sentence


def test_nearly_one_class_gives_its_share():
    labels = np.array([0, 1] * 500)
    predictions = np.zeros(1000, int)
    predictions[0] = 1
    sentence = judge(eval_labels=labels, eval_predictions=predictions).sentence
    assert sentence.endswith("predicts one class 99.9% of the time (class 0).")


@pytest.mark.parametrize(
    ("score", "status", "text"),
    [
        (0.0, "failed", "matthews 0.000 equals its baseline 0.000"),
        (math.nan, "failed", "matthews 0.000 equals its baseline 0.000"),
        (-0.1, "failed", "matthews -0.100 is below its baseline 0.000"),
        (0.4, "ok", "matthews 0.400, above its baseline 0.000"),
    ],
)
def test_a_score_against_its_baseline(score, status, text):
    verdict = judge(score=score, baseline=0.0, metric="eval_matthews")
    assert (verdict.status, verdict.basis) == (status, "baseline")
    assert verdict.sentence == f"{status}: {text}; judged by this score alone, without the predictions."


def test_a_smaller_error_is_a_better_one():
    common = {"metric": "mse", "baseline": 0.12, "smaller_is_better": True}
    good, bad, equal = (judge(score=score, **common) for score in (0.05, 0.2, 0.12))
    assert [good.status, bad.status, equal.status] == ["ok", "failed", "failed"]
    assert "mse 0.050, below its baseline 0.120" in good.sentence
    assert (
        "mse 0.200 is above its baseline 0.120" in bad.sentence
        and "mse 0.120 equals its baseline 0.120" in equal.sentence
    )


def test_weights_in_half_precision_come_first():
    verdict = judge(eval_labels=RTE, eval_predictions=answers(RTE, 220), half_precision="4 of 4 weights are float16.")
    assert verdict.sentence.startswith("ok: 4 of 4 weights are float16; accuracy 0.794")
    assert verdict.evidence["half_precision"]


@pytest.mark.parametrize(
    ("trained", "text"),
    [
        (
            {"adapters": "LORA", "layers": ["layer_00", "layer_01", "classifier"], "share": 0.00271},
            "LORA adapters of layers 00-01 and classifier (0.27% of the weights)",
        ),
        (
            {"adapters": None, "layers": ["layer_01", "pooler", "classifier"], "share": 0.5},
            "layer 01, pooler and classifier (50% of the weights)",
        ),
        (
            {"adapters": None, "layers": ["classifier"], "share": 0.1, "since": {"layer_00": 9, "layer_01": 5}},
            "classifier, from step 5 on also layer 01, from step 9 on also layer 00",
        ),
        (
            {"adapters": None, "layers": ["layer_00", "layer_01"], "until": {"layer_00": 4}},
            "layers 00-01, layer 00 only until step 4",
        ),
    ],
)
def test_frozen_weights_are_told(trained, text):
    verdict = judge(eval_labels=RTE, eval_predictions=np.zeros((277, 2)), trained=trained, **run())
    assert verdict.sentence.endswith(f"; trained parts: {text}.") and verdict.evidence["trained"] == trained
    assert ("gradients" in verdict.evidence) == (trained["adapters"] is None)


def test_a_loss_far_above_its_baseline_did_not_stay_there():
    values = np.linspace(0, 5, 40)
    verdict = judge(
        eval_labels=values,
        eval_predictions=np.zeros(40),
        regression=True,
        losses=np.full(9, 14.19),
        constant_loss=1.62,
    )
    assert (
        "train loss 14.19 is above the loss of always predicting the mean (1.62): failed optimisation"
        in verdict.sentence
    )


def test_layers_are_named_in_short():
    names = ["embeddings", "layer_00", "layer_02", "layer_03", "encoder_layer_04", "encoder_layer_05", "pooler"]
    assert layers_in_words(names) == "embeddings, layer 00, layers 02-03, encoder layers 04-05 and pooler"
    assert layers_in_words(["shared_layer_00"]) == "shared layer 00"


VALUES = np.linspace(0, 5, 40)
FITTED = {"score": 0.6, "baseline": 0.5, "metric": "f1"}


@pytest.mark.parametrize(
    "keywords",
    [
        {"eval_labels": RTE, "eval_predictions": 0 * RTE, "label_names": RTE_NAMES, **run(total_steps=200)},
        {"eval_labels": RTE, "eval_predictions": answers(RTE, 147), **FITTED, **run(HEALED, 0.45)},
        {"eval_labels": RTE, "eval_predictions": answers(RTE, 140), **run(end=0.62)},
        {"eval_labels": VALUES, "eval_predictions": 0 * VALUES, "regression": True, **run(constant_loss=0.69)},
        {"score": 0.5, "baseline": 0.5, "metric": "mse", "smaller_is_better": True},
        {"losses": np.array([0.5, np.nan]), "total_steps": 9},
        run(train_predicted_counts=[0, 9]),
    ],
)
def test_the_sentence_follows_from_what_the_record_keeps(keywords):
    verdict = judge(**keywords)
    evidence = json.loads(json.dumps(verdict.to_dict()["evidence"]))
    known = {name: keywords[name] for name in ("label_names", "total_steps", "regression") if name in keywords}
    assert verdict_sentence(verdict.status, verdict.basis, evidence, **known) == verdict.sentence
