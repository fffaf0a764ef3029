"""The verdict on a run that has none, or is not over."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
import transformers
from transformers import Trainer, TrainingArguments

from hf_stability import StabilityCallback
from hf_stability.diagnose import diagnose
from hf_stability.diagnose.files import Run
from hf_stability.diagnose.run_verdict import as_logged, judge_run
from tests import toy
from tests.diagnose.tools import FAST, of, trainer_of


def test_a_score_in_the_log_is_held_against_the_constant():
    dev = np.array([0, 0, 0, 1])
    for score, status in ((0.75, "failed"), (0.9, "ok")):
        run = Run("x", history=[{"step": 9, "eval_accuracy": 0.1}, {"step": 9, "eval_accuracy": score, "loss": 0.5}])
        verdict = judge_run(run, {"dev_labels": dev})
        assert (verdict.status, verdict.basis) == (status, "baseline")


@pytest.mark.parametrize(
    ("score", "status"),
    [
        (float(np.float32(146 / 277)), "failed"),  # above the baseline by 3e-8
        (float(np.float16(146 / 277)), "failed"),
        (0.5271, "failed"),
        (0.527, "failed"),
        (145 / 277, "failed"),
        (0.5270758, "failed"),
        (52.7076, "failed"),  # per cent
        (147 / 277, "ok"),
        (float(np.float32(147 / 277)), "ok"),
        (0.5307, "ok"),
        (53.07, "ok"),
    ],
)
def test_a_score_in_the_log_is_compared_in_examples(score, status):
    dev = np.repeat([0, 1], [146, 131])
    verdict = judge_run(Run("x", history=[{"eval_accuracy": score, "loss": 0.69, "step": 9}]), {"dev_labels": dev})
    assert verdict.status == status, verdict.sentence
    assert judge_run(Run("x", history=[{"eval_accuracy": "n/a"}]), {"dev_labels": dev}) is None


def test_a_score_that_was_rounded_is_the_baseline_that_rounds_to_it():
    baseline = 25545 / 40430  # QQP: 4 decimals are 2 examples
    assert as_logged(round(baseline, 4), baseline, 40430) == baseline == as_logged(round(baseline, 3), baseline, 40430)
    for better in (baseline + 1e-4, round(baseline, 4) + 1e-4, 25546 / 40430):
        assert as_logged(better, baseline, 40430) == better


def test_of_several_evaluation_sets_the_score_is_that_of_the_labels_set():
    dev = np.array([0, 0, 0, 1])
    both = {"eval_matched_accuracy": 0.9, "eval_mismatched_accuracy": 0.1}
    values = {"dev_labels": dev, "dev_set": "matched"}
    assert judge_run(Run("x", history=[both]), values).evidence["score"] == 0.9
    assert judge_run(Run("x", history=[both]), {"dev_labels": dev}) is None  # nobody says which set
    only = Run("x", history=[{"eval_mismatched_accuracy": 0.1}])
    assert judge_run(only, values) is None
    mixed = Run("x", history=[{"eval_balanced_accuracy": 0.2, "eval_accuracy": 0.9, "eval_top2_accuracy": 0.3}])
    assert judge_run(mixed, {"dev_labels": dev}).evidence["score"] == 0.9


def test_a_live_trainers_evaluation_sets_are_kept_apart(tmp_path):
    sets = {"easy": toy.data(40, seed=1), "hard": toy.data(30, seed=2)}
    trainer = trainer_of(tmp_path, trainer_class=Trainer, dev=sets)
    trainer.train()
    trainer.state.log_history.append({"step": 8, "eval_hard_accuracy": 0.0})
    easy = [entry["eval_easy_accuracy"] for entry in trainer.state.log_history if "eval_easy_accuracy" in entry]
    report = diagnose(trainer)
    assert report.status is not None and f"{easy[-1]:.3f}".removeprefix("0") in report.sentence


@pytest.mark.parametrize(("accuracy", "likely"), [(0.5, "failed"), (0.9, "ok")])
def test_a_run_that_is_not_over_has_no_status(tmp_path, tiny_csv, accuracy, likely):
    data = {"task_name": None, "train_file": tiny_csv[0], "validation_file": tiny_csv[1]}
    state_file = tmp_path / "trainer_state.json"

    def report(step):
        log = [{"step": at, "loss": 0.6, "eval_accuracy": accuracy} for at in range(10, step + 1, 10)]
        state_file.write_text(json.dumps({"log_history": log, "global_step": step, "max_steps": 100}))
        return diagnose(state_file, **data)

    half, whole = report(50), report(100)
    assert half.status is None is half.failed_share
    assert half.sentence.startswith("so far, at step 50 of 100: accuracy") and likely not in half.sentence[:20]
    assert "This run did not fail" not in half.to_text() and "1 run failed" not in half.to_text()
    assert of(half, "ended early").likelihood == "possible"
    assert whole.status == likely and whole.failed_share is not None and "so far" not in whole.sentence


@pytest.mark.parametrize("verdict", [True, False])
def test_a_run_that_was_nan_from_its_first_step(tmp_path, verdict):
    model = toy.model()
    with torch.no_grad():
        model.classifier.weight.fill_(math.nan)
    args = TrainingArguments(str(tmp_path), **FAST)
    trainer = Trainer(
        model, args, train_dataset=toy.data(64), callbacks=[StabilityCallback()], eval_dataset=toy.data(40)
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    if not verdict:
        (tmp_path / "stability" / "verdict.json").unlink()
    report = diagnose(tmp_path)
    assert report.status == "diverged" and "NaN" not in report.not_looked_at
    assert of(report, "NaN").likelihood == "likely" and of(report, "NaN").figures["first_step"] == 1


def test_a_logged_loss_is_held_against_the_labels():
    labels = np.array([0, 1] * 10)
    for loss, optimisation in ((0.69, "stuck"), (0.1, "fitted")):
        run = Run("x", history=[{"step": step, "loss": loss} for step in (10, 20)])
        verdict = judge_run(run, {"train_labels": labels})
        assert (verdict.status, verdict.evidence["optimisation"]) == ("unknown", optimisation)
        assert judge_run(run, {}) is None  # nothing to hold it against
    assert judge_run(Run("x"), {"train_labels": labels}) is None


def test_a_record_without_a_verdict_is_judged(output, tmp_path):
    shutil.copytree(output / "stability", tmp_path / "stability")
    (tmp_path / "stability" / "verdict.json").unlink()
    report = diagnose(tmp_path / "stability" / "steps.rec")
    assert report.status == "unknown" and report.failed_share is None and "no evaluation" in report.sentence
    assert of(report, "layers").likelihood == "unlikely"
