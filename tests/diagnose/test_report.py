"""`hf-stability diagnose`: the report, and what the command refuses."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial

import pytest
import torch

from hf_stability import cli
from hf_stability.diagnose import diagnose
from hf_stability.diagnose import memorize as memorize_module
from hf_stability.diagnose.report import _without_text, share_sentence
from hf_stability.errors import InputError
from tests.diagnose.tools import GOOD, files, of, run_of, state


def test_a_state_alone_says_what_it_can(run, output, tmp_path):
    shutil.copy(output / "trainer_state.json", tmp_path / "state.json")
    code, out, _ = run("state.json", "--json", "report.json")
    assert code == 0 and "no verdict: too little is known of this run" in out
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


def test_one_run_says_little_of_its_settings(study):
    report = diagnose(run_of(study))
    failed = int(report.status in ("failed", "diverged"))
    assert report.failed_share == pytest.approx((1, 0.2065, 1) if failed else (0, 0, 0.7935), abs=1e-4)
    assert "(95% interval)" in report.to_text()


@pytest.mark.parametrize(("share", "text"), [((1.0, 0.2065, 1.0), "is 0.21-1 "), ((0.0, 0.0, 0.7935), "is 0-0.79 ")])
def test_the_failed_share_of_one_run_in_words(share, text):
    assert text in share_sentence(share)


def test_the_command_memorises_a_runs_own_examples(run, study, monkeypatch):
    code, out, err = run(run_of(study), "--memorize")
    assert code == 0 and "memorize: The model can memorize: 100% of 32 training examples are right" in " ".join(
        out.split()
    )
    assert "memorizing 32 examples" in err  # the bar
    fewer_steps = partial(memorize_module.memorize, steps=24)  # at this rate more teach it no more
    monkeypatch.setattr(memorize_module, "memorize", fewer_steps)
    report = diagnose(run_of(study), memorize=True, memorize_rate=1e-9)
    assert of(report, "memorize").likelihood == "likely" and of(report, "memorize").figures["rate"] <= 1e-9
    assert any("Fix first: memorize" in step for step in report.next_steps)


# ---- --json ---------------------------------------------------------------------------------------------------------


VERSIONS = {"hf_stability", "transformers", "torch", "accelerate", "python", "platform", "device"}


def test_bare_json_prints_the_report_with_versions(run, study, tmp_path):
    code, out, err = run(run_of(study), "--json")
    printed = json.loads(out)
    assert code == 0 and err == "" and VERSIONS <= set(printed["versions"])
    assert printed["versions"]["torch"] == torch.__version__ == printed["run_versions"]["torch"]
    assert printed == json.loads(json.dumps(diagnose(run_of(study)).to_dict()))
    code, out, _ = run(run_of(study), "--json", "report.json")
    assert code == 0 and "in order\n" in out and json.loads((tmp_path / "report.json").read_text()) == printed


def test_bare_json_without_a_run_prints_the_versions(run, tmp_path):
    code, out, err = run("--json")
    assert code == 0 and err == "" and VERSIONS <= set(json.loads(out)["versions"]) and not list(tmp_path.iterdir())


def test_figures_only_has_no_name_path_or_text_of_the_user(run, output, tiny_model, tmp_path):
    """The word `canary` is in every name that a user gives: paths, columns, classes, a value that cannot be read."""
    shutil.copytree(tiny_model("bert"), tmp_path / "canary_model")
    folder = tmp_path / "canary_run"
    shutil.copytree(output, folder)
    rows = [f"a canary number {i},canary_{i % 2}" for i in range(20)]
    for name in ("train", "dev"):
        (tmp_path / f"canary_{name}.csv").write_text("\n".join(["canary_text,canary_label", *rows, ""]))
    (tmp_path / "canary_bad.csv").write_text("canary_text,canary_label\nno,canary_9\nyes,canary_0\n")
    for validation in ("canary_dev.csv", "canary_bad.csv"):
        given = ["--train_file", "canary_train.csv", "--validation_file", validation]
        columns = ["--text_column_names", "canary_text", "--label_column_name", "canary_label"]
        words = [folder, "--model_name_or_path", "canary_model", *given, *columns, "--json"]
        whole, only = run(*words)[1], run(*words, "--figures_only")[1]
        assert "canary" in whole and "canary" not in only and str(tmp_path) not in only
        found, shown = json.loads(whole), json.loads(only)
        assert shown["versions"] == found["versions"] and shown["failed_share"] == found["failed_share"]
        assert [f["name"] for f in shown["findings"]] == [f["name"] for f in found["findings"]]
        assert [f["likelihood"] for f in shown["findings"]] == [f["likelihood"] for f in found["findings"]]
    (labels,) = [finding for finding in shown["findings"] if finding["name"] == "labels"]
    assert labels["faults"] == ["unreadable"]


def test_figures_only_counts_names_and_keeps_numbers():
    figures = {"peak": 1e-3, "ids": [0, 1], "dtype": "torch.float32", "head": ["my.weight", "my.bias"], "name": "mine"}
    more = {"parts": {"my.head": "new"}, "tokens": {"pad": 0, "cls": None}, "none": []}
    assert _without_text({**figures, **more}) == {
        "peak": 1e-3, "ids": [0, 1], "dtype": "torch.float32", "head": 2, "name": None,
        "parts": 1, "tokens": {"pad": 0, "cls": None}, "none": [],
    }  # fmt: skip


# ---- bad input ------------------------------------------------------------------------------------------------------


BAD = {
    "no path": (lambda folder: [], "diagnose: give the run's path first"),
    "no such path": (lambda folder: ["gone"], "gone: no such file or folder"),
    "an empty folder": (lambda folder: ["."], ".: no run found there (looked for trainer_state.json"),
    "no JSON": (files("state.json", "{"), "state.json: cannot be read as JSON"),
    "a list": (files("state.json", "[]"), "state.json: expected a JSON object"),
    "another JSON": (state(a=1), "trainer_state.json: not a trainer_state.json (it has no log_history)"),
    "no record": (files("steps.rec", "junk"), "steps.rec: not a record of training steps"),
    "a crash without a word": (files("run/error.txt", ""), "this run crashed, which is not instability: it left no traceback"),
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
    "the path after --json": (lambda folder: ["--json", GOOD(folder)[0]], "diagnose: give the run's path first"),
    "figures alone": (lambda folder: [*GOOD(folder), "--figures_only"], "--figures_only: goes with --json"),
    "an empty file name": (lambda folder: [*GOOD(folder), "--json", "", "--figures_only"], "--json: give a file, or no value"),
    "flags without a path": (lambda folder: ["--json", "--memorize"], "give the run's path first, before --memorize"),
    "another config": (files("run/config.json", '{"job": 3}'), "config.json: not a run's config.json"),
    "no place for JSON": (lambda folder: [*GOOD(folder), "--json", "no/where.json"], "--json no/where.json: no file can be written there"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, case):
    make, expected = BAD[case]
    code, out, err = run(*make(tmp_path))
    assert code == 2 and out == "" and err.count("\n") == 1 and err.startswith("hf-stability: error: "), err
    assert expected in err, err


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


def test_an_input_error_is_no_traceback_from_python_either(tmp_path):
    with pytest.raises(InputError, match="no run found there"):
        diagnose(tmp_path)
    assert os.listdir(tmp_path) == []
