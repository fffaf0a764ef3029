"""The shipped metric script, through `evaluate`, against slow references in plain Python."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EvalPrediction

from hf_stability.tasks.glue import GLUE_TASKS
from hf_stability.tasks.metrics import METRIC_FOLDER, build_compute_metrics, to_predictions
from hf_stability.tasks.task import Task


ALL = Task("all", ("sentence",), ("no", "yes"), ("matthews_correlation", "accuracy", "f1", "acc_and_f1"))
FIVE = Task("five", ("sentence",), tuple("abcde"), ("accuracy", "matthews_correlation"))


@pytest.fixture(scope="module")
def compute():
    """Built once per task: `compute(task, predictions, labels)`."""
    built = {}

    def call(task, predictions, labels):
        if task.name not in built:
            built[task.name] = build_compute_metrics(task)
        return built[task.name](EvalPrediction(predictions=predictions, label_ids=np.asarray(labels)))

    return call


def reference_classification(predictions: list[int], labels: list[int]) -> dict[str, float]:
    pairs = list(zip(predictions, labels, strict=True))
    tp, tn = pairs.count((1, 1)), pairs.count((0, 0))
    fp, fn = pairs.count((1, 0)), pairs.count((0, 1))
    accuracy = sum(p == y for p, y in pairs) / len(pairs)
    f1 = 2 * tp / (2 * tp + fp + fn) if tp else 0.0
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    matthews = (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0
    return {"matthews_correlation": matthews, "accuracy": accuracy, "f1": f1, "acc_and_f1": (accuracy + f1) / 2}


def reference_pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    spread = math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))
    return covariance / spread if len(set(a)) > 1 and len(set(b)) > 1 else 0.0


def reference_ranks(values: list[float]) -> list[float]:
    """Ties share the mean of their ranks."""
    return [sum(v < x for v in values) + (values.count(x) + 1) / 2 for x in values]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
def test_classification_against_reference(compute, pairs):
    predictions, labels = (list(column) for column in zip(*pairs, strict=True))
    logits = np.eye(2, dtype=np.float32)[predictions]
    got = compute(ALL, logits, labels)
    assert got == pytest.approx(reference_classification(predictions, labels))
    assert list(got) == list(ALL.metrics) and all(type(value) is float for value in got.values())
    assert compute(ALL, np.array(predictions), labels) == got  # class ids instead of logits
    assert compute(ALL, (logits, "hidden states"), labels) == got


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 5)), min_size=1, max_size=20))
def test_regression_against_reference(compute, pairs):
    scores, labels = (list(column) for column in zip(*pairs, strict=True))
    task = GLUE_TASKS["stsb"]
    got = compute(task, np.array(scores, np.float32)[:, None], np.array(labels, np.float32))
    pearson = reference_pearson(scores, labels)
    spearman = reference_pearson(reference_ranks(scores), reference_ranks(labels))
    expected = {"pearson_and_spearman": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman}
    assert got == pytest.approx(expected, abs=1e-9)
    assert compute(task, np.array(scores, np.float32), np.array(labels, np.float32)) == got


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=20))
def test_many_classes_against_reference(compute, pairs):
    """Matthews correlation of several classes (Gorodkin 2004), by its definition over pairs of counts."""
    predictions, labels = (list(column) for column in zip(*pairs, strict=True))
    n, right = len(pairs), sum(p == y for p, y in pairs)
    p, t = [predictions.count(c) for c in range(5)], [labels.count(c) for c in range(5)]
    spread = (n * n - sum(x * x for x in p)) * (n * n - sum(x * x for x in t))
    matthews = (right * n - sum(x * y for x, y in zip(p, t, strict=True))) / math.sqrt(spread) if spread else 0.0
    got = compute(FIVE, np.eye(5)[predictions], labels)
    assert got == pytest.approx({"accuracy": right / n, "matthews_correlation": matthews})


def test_always_positive_on_mrpc(compute):
    got = compute(GLUE_TASKS["mrpc"], np.tile([0.0, 1.0], (408, 1)), [1] * 279 + [0] * 129)
    assert list(got) == ["f1", "accuracy", "acc_and_f1"]
    assert [round(value, 4) for value in got.values()] == [0.8122, 0.6838, 0.7480]


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("logits", [[0.0, 1.0], [1.0, 0.0], [math.nan, math.nan]])
def test_undefined_is_zero_and_silent(compute, label, logits, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = compute(ALL, np.tile(logits, (6, 1)), [label] * 6)
    assert got["matthews_correlation"] == 0.0 and all(math.isfinite(value) for value in got.values())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("scores", [[2.0] * 4, [math.nan] * 4, [1.0, 2.0, math.inf, 0.0], [1e300, -1e300, 1e300, 0.0]])
@pytest.mark.parametrize("labels", [[1.0, 2.0, 3.0, 4.0], [1.0] * 4])
def test_undefined_correlation_is_silent(compute, scores, labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = compute(GLUE_TASKS["stsb"], np.array(scores), labels)
    assert all(math.isfinite(value) for value in got.values())
    if len(set(labels)) == 1 or not all(map(math.isfinite, scores)) or len(set(scores)) == 1:
        assert set(got.values()) == {0.0}
    assert compute(GLUE_TASKS["stsb"], np.array([[1.0]]), [2.0])["pearson"] == 0.0  # one example


def test_greater_is_better(compute):
    """Each metric prefers the better of two classifiers."""
    labels = [0, 1, 1, 0, 1, 0, 1, 1]
    scores = []
    for wrong in range(4):
        predictions = np.array([1 - y if row < wrong else y for row, y in enumerate(labels)])
        scores.append(compute(ALL, predictions, labels))
    for worse, better in combinations(reversed(scores), 2):
        assert all(worse[name] < better[name] for name in ALL.metrics)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"shape \(4, 3\) .* task rte: expected \(num_examples, 2\)"):
        to_predictions(GLUE_TASKS["rte"], np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"shape \(4,\) and type float64"):
        to_predictions(GLUE_TASKS["rte"], np.zeros(4))
    with pytest.raises(ValueError, match=r"expected \(num_examples, 1\)"):
        to_predictions(GLUE_TASKS["stsb"], np.zeros((4, 2)))
    with pytest.raises(ValueError, match="4 predictions for 3 labels"):
        build_compute_metrics(GLUE_TASKS["rte"])(EvalPrediction(np.zeros((4, 2)), np.zeros(3, int)))


def test_random_state_is_left_alone(compute):
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    compute(GLUE_TASKS["rte"], np.zeros((4, 2)), [0, 1, 0, 1])
    assert np.random.random() == expected


def test_script_cannot_be_loaded(monkeypatch):
    import evaluate

    def broken(*args, **kwargs):
        raise SyntaxError("half a file")

    monkeypatch.setattr(evaluate, "load", broken)
    with pytest.raises(RuntimeError, match="half a file.*delete .*glue_metric"):
        build_compute_metrics(GLUE_TASKS["rte"])


MANY_PROCESSES = """
import multiprocessing, os, socket, sys, types
package = types.ModuleType("hf_stability")  # without the package's own __init__, which imports the trainer
package.__path__ = [sys.argv[1]]
sys.modules["hf_stability"] = package
import numpy as np
import evaluate, scipy.stats, sklearn.metrics  # once, before the processes are forked
from transformers import EvalPrediction
from hf_stability.tasks.glue import GLUE_TASKS
from hf_stability.tasks.metrics import build_compute_metrics

def refuse(*args):
    raise AssertionError("the network was used")

def work(number, barrier, results):
    socket.socket.connect = refuse
    barrier.wait()
    for step in range(5):  # all of them load, and compute, at the same time
        compute_metrics = build_compute_metrics(GLUE_TASKS["mrpc"])
        labels = np.arange(408) < 279
        right = np.arange(408) % (number + 2) != 0
        got = compute_metrics(EvalPrediction(np.where(right, labels, ~labels).astype(int), labels.astype(int)))
        assert abs(got["accuracy"] - right.mean()) < 1e-12, (got, number)
    results.put(number)

if __name__ == "__main__":
    assert not os.path.exists(os.environ["HF_HOME"])
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(8), context.Queue()
    workers = [context.Process(target=work, args=(number, barrier, results)) for number in range(8)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 8, [worker.exitcode for worker in workers]
    assert sorted(results.get() for worker in workers) == list(range(8))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="fork")
def test_many_processes_share_a_fresh_cache(tmp_path):
    home = tmp_path / "home"
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for name in ("HF_MODULES_CACHE", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", MANY_PROCESSES, str(METRIC_FOLDER.parents[1])],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    copies = list((home / "modules").rglob("glue_metric.py"))
    assert [copy.read_text() for copy in copies] == [(METRIC_FOLDER / "glue_metric.py").read_text()]
    assert not list(home.rglob("*.arrow")) and not [path for path in (home / "metrics").rglob("*") if path.is_file()]


def test_several_labels_per_example():
    task = Task("custom", ("text",), ("a", "b", "c"), ("f1_micro", "f1_macro"), multi_label=True)
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=np.float32)
    logits = np.array([[2.0, -1, -1], [1, -1, 3], [-1, -1, -1]])
    scores = build_compute_metrics(task)(EvalPrediction(predictions=logits, label_ids=labels))
    assert scores == {"f1_micro": pytest.approx(2 * 2 / (3 + 3)), "f1_macro": pytest.approx(1 / 3)}
    nothing = build_compute_metrics(task)(EvalPrediction(predictions=np.full((3, 3), np.nan), label_ids=labels))
    assert nothing == {"f1_micro": 0.0, "f1_macro": 0.0}
    with pytest.raises(ValueError, match=r"expected \(num_examples, 3\)"):
        to_predictions(task, np.zeros((3, 2)))
