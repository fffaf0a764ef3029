import time

import numpy as np
import pytest
from datasets import Dataset

from hf_stability.diagnostics.evaluation import Evaluation
from hf_stability.diagnostics.judging import RunFacts, headline, judge_run, label_column, scores_of


LABELS = np.repeat([0, 1], [17, 23])
RARE = np.repeat([0, 1], [186, 14])


def verdict_of(metrics, predictions=None, labels=None, **facts):
    return judge_run(None, Evaluation(metrics, predictions, labels), RunFacts(**facts))


def logits(classes, width=2):
    return np.eye(width)[classes]


def test_the_accuracy_of_the_outputs_decides():
    verdict, constant = verdict_of({"eval_accuracy": 1.0}, logits(LABELS), LABELS)
    assert verdict.status == "ok" and constant == {"score": 23 / 40, "constant": 1}
    verdict, _ = verdict_of({"eval_accuracy": 23 / 40}, logits(np.ones(40, int)), LABELS)
    assert verdict.status == "failed" and verdict.basis == "eval_accuracy"


def test_if_a_metric_reads_the_outputs_in_another_way_its_score_counts():
    flipped = logits(1 - LABELS)  # the script swaps the two classes
    verdict, _ = verdict_of({"eval_accuracy": 1.0}, flipped, LABELS)
    assert (verdict.status, verdict.basis) == ("ok", "baseline") and verdict.evidence["baseline"] == 23 / 40
    verdict, _ = verdict_of({"eval_accuracy": np.float32(23 / 40).item()}, flipped, LABELS)
    assert verdict.status == "failed" and "equals its baseline" in verdict.sentence


def test_without_outputs_the_baseline_of_a_known_metric_comes_from_the_labels():
    data = Dataset.from_dict({"labels": LABELS.tolist()})
    for score, status in ((0.9, "ok"), (23 / 40, "failed"), (0.2, "failed")):
        assert verdict_of({"eval_accuracy": score}, eval_dataset=data)[0].status == status
        assert verdict_of({"eval_accuracy": score}, eval_dataset={"a": data, "b": None})[0].status == status
    assert verdict_of({"eval_accuracy": 0.9})[0].status == "unknown"


@pytest.mark.parametrize(("metric", "bad", "good"), [("matthews_correlation", 0.0, 0.3), ("pearson", -0.1, 0.4)])
def test_no_constant_has_a_correlation(metric, bad, good):
    assert verdict_of({f"eval_{metric}": bad})[0].status == "failed"
    assert verdict_of({f"eval_{metric}": good})[0].status == "ok"


@pytest.mark.parametrize("metrics", [{}, {"eval_loss": 0.1}, {"eval_bleu": 30.0}, {"eval_perplexity": 3.0}])
def test_without_outputs_and_a_known_metric_it_is_unknown(metrics):
    verdict, constant = verdict_of(metrics)
    assert (verdict.status, constant) == ("unknown", None)


def test_an_error_is_better_when_smaller():
    values = np.linspace(0, 1, 40)
    data = Dataset.from_dict({"label": values.tolist()})
    for score, status in ((0.01, "ok"), (0.2, "failed")):
        facts = {"metric_for_best_model": "mse", "greater_is_better": True, "eval_dataset": data}
        assert verdict_of({"eval_mse": score}, **facts)[0].status == status
    # A metric with an unknown name: the training arguments give the direction, and the user the baseline.
    for score, status in ((0.1, "ok"), (0.9, "failed")):
        facts = {"metric_for_best_model": "badness", "greater_is_better": False, "baseline": 0.5}
        assert verdict_of({"eval_badness": score}, **facts)[0].status == status


def test_a_regression_is_judged_by_its_outputs():
    values = np.linspace(0, 1, 40)
    verdict, constant = verdict_of({"eval_mse": 0.0}, values[:, None], values)
    assert (verdict.status, verdict.basis) == ("ok", "eval_r2")
    assert constant["score"] == pytest.approx(values.var()) and constant["constant"] == pytest.approx(0.5)


def test_the_users_own_baseline_decides():
    metrics = {"eval_accuracy": 0.9}
    assert verdict_of(metrics, logits(LABELS), LABELS, baseline=0.95)[0].status == "failed"
    verdict, constant = verdict_of(metrics, logits(LABELS), LABELS, baseline=0.85)
    assert (verdict.status, constant) == ("ok", {"score": 0.85})


@pytest.mark.parametrize("metric", ["f1", "matthews_correlation"])
@pytest.mark.parametrize("wanted", [True, False])
def test_rare_classes_are_cleared_by_the_headline_metric(metric, wanted):
    from sklearn.metrics import f1_score, matthews_corrcoef

    found = RARE.copy()
    found[:14] = 1  # as many false positives as rare examples: the accuracy equals the baseline
    score = {"f1": f1_score, "matthews_correlation": matthews_corrcoef}[metric](RARE, found)
    metrics = {"eval_accuracy": 0.93, f"eval_{metric}": score}
    facts = {"metric_for_best_model": f"eval_{metric}"} if wanted else {}
    verdict, _ = verdict_of(metrics, logits(found), RARE, **facts)
    assert verdict.status == "ok" and verdict.evidence["paper_rule"] == "failed" and metric in verdict.sentence
    assert verdict_of(metrics, logits(found), RARE, metric="accuracy")[0].status == "failed"
    always = {"eval_accuracy": 0.93, f"eval_{metric}": 0.0}
    assert verdict_of(always, logits(np.zeros(200, int)), RARE, **facts)[0].status == "failed"


def test_several_labels_an_example():
    labels = np.random.default_rng(0).integers(0, 2, (40, 3))
    verdict, baseline = verdict_of({"eval_f1": 1.0}, labels * 2.0 - 1, labels.astype(float))
    assert verdict.status == "ok" and baseline == {"score": verdict.evidence["constant_micro_f1"]}
    every = np.ones(labels.shape)
    macro = float(np.mean([2 * p / (1 + p) for p in labels.mean(0)]))
    verdict, baseline = verdict_of({"eval_f1_macro": macro}, every, labels.astype(float))
    assert verdict.status == "failed" and baseline == {"score": pytest.approx(macro)}
    assert verdict_of({"eval_f1": 0.1}, every, labels.astype(float))[1] is None  # neither F1
    assert verdict_of({"eval_f1": 0.1}, np.full(labels.shape, np.nan), labels.astype(float))[0].status == "diverged"


def test_the_train_loss_of_several_labels_is_compared_with_their_mean_entropy():
    labels = np.array([[1.0, 0.0], [0.0, 0.0]] * 20)
    record = {
        "step": np.arange(1, 41), "loss": np.full(40, np.log(2) / 2, "f4"), "layers": ["classifier"],
        "layer_norms": np.ones((40, 1)), "labels": np.full((40, 2), np.nan), "predicted": np.full((40, 2), np.nan),
        "info": {"max_steps": 40, "warmup_steps": 4},
    }  # fmt: skip
    facts = RunFacts(
        train_dataset=Dataset.from_dict({"label": labels.tolist()}), problem_type="multi_label_classification"
    )
    never = judge_run(record, Evaluation({}, labels - 2, labels), facts)[0]
    assert (
        never.evidence["constant_loss"] == pytest.approx(np.log(2) / 2) and never.evidence["optimisation"] == "stuck"
    )
    assert never.evidence["failure"] == "failed optimisation"


def test_a_label_of_each_token_without_padding():
    labels = np.array([[0, 1, 0, -100], [0, 0, -100, -100], [1, 0, 0, 0]])
    train = Dataset.from_dict({"labels": [[0, 0, -100], [0, 1], [-100]]})
    record = {
        "step": np.arange(1, 41), "loss": np.full(40, 0.56, "f4"), "layers": ["classifier"],
        "layer_norms": np.ones((40, 1)), "labels": np.zeros((40, 0)), "predicted": np.zeros((40, 0)),
        "info": {"max_steps": 40, "warmup_steps": 4},
    }  # fmt: skip
    stuck = np.tile([1.0, 0.0], (3, 4, 1))
    verdict = judge_run(record, Evaluation({"eval_accuracy": 7 / 9}, stuck, labels), RunFacts(train_dataset=train))[0]
    assert verdict.status == "failed" and verdict.evidence["examples"] == 9
    assert "accuracy 0.778 on 9 tokens equals the majority-class baseline (0.778, always class 0)" in verdict.sentence
    assert verdict.evidence["constant_loss"] == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    assert verdict.evidence["failure"] == "failed optimisation"
    right = np.eye(2)[np.maximum(labels, 0)]
    assert judge_run(record, Evaluation({}, right, labels), RunFacts())[0].status == "ok"


def test_a_custom_loss_is_no_evidence_on_the_optimisation():
    record = {
        "step": np.arange(1, 41), "loss": np.full(40, 0.9, "f4"), "layers": ["classifier"], "layer_norms": np.ones((40, 1)),
        "labels": np.full((40, 2), 4.0), "predicted": np.full((40, 2), 4.0), "info": {"max_steps": 40, "warmup_steps": 4},
    }  # fmt: skip
    plain = judge_run(record, Evaluation({}, logits(np.ones(40, int)), LABELS), RunFacts())[0]
    assert plain.evidence["optimisation"] == "stuck"
    record["info"]["own_loss"] = True
    own = judge_run(record, Evaluation({}, logits(np.ones(40, int)), LABELS), RunFacts())[0]
    assert "optimisation" not in own.evidence and own.status == plain.status == "failed"


def test_compute_metrics_is_called_only_if_wanted():
    def accuracy(prediction):
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    asked = []
    facts = {"compute_metrics": lambda prediction: asked.append(1) or accuracy(prediction), "num_labels": 2}
    assert verdict_of({"eval_accuracy": 1.0}, logits(LABELS), LABELS, **facts)[1]["score"] == 23 / 40 and not asked
    found = verdict_of({"eval_accuracy": 1.0}, logits(LABELS), LABELS, baseline="compute_metrics", **facts)[1]
    assert found == {"score": 23 / 40, "constant": 1} and len(asked) == 2


def test_labels_of_a_data_set():
    assert label_column(Dataset.from_dict({"label": [1, 0]})).tolist() == [1, 0]
    for other in (
        None,
        [1, 2],
        Dataset.from_dict({"text": ["a"]}),
        Dataset.from_dict({"label": ["item 0"]}),
        Dataset.from_dict({"labels": [[1, 0]]}),
        Dataset.from_dict({"label": [1, 0]}).to_iterable_dataset(),
    ):
        assert label_column(other) is None


def test_scores_are_numbers_without_times():
    metrics = {"eval_loss": 1, "eval_f1": 0.5, "eval_runtime": 3.0, "epoch": 1, "eval_table": "x"}
    assert scores_of(metrics) == {"loss": 1, "f1": 0.5} and headline(metrics) == ("f1", 0.5)


def test_a_run_above_the_baseline_with_an_accuracy_that_is_rounded_half_way():
    labels = np.repeat([0, 1], [64, 40])
    predicted = labels.copy()
    predicted[:39] = 1  # 65 of 104 are right
    verdict, _ = verdict_of({"eval_accuracy": 0.62}, logits(predicted), labels)
    assert verdict.status == "ok" and verdict.basis == "eval_accuracy"


def test_scores_in_percent():
    found = RARE.copy()
    found[:14] = 1
    metrics = {"eval_accuracy": 93.0, "eval_f1": 66.667}
    assert verdict_of(metrics, logits(found), RARE, metric_for_best_model="f1")[0].status == "ok"


def test_another_accuracy_is_not_the_accuracy():
    even = np.repeat([0, 1], 20)
    metrics = {"eval_top5/accuracy": 0.99, "eval_accuracy": 0.5}
    assert verdict_of(metrics, logits(np.zeros(40, int)), even)[0].status == "failed"


def test_labels_of_minus_one_and_one():
    labels = np.where(LABELS == 1, 1, -1)
    verdict, _ = verdict_of({"eval_accuracy": 1.0}, labels * 2.0, labels)
    assert verdict.status == "ok" and verdict.evidence["constant_accuracy"] == 23 / 40
    assert verdict_of({"eval_accuracy": 23 / 40}, np.ones(40), labels)[0].status == "failed"


def test_equal_values_decide_nothing():
    assert verdict_of({"eval_mse": 0.0}, np.ones(40), np.ones(40), problem_type="regression")[0].status != "failed"


def test_rare_labels_per_example_are_judged_by_their_f1():
    rng = np.random.default_rng(1)
    labels = (rng.random((200, 10)) < 0.05).astype(int)
    found = np.where(rng.random(labels.shape) < 0.1, 1 - labels, labels)  # more mistakes than there are positives
    f1 = 2 * (labels * found).sum() / (labels.sum() + found.sum())
    verdict, _ = verdict_of({"eval_f1": f1}, found * 2.0 - 1, labels.astype(float))
    assert verdict.status == "ok" and verdict.evidence["micro_f1"] == pytest.approx(f1)
    assert verdict_of({"eval_f1": 0.0}, labels * 0.0 - 1, labels.astype(float))[0].status == "failed"


def test_many_classes_take_no_time():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 30_000, (4, 60))
    predicted = np.where(rng.random(labels.shape) < 0.5, labels, 0)
    accuracy = float((labels == predicted).mean())
    metrics = {"eval_accuracy": accuracy, "eval_f1": 0.3}
    started = time.monotonic()
    verdict, constant = verdict_of(metrics, predicted, labels)
    assert verdict.status == "ok" and constant["score"] < 0.05 and time.monotonic() - started < 10
