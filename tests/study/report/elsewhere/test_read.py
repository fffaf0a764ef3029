"""Runs made elsewhere become run records. The folders are written by hand, and by a real Trainer in the slow test."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.errors import InputError
from hf_stability.study.records import RunRecord
from hf_stability.study.report.elsewhere.read import from_scores, read_scores_file, read_trainer_folders
from hf_stability.study.report.export import exported
from hf_stability.study.report.printed import printed_summary
from hf_stability.study.report.summary import summarize
from hf_stability.study.report.summary_page import to_markdown
from hf_stability.verdicts.verdict import judge


MAJORITY = 146 / 277
"""RTE: 146 of its 277 development examples are of the larger class."""

CONFIG = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "a", "1": "b", "2": "c"},
}


def evaluation(step: int, **scores: float) -> dict:
    return {"step": step, "eval_runtime": 0.5, "eval_samples_per_second": 80.0, "eval_loss": 0.5} | {
        f"eval_{name}": score for name, score in scores.items()
    }


def state_of(*scores: float, metric: str = "accuracy", every: int = 10, **values) -> dict:
    """A `trainer_state.json`: an evaluation every 10 update steps, and a logged loss before each."""
    log = []
    for number, score in enumerate(scores, 1):
        log.append({"step": number * every, "loss": 1 / number, "grad_norm": 1.0, "learning_rate": 1e-5})
        log.append(evaluation(number * every, **{metric: score}))
    steps = every * len(scores)
    return {"log_history": log, "global_step": steps, "max_steps": steps, "trial_params": None} | values


def write(folder: Path, name: str, content: object) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def trainer_folder(folder: Path, *scores: float, **values) -> Path:
    return write(folder, "trainer_state.json", state_of(*scores, **values))


def only_run(pattern: Path | str, **given) -> RunRecord:
    (run,) = read_trainer_folders([str(pattern)], **given)
    return run


# ---- Trainer folders ------------------------------------------------------------------------------------------------


def test_a_folders_scores_steps_and_seed(tmp_path):
    trainer_folder(tmp_path / "out" / "seed-7", 0.6, 0.9, 0.7)
    run = only_run(tmp_path / "out" / "*")
    assert (run.recipe, run.seed, run.metric, run.last, run.best) == ("out", 7, "accuracy", 0.7, 0.9)
    assert (run.steps, run.planned_steps, run.evaluations, run.accuracy) == (30, 30, 3, 0.7)
    assert run.train_loss == pytest.approx(1 / 3)  # logged at step 30, in the last tenth
    assert run.metrics == {"eval_loss": 0.5, "eval_accuracy": 0.7} and run.id == str(tmp_path / "out" / "seed-7")
    assert run.status == "unjudged" and run.baseline is None and "no baseline is known" in run.sentence


@pytest.mark.parametrize(
    ("folder", "pattern", "recipe", "seed"),
    [
        ("out/run1", "out/*", "out", None),
        ("out/42", "out/*", "out", None),
        ("out/seed_3", "out/*", "out", 3),
        ("out/bert_seed-03", "out/*", "bert", 3),
        ("out/bert-seed3-lr2e-5", "out/*", "bert-lr2e-5", 3),
        ("out/bert-a", "out/bert-*", "bert", None),
        ("out/seed1", "out/seed*", "out", 1),
        ("out/seed1", "mine=out/*", "mine", 1),
        ("lr=1e-5/seed1", "lr=1e-5/*", "lr=1e-5", 1),
        ("a/dataseed1_seed2", "a/*", "a_dataseed1", 2),
        ("a/seed1_seed2", "a/*", "a", None),
    ],
)
def test_recipe_and_seed_from_the_names(tmp_path, monkeypatch, folder, pattern, recipe, seed):
    monkeypatch.chdir(tmp_path)
    trainer_folder(Path(folder), 0.7)
    run = only_run(pattern)
    assert run.known_seed == seed
    assert run.recipe == recipe or (recipe == "a_dataseed1" and run.recipe == "dataseed1")


def test_other_places_of_the_seed(tmp_path):
    trainer_folder(tmp_path / "trial", 0.7, trial_params={"seed": 5, "learning_rate": 1e-5})
    assert only_run(tmp_path / "trial").seed == 5
    write(trainer_folder(tmp_path / "card", 0.7), "README.md", "### Training\n- learning_rate: 2e-05\n- seed: 42\n")
    assert only_run(tmp_path / "card").seed == 42


def test_unknown_seeds_differ_and_are_shown_as_unknown(tmp_path):
    for name in ("a", "b"):
        for run in ("x", "y"):
            trainer_folder(tmp_path / name / run, 0.7)
    runs = read_trainer_folders([str(tmp_path / "*" / "*")])
    assert [run.recipe for run in runs] == ["a", "a", "b", "b"] and [run.seed for run in runs] == [-1, -2, -3, -4]
    assert runs[3].known_seed is None and runs[3].name == "b/seed-unknown-4"


def test_the_newest_checkpoint_counts_where_the_folder_has_no_state(tmp_path):
    for number, scores in ((20, (0.6, 0.7)), (100, (0.6, 0.7, 0.5))):
        write(
            tmp_path / f"checkpoint-{number}",
            "trainer_state.json",
            state_of(*scores, max_steps=30),
        )
    assert (only_run(tmp_path).last, only_run(tmp_path).steps) == (0.5, 30)


def test_the_evaluation_after_the_last_step_counts_not_the_best_checkpoints(tmp_path):
    """With `load_best_model_at_end`, `trainer.evaluate()` after training is of the best checkpoint."""
    state = state_of(0.9, 0.6, best_metric=0.9, best_global_step=10)
    state["log_history"] += [{"step": 20, "train_runtime": 5.0}, evaluation(20, accuracy=0.9)]
    write(tmp_path, "trainer_state.json", state)
    write(tmp_path, "eval_results.json", {"eval_accuracy": 0.9, "eval_samples": 277})
    run = only_run(tmp_path)
    assert (run.last, run.best, run.evaluations) == (0.6, 0.9, 2)


def test_the_evaluation_after_training_counts_where_there_is_no_other(tmp_path):
    state = state_of(global_step=20, max_steps=20, best_metric=0.9, best_global_step=10)
    write(tmp_path, "trainer_state.json", state)
    write(tmp_path, "all_results.json", {"eval_accuracy": 0.9, "eval_samples": 277, "epoch": 3, "train_loss": 0.1})
    run = only_run(tmp_path)
    assert run.last == 0.9 and "with load_best_model_at_end, of the best checkpoint" in run.sentence


def test_result_files_alone_are_enough(tmp_path):
    write(tmp_path, "eval_results.json", {"eval_accuracy": 0.8, "eval_runtime": 1.0})
    run = only_run(tmp_path)
    assert (run.last, run.steps, run.evaluations, run.best) == (0.8, 0, 0, None)


def test_a_last_evaluation_before_the_last_step_is_told(tmp_path):
    trainer_folder(tmp_path, 0.6, 0.7, global_step=25, max_steps=25)
    run = only_run(tmp_path)
    assert run.last == 0.7 and "its last evaluation is at step 20 of 25" in run.sentence


def test_a_training_that_has_not_ended_has_no_score(tmp_path):
    trainer_folder(tmp_path / "out" / "seed1", 0.6, 0.7, max_steps=100)
    trainer_folder(tmp_path / "out" / "seed2", 0.8)
    (tmp_path / "out" / "logs").mkdir()
    runs = {Path(run.id).name: run for run in read_trainer_folders([str(tmp_path / "out" / "*")])}
    assert (runs["seed1"].status, runs["seed1"].last) == ("unknown", None)
    assert "step 20 of 100" in runs["seed1"].sentence and runs["logs"].status == "unknown"
    (figures,) = summarize(list(runs.values()))["recipes"]
    assert (figures["unknown"], figures["runs"], figures["mean"]) == (2, 1, 0.8)


@pytest.mark.parametrize("ended_by", ["callback", "runtime", "results"])
def test_early_stopping_by_the_trainers_own_callback_is_an_end(tmp_path, ended_by):
    patience = {"args": {"early_stopping_patience": 2}, "attributes": {"early_stopping_patience_counter": 2}}
    state = state_of(0.6, 0.7, max_steps=100)
    if ended_by == "callback":
        state["stateful_callbacks"] = {"EarlyStoppingCallback": patience}
    elif ended_by == "runtime":
        state["log_history"].append({"step": 20, "train_runtime": 5.0})
    else:
        write(tmp_path, "all_results.json", {"train_runtime": 5.0})
    write(tmp_path, "trainer_state.json", state)
    run = only_run(tmp_path)
    assert run.last == 0.7 and run.status == "unjudged"
    assert ("EarlyStoppingCallback ended the training at step 20 of 100" in run.sentence) == (ended_by == "callback")


def test_nan_is_divergence_unless_only_a_batch_had_no_labels(tmp_path):
    for name, entry in {
        "norm": {"loss": float("nan"), "grad_norm": float("nan")},
        "loss": {"loss": float("nan")},
        "batch": {"loss": float("nan"), "grad_norm": 1.0},
        "eval": {"loss": 0.5},
    }.items():
        state = state_of(0.5)
        state["log_history"][0] = {"step": 10, **entry}
        if name == "eval":
            state["log_history"][1]["eval_loss"] = float("nan")
        write(tmp_path / "out" / name, "trainer_state.json", state)
    runs = {Path(run.id).name: run for run in read_trainer_folders([str(tmp_path / "out" / "*")])}
    diverged = {name for name, run in runs.items() if run.status == "diverged"}
    assert diverged == {"norm", "loss", "eval"} and "eval_loss at step 10" in runs["eval"].sentence
    (figures,) = summarize(list(runs.values()))["recipes"]
    assert figures["failed"] == 3 and figures["failed_share"] is None
    assert (figures["failed_share_if_all_heal"], figures["failed_share_if_all_fail"]) == (0.75, 1.0)
    json.dumps([run.to_dict() for run in runs.values()], allow_nan=False)


def test_the_callbacks_own_verdict_counts(tmp_path):
    labels = np.repeat([0, 1], [131, 146])
    verdict = judge(eval_labels=labels, eval_predictions=np.ones(277, dtype=int), metric="accuracy", score=MAJORITY)
    write(trainer_folder(tmp_path, MAJORITY), "stability/verdict.json", verdict.to_dict())
    run = only_run(tmp_path)
    assert (run.status, run.sentence, run.baseline) == ("failed", verdict.sentence, MAJORITY)
    assert only_run(tmp_path, baseline=0.4).status == "ok"  # the given baseline decides


def test_an_accuracy_of_a_third_has_failed_with_three_classes_whatever_the_data(tmp_path):
    for name, score in (("seed1", 1 / 3), ("seed2", 0.34)):
        write(trainer_folder(tmp_path / "out" / name, score), "config.json", CONFIG)
    first, second = read_trainer_folders([str(tmp_path / "out" / "*")])
    assert (first.status, second.status) == ("failed", "unjudged") and "1/3" in first.sentence
    write(tmp_path / "out" / "seed1", "config.json", CONFIG | {"problem_type": "regression"})
    assert read_trainer_folders([str(tmp_path / "out" / "*")])[0].status == "unjudged"


def test_a_baseline_of_zero_is_known_for_matthews(tmp_path):
    for seed, score in enumerate((0.0, 0.4, -0.1)):
        trainer_folder(tmp_path / "out" / f"seed{seed}", score, metric="matthews_correlation")
    runs = read_trainer_folders([str(tmp_path / "out" / "*")])
    assert [run.status for run in runs] == ["failed", "ok", "failed"] and runs[1].baseline == 0


# ---- the headline metric --------------------------------------------------------------------------------------------


def two_metrics(folder: Path, **values) -> Path:
    state = state_of(0.6, 0.7, **values)
    for entry, f1 in zip(state["log_history"][1::2], (0.8, 0.75), strict=True):
        entry["eval_f1"] = f1
    return write(folder, "trainer_state.json", state)


def test_the_metric_is_the_wanted_one_or_that_which_selected_checkpoints(tmp_path):
    two_metrics(tmp_path, best_metric=0.8, best_global_step=10)
    assert only_run(tmp_path).metric == "f1"
    assert only_run(tmp_path, metric="eval_accuracy").last == 0.7
    two_metrics(tmp_path, best_metric=0.5, best_global_step=10)  # the loss
    with pytest.raises(InputError, match=r"several metrics \(accuracy, f1\).*--metric accuracy"):
        only_run(tmp_path)


# ---- wrong input ----------------------------------------------------------------------------------------------------


def refused(call, *words: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_wrong_folders_are_one_line(tmp_path):
    def read(*patterns, **given):
        return lambda: read_trainer_folders([str(tmp_path / pattern) for pattern in patterns], **given)

    refused(read("out/*"), f"--runs {tmp_path}/out/*: no folder matches", "in quotes")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    refused(read("empty/*"), "1 folder, but no file of a Trainer")
    folder = trainer_folder(tmp_path / "out" / "seed1", 0.7)
    refused(read("out/*", "out/seed1"), "two patterns match")
    refused(read("out/*", metric="acuracy"), "--metric acuracy", "has none (did you mean accuracy?)")
    refused(read("out/*", metric="eval_loss"), "--metric loss: smaller is better", "give one of accuracy")
    write(folder / "checkpoint-20", "trainer_state.json", state_of(0.6, 0.7))
    refused(read("out/seed1/*"), "a checkpoint is a part of one run", str(folder))
    trainer_folder(tmp_path / "out" / "bert_seed1", 0.7)
    trainer_folder(tmp_path / "out" / "bert-seed1", 0.7)
    refused(read("out/*"), "a second run of bert with seed 1", "bert-seed1", "bert_seed1", "NAME=PATTERN")
    refused(read("out/seed1", baseline=53.0), "--baseline 53: the scores are shares", "--baseline 0.53")
    refused(read("out/seed1", baseline=float("nan")), "--baseline nan")
    write(tmp_path / "study", "run.json", {})
    refused(read("study"), "a run of a study")
    for name, content in {
        "cut": '{"log_history": [',
        "list": [],
        "other": {"a": 1},
        "types": {"log_history": {}, "global_step": 1, "max_steps": 1},
    }.items():
        write(tmp_path / name, "trainer_state.json", content)
        refused(read(name), str(tmp_path / name / "trainer_state.json"))
    write(tmp_path / "out" / "seed1", "stability/verdict.json", {"schema": "hf_stability.verdict/9"})
    refused(read("out/seed1"), "verdict.json: verdict schema")


def test_runs_that_cannot_be_in_one_report_are_refused(tmp_path):
    trainer_folder(tmp_path / "a" / "seed1", 0.7)
    trainer_folder(tmp_path / "a" / "seed2", 0.7, metric="f1")
    refused(lambda: read_trainer_folders([f"{tmp_path}/a/*"]), "no metric that all runs have", "seed1", "seed2")
    loss = state_of(0.5, metric="loss")
    write(tmp_path / "loss", "trainer_state.json", loss)
    refused(lambda: only_run(tmp_path / "loss"), "the only metric is loss: smaller is better")
    write(tmp_path / "none", "trainer_state.json", state_of(global_step=5, max_steps=5))
    refused(lambda: only_run(tmp_path / "none"), "no finished run has an evaluation")
    for name, config in {
        "x1": CONFIG,
        "x2": CONFIG | {"model_type": "roberta"},
        "y1": CONFIG | {"id2label": {"0": "a", "1": "b"}},
    }.items():
        write(trainer_folder(tmp_path / name / "seed1", 0.7), "config.json", config)
    patterns = [f"m={tmp_path}/x1/*", f"m={tmp_path}/x2/*"]
    refused(lambda: read_trainer_folders(patterns), "a bert model", "a roberta model", "NAME=PATTERN")
    assert [run.recipe for run in read_trainer_folders(["p=" + patterns[0][2:], "q=" + patterns[1][2:]])] == ["p", "q"]
    refused(lambda: read_trainer_folders([f"{tmp_path}/x1/*", f"{tmp_path}/y1/*"]), "3 classes", "has 2")


# ---- a baseline -----------------------------------------------------------------------------------------------------


def test_scores_without_a_baseline_have_a_mean_but_no_failed_share():
    scores = [0.5, 0.7, 0.72, 0.74]
    summary = summarize(from_scores({"a": scores, "b": [0.6, 0.8, 0.9]}, "accuracy"))
    figures = summary["recipes"][0]
    assert figures["mean"] == pytest.approx(statistics.fmean(scores)) and figures["runs"] == 4
    assert figures["std"] == pytest.approx(statistics.stdev(scores))
    assert figures["failed_share"] is figures["failed_share_low"] is figures["std_ok"] is None
    assert (figures["failed_share_if_all_heal"], figures["failed_share_if_all_fail"]) == (0, 1)
    (comparison,) = summary["comparisons"]
    assert comparison["fisher_p"] is None and comparison["brown_forsythe"]["p"] is not None
    assert "no baseline tells which runs failed" in comparison["sentence"]
    printed = printed_summary(summary, "results")
    assert "a vs b: failed shares not known; std of all runs" in printed and "failed 0 of" not in printed
    text = to_markdown(summary)
    assert "not known" in text and "Give --baseline." in text and "none failed" not in text


def test_one_unjudged_run_makes_the_figures_of_runs_that_did_not_fail_unknown():
    runs = from_scores({"a": [0.7, 0.8], "b": [0.7, 0.8]}, "accuracy", baseline=0.5)
    runs += from_scores({"a": [0.5]}, "accuracy")
    first, second = summarize(runs)["recipes"]
    assert (first["unjudged"], first["std_ok"], first["failed_share"], first["scores"]) == (1, None, None, 3)
    assert second["std_ok"] is not None and second["failed_share"] == 0 and "unjudged" not in second


def test_with_a_baseline_the_failed_share_is_that_of_the_scores_at_or_below_it():
    runs = from_scores({"a": [0.5271, 0.527, 0.50, 0.531]}, "accuracy", baseline=MAJORITY)
    assert [run.status for run in runs] == ["failed", "failed", "failed", "ok"]  # 0.5271 is 146/277, rounded
    (figures,) = summarize(runs)["recipes"]
    assert figures["failed_share"] == 0.75 and "unjudged" not in figures


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.99))
def test_a_verdict_agrees_with_the_comparison_of_the_numbers(scores, baseline):
    for run in from_scores({"a": scores}, "accuracy", baseline):
        if abs(run.last - baseline) > 1e-3:  # closer ones may agree in rounding
            assert run.status == ("failed" if run.last < baseline else "ok")


def test_a_baseline_with_few_decimals_is_warned_of(caplog):
    from_scores({"a": [0.6838, 0.9]}, "accuracy", baseline=0.68)
    assert "--baseline 0.68: 1 of 2 runs" in caplog.text
    refused(lambda: from_scores({"a": [68.4]}, "accuracy", baseline=0.68), "a percentage", "--baseline 68")


# ---- tables of scores -----------------------------------------------------------------------------------------------


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_csv_of_scores(tmp_path):
    path = table(tmp_path / "s.csv", "recipe,seed,eval_accuracy", "a,1,0.7", "a,2,0.5", "b,,0.8")
    runs = read_scores_file(path, baseline=0.6)
    assert [(run.recipe, run.known_seed, run.last, run.status) for run in runs] == [
        ("a", 1, 0.7, "ok"),
        ("a", 2, 0.5, "failed"),
        ("b", None, 0.8, "ok"),
    ]
    assert runs[0].metric == "accuracy" and runs[0].id == f"{path}, line 2"


def test_json_and_a_status_column(tmp_path):
    rows = [
        {"recipe": "a", "seed": 1, "accuracy": 0.7, "f1": 0.6, "status": ""},
        {"recipe": "a", "seed": 2, "accuracy": None, "f1": None, "status": "diverged"},
        {"recipe": "a", "seed": 3, "accuracy": None, "f1": None, "status": "crashed"},
    ]
    path = write(tmp_path, "s.json", rows) / "s.json"
    runs = read_scores_file(path, metric="accuracy", baseline=0.5)
    assert [run.status for run in runs] == ["ok", "diverged", "crashed"]
    (figures,) = summarize(runs)["recipes"]
    assert (figures["failed"], figures["crashed"], figures["runs"], figures["mean"]) == (1, 1, 2, 0.7)


def test_an_exported_study_reads_back_as_the_same_figures(tmp_path):
    values = {"metric": "accuracy", "task": "rte", "baseline": 0.5, "steps": 30, "planned_steps": 30, "evaluations": 3}
    runs = [
        RunRecord("1", "a", 1, status="ok", last=0.7, best=0.75, metrics={"eval_accuracy": 0.7}, **values),
        RunRecord("2", "a", 2, status="failed", last=0.5, best=0.6, metrics={"eval_accuracy": 0.5}, **values),
        RunRecord("3", "b", 1, status="diverged", sentence='diverged: NaN, "here"', **values),
        RunRecord("4", "b", 2, status="stopped", alarm_step=12, **values),
    ]
    path = tmp_path / "runs.csv"
    path.write_bytes(exported(runs, "csv"))
    before, after = summarize(runs), summarize(read_scores_file(path))
    assert after["recipes"] == before["recipes"] and after["comparisons"] == before["comparisons"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("recipe,accuracy", "a,0.7"), ["no column seed (only recipe, accuracy)"]),
        (("recipe,seed", "a,1"), ["no column of numbers besides recipe and seed"]),
        (("recipe,seed,accuracy,f1", "a,1,0.7,0.8"), ["several metrics (accuracy, f1)", "--metric accuracy"]),
        (("recipe,seed,loss", "a,1,0.7"), ["the only metric is loss: smaller is better"]),
        (("recipe,seed,accuracy", "a,1,0.7", "a,1,0.8"), ["line 3: a second run of a with seed 1", "line 2"]),
        (("recipe,seed,accuracy", "a,1,0.7", ",2,0.8"), ["line 3: no recipe"]),
        (("recipe,seed,accuracy", "a,1,0.7", "a,x,0.8"), ["line 3: column seed: 'x' is not a finite number"]),
        (("recipe,seed,accuracy", "a,1.5,0.7"), ["line 2: column seed: 1.5 is not a whole number"]),
        (("recipe,seed,accuracy", "a,1,0.7", "a,2,"), ["line 3: no score in column accuracy"]),
        (("recipe,seed,accuracy", "a,1,0.7", "a,2,nan"), ["line 3: no score in column accuracy"]),
        (("recipe,seed,accuracy", "a,1,inf"), ["line 2: column accuracy: 'inf' is not a finite number"]),
        (("recipe,seed,accuracy,status", "a,1,0.7,fail"), ["line 2: status 'fail' (did you mean failed?)"]),
        (("recipe,seed,accuracy", "a,1"), ["line 2: 2 columns, expected 3"]),
        (("recipe;seed;accuracy", "a;1;0.7"), ["columns separated by semicolons"]),
        (("recipe,seed,metric,last", "a,1,accuracy,0.7", "a,2,f1,0.8"), ["2 metrics in column metric (accuracy, f1)"]),
    ],
)
def test_wrong_tables_are_one_line(tmp_path, lines, words):
    path = table(tmp_path / "s.csv", *lines)
    refused(lambda: read_scores_file(path), f"{path}", *words)


def test_a_wrong_cell_of_the_wanted_metric_is_named(tmp_path):
    path = table(tmp_path / "s.csv", "recipe,seed,accuracy", "a,1,0.7", "a,2,much")
    refused(lambda: read_scores_file(path, metric="accuracy"), "line 3: column accuracy: 'much'")
    refused(lambda: read_scores_file(path), "line 3: column accuracy: 'much'")
    refused(lambda: read_scores_file(path, metric="f1"), "--metric f1", "has none")
    refused(lambda: read_scores_file(tmp_path / "gone.csv"), "--scores", "no such file")


# ---- dicts of arrays ------------------------------------------------------------------------------------------------


def test_a_dict_of_arrays():
    scores = {"a": np.array([[0.1, 0.7], [0.2, 0.8]]), "b": np.array([[0.3, 0.9]])}
    runs = from_scores(scores, "accuracy", task=1)
    assert [(run.recipe, run.last, run.task) for run in runs] == [
        ("a", 0.7, "task 1"),
        ("a", 0.8, "task 1"),
        ("b", 0.9, "task 1"),
    ]
    assert [run.seed for run in runs] == [-1, -2, -3]
    assert [run.seed for run in from_scores({"a": [0.1, 0.2], "b": [[0.1], [0.2]]}, seeds=[4, 5])] == [4, 5, 4, 5]


@pytest.mark.parametrize(
    ("scores", "given", "words"),
    [
        ({"a": [[0.1, 0.2]]}, {}, ["2 tasks", "task=0 to task=1"]),
        ({"a": [[0.1, 0.2]]}, {"task": 2}, ["task 2"]),
        ({"a": [0.1, np.nan]}, {}, ["finite"]),
        ({"a": []}, {}, ["need finite numbers"]),
        ({}, {}, ["empty dict"]),
        ({"a": [0.1]}, {"seeds": [1, 2]}, ["1 runs, but 2 seeds"]),
        ({"a": [0.1, 0.2]}, {"seeds": [1, 1]}, ["a second run of a with seed 1"]),
        ({"a": [0.1]}, {"metric": "eval_loss"}, ["smaller is better"]),
    ],
)
def test_wrong_dicts_are_one_line(scores, given, words):
    refused(lambda: from_scores(scores, **given), *words)


# ---- the real thing -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_folders_of_a_real_trainer(tmp_path):
    """Five runs of the Trainer alone, one with early stopping, one with the callback, one with checkpoints only."""
    from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

    from hf_stability import StabilityCallback
    from tests import toy

    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "save_strategy": "epoch"}
    scores = {}
    for seed in range(5):
        given = toy.QUIET | {"num_train_epochs": 3, "eval_strategy": "epoch", "seed": seed, "logging_steps": 1}
        given |= best if seed in (1, 2) else {}
        if seed == 1:  # never better than at first
            given |= {"num_train_epochs": 20, "learning_rate": 1e-9}
        args = TrainingArguments(str(tmp_path / "out" / f"seed-{seed}"), **given)
        callbacks = {1: [EarlyStoppingCallback(2)], 3: [StabilityCallback()]}.get(seed)
        trainer = toy.train(Trainer, args, callbacks)
        log = trainer.state.log_history
        scores[seed] = [entry["eval_accuracy"] for entry in log if "eval_accuracy" in entry][-1]
        if seed not in (1, 2):
            trainer.save_state()
        if seed == 4:
            trainer.save_metrics("eval", trainer.evaluate())
            trainer.save_model()
    runs = read_trainer_folders([str(tmp_path / "out" / "*")])
    assert {run.seed: run.last for run in runs} == scores
    assert [run.metric for run in runs] == ["accuracy"] * 5 and all(run.recipe == "out" for run in runs)
    assert "EarlyStoppingCallback ended the training at step" in runs[1].sentence
    assert runs[2].steps == runs[2].planned_steps == 24 and runs[2].evaluations == 3
    assert runs[3].status in ("ok", "failed") and runs[3].baseline is not None
    assert all(run.train_loss is not None for run in runs if run.seed != 1)
    (figures,) = summarize(read_trainer_folders([str(tmp_path / "out" / "*")], baseline=0.99))["recipes"]
    assert figures["failed"] == figures["runs"] == 5
