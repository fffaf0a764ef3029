"""The example reports' scores: those of runs.csv, with its verdicts."""

from __future__ import annotations

import csv

import pytest

from benchmarks import example_reports
from benchmarks.example_reports import majority_share, score_rows, update_steps
from benchmarks.recipes import HERE
from hf_stability.tasks.demo.data import demo_splits


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        pytest.param("demo_pair", "accuracy", marks=pytest.mark.slow),  # draws the task's examples
        ("demo_cola", "matthews_correlation"),
    ],
)
def test_the_rows_have_the_scores_and_the_verdicts_of_the_study(task, metric):
    with open(HERE / "runs.csv", newline="", encoding="utf-8") as file:
        runs = [row for row in csv.DictReader(file) if row["part"] == f"confirm {task}"]
    rows = score_rows(task, metric)
    assert len(rows) == len(runs) == 280
    for row, run in zip(rows, runs, strict=True):
        assert row["recipe"].startswith(f"{run['recipe']}+at_") and row["seed"] == run["seed"]
        assert (row[metric], row["status"]) == (run["report"], "failed" if run["failed"] == "1" else "ok")
        assert float(row["recipe"].partition("+at_")[2]) == float(run["learning_rate"])


def test_a_verdict_that_does_not_fit_its_score_is_refused(monkeypatch):
    monkeypatch.setattr(example_reports, "majority_share", lambda *_: 0.9)
    with pytest.raises(SystemExit, match="its verdict does not fit its score"):
        score_rows("demo_pair", "accuracy")


@pytest.mark.slow
def test_the_baseline_is_counted_on_the_half_that_was_reported():
    labels = [row["label"] for row in demo_splits("demo_pair")["validation"]][500:]
    assert majority_share("demo_pair", slice(500, None)) == max(labels.count(0), labels.count(1)) / 500


def test_update_steps_are_those_of_the_demos_studies():
    """The column `steps` of the demo's study, which trains on as many examples."""
    with open(HERE.parent / "demo_study" / "results" / "runs.csv", newline="", encoding="utf-8") as file:
        steps = {row["recipe"]: int(row["steps"]) for row in csv.DictReader(file) if row["part"] == "confirm"}
    for recipe in ("transformers_default", "devlin2019", "mosbach2021"):
        assert update_steps(recipe, 1000) == steps[recipe]
    assert update_steps("devlin2019+mixout", 1000) == steps["devlin2019"]
