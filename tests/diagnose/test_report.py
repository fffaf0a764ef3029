"""`hf-stability diagnose`: on files that real, tiny trainings left, and on live Trainers."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import pickle
import random
import shlex
import shutil
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments
from hf_stability.cli import commands as cli
from hf_stability.diagnose import rescue
from hf_stability.diagnose.causes import check_tokenizer
from hf_stability.diagnose.report import (
    NOT_A_RESCUES,
    TRAINING_ARGS,
    Run,
    as_logged,
    config_values,
    diagnose,
    encoder_group,
    frozen_parts,
    judge_run,
    read_run_files,
    read_training_args,
    rescue_command,
    share_sentence,
    training_values,
)
from hf_stability.errors import InputError
from hf_stability.recipe.arguments import argument_types
from hf_stability.study.job import ALARM_ARGS, IGNORED_ARGS, Job
from hf_stability.study.prepare import OWN_ARGS
from hf_stability.study.run import quiet
from tests import toy


pytestmark = pytest.mark.usefixtures("no_heat_maps")


FAST = {**toy.QUIET, "learning_rate": 1e-3, "max_steps": 8, "logging_steps": 2, "eval_strategy": "epoch"}


def of(report, name):
    """The finding of this name; there is one."""
    (found,) = [finding for finding in report.findings if finding.name == name]
    return found


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """A function of arguments that runs the command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["diagnose", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The output folder of a stock Trainer with our callback, two checkpoints in it."""
    folder = tmp_path_factory.mktemp("run") / "output"
    args = TrainingArguments(str(folder), **{**FAST, "save_strategy": "steps", "save_steps": 4})
    trainer = toy.train(Trainer, args, [StabilityCallback(toy.accuracy)], init=False)
    trainer.save_state()
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_jobs):
    """The folder of a study with one run."""
    from hf_stability.study.study import run_jobs

    folder = tmp_path_factory.mktemp("study") / "study"
    run_jobs(tiny_jobs(folder, seeds=(1,), learning_rate=1e-3), folder, quiet=True)
    return folder


def run_of(study: Path) -> Path:
    return study / "runs" / "devlin2019" / "seed-001"


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "looked_at"),
    [
        (".", ["trainer_state.json", "steps.rec", "verdict.json", "training_args.bin"]),
        ("stability", ["trainer_state.json", "steps.rec", "verdict.json"]),
        ("stability/steps.rec", ["trainer_state.json", "steps.rec", "verdict.json"]),
        ("trainer_state.json", ["trainer_state.json", "steps.rec"]),
        ("checkpoint-4", ["trainer_state.json", "training_args.bin", "steps.rec"]),
        ("checkpoint-8/trainer_state.json", ["trainer_state.json", "training_args.bin"]),
    ],
)
def test_a_run_is_known_by_any_of_its_files(run, output, path, looked_at):
    code, out, err = run(output / path)
    assert code == 0 and err == "" and "Traceback" not in out
    first = out[: out.index("\n\n")].replace("\n", " ")
    assert all(name in first for name in looked_at), first
    assert "learning rate: peak learning rate 0.001" in out and "update steps: 8 update steps" in out
    assert "could not be checked; give\n" in out and "hf-stability rescue --model_name_or_path MODEL" in out
    likely, possible, in_order = (out.index(f"\n{heading}\n") for heading in ("likely", "possible", "in order"))
    assert likely < possible < in_order


def test_a_state_alone_says_what_it_can(run, output, tmp_path):
    shutil.copy(output / "trainer_state.json", tmp_path / "state.json")
    code, out, _ = run("state.json", "--json", "report.json")
    assert code == 0 and "no verdict: too little is known of the run" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["schema"] == "hf_stability.diagnosis/1" and report["status"] is None is report["failed_share"]
    names = {finding["name"] for finding in report["findings"]}
    assert {"NaN", "skipped steps", "update steps", "learning rate", "ended early"} == names - {"warmup"}
    missing = report["not_looked_at"]
    assert {"labels", "tokenizer", "new weights", "layers", "memorize"} <= set(missing) and not names & set(missing)
    assert all("--" in needs or "steps.rec" in needs for needs in missing.values()), missing


def test_a_run_of_a_study_says_its_model_and_data_itself(run, study):
    code, out, err = run(run_of(study))
    assert code == 0 and err == "" and "devlin2019" in out
    report = diagnose(run_of(study))
    missing = {"memorize", "vanished gradients", "early warning"}
    assert set(report.not_looked_at) <= missing
    for name in ("labels", "tokenizer", "new weights", "weights' precision", "class shares", "truncation", "layers"):
        assert of(report, name).likelihood == "unlikely", name
    assert of(report, "new weights").figures["head"] == ["classifier.bias", "classifier.weight"]
    rate = of(report, "learning rate").figures
    assert rate["bias_correction"] is False and rate["reference"] == pytest.approx(2e-5 * 1024 / 32)
    verdict = json.loads((run_of(study) / "verdict.json").read_text())
    assert report.status == verdict["status"] and report.sentence == verdict["sentence"]


def test_a_study_that_was_moved_still_says_its_data(study, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(study, moved)
    config = run_of(moved) / "config.json"
    config.write_text(config.read_text().replace(str(study), str(tmp_path / "gone")))
    assert of(diagnose(run_of(moved)), "labels").likelihood == "unlikely"


def test_one_run_says_little_of_its_settings(study):
    report = diagnose(run_of(study))
    failed = int(report.status in ("failed", "diverged"))
    assert report.failed_share == pytest.approx((1, 0.2065, 1) if failed else (0, 0, 0.7935), abs=1e-4)
    assert "(95% interval)" in report.to_text()


@pytest.mark.parametrize(("share", "text"), [((1.0, 0.2065, 1.0), "is .21-1 "), ((0.0, 0.0, 0.7935), "is 0-.79 ")])
def test_the_failed_share_of_one_run_in_words(share, text):
    assert text in share_sentence(share)


# ---- more to look at, by flags --------------------------------------------------------------------------------------


def test_data_and_model_flags_let_it_look_at_more(run, output, tiny_model, tiny_csv):
    train, dev = tiny_csv
    model = ["--model_name_or_path", tiny_model()]
    code, out, _ = run(output / "trainer_state.json", *model)
    assert code == 0 and "new weights: only the head is new" in out and "labels: --task_name" in out
    code, out, _ = run(output / "trainer_state.json", *model, "--train_file", train, "--validation_file", dev)
    assert code == 0 and "class shares: majority 50% of train" in out and "ids, classes and names agree" in out
    assert f"hf-stability rescue {' '.join(model)} --train_file {train} --validation_file {dev} " in out
    code, out, _ = run(output, *model, "--train_file", train, "--validation_file", dev, "--max_seq_length", "5")
    assert "of the training examples are longer than 5 tokens" in " ".join(out.split())


def test_data_that_cannot_be_read_is_a_finding(run, output, tiny_csv, tmp_path):
    (tmp_path / "dev.csv").write_text("sentence,label\ngood film,1\nbad film,2\n")
    code, out, err = run(output, "--train_file", tiny_csv[0], "--validation_file", "dev.csv")
    text = " ".join(out.split())
    assert code == 0 and err == ""
    assert "likely - labels: the data cannot be read as they are: --validation_file dev.csv, line 3: label 2;" in text
    assert "Mend first: labels." in text and "labels: --task_name" not in text


def test_training_flags_say_what_the_files_do_not(output, tmp_path):
    shutil.copy(output / "trainer_state.json", tmp_path)
    state = tmp_path / "trainer_state.json"
    assert of(diagnose(state), "learning rate").figures["peak"] < 1e-3  # as far as the log shows it
    assert "(bias correction taken to be on)" in of(diagnose(state), "learning rate").sentence
    training = {"learning_rate": 2e-3, "bias_correction": False, "warmup_steps": 0.25}
    report = diagnose(state, training=training)
    rate = of(report, "learning rate").figures
    assert rate["peak"] == pytest.approx(2e-3) and not rate["bias_correction"]
    assert rate["effective_peak"] == pytest.approx(2e-3 * (1 - 0.9**3) / math.sqrt(1 - 0.999**3))  # step 3
    assert of(report, "warmup").figures == {"warmup_steps": 2, "share": 0.25}


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([(10, 1e-5), (20, 2e-5), (30, 1e-5)], 20),  # it rises until step 20
        ([(2, 2e-5), (20, 1e-5)], 0),
        ([(50, 2e-5), (99, 1e-5)], None),  # a warmup may have ended before the first entry
        ([(50, 2e-5)], None),
    ],
)
def test_warmup_in_the_log(rates, expected):
    run = Run("x", total_steps=100, history=[{"step": step, "learning_rate": rate} for step, rate in rates])
    assert training_values(run)["warmup_steps"] == expected


def test_rates_without_a_record_are_the_trainers_schedule(output):
    with_record = training_values(read_run_files(output))
    run = read_run_files(output)
    run.record = None
    without = training_values(run)
    np.testing.assert_allclose(without["rates"], with_record["rates"], rtol=1e-6)
    np.testing.assert_array_equal(without["rate_steps"], with_record["rate_steps"])
    assert without["warmup_steps"] == with_record["warmup_steps"] == 0
    run.args["warmup_steps"] = 4
    np.testing.assert_allclose(training_values(run)["rates"][:6], [0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 7.5e-4])


def test_weights_that_the_pretrained_files_lack_are_found(output, tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(tiny_model(), folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layer.1.attention.self.query" not in name}
    assert len(kept) == len(weights) - 2
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    finding = of(diagnose(output, model_name_or_path=str(folder)), "new weights")
    assert finding.likelihood == "likely" and len(finding.figures["encoder"]) == 2
    assert "2 weights of the encoder are not in the pretrained files" in finding.sentence


@pytest.mark.parametrize(
    ("config", "tokenizer_class"),
    [
        (transformers.BertConfig(), "DistilBertTokenizer"),  # a special case of BertTokenizer
        (transformers.DistilBertConfig(), "DistilBertTokenizer"),
        (transformers.MobileBertConfig(), "BertTokenizer"),  # transformers has it by two names
        (transformers.ElectraConfig(), "ElectraTokenizer"),
        (transformers.RobertaConfig(), "BertTokenizer"),
    ],
)
def test_tokenizer_classes_are_told_apart_by_what_they_are(config, tokenizer_class):
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    own = tokenizer_class_from_name(tokenizer_class)
    found = check_tokenizer(
        tokenizer_size=9, tokenizer_class=own, expected_class=config_values(config)["expected_class"]
    )
    assert found.likelihood == ("possible" if config.model_type == "roberta" else "unlikely"), found.sentence


def test_another_models_tokenizer_is_found(output, tiny_model, tiny_csv):
    names = {"train_file": tiny_csv[0], "validation_file": tiny_csv[1], "model_name_or_path": tiny_model("bert")}
    report = diagnose(output, tokenizer_name=tiny_model("roberta"), **names)
    assert of(report, "tokenizer").likelihood == "likely"
    assert "pad is token 1 to the tokenizer, 0 to the model" in of(report, "tokenizer").sentence
    assert of(diagnose(output, **names), "tokenizer").likelihood == "unlikely"


# ---- the verdict of a run that has none -----------------------------------------------------------------------------


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


def test_a_model_that_returns_no_loss_is_no_nan():
    record = {
        "step": np.arange(1, 5), "learning_rate": np.full(4, 1e-3), "loss": np.full(4, np.nan), "grad_norm": np.ones(4),
        "layers": ["classifier"], "layer_norms": np.ones((4, 1)), "info": {},
    }  # fmt: skip
    assert training_values(Run("x", record=record))["losses"] is None
    record["grad_norm"] = np.full(4, np.nan)
    assert training_values(Run("x", record=record))["losses"] is record["loss"]


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


# ---- training_args.bin ----------------------------------------------------------------------------------------------


def test_training_arguments_are_read_as_they_were(output, tmp_path):
    found = read_training_args(output / "checkpoint-8" / "training_args.bin")
    assert (
        found["learning_rate"] == 1e-3
        and found["lr_scheduler_type"] == "linear"
        and found["optim"].startswith("adamw")
    )
    args = StableTrainingArguments.from_recipe("devlin2019", "bert", output_dir=str(tmp_path), use_cpu=True)
    torch.save(args, tmp_path / "training_args.bin")
    found = read_training_args(tmp_path / "training_args.bin")
    expected = {key: value for key, value in args.to_dict().items() if isinstance(value, (bool, int, float, str))}
    assert {key: found[key] for key in expected if key != "hub_token"} == {
        key: value for key, value in expected.items() if key != "hub_token"
    }


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def test_nothing_in_a_file_of_arguments_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"a": Harmful()})
    pickle.loads(content)
    assert Path("harm").exists()  # as the file is meant
    Path("harm").unlink()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    Path("training_args.bin").write_bytes(buffer.getvalue())
    assert read_training_args(Path("training_args.bin")) == {} and not Path("harm").exists()
    for damaged in (b"", b"junk", content):
        Path("training_args.bin").write_bytes(damaged)
        assert read_training_args(Path("training_args.bin")) == {}


# ---- bad input ------------------------------------------------------------------------------------------------------


def state(**content):
    def make(folder: Path) -> list[str]:
        (folder / "trainer_state.json").write_text(json.dumps(content))
        return ["trainer_state.json"]

    return make


def files(name: str, content: str):
    def make(folder: Path) -> list[str]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return [name.split("/")[0]]

    return make


GOOD = state(log_history=[], global_step=5, max_steps=10)
BAD = {
    "no path": (lambda folder: [], "diagnose: give the run's path first"),
    "no such path": (lambda folder: ["gone"], "gone: no such file or folder"),
    "an empty folder": (lambda folder: ["."], ".: nothing of a run there (looked for trainer_state.json"),
    "no JSON": (files("state.json", "{"), "state.json: cannot be read as JSON"),
    "a list": (files("state.json", "[]"), "state.json: expected an object"),
    "another JSON": (state(a=1), "trainer_state.json: not a trainer_state.json (it has no log_history)"),
    "no record": (files("steps.rec", "junk"), "steps.rec: not a record of training steps"),
    "a crash without a word": (files("run/error.txt", ""), "this run crashed, which is no instability: it left no traceback"),
    "a crash": (files("run/error.txt", "Traceback\nRuntimeError: out of memory\n"), "RuntimeError: out of memory"),
    "two paths": (lambda folder: [*GOOD(folder), "more"], "more: no such argument"),
    "unknown flag": (lambda folder: [*GOOD(folder), "--memorise"], "--memorise: no such argument (did you mean --memorize?)"),
    "a study's flag": (lambda folder: [*GOOD(folder), "--seeds", "3"], "--seeds: no such argument"),
    "no such model": (lambda folder: [*GOOD(folder), "--model_name_or_path", "./m"], "--model_name_or_path ./m: no such"),
    "no such data": (
        lambda folder: [*GOOD(folder), "--train_file", "a.csv", "--validation_file", "b.csv"],
        "--train_file a.csv: no such file",
    ),
    "no such task": (lambda folder: [*GOOD(folder), "--task_name", "rtee"], "--task_name rtee: no such task (did you mean"),
    "no place for JSON": (lambda folder: [*GOOD(folder), "--json", "no/where.json"], "--json no/where.json: no file can"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, case):
    make, expected = BAD[case]
    code, out, err = run(*make(tmp_path))
    assert code == 2 and out == "" and err.count("\n") == 1 and err.startswith("hf-stability: error: "), err
    assert expected in err, err


def test_a_shorter_run_in_the_same_folder_is_the_one_that_is_looked_at(tmp_path):
    def checkpoint(step, total, log, age):
        file = tmp_path / f"checkpoint-{step}" / "trainer_state.json"
        file.parent.mkdir()
        file.write_text(json.dumps({"log_history": log, "global_step": step, "max_steps": total}))
        os.utime(file, (1e9 - age, 1e9 - age))

    old, new = [{"step": 9, "loss": 0.7}], [{"step": 9, "loss": 0.6}]
    checkpoint(500, 600, old, age=100)
    checkpoint(40, 60, [], age=50)
    assert read_run_files(tmp_path).step == 40
    checkpoint(20, 600, new, age=10)  # of as many steps, killed early
    assert read_run_files(tmp_path).step == 20
    checkpoint(30, 600, [*new, {"step": 25, "loss": 0.5}], age=20)  # in a copy of the folder the times say little
    assert read_run_files(tmp_path).step == 30
    damaged = tmp_path / "checkpoint-35" / "trainer_state.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    assert read_run_files(tmp_path).step == 30


def test_a_studys_folder_names_its_runs(run, study):
    code, _, err = run(study)
    assert code == 2 and f"this is a study's folder; give one run's: {run_of(study)} (" in err


def test_help_says_what_it_takes(run, capsys):
    for arguments, words in (
        (["diagnose", "--help"], ["PATH", "--memorize", "--json", "--train_file", "examples:", "rescue"]),
        (["--help"], ["hf-stability diagnose --help", "hf-stability rescue --help"]),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        text = capsys.readouterr().out
        assert end.value.code == 0 and all(word in text for word in words), text
        assert max(map(len, text.splitlines())) <= 120
    with pytest.raises(SystemExit):
        cli.main(["diagnose", "--help"])
    assert "--seeds" not in capsys.readouterr().out


# ---- a live Trainer -------------------------------------------------------------------------------------------------


def trainer_of(tmp_path, model=None, trainer_class=StableTrainer, train=None, dev=None, **values):
    args = StableTrainingArguments(str(tmp_path / "live"), **{**FAST, **values})
    trainer = trainer_class(
        model=toy.model() if model is None else model,
        args=args,
        train_dataset=toy.data(64) if train is None else train,
        eval_dataset=toy.data(40, seed=1) if dev is None else dev,
        compute_metrics=toy.accuracy,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def test_a_live_trainer_before_and_after_training(tmp_path):
    trainer = trainer_of(tmp_path)
    before = diagnose(trainer)
    assert before.status is None and of(before, "labels").likelihood == "unlikely"
    assert of(before, "frozen weights").likelihood == "unlikely" and "NaN" in before.not_looked_at
    trainer.train()
    after = diagnose(trainer)
    assert after.status == trainer.stability.verdict.status and after.sentence == trainer.stability.verdict.sentence
    for name in ("NaN", "layers", "update steps", "learning rate", "frozen weights"):
        of(after, name)
    assert of(after, "learning rate").figures["peak"] == pytest.approx(1e-3)
    assert of(after, "ended early").likelihood == "unlikely"


def test_a_live_trainer_is_left_as_it_is(tmp_path):
    def trained(look: bool):
        trainer = trainer_of(tmp_path / str(look))
        if look:
            diagnose(trainer, memorize=True)
        trainer.train()
        if look:
            weights, mode = toy.weights(trainer).clone(), trainer.model.training
            assert of(diagnose(trainer, memorize=True), "memorize")
            assert torch.equal(toy.weights(trainer), weights) and trainer.model.training is mode
        return toy.weights(trainer)

    assert torch.equal(trained(True), trained(False))


def test_frozen_weights_of_a_live_trainer(tmp_path):
    model = toy.model()
    model.bert.requires_grad_(False)
    finding = of(diagnose(trainer_of(tmp_path, model)), "frozen weights")
    assert finding.likelihood == "likely" and set(finding.figures["frozen_layers"]) == {
        "embeddings", "layer_00", "layer_01", "layer_02", "pooler",
    }  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A function of a class that loads it from an encoder's files, which have no head and, unless wanted, no pooler."""
    folders = {}
    for pooler in (False, True):
        encoder = transformers.BertModel(toy.config(), add_pooling_layer=pooler)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(0.01)  # a trained bias is not 0
        folders[pooler] = tmp_path_factory.mktemp("pretrained")
        with quiet():
            encoder.save_pretrained(folders[pooler])

    def load(cls=transformers.BertForSequenceClassification, pooler=True):
        with quiet():
            return cls.from_pretrained(folders[pooler])

    return load


def lora(model, **values):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(**{"r": 2, "target_modules": ["query"], **values}))


def adapted(kind):
    """A function of a model: it with adapters of this kind, its head frozen."""
    peft = pytest.importorskip("peft")
    config = {
        "ia3": lambda: peft.IA3Config(target_modules=["query"], feedforward_modules=[]),
        "prompts": lambda: peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2),
        "loha": lambda: peft.LoHaConfig(r=2, target_modules=["query"]),
    }[kind]()
    return lambda model: peft.get_peft_model(model, config)


def looked_at(model):
    """[`frozen_parts`] without those that are as they should be."""
    return {name: origin for name, origin in frozen_parts(model).items() if origin != "kept"}


@pytest.mark.parametrize("kind", ["ia3", "prompts", "loha"])
def test_a_new_head_that_is_frozen_beside_adapters_of_any_kind(pretrained, kind):
    assert looked_at(adapted(kind)(pretrained())) == {"classifier": "new"}


def test_which_frozen_parts_were_drawn_anew(pretrained):
    assert looked_at(pretrained()) == {}
    assert looked_at(lora(pretrained())) == {"classifier": "new"}
    assert looked_at(lora(pretrained(pooler=False))) == {"classifier": "new", "bert.pooler.dense": "new"}
    trained = (
        {"task_type": "SEQ_CLS"},
        {"modules_to_save": ["classifier"]},
        {"target_modules": ["query", "classifier"]},
    )
    for values in trained:
        assert looked_at(lora(pretrained(), **values)) == {}
        assert looked_at(lora(pretrained(pooler=False), **values)) == {"bert.pooler.dense": "new"}
        assert looked_at(lora(toy.model(), **values)) == {}  # the pooler is as new as the encoder
    assert looked_at(lora(pretrained(pooler=False), modules_to_save=["classifier", "pooler"])) == {}
    assert looked_at(lora(pretrained(transformers.BertForQuestionAnswering))) == {"qa_outputs": "new"}
    assert looked_at(lora(pretrained(transformers.BertForTokenClassification))) == {"classifier": "new"}
    for architecture, parts in {
        "bert": {"classifier"}, "roberta": {"classifier.dense", "classifier.out_proj"},
        "electra": {"classifier.dense", "classifier.out_proj"}, "deberta": {"classifier"},
    }.items():  # fmt: skip
        names = ["query_proj"] if architecture == "deberta" else ["query"]
        assert set(looked_at(lora(toy.model(architecture), target_modules=names))) >= parts, architecture
    assert looked_at(lora(toy.model("distilbert"), target_modules=["q_lin"])) == {
        "pre_classifier": "new",
        "classifier": "new",
    }


def test_frozen_by_hand_half_a_head_and_a_head_of_ones_own(pretrained):
    half = toy.model("roberta")
    half.classifier.dense.requires_grad_(False)
    assert looked_at(half) == {"classifier.dense": "new"}
    by_hand = pretrained()
    by_hand.classifier.requires_grad_(False)
    assert looked_at(by_hand) == {"classifier": "new"}
    with torch.no_grad():
        by_hand.classifier.bias.add_(1)  # loaded by hand, perhaps
    assert looked_at(by_hand) == {"classifier": "unknown"}

    class Own(torch.nn.Module):
        def __init__(self, bias):
            super().__init__()
            self.encoder, self.head = pretrained(transformers.BertModel), torch.nn.Linear(16, 2, bias=bias)
            self.head.requires_grad_(False)

    assert looked_at(Own(True)) == {"head": "unknown"} and looked_at(Own(False)) == {"head": "new"}
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 1}
    score = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**size))
    score.score.requires_grad_(False)  # no bias, no files: nothing says it
    assert looked_at(score) == {"score": "unknown"}


def test_a_head_that_came_with_the_files(tmp_path, pretrained):
    model = pretrained()
    with torch.no_grad():
        model.classifier.bias.add_(1)
    with quiet():
        model.save_pretrained(tmp_path / "trained")
        loaded = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "trained")
        pretrained().save_pretrained(tmp_path / "saved_untrained")
        untrained = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "saved_untrained")
    assert looked_at(lora(loaded)) == {"classifier": "loaded"}
    assert looked_at(lora(untrained)) == {"classifier": "new"}  # its bias is 0: it was never trained


@pytest.mark.parametrize(("trained", "likelihood"), [({}, "likely"), ({"task_type": "SEQ_CLS"}, "unlikely")])
def test_a_frozen_head_beside_adapters_is_a_likely_cause(tmp_path, trained, likelihood):
    trainer = trainer_of(tmp_path, lora(toy.model(), **trained), trainer_class=Trainer, label_names=["labels"])
    trainer.train()
    report = diagnose(trainer)
    finding = of(report, "frozen weights")
    assert finding.likelihood == likelihood
    if likelihood == "likely":
        assert finding.sentence == "the head is frozen, and was drawn at random (classifier)"
        assert "modules_to_save=['classifier']" in finding.remedy
        assert any("Mend first" in step and "frozen weights" in step for step in report.next_steps)
    rate = of(report, "learning rate")
    assert rate.likelihood == "unlikely" and "0.001, of LORA adapters" in rate.sentence
    assert "--learning_rate" not in report.rescue and "without adapters" in report.next_steps[-1]


def test_the_head_of_an_adapter_that_was_saved(output, pretrained, tmp_path, tiny_model):
    for name, values in {"frozen": {}, "trained": {"task_type": "SEQ_CLS"}, "words": {}}.items():
        shutil.copytree(output, tmp_path / name)
        lora(pretrained(), **values).save_pretrained(tmp_path / name / "checkpoint-8")
    config = tmp_path / "words" / "checkpoint-8" / "adapter_config.json"  # a language model's head is not new
    config.write_text(config.read_text().replace('"task_type": null', '"task_type": "CAUSAL_LM"'))
    report = diagnose(tmp_path / "frozen")
    assert of(report, "frozen weights").likelihood == "possible" and "adapter_config.json" in report.source
    assert "(no modules_to_save); whether it was drawn at random is not known" in of(report, "frozen weights").sentence
    assert of(report, "learning rate").likelihood == "unlikely"
    with_model = of(diagnose(tmp_path / "frozen", model_name_or_path=tiny_model()), "frozen weights")
    assert with_model.likelihood == "likely" and with_model.figures["frozen_parts"] == {"classifier": "new"}
    for name, more in (("trained", {}), ("trained", {"model_name_or_path": tiny_model()}), ("words", {})):
        finding = of(diagnose(tmp_path / name, **more), "frozen weights")
        assert finding.likelihood == "unlikely" and finding.sentence == "adapters are trained, the rest is frozen"


def test_tokens_that_were_added_and_cannot_be_learned(tmp_path, tiny_model):
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model())
        model = AutoModelForSequenceClassification.from_pretrained(tiny_model())
    size = len(tokenizer)
    tokenizer.add_tokens(["newword"])
    model.resize_token_embeddings(size + 1)
    data = toy.data(16)

    def found(ids, **trained):
        rows = data.remove_columns("input_ids").add_column("input_ids", [[1, ids]] * 16)
        trainer = trainer_of(tmp_path, lora(copy.deepcopy(model), task_type="SEQ_CLS", **trained), Trainer, rows, rows)
        trainer.processing_class = tokenizer
        return of(diagnose(trainer), "frozen weights")

    assert found(size).likelihood == "possible" and "added to the tokenizer" in found(size).sentence
    assert found(size - 1).likelihood == "unlikely"  # the data have none of them
    assert found(size, trainable_token_indices=[size]).likelihood == "unlikely"
    assert found(size, modules_to_save=["classifier", "word_embeddings"]).likelihood == "unlikely"


def two_groups(model, encoder=2e-5, head=1e-3, **options):
    parts = [list(model.classifier.parameters()), list(model.bert.parameters())]
    groups = [{"params": part, "lr": rate} for part, rate in zip(parts, (head, encoder), strict=True)]
    return torch.optim.AdamW(groups, **options)


def test_the_rate_that_is_looked_at_is_the_encoders(tmp_path):
    model = toy.model()
    trainer = trainer_of(tmp_path, model, trainer_class=Trainer)
    trainer.optimizer = two_groups(model)
    assert encoder_group(trainer.optimizer, model) == 1
    trainer.train()
    assert max(entry.get("learning_rate", 0) for entry in trainer.state.log_history) > 5e-4  # the log's is the head's
    report = diagnose(trainer)
    rate = of(report, "learning rate")
    assert rate.figures["peak"] == pytest.approx(2e-5) and "--learning_rate 2e-05" in report.rescue
    assert rate.sentence.endswith("this is the encoder's rate, the parameter groups have 2e-05 to 0.001")
    # of the files alone, the log says the first group's
    trainer.save_state()
    rate = of(diagnose(tmp_path / "live"), "learning rate")
    assert rate.figures["peak"] > 5e-4 and rate.sentence.endswith("which shows the first parameter group's rate only")
    rate = of(diagnose(tmp_path / "live", training={"learning_rate": 2e-5}), "learning rate")
    assert rate.figures["peak"] == pytest.approx(2e-5) and "first parameter group" not in rate.sentence


def test_the_group_of_the_encoder():
    model = toy.model()
    names = dict(model.named_parameters())
    decay = [p for name, p in names.items() if not name.endswith("bias")]
    plain = [p for name, p in names.items() if name.endswith("bias")]
    assert encoder_group(torch.optim.SGD([{"params": plain}, {"params": decay}], lr=1.0), model) == 1
    adapters = lora(toy.model(), task_type="SEQ_CLS", r=1)
    parts = [
        [p for name, p in adapters.named_parameters() if p.requires_grad and ("lora" in name) is x]
        for x in (False, True)
    ]
    assert len(parts[0]) == 2
    assert encoder_group(torch.optim.SGD([{"params": part} for part in parts], lr=1.0), adapters) == 1
    model.bert.requires_grad_(False)
    assert encoder_group(torch.optim.SGD(model.classifier.parameters(), lr=1.0), model) == 0
    line = torch.nn.Linear(2, 2)
    assert encoder_group(torch.optim.SGD([{"params": [line.bias]}, {"params": [line.weight]}], lr=1.0), line) == 1


def test_a_record_with_the_rates_of_groups():
    record = {
        "step": np.arange(1, 5), "learning_rate": np.full(4, 2e-5), "loss": np.ones(4), "grad_norm": np.ones(4),
        "learning_rates": np.tile([1e-3, 2e-5], (4, 1)), "layers": [], "layer_norms": np.ones((4, 0)), "info": {},
    }  # fmt: skip
    values = training_values(Run("x", record=record, history=[{"step": 2, "learning_rate": 1e-3}]))
    assert max(values["rates"]) == 2e-5 and "the parameter groups have 2e-05 to 0.001" in values["rate_note"]
    record["learning_rates"] = np.zeros((4, 0))
    assert training_values(Run("x", record=record))["rate_note"] is None


def test_an_optimizer_of_ones_own_in_the_files():
    """The arguments' rate is a default that nobody used."""
    history = [{"step": step, "learning_rate": 1e-3 * (100 - step) / 100} for step in (10, 20)]
    values = training_values(Run("x", args={"learning_rate": 5e-5}, history=history, total_steps=100))
    assert max(values["rates"]) == pytest.approx(9e-4) and "first parameter group" in values["rate_note"]
    below = training_values(Run("x", args={"learning_rate": 1e-3}, history=history, total_steps=100))
    assert max(below["rates"]) == pytest.approx(1e-3) and below["rate_note"] is None


class Holder:
    """A hook that cannot be copied, as a logger's."""

    def __init__(self):
        self.lock, self.calls = threading.Lock(), 0

    def __call__(self, *_):
        self.calls += 1


def test_a_model_with_a_hook_that_cannot_be_copied_is_memorised_without_it(tmp_path):
    model, hook = toy.model(), Holder()
    model.bert.register_forward_hook(hook)
    trainer = trainer_of(tmp_path, model)
    assert of(diagnose(trainer, memorize=True), "memorize")
    assert hook.calls == 0 and list(model.bert._forward_hooks.values()) == [hook]


def test_classes_that_train_and_dev_name_differently(tmp_path):
    train = toy.data(64).cast_column("label", ClassLabel(names=["no", "yes"]))
    dev = toy.data(40).cast_column("label", ClassLabel(names=["yes", "no"]))
    finding = of(diagnose(trainer_of(tmp_path, train=train, dev=dev)), "labels")
    assert finding.likelihood == "likely" and "in another order: no, yes against yes, no" in finding.sentence


@pytest.mark.parametrize(
    ("column", "values", "name"),
    [("label", [0, 1, 2, 2] * 16, "labels"), ("input_ids", [[5, toy.VOCABULARY]] * 64, "tokenizer")],
)
def test_what_would_be_an_index_error_is_a_finding(tmp_path, column, values, name):
    data = toy.data(64).remove_columns(column).add_column(column, values)
    report = diagnose(trainer_of(tmp_path, train=data), memorize=True)
    assert of(report, name).likelihood == "likely"
    assert report.not_looked_at["memorize"] == "labels and token ids that fit the model"


def ragged(rows=64):
    """A label for each token."""
    data = toy.data(rows)
    return data.remove_columns("label").add_column("labels", [[0, 1, 1][: 1 + i % 3] for i in range(rows)])


def of_several(rows=64):
    """Several classes an example."""
    return toy.data(rows).remove_columns("label").add_column("labels", [[0.0, 1.0]] * rows)


@pytest.mark.parametrize("data", [ragged, of_several])
def test_labels_that_are_not_one_an_example_are_said_to_be_no_case_for_it(tmp_path, data):
    report = diagnose(trainer_of(tmp_path, train=data(), dev=data()), memorize=True)
    assert "labels" in report.not_looked_at
    assert report.not_looked_at["memorize"] == "examples with one label each (a class id or a value)"


def test_examples_of_several_texts_have_no_token_ids_to_look_at(tmp_path):
    data = toy.data(8).remove_columns("input_ids").add_column("input_ids", [[[5, 6], [7]]] * 8)
    report = diagnose(trainer_of(tmp_path, train=data, dev=data), memorize=True)
    assert of(report, "labels").likelihood == "unlikely" and "memorize" in report.not_looked_at


class Lossless(transformers.BertForSequenceClassification):
    def forward(self, input_ids, attention_mask=None, labels=None):
        return super().forward(input_ids, attention_mask)


def refuse(examples):
    raise KeyError("token_type_ids")


@pytest.mark.parametrize(
    ("model", "collator", "why"),
    [
        (Lossless, None, "InputError: the model's forward returns no loss on these examples"),
        (None, refuse, "KeyError: 'token_type_ids'"),
    ],
)
def test_what_cannot_be_memorised_is_said_with_the_reason(tmp_path, model, collator, why):
    trainer = trainer_of(tmp_path, model=model(toy.config()) if model else None)
    if collator is not None:
        trainer.data_collator = collator
    report = diagnose(trainer, memorize=True)
    assert report.not_looked_at["memorize"] == f"a model and a collator that take these examples ({why})"
    assert why.partition(":")[0] in report.to_text() and "--memorize tells" not in report.to_text()


def test_an_optimizer_that_was_passed_in_is_looked_at(tmp_path):
    from hf_stability import AdamW

    trainer = trainer_of(tmp_path, trainer_class=Trainer)
    trainer.optimizer = AdamW(trainer.model.parameters(), lr=1e-3, bias_correction=False)
    trainer.train()
    report = diagnose(trainer)
    assert of(report, "learning rate").figures["bias_correction"] is False
    assert "--bias_correction False" in report.rescue and "--optim" not in report.rescue


def test_a_trainer_of_a_plain_module_and_of_other_data_gets_what_can_be_said(tmp_path):
    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.line = torch.nn.Linear(2, 2)

        def forward(self, x, labels=None):
            logits = self.line(x)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    data = [{"x": [0.1 * i, 1.0], "labels": i % 2} for i in range(16)]
    trainer = Trainer(Plain(), TrainingArguments(str(tmp_path), **{**FAST, "eval_strategy": "no"}), train_dataset=data)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    report = diagnose(trainer, memorize=True)
    assert of(report, "frozen weights").likelihood == "unlikely"
    assert {"memorize", "labels", "tokenizer"} <= set(report.not_looked_at)


# ---- memorising -----------------------------------------------------------------------------------------------------


def test_the_command_memorises_a_runs_own_examples(run, study):
    code, out, err = run(run_of(study), "--memorize")
    assert code == 0 and "memorize: the model can memorise: 100% of 32 training examples right" in " ".join(
        out.split()
    )
    assert "memorising 32 examples" in err  # the bar
    report = diagnose(run_of(study), memorize=True, memorize_rate=1e-9)
    assert of(report, "memorize").likelihood == "likely" and of(report, "memorize").figures["rate"] <= 1e-9
    assert any("Mend first: memorize" in step for step in report.next_steps)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_live_model_is_tried_from_its_beginning(tmp_path, frozen):
    def make():
        model = AutoModelForSequenceClassification.from_config(toy.config())
        return model.requires_grad_(not frozen)

    args = StableTrainingArguments(str(tmp_path), **FAST, seed_streams=True)
    trainer = StableTrainer(model_init=make, args=args, train_dataset=toy.data(64), eval_dataset=toy.data(40, seed=1))
    transformers.set_seed(77)  # somewhere else than where a fresh model leaves them
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    finding = of(diagnose(trainer, memorize=True), "memorize")
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert finding.likelihood == ("likely" if frozen else "unlikely")
    assert finding.figures["trained_before"] == 0 and finding.figures["learned"] is not frozen


# ---- what to do next ------------------------------------------------------------------------------------------------


def given_by(command: str) -> dict:
    """The command's flags, as `hf-stability rescue` reads them."""
    words = shlex.split(command)
    assert words[:2] == ["hf-stability", "rescue"]
    return cli.parse(cli.parser(own=(cli.StudyArguments, rescue.RescueArguments)), words[2:])


def same_as(command: str, data) -> Job:
    """The first job of the arm `same` of the command, with the data put in."""
    given = {**rescue.DEFAULTS, **given_by(command)}
    if given.get("train_file") == "TRAIN":
        given["train_file"], given["validation_file"] = data
    own = cli._taken(given, cli.ModelArguments, cli.DataArguments, cli.StudyArguments)
    with quiet():
        jobs, texts, *_ = cli.plan_study(*own, {**given, "output_dir": "nowhere"})
    planned, _ = rescue.rescue_jobs(jobs, len(texts.train), toy.config())
    return planned[0]


def test_the_rescue_that_is_named_begins_from_the_same_settings(study, tiny_csv, tmp_path, monkeypatch):
    """The command, with the data put in, plans as its arm `same` the very settings of the run."""
    monkeypatch.chdir(tmp_path)
    report = diagnose(run_of(study))
    assert "--recipe devlin2019" in report.rescue and "--max_seq_length" not in report.rescue
    job = read_run_files(run_of(study)).job
    same = same_as(report.rescue, tiny_csv)
    assert same.args == job.args and same.data_fingerprint == job.data_fingerprint
    assert same.model_fingerprint == job.model_fingerprint


def test_so_it_does_with_another_tokenizer_cut_texts_and_alarms(run, tiny_model, tiny_csv, tmp_path):
    tokenizer = tmp_path / "the tokenizer"
    transformers.AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(tokenizer)
    flags = {
        "model_name_or_path": tiny_model(), "tokenizer_name": tokenizer, "train_file": tiny_csv[0], "max_steps": 2,
        "validation_file": tiny_csv[1], "max_seq_length": 6, "recipe": "devlin2019", "seeds": "1-1", "workers": 0,
        "on_alarm": "stop", "audit_alarms": 0.5, "diagnostics": "clipping", "weight_decay": 0.3, "output_dir": "cut",
        "lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": '{"power": 2.0}',
    }  # fmt: skip
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    assert cli.main([*words, "--use_cpu", "--label_names", "labels", "label"]) == 0
    folder = tmp_path / "cut" / "runs" / "devlin2019" / "seed-001"
    job, command = read_run_files(folder).job, diagnose(folder).rescue
    assert "--max_seq_length 6" in command and f"--tokenizer_name '{tokenizer}'" in command
    assert "--label_names labels label" in command
    same = same_as(command, tiny_csv)
    assert same.args == {name: job.args[name] for name in job.args if name not in NOT_A_RESCUES}
    assert set(NOT_A_RESCUES) < set(job.args)
    assert same.data_fingerprint == job.data_fingerprint and same.tokenizer == job.tokenizer
    # who gives the length says it, and who gives a model gives its tokenizer with it
    command = diagnose(folder, max_seq_length=9, model_name_or_path=tiny_model(), train_file=tiny_csv[0], validation_file=tiny_csv[1]).rescue  # fmt: skip
    assert "--max_seq_length 9" in command and "--tokenizer_name" not in command


def test_a_studys_batch_and_precision_are_those_of_its_processes(study):
    run = read_run_files(run_of(study))
    args = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    sources = {name: f"--{name}" for name in args}
    run.job = replace(run.job, args=args, sources=sources, processes=3, mixed_precision="bf16")
    command = rescue_command(run, None, None, (None, None, "a.csv", "b.csv"))
    assert "--total_train_batch_size 24" in command and "per_device" not in command and "--bf16 True" in command


OTHER_ARGS = {
    "learning_rate": 3e-5, "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
    "warmup_steps": 0.2, "num_train_epochs": 4.0, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
    "dataloader_drop_last": True, "optim": "adamw_torch", "adam_beta1": 0.8, "adam_beta2": 0.98, "adam_epsilon": 1e-6,
    "weight_decay": 0.05, "bias_correction": False, "lr_bias_correction": True, "max_grad_norm": 0.5,
    "label_smoothing_factor": 0.1, "neftune_noise_alpha": 5.0, "reinit_layers": 1, "bf16": True,
    "train_sampling_strategy": "group_by_length",
}  # fmt: skip


@pytest.mark.parametrize("live", [False, True])
def test_outside_a_study_all_that_changes_training_is_said(tmp_path, live):
    args = StableTrainingArguments(str(tmp_path), **toy.QUIET, **OTHER_ARGS)
    if live:
        source = StableTrainer(toy.model(), args, train_dataset=toy.data(64), processing_class=None)
    else:
        source = tmp_path / "trainer_state.json"
        GOOD(tmp_path)
        torch.save(args, tmp_path / "training_args.bin")
    given = given_by(diagnose(source).rescue)
    given["lr_scheduler_kwargs"] = json.loads(given["lr_scheduler_kwargs"])
    expected = {"model_name_or_path": "MODEL", "train_file": "TRAIN", "validation_file": "DEV", **OTHER_ARGS}
    assert {name: getattr(value, "value", value) for name, value in given.items()} == expected


def test_the_trainers_defaults_are_not_said(tmp_path):
    GOOD(tmp_path)
    torch.save(TrainingArguments(str(tmp_path), use_cpu=True), tmp_path / "training_args.bin")
    command = diagnose(tmp_path / "trainer_state.json").rescue
    assert command.partition("--validation_file DEV ")[2] == (
        "--learning_rate 5e-05 --num_train_epochs 3.0 --per_device_train_batch_size 8"
    )


def test_the_batch_of_several_processes_is_that_of_all(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    args.distributed_state = SimpleNamespace(num_processes=3)
    GOOD(tmp_path)
    torch.save(args, tmp_path / "training_args.bin")
    given = given_by(diagnose(tmp_path / "trainer_state.json").rescue)
    assert given["total_train_batch_size"] == 24 and given["gradient_accumulation_steps"] == 2
    assert "per_device_train_batch_size" not in given


def test_an_older_trainers_arguments_are_said_by_todays_names():
    args = {"learning_rate": 1e-5, "warmup_ratio": 0.06, "warmup_steps": 0, "optim": "adamw_hf", "max_steps": -1}
    command = rescue_command(Run("x", args=args), "m", None, ("rte", None, None, None))
    assert command.endswith("--task_name rte --learning_rate 1e-05 --warmup_steps 0.06")


def test_what_is_carried_over_is_a_studys_to_set():
    assert set(TRAINING_ARGS) <= set(argument_types())
    assert not set(TRAINING_ARGS) & {*OWN_ARGS, *IGNORED_ARGS, *ALARM_ARGS}


def test_a_recipe_of_ones_own_is_spelt_out(study):
    """The command must not need a file that may be gone, nor an arm's name, which is no recipe."""
    run = read_run_files(run_of(study))
    sources = {"learning_rate": "recipe mine", "max_steps": "--max_steps", "eval_strategy": "study default"}
    args = {"learning_rate": 1e-4, "max_steps": 9, "eval_strategy": "epoch"}
    run.job = replace(run.job, recipe="mine", args=args, sources=sources)
    command = rescue_command(run, None, None, (None, None, "a.csv", "b.csv"))
    assert command.endswith("--train_file a.csv --validation_file b.csv --learning_rate 0.0001 --max_steps 9")
    assert "--recipe" not in command and f"--model_name_or_path {run.job.model} " in command


def test_a_state_names_what_it_knows(output):
    command = diagnose(output, task_name="demo_pair").rescue
    assert "--task_name demo_pair" in command and "--learning_rate 0.001" in command and "--max_steps 8" in command


def test_an_input_error_is_no_traceback_from_python_either(tmp_path):
    with pytest.raises(InputError, match="nothing of a run there"):
        diagnose(tmp_path)
    assert os.listdir(tmp_path) == []
