"""Differences between the seeds of hand-made runs, against loops over their logits; one study is trained (slow)."""

from __future__ import annotations

import csv
import json
from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from sklearn.metrics import matthews_corrcoef, r2_score

from hf_stability.errors import InputError
from hf_stability.study.records import RunRecord
from hf_stability.study.report.page import predictions
from hf_stability.study.report.page.predictions import prediction_report, read_predictions
from hf_stability.tasks.task import Task
from hf_stability.utils.files import write_json
from tests.study.report.page.test_example_texts import WORDS, save_data, tokens


N, K = 12, 2
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1])


def leave_run(folder, seed, logits, status="ok", labels=LABELS, recipe="a", metric="accuracy", **values):
    """A run as a study leaves it; `logits` None: without predictions."""
    run = RunRecord("id", recipe, seed, "toy", status, metric, **values)
    path = folder / "runs" / run.name
    path.mkdir(parents=True)
    write_json(path / "run.json", run.to_dict())
    write_json(path / "config.json", {})
    if logits is not None:
        np.savez_compressed(path / "predictions.npz", logits=np.asarray(logits, np.float32), labels=labels)
    return path


def random_logits(seed, skill=1.0, classes=K):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (N, classes)) + skill * np.eye(classes)[LABELS % classes]


def constant_logits(of=1):
    return np.tile(3.0 * np.eye(K)[of], (N, 1)) + np.random.default_rng(of).normal(0, 0.1, (N, K))


def one(folder, **values):
    """The only recipe's part, which JSON can have."""
    report = prediction_report(folder, **values)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    (found,) = report["recipes"]
    return found


@pytest.fixture
def study(tmp_path):
    """Four ok runs and two failed ones, in a folder; the ok runs' logits."""
    logits = [random_logits(seed) for seed in (2, 3, 4, 6)]  # the third is the best
    for seed, own in enumerate(logits, 1):
        leave_run(tmp_path, seed, own)
    for seed in (5, 6):
        leave_run(tmp_path, seed, constant_logits(), "failed")
    return tmp_path, np.array(logits, dtype=np.float32)


# ---- the figures ----------------------------------------------------------------------------------------------------


def test_figures_of_the_ok_runs_by_loops(study):
    folder, logits = study
    found = one(folder)
    ok = found["ok"]
    classes, p = logits.argmax(-1), softmax(logits.astype(float), axis=-1)
    pairs = list(combinations(range(4), 2))
    assert (found["runs"], ok["runs"], ok["examples"]) == (6, 4, N)
    assert ok["disagreement"] == pytest.approx(np.mean([classes[a] != classes[b] for a, b in pairs]))
    expected = np.mean([jensenshannon(p[a], p[b], axis=-1) ** 2 for a, b in pairs])
    assert ok["jensen_shannon"] == pytest.approx(expected) and ok["jensen_shannon_runs"] == 4
    wrong = (classes != LABELS).sum(0)
    assert ok["wrong_in_every_run"] == (wrong == 4).sum() and ok["wrong_in_half"] == (wrong >= 2).sum()
    accuracies = (classes == LABELS).mean(1)
    assert ok["ensemble"] == {
        "metric": "accuracy",
        "score": pytest.approx((p.mean(0).argmax(1) == LABELS).mean()),
        "mean_run": pytest.approx(accuracies.mean()),
        "best_run": pytest.approx(accuracies.max()),
        "best": f"a/seed-00{accuracies.argmax() + 1}",
        "runs": 4,
    }
    for k, own in enumerate(ok["classes"]):
        errors = (classes != LABELS)[:, LABELS == k].mean(1)
        assert own["class"] == str(k) and own["examples"] == (LABELS == k).sum()
        assert own["error"] == pytest.approx(errors.mean()) and own["highest"] == pytest.approx(errors.max())
        assert own["half_wrong"] == (errors >= 0.5).sum() and own["missed"] == (errors == 1).sum()


def test_failed_runs_agree_with_each_other_so_they_are_counted_apart(study):
    folder, logits = study
    found = one(folder)
    pairs = [np.mean(a != b) for a, b in combinations([*logits.argmax(-1), *np.ones((2, N))], 2)]
    assert found["statuses"] == {"ok": 4, "failed": 2}
    assert found["all"]["runs"] == 6 and found["all"]["disagreement"] == pytest.approx(np.mean(pairs))
    minority = found["all"]["classes"][0]
    assert minority["missed"] >= 2 and found["ok"]["classes"][0]["missed"] == minority["missed"] - 2


def test_where_all_failed_kappa_is_undefined_and_nothing_is_ok(tmp_path):
    for seed in (1, 2, 3):
        leave_run(tmp_path, seed, constant_logits(), "failed")
    found = one(tmp_path)
    assert found["all"]["disagreement"] == 0 and found["all"]["fleiss_kappa"] is None
    assert found["all"]["undefined"] == {"fleiss_kappa": predictions.ONE_CLASS}
    assert found["ok"]["runs"] == 0 and found["ok"]["disagreement"] is None and found["ok"]["ensemble"] is None
    assert set(found["ok"]["undefined"]) == {*predictions.BY_CLASS, "ensemble"}
    assert found["hard_examples_of"] == "all" and found["hard_examples_found"] == (LABELS == 0).sum()


def test_one_run_has_errors_but_no_agreement(tmp_path):
    leave_run(tmp_path, 1, random_logits(1))
    ok = one(tmp_path)["ok"]
    assert ok["disagreement"] is ok["fleiss_kappa"] is ok["jensen_shannon"] is None
    assert set(ok["undefined"]) == {"disagreement", "fleiss_kappa", "jensen_shannon"}
    assert ok["ensemble"]["score"] == ok["ensemble"]["mean_run"] == ok["ensemble"]["best_run"]


def test_the_headline_metric_scores_the_ensemble(tmp_path):
    logits = np.array([random_logits(seed) for seed in (1, 2, 3)], np.float32)
    for seed, own in enumerate(logits, 1):
        leave_run(tmp_path, seed, own, metric="matthews_correlation")
    found = one(tmp_path)["ok"]["ensemble"]
    together = softmax(logits.astype(float), axis=-1).mean(0).argmax(1)
    assert found["metric"] == "matthews_correlation"
    assert found["score"] == pytest.approx(matthews_corrcoef(LABELS, together))
    assert found["mean_run"] == pytest.approx(np.mean([matthews_corrcoef(LABELS, own.argmax(1)) for own in logits]))


def test_mrpcs_mean_of_accuracy_and_f1_and_an_unknown_metric(tmp_path):
    from sklearn.metrics import accuracy_score, f1_score

    for seed in (1, 2):
        leave_run(tmp_path, seed, random_logits(1), metric="acc_and_f1")
        leave_run(tmp_path, seed, random_logits(1), recipe="b", metric="points")
    mrpc, unknown = (part["ok"]["ensemble"] for part in prediction_report(tmp_path)["recipes"])
    classes = np.float32(random_logits(1)).argmax(1)
    expected = (accuracy_score(LABELS, classes) + f1_score(LABELS, classes)) / 2
    assert (mrpc["metric"], mrpc["score"]) == ("acc_and_f1", pytest.approx(expected))
    assert (unknown["metric"], unknown["score"]) == ("accuracy", pytest.approx(accuracy_score(LABELS, classes)))


def test_with_many_runs_the_divergence_is_of_a_random_part_of_them(study, monkeypatch):
    folder, logits = study
    monkeypatch.setattr(predictions, "MOST_NUMBERS", 3 * N * K)  # three pairs
    ok = one(folder)["ok"]
    p = softmax(logits.astype(float), axis=-1)
    means = [np.mean(jensenshannon(p[a], p[b], axis=-1) ** 2) for a, b in combinations(range(4), 2)]
    assert ok["jensen_shannon_runs"] == 3 and min(means) <= ok["jensen_shannon"] <= max(means)
    assert ok["runs"] == 4 and one(folder)["ok"] == ok  # the same part each time


# ---- which runs -----------------------------------------------------------------------------------------------------


def test_runs_without_an_end_or_predictions_are_left_out_and_counted(study):
    folder, _ = study
    before = one(folder)
    leave_run(folder, 7, random_logits(7), "stopped")
    leave_run(folder, 8, random_logits(8), "stopped early")
    leave_run(folder, 9, None)
    (leave_run(folder, 10, None) / "predictions.npz").write_bytes(b"no zip")
    leave_run(folder, 11, random_logits(11), labels=LABELS[::-1])
    leave_run(folder, 12, random_logits(12)[:5], labels=LABELS[:5])
    leave_run(folder, 13, random_logits(13, classes=3))
    for seed, left in ((14, "error.txt"), (15, "steps.rec")):
        (folder / f"runs/a/seed-0{seed}").mkdir()
        for name in ("config.json", left):
            (folder / f"runs/a/seed-0{seed}" / name).write_text("{}")
    found = one(folder)
    counts = {"stopped": 1, "stopped early": 1, "without predictions": 2, "other examples": 3}
    assert found.pop("left_out") == {"crashed": 1, "unfinished": 1, **counts}
    assert before.pop("left_out") == {} and found == before


def test_a_diverged_run_counts_as_class_0_but_has_no_probabilities(study):
    folder, logits = study
    leave_run(folder, 7, np.full((N, K), np.nan), "diverged")
    found = one(folder)
    classes = [*logits.argmax(-1), *np.ones((2, N)), np.zeros(N)]
    pairs = [np.mean(a != b) for a, b in combinations(classes, 2)]
    assert found["all"]["runs"] == 7 and found["all"]["disagreement"] == pytest.approx(np.mean(pairs))
    assert found["all"]["ensemble"]["runs"] == found["all"]["jensen_shannon_runs"] == 6
    assert found["ok"]["runs"] == found["ok"]["ensemble"]["runs"] == 4


def test_a_run_of_unknown_status_counts_among_all_but_is_not_ok(study):
    folder, _ = study
    leave_run(folder, 7, random_logits(7), "unknown")
    found = one(folder)
    assert (found["all"]["runs"], found["ok"]["runs"]) == (7, 4) and found["statuses"]["unknown"] == 1


def test_where_no_run_has_predictions_nothing_is_known(tmp_path):
    leave_run(tmp_path, 1, random_logits(1), "stopped")
    found = one(tmp_path)
    assert found["runs"] == 0 and found["examples"] is None and found["hard_examples"] is None
    assert found["all"]["disagreement"] is None and found["left_out"] == {"stopped": 1}


def test_recipes_in_the_given_order_and_unknown_ones_are_refused(study):
    folder, _ = study
    leave_run(folder, 1, random_logits(9), recipe="b")
    assert [part["recipe"] for part in prediction_report(folder)["recipes"]] == ["a", "b"]
    assert [part["recipe"] for part in prediction_report(folder, ["b"])["recipes"]] == ["b"]
    with pytest.raises(InputError, match="--recipe c"):
        prediction_report(folder, ["c"])


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        prediction_report(tmp_path)


def test_logits_that_do_not_fit_are_no_predictions(tmp_path):
    path = tmp_path / "predictions.npz"
    for logits, labels in ((np.zeros((3, 2)), np.zeros(2)), (np.zeros((3, 2, 2)), np.zeros(3)), (np.array(None), [0])):
        np.savez(path, logits=logits, labels=labels)
        assert read_predictions(path) is None
    np.savez(path, labels=np.zeros(2))
    assert read_predictions(path) is None


# ---- hard examples and texts ----------------------------------------------------------------------------------------


def test_the_hardest_examples_come_first_with_their_texts(tmp_path):
    texts = [(WORDS[i % 6], " ".join(WORDS[: 1 + i % 5])) for i in range(N)]
    task = Task("toy", ("premise", "hypothesis"), ("no", "yes"), ("accuracy",))
    save_data(tmp_path, [tokens(*pair) for pair in texts], LABELS.tolist(), task)
    wrong_in = {3: 3, 7: 2, 5: 2}  # example -> number of the first runs that get it wrong
    for seed in (1, 2, 3):
        right = 4.0 * np.eye(K)[LABELS]
        for example, number in wrong_in.items():
            right[example] *= -1 if seed <= number else 1
        if seed > 1:
            leave_run(tmp_path, seed, right)
        else:  # save_data has left its folder
            write_json(
                tmp_path / "runs/a/seed-001/run.json", RunRecord("id", "a", 1, "toy", "ok", "accuracy").to_dict()
            )
            np.savez(tmp_path / "runs/a/seed-001/predictions.npz", logits=right, labels=LABELS)
    leave_run(tmp_path, 4, constant_logits(1), "failed")
    report = prediction_report(tmp_path, width=12)
    (found,) = report["recipes"]
    assert (report["set"], report["classes"], report["texts_missing"]) == ("validation", ["no", "yes"], "")
    hard = found["hard_examples"]
    assert [entry["example"] for entry in hard] == [3, 5, 7] and found["hard_examples_of"] == "ok"
    assert [(entry["wrong_ok"], entry["wrong"]) for entry in hard] == [(3, 4), (2, 2), (2, 2)]
    assert hard[0]["label"] == "no" and hard[0]["predictions"] == {"yes": 4}
    assert hard[1]["predictions"] == {"no": 2, "yes": 2}
    assert hard[0]["texts"]["premise"] == texts[3][0]
    assert all(len(text) <= 12 for entry in hard for text in entry["texts"].values())
    (cut,) = prediction_report(tmp_path, most_examples=1)["recipes"]
    assert len(cut["hard_examples"]) == 1 and cut["hard_examples_found"] == 3


def test_without_the_data_examples_have_numbers_and_the_reason_is_given(study):
    folder, _ = study
    report = prediction_report(folder)
    assert report["texts_missing"] and report["classes"] is None
    for entry in report["recipes"][0]["hard_examples"]:
        assert entry["texts"] is None and entry["label"] == str(LABELS[entry["example"]])


# ---- a regression ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(N, 1), (N,)])
def test_a_regression_has_a_spread_and_an_ensemble_and_the_rest_is_undefined(tmp_path, shape):
    labels = np.linspace(0, 5, N).astype(np.float32)
    values = [labels + np.random.default_rng(seed).normal(0, 1, N).astype(np.float32) for seed in (1, 2, 3)]
    for seed, own in enumerate(values, 1):
        leave_run(tmp_path, seed, own.reshape(shape), labels=labels, metric="pearson")
    leave_run(tmp_path, 4, np.full(shape, np.nan), "diverged", labels=labels, metric="pearson")
    found = one(tmp_path)
    ok = found["ok"]
    assert ok["spread"] == pytest.approx(np.mean([np.std(row, ddof=1) for row in np.array(values).T]), rel=1e-6)
    assert ok["ensemble"]["metric"] == "r2"
    assert ok["ensemble"]["score"] == pytest.approx(r2_score(labels, np.mean(values, axis=0)), rel=1e-5)
    assert ok["ensemble"]["best_run"] == pytest.approx(max(r2_score(labels, own) for own in values), rel=1e-5)
    assert all(ok[name] is None and ok["undefined"][name] == predictions.NO_CLASSES for name in predictions.BY_CLASS)
    assert found["all"]["runs"] == 4 and found["all"]["ensemble"]["runs"] == 3 and found["hard_examples"] is None


# ---- a trained study ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("no_heat_maps", "no_figures")
def test_a_trained_studys_predictions_have_its_scores_and_its_texts(tmp_path, tiny_study, tiny_csv):
    from hf_stability.cli import main

    words = ["--seeds", "3", "--max_steps", "6", "--output_dir", str(tmp_path)]
    assert main([*tiny_study, *words]) == 0
    found = one(tmp_path, most_examples=100)
    scores = [run["last"] for run in json.loads((tmp_path / "summary.json").read_text())["runs"]]
    assert found["all"]["ensemble"]["mean_run"] == pytest.approx(np.mean(scores))
    assert found["all"]["ensemble"]["best_run"] == pytest.approx(max(scores))
    with open(tiny_csv[1], newline="") as file:
        rows = list(csv.DictReader(file))
    assert found["hard_examples"]
    for entry in found["hard_examples"]:
        row = rows[entry["example"]]
        assert entry["texts"] == {"sentence": row["sentence"]} and entry["label"] == row["label"]
