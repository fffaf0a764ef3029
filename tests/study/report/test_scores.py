"""Scores read from a study's folder of hand-made runs: nothing is trained here."""

from __future__ import annotations

import numpy as np
import pytest

from hf_stability.errors import InputError
from hf_stability.study.records import RunRecord
from hf_stability.study.report.scores import read_recipes, read_scores
from hf_stability.utils.files import write_json


def leave_run(
    folder, seed=1, scores=(0.5, 0.6, 0.7), second=None, status="ok", recipe="a", metric="accuracy", **values
):
    """A run that was evaluated every 10 update steps, on a second half too where there are scores of it."""
    own = f"eval_{metric}" if second is None else f"eval_first_{metric}"
    evaluations = [{"step": 10 * (k + 1), own: score} for k, score in enumerate(scores)]
    for entry, score in zip(evaluations, second or (), strict=False):
        entry[f"eval_second_{metric}"] = score
    steps = 10 * len(scores)
    given = {"steps": steps, "planned_steps": steps, "baseline": 0.4, **values}
    run = RunRecord("id", recipe, seed, "rte", status, metric, **given)
    path = folder / "runs" / run.name
    path.mkdir(parents=True)
    write_json(path / "config.json", {})
    write_json(path / "metrics.json", {"metric": metric, "evaluations": evaluations})
    write_json(path / "run.json", run.to_dict())
    return run


def read(folder, recipe="a"):
    return read_scores(folder, read_recipes(folder)[recipe])


def test_the_first_half_selects_and_the_second_reports(tmp_path):
    leave_run(tmp_path, 1, second=(0.1, 0.2, 0.3))
    leave_run(tmp_path, 2, (0.8, 0.8, 0.6), second=(0.4, 0.5, 0.9))
    scores = read(tmp_path)
    assert scores.fractions == (1 / 3, 2 / 3) and scores.metric == "accuracy"
    np.testing.assert_array_equal(scores.looks, [[0.5, 0.6], [0.8, 0.8]])
    np.testing.assert_array_equal(scores.scores, [0.7, 0.6])
    np.testing.assert_array_equal(scores.report, [0.3, 0.9])


@pytest.mark.parametrize("metric", ["accuracy", "validation_matched_accuracy"])
def test_without_halves_nothing_reports(tmp_path, metric):
    run = leave_run(tmp_path, metric=metric)
    write_json(tmp_path / "runs" / run.name / "run.json", {**run.to_dict(), "metric": "accuracy"})
    scores = read(tmp_path)
    assert scores.report is None and scores.scores == [0.7]


def test_only_evaluations_that_all_runs_have_are_looks(tmp_path):
    leave_run(tmp_path, 1)
    leave_run(tmp_path, 2, (0.9,), steps=30, planned_steps=30)  # only a look at step 10, and none at the end
    scores = read(tmp_path)
    assert scores.fractions == (1 / 3,) and list(scores.scores) == [0.7, 0.9]


def test_a_diverged_run_that_was_ended_keeps_its_last_score_and_one_without_the_constants(tmp_path):
    leave_run(tmp_path, 1)
    leave_run(tmp_path, 2, (0.45,), status="diverged", steps=10, planned_steps=30)
    leave_run(tmp_path, 3, (None, None, None), status="diverged")
    scores = read(tmp_path)
    np.testing.assert_array_equal(scores.looks, [[0.5, 0.6], [0.45, 0.45], [0.4, 0.4]])
    np.testing.assert_array_equal(scores.scores, [0.7, 0.45, 0.4])
    assert scores.diverged == 2


def test_crashed_and_unfinished_runs_are_left_out_and_counted(tmp_path):
    leave_run(tmp_path, 1)
    for seed in (2, 3, 4):
        (tmp_path / f"runs/a/seed-00{seed}").mkdir()
        (tmp_path / f"runs/a/seed-00{seed}/config.json").write_text("{}")
    (tmp_path / "runs/a/seed-002/error.txt").write_text("Traceback")
    scores = read(tmp_path)
    assert (len(scores.runs), scores.crashed, scores.unfinished) == (1, 1, 2)


def test_a_recipe_with_runs_that_an_alarm_stopped_is_refused_and_another_is_not(tmp_path):
    leave_run(tmp_path, 1)
    leave_run(tmp_path, 2, (0.4,), status="stopped", planned_steps=30)
    leave_run(tmp_path, 1, recipe="b")
    with pytest.raises(
        InputError, match="a: 1 of 2 runs were stopped by an alarm .*How they would have ended is unknown"
    ):
        read(tmp_path)
    assert list(read(tmp_path, "b").scores) == [0.7]


def test_what_cannot_be_read_is_named(tmp_path):
    run = leave_run(tmp_path)
    path = tmp_path / "runs" / run.name / "metrics.json"
    for content in ("{", '{"evaluations": [{"step": 10, "eval_f1": 0.3}]}'):
        path.write_text(content)
        with pytest.raises(InputError, match="seed-001/metrics.json: cannot be read"):
            read(tmp_path)
    path.write_text('{"evaluations": []}')
    with pytest.raises(InputError, match="a/seed-001: it was never evaluated"):
        read(tmp_path)


def test_recipes_are_those_asked_for_in_that_order(tmp_path):
    for recipe in ("a", "b", "c"):
        leave_run(tmp_path, recipe=recipe)
    assert list(read_recipes(tmp_path)) == ["a", "b", "c"] and list(read_recipes(tmp_path, ["c", "a"])) == ["c", "a"]
    with pytest.raises(InputError, match="--recipe d: no finished run in "):
        read_recipes(tmp_path, ["d"])
    with pytest.raises(InputError, match="nowhere: no finished run; give a study's folder"):
        read_recipes(tmp_path / "nowhere")
