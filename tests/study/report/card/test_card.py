"""Model cards of hand-made studies: nothing is trained here. huggingface_hub's own ModelCard reads every card back."""

from __future__ import annotations

import re
import statistics
from dataclasses import replace

import numpy as np
import pytest
from huggingface_hub import ModelCard
from scipy import stats

from hf_stability.errors import InputError
from hf_stability.study.folder import prune_models
from hf_stability.study.job import Job
from hf_stability.study.records import RunRecord
from hf_stability.study.report.card import source as card_source
from hf_stability.study.report.card.card import MADE_HERE, card_text, write_card
from hf_stability.study.report.card.source import read_source
from hf_stability.utils.files import write_json


SCORES = (0.70, 0.72, 0.53, 0.74, 0.71)
"""By seed, from 1 on. The third run failed."""

JOB = Job(
    recipe="mosbach2021",
    seed=1,
    task="rte",
    args={"learning_rate": 2e-5, "num_train_epochs": 20.0, "max_steps": 40, "deepspeed": "/home/anna/zero.json"},
    model_config={"hidden_dropout_prob": 0.1},
    model_fingerprint="a" * 64,
    data_fingerprint="b" * 64,
    model="bert-large-uncased",
    keep_model="failed_and_best",
    sources={
        "learning_rate": "recipe mosbach2021",
        "num_train_epochs": "recipe mosbach2021",
        "max_steps": "--max_steps",
        "deepspeed": "--deepspeed",
        "model_config.hidden_dropout_prob": "recipe devlin2019",
    },
)
VERSIONS = {"hf_stability": "0.1.0", "torch": "2.13.0"}


def leave_run(folder, seed, last, report=None, examples=277, job=JOB, model=False, **values):
    """A run as a study leaves it: its settings, its record, its predictions, and perhaps its model."""
    prefix = "eval_" if report is None else "eval_first_"
    metrics = {f"{prefix}accuracy": last, f"{prefix}loss": 0.5}
    if report is not None:
        metrics["eval_second_accuracy"] = report
    status = "ok" if last is not None and last > 0.53 else "failed"
    given = {"status": status, "baseline": 0.53, "accuracy": last, "metric": "accuracy", "steps": 40}
    given |= {
        "planned_steps": 40,
        "evaluations": 3,
        "sentence": f"{status}: seed {seed}.",
        "metrics": metrics,
        **values,
    }
    run = RunRecord(f"id{seed}", job.recipe, seed, job.task, last=last, **given)
    path = folder / "runs" / run.name
    (path / "model").mkdir(parents=True)
    write_json(path / "config.json", {"id": job.id, "job": replace(job, seed=seed).to_dict(), "versions": VERSIONS})
    write_json(path / "run.json", run.to_dict())
    np.savez(path / "predictions.npz", labels=np.zeros(examples))
    if model:
        leave_model(path / "model")
    return run


def leave_model(folder):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "training_args.bin"):
        (folder / name).write_text(name)


def leave_study(folder):
    """Five seeds of one recipe on RTE; the best is seed 4, and only its model is kept."""
    for seed, score in enumerate(SCORES, 1):
        leave_run(folder, seed, score, model=seed == 4)
    return folder


def know_models(monkeypatch, *names):
    """Names of models on the hub that this machine seems to have downloaded."""
    cached = "huggingface_hub.try_to_load_from_cache"
    monkeypatch.setattr(cached, lambda name, file: f"/cache/{file}" if name in names else None)


@pytest.fixture(autouse=True)
def downloaded(monkeypatch):
    know_models(monkeypatch, "bert-large-uncased")


@pytest.fixture
def study(tmp_path):
    return leave_study(tmp_path)


def read_back(text, tmp_path):
    """A card as huggingface_hub reads it, from a file."""
    (tmp_path / "card.md").write_text(text)
    return ModelCard.load(tmp_path / "card.md")


def metadata(source, tmp_path):
    return read_back(card_text(source), tmp_path).data


# ---- the metadata ---------------------------------------------------------------------------------------------------


def test_the_metadata_are_read_back_by_the_hubs_own_classes(study, tmp_path):
    text = card_text(read_source(study))
    data = read_back(text, tmp_path).data
    assert str(read_back(text, tmp_path)) == text  # nothing is lost or changed
    assert data.base_model == "bert-large-uncased" and data.datasets == ["nyu-mll/glue"]
    assert data.library_name == "transformers" and data.pipeline_tag == "text-classification"
    assert data.metrics == ["accuracy"] and data.tags == ["generated_from_trainer", "hf_stability"]
    assert data.license is None and data.language is None  # the study does not tell
    assert {(r.dataset_type, r.dataset_config, r.dataset_split) for r in data.eval_results} == {
        ("nyu-mll/glue", "rte", "validation")
    }


def test_the_figures_are_those_of_the_runs(study, tmp_path):
    """Mean and std against `statistics`, the interval against scipy."""
    source = read_source(study)
    values = {result.metric_type: result.metric_value for result in metadata(source, tmp_path).eval_results}
    assert values == {
        "accuracy": 0.74,
        "accuracy_mean": pytest.approx(statistics.mean(SCORES)),
        "accuracy_std": pytest.approx(statistics.stdev(SCORES)),
        "failed_share": 0.2,
    }
    low, high = stats.binomtest(1, 5).proportion_ci(method="wilson")
    text = card_text(source)
    assert row(text, "failed = share (95% interval)") == f"1 = 0.20 ({low:.2f}-{high:.2f})"
    assert row(text, "mean") == "0.680" and row(text, "runs") == "5"
    assert row(text, "std of runs that did not fail") == f"{statistics.stdev(s for s in SCORES if s > 0.6):.3f}"
    assert "include the failed ones" in text and "277 examples" in text and "prediction scores 0.530" in text


def row(text, name):
    """The second cell of a table's row."""
    return re.search(rf"^\| {re.escape(name)} +\| (.*?) +\|", text, re.M)[1]


def test_names_are_left_out_where_they_are_unknown(study, tmp_path, monkeypatch):
    know_models(monkeypatch)  # `bert-large-uncased` may have been a folder
    source = read_source(study)
    assert metadata(source, tmp_path).base_model is None and "--base_model" in source.left_out[0]
    assert "--model_name_or_path MODEL " in card_text(source) and "`bert-large-uncased`" in card_text(source)
    named = read_source(study, base_model="anna/bert")
    assert metadata(named, tmp_path).base_model == "anna/bert" and named.left_out == []


def test_the_users_own_data_have_no_name_unless_it_is_given(tmp_path):
    leave_run(tmp_path, 1, 0.7, job=replace(JOB, task="custom"))
    source = read_source(tmp_path)
    data = metadata(source, tmp_path)
    assert data.datasets is None and data.eval_results is None and "--dataset" in source.left_out[0]
    text = card_text(source)
    assert all(flag in text for flag in ("--train_file TRAIN_FILE", "--validation_file VALIDATION_FILE"))
    assert "--text_column_names" in text
    results = metadata(read_source(tmp_path, dataset="anna/reviews"), tmp_path).eval_results
    assert {(r.dataset_type, r.dataset_name, r.dataset_split) for r in results} == {
        ("anna/reviews", "anna/reviews", None)
    }


@pytest.mark.parametrize(("examples", "split"), [(277, "validation"), (100, None)])
def test_a_part_of_glues_development_set_is_not_called_by_its_name(tmp_path, examples, split):
    leave_run(tmp_path, 1, 0.7, examples=examples)
    source = read_source(tmp_path)
    assert {result.dataset_split for result in metadata(source, tmp_path).eval_results} == {split}
    assert ("not the whole development set" in card_text(source)) is (split is None)


@pytest.mark.parametrize(
    ("metric", "hub", "kind"),
    [
        ("matthews_correlation", ["accuracy", "matthews_correlation"], "matthews_correlation"),
        ("pearson_and_spearman", ["pearsonr", "spearmanr"], "pearson_and_spearman"),
    ],
)
def test_metrics_have_the_names_of_the_hub(tmp_path, metric, hub, kind):
    keys = ("pearson", "spearman") if metric.startswith("pearson") else ("accuracy",)
    metrics = dict.fromkeys([f"eval_{metric}", *(f"eval_{key}" for key in keys)], 0.7)
    leave_run(tmp_path, 1, 0.7, metric=metric, metrics=metrics, accuracy=None if "pearson" in metric else 0.7)
    data = metadata(read_source(tmp_path), tmp_path)
    assert data.metrics == hub and data.eval_results[0].metric_type == kind
    text = card_text(read_source(tmp_path))
    assert ("its R2 is 0 or less" in text) is metric.startswith("pearson")


# ---- the run --------------------------------------------------------------------------------------------------------


def test_the_weights_are_those_that_the_study_keeps_as_best(tmp_path):
    runs = [leave_run(tmp_path, seed, score, model=True) for seed, score in ((1, 0.6), (2, 0.8), (3, 0.8))]
    prune_models(tmp_path, runs, "failed_and_best")
    source = read_source(tmp_path)
    assert source.run.seed == 2 and source.model == tmp_path / "runs/mosbach2021/seed-002/model"
    assert [path.parent.name for path in tmp_path.glob("runs/*/*/model")] == ["seed-002"]


def test_the_card_says_that_the_best_run_was_lucky(study):
    text = card_text(read_source(study))
    assert "The weights are those of seed 4 after its last update step: accuracy 0.740 on the development set." in text
    assert "It is the best of 5 runs by its score" in text
    assert "Part of a best score is luck: the mean of all runs is 0.680. No other data scored this run" in text
    assert "> ok: seed 4." in text


def test_a_seed_named_by_hand_has_its_rank(study):
    text = card_text(read_source(study, seed=1))
    assert "Its seed was named by hand. By its score it is number 4 of 5 runs." in text and "> ok: seed 1." in text
    assert (
        "This card describes seed 1: accuracy 0.700 on the development set. The study kept no weights of it." in text
    )


def test_the_half_that_selected_nothing_scores_the_weights(tmp_path):
    for seed, (first, second) in enumerate([(0.70, 0.66), (0.74, 0.68), (0.71, 0.73)], 1):
        leave_run(tmp_path, seed, first, second, examples=138)
    source = read_source(tmp_path)
    results = {result.metric_type: result for result in metadata(source, tmp_path).eval_results}
    assert results["accuracy"].metric_value == 0.68 and "second half" in results["accuracy"].metric_name
    assert results["accuracy_mean"].metric_value == pytest.approx(statistics.mean([0.70, 0.74, 0.71]))
    assert results["accuracy"].dataset_split == "validation"
    text = card_text(source)
    assert "On the second half of the development set, which selected nothing, it has accuracy 0.680." in text
    assert "accuracy 0.740 on the first half of the development set" in text and "--validation_half both" in text
    assert row(text, "mean on the second half") == "0.690"


def test_one_run_shows_no_spread(tmp_path):
    leave_run(tmp_path, 1, 0.7)
    text = card_text(read_source(tmp_path))
    assert "It is the only run with a score. One run does not show how much scores vary over seeds." in text
    assert "std of" not in text and "accuracy_std" not in text


def test_runs_that_were_ended_early_leave_no_failed_share(tmp_path):
    leave_run(tmp_path, 1, 0.7)
    for seed in (2, 3):
        leave_run(tmp_path, seed, None, status="stopped", steps=10, alarm_step=10)
    text = card_text(read_source(tmp_path))
    assert "2 of 3 runs were ended early." in text and "failed_share" not in text and "accuracy_mean" not in text
    assert row(text, "failed share: bounds (95% limits)").startswith("0-0.67") and "Wilson's" not in text


def test_what_no_figure_counts_is_told(tmp_path):
    leave_run(tmp_path, 1, 0.7)
    leave_run(tmp_path, 2, None, status="diverged")
    leave_run(tmp_path, 3, 0.5, status="unknown")
    leave_run(tmp_path, 1, 0.7, job=replace(JOB, recipe="devlin2019"))
    crashed = tmp_path / "runs/mosbach2021/seed-004"
    crashed.mkdir()
    (crashed / "config.json").write_text("{}")
    (crashed / "error.txt").write_text("Traceback")
    text = card_text(read_source(tmp_path, recipe="mosbach2021"))
    assert "Runs that no figure counts: 1 crashed, 1 without a verdict." in text
    assert "1 of 2 runs have no score and count only in the failed share." in text
    assert "The study also ran devlin2019. If this recipe was chosen by these scores" in text


def test_two_way_seeds_are_named_by_their_cell(tmp_path):
    for init in (1, 2):
        leave_run(tmp_path, init * 1000001, 0.7, cell={"init": init, "order": 1, "dropout": 1})
    text = card_text(read_source(tmp_path))
    assert "# rte: mosbach2021, init-01_order-01_dropout-1" in text and "it is too narrow" in text
    assert "--two_way 2 1 1" in text


def test_after_stages_the_base_model_is_that_of_the_first(tmp_path):
    stage = replace(JOB, recipe="mnli", keep_model="encoder")
    write_json_folder(tmp_path / "stages" / stage.name, {"job": stage.to_dict()})
    leave_run(tmp_path, 1, 0.7, job=replace(JOB, model="/home/anna/encoder", stages=(stage.id,)))
    assert read_source(tmp_path).base_model == "bert-large-uncased"
    (tmp_path / "stages" / stage.name / "config.json").unlink()
    assert read_source(tmp_path).base_model is None


def write_json_folder(folder, content):
    folder.mkdir(parents=True)
    write_json(folder / "config.json", content)


# ---- what a reader gets ---------------------------------------------------------------------------------------------


def test_settings_have_their_sources_and_no_folder_of_this_machine(study):
    text = card_text(read_source(study))
    assert re.search(r"^\| learning_rate +\| 2e-05 +\| recipe mosbach2021 +\|$", text, re.M)
    assert re.search(r"^\| model_config.hidden_dropout_prob +\| 0.1 +\| recipe devlin2019 +\|$", text, re.M)
    assert re.search(r"^\| deepspeed +\| zero.json +\| --deepspeed +\|$", text, re.M)
    assert "/home" not in text and str(study) not in text
    assert row(text, "torch") == "2.13.0" and row(text, "SHA-256 of the tokenised data") == "b" * 64


def test_the_same_study_gives_the_same_bytes(study):
    assert card_text(read_source(study)) == card_text(read_source(study))


def test_the_file_of_a_user_is_not_replaced(study, tmp_path):
    text, path = card_text(read_source(study)), tmp_path / "new" / "README.md"
    write_card(text, path)
    write_card(text + "more", path)
    assert path.read_text() == text + "more"
    path.write_text(text.replace(MADE_HERE, ""))
    with pytest.raises(InputError, match="not written by hf-stability card"):
        write_card(text, path)
    with pytest.raises(InputError, match="this is a folder"):
        write_card(text, tmp_path)


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipe": "mosbach"}, r"--recipe mosbach: no finished run in .* \(did you mean mosbach2021\?\)"),
        ({"seed": 9}, "--seed 9: mosbach2021 has no finished run with this seed; its seeds: 1, 2, 3, 4, 5"),
    ],
)
def test_what_is_not_in_the_study_is_refused(study, given, message):
    with pytest.raises(InputError, match=message):
        read_source(study, **given)


def test_studies_without_a_card_are_refused(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        read_source(tmp_path)
    leave_run(tmp_path, 1, None, status="stopped", steps=10)
    with pytest.raises(InputError, match="mosbach2021: no run has a score at its end"):
        read_source(tmp_path)
    with pytest.raises(InputError, match="--seed 1: this run of mosbach2021 has no score"):
        read_source(tmp_path, seed=1)
    leave_run(tmp_path, 1, 0.7, job=replace(JOB, recipe="devlin2019"))
    with pytest.raises(InputError, match="--recipe is missing: .* give one of devlin2019, mosbach2021"):
        read_source(tmp_path)
    (tmp_path / "runs/devlin2019/seed-001/config.json").write_text("{}")
    with pytest.raises(InputError, match="these are not a run's settings"):
        read_source(tmp_path, recipe="devlin2019")


def test_without_predictions_the_number_of_examples_is_unknown(study):
    for path in study.glob("runs/*/*/predictions.npz"):
        path.unlink()
    source = read_source(study)
    assert source.examples is None and "on the development set." in card_text(source)


@pytest.mark.parametrize("name", ["./my-bert", "/models/bert", "~/bert", "a/b/c", ""])
def test_what_is_no_name_on_the_hub_is_not_looked_up(monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *given: pytest.fail(f"{given}"))
    assert card_source.known_base_model(name) is None


def test_a_folder_of_that_name_is_no_model_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert card_source.known_base_model("bert-large-uncased") == "bert-large-uncased"
    (tmp_path / "bert-large-uncased").mkdir()
    assert card_source.known_base_model("bert-large-uncased") is None
