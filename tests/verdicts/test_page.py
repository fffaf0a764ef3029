"""The sentences on docs/verdicts.md are sentences that verdicts have."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hf_stability.diagnostics.alarm_sentence import stopped_by_alarm, verdict_after_alarm
from hf_stability.verdicts.sentence import verdict_sentence
from hf_stability.verdicts.verdict import judge
from tests.docs.workshop import blocks
from tests.prose import ROOT
from tests.verdicts.made_up_runs import HEALED, MRPC, RTE, RTE_NAMES, answers, run


PAGE = ROOT / "docs" / "verdicts.md"
LEAD = {"metric": "f1", "score": 2 / 3, "baseline": 0.13, "low": 0.3, "high": 0.7}


def sentences() -> list[str]:
    names = {"eval_labels": RTE, "label_names": RTE_NAMES}
    layers = ["embeddings", *(f"layer_{i:02d}" for i in range(11))]
    demo = {
        "examples": 500, "accuracy": 0.496, "constant_accuracy": 0.504, "constant_class": 0, "mcnemar_p": 0.9,
        "within_noise": True, "predicted_class": 1, "predicted_share": 1.0, "one_class": True, "train_loss": 0.69,
        "constant_loss": 0.69, "optimisation": "stuck", "failure": "failed optimisation",
        "gradients": {"lasting": True, "layers": layers, "first_step": 35, "last_step": 42},
    }  # fmt: skip
    stopped = {**demo, "accuracy": 0.512, "constant_accuracy": 0.512, "predicted_share": 0.6, "one_class": False}
    stopped = {key: value for key, value in stopped.items() if key not in ("gradients", "optimisation", "failure")}
    rare = np.repeat([0, 1], [93, 7])
    found = rare.copy()
    found[:7] = 1
    some_missed = MRPC.copy()
    some_missed[:89] = 0
    losses = np.full(188, 0.6)
    losses[60:] = np.nan
    healed = {"lasting": False, "layers": layers[1:7], "first_step": 27, "last_step": 27, "healed_step": 102}
    topics = {"eval_labels": np.array([[1, 0], [1, 0], [1, 1], [0, 0]] * 10), "label_names": ["sport", "money"]}
    good = judge(**names, eval_predictions=answers(RTE, 220))
    return [
        verdict_sentence("failed", "eval_accuracy", demo, RTE_NAMES),
        judge(
            eval_labels=MRPC, eval_predictions=some_missed, score=0.8097, baseline=0.8122, metric="eval_f1"
        ).sentence,
        judge(eval_labels=rare, eval_predictions=found, headline_lead=LEAD).sentence,
        judge(**names, eval_predictions=answers(RTE, 147)).sentence,
        judge(**names, eval_predictions=np.zeros((277, 2))).sentence,
        stopped_by_alarm(verdict_sentence("failed", "eval_accuracy", stopped, RTE_NAMES), 70, 200, 0.94),
        verdict_after_alarm(good.sentence, "an alarm", 57, 189, 0.88),
        verdict_after_alarm(good.sentence, "a false alarm", 57, 189, 0.88),
        judge(**names, eval_predictions=answers(RTE, 220), losses=losses).sentence,
        judge(eval_labels=np.zeros(50, int), eval_predictions=np.zeros(50, int)).sentence,
        verdict_sentence("failed", "eval_r2", {"r2": -0.004, "examples": 1500, "one_value": False}, regression=True),
        judge(**topics, eval_predictions=np.zeros((40, 2)), several=True).sentence,
        judge(score=0.2, baseline=0.12, metric="mse", smaller_is_better=True).sentence,
        judge(score=0.7, baseline=0.5, metric="accuracy", examples=40).sentence,
        judge(train_predicted_counts=[700, 0], label_names=RTE_NAMES).sentence,
        judge(**names, eval_predictions=answers(RTE, 140), **run(end=0.62)).sentence,
        judge(**names, eval_predictions=answers(RTE, 140), **run(end=0.05)).sentence,
        judge(**names, eval_predictions=answers(RTE, 220), **run(HEALED, 0.45)).sentence,
        verdict_sentence("ok", "eval_accuracy", {"gradients": healed}),
    ]


def test_the_samples_of_the_page_are_sentences_of_verdicts():
    known, text = sentences(), PAGE.read_text()
    quotes = re.findall(r"(?:^> .*\n)+", text, re.MULTILINE)
    outputs = [block.text for block in blocks(PAGE) if block.language == "text"]
    samples = [" ".join(sample.replace("\n> ", " ").removeprefix("> ").split()) for sample in (*quotes, *outputs)]
    assert len(samples) > 5 and not [sample for sample in samples if sample not in known]


def clauses() -> list[str]:
    """The first cells of the table of clauses."""
    rows = PAGE.read_text().split("| clause | meaning |")[1].split("\n\n")[0].split("\n")[2:]
    return [row.split("|")[1].strip().strip("`") for row in rows]


@pytest.mark.parametrize("clause", clauses())
def test_each_clause_of_the_page_is_in_a_sentence(clause):
    assert any(clause in sentence for sentence in sentences())
