"""`hf-stability diagnose`: the report, and what the command refuses."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from hf_stability import cli
from hf_stability.diagnose import diagnose
from hf_stability.diagnose.report import share_sentence
from hf_stability.errors import InputError
from tests.diagnose.tools import GOOD, files, of, run_of, state


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


def test_one_run_says_little_of_its_settings(study):
    report = diagnose(run_of(study))
    failed = int(report.status in ("failed", "diverged"))
    assert report.failed_share == pytest.approx((1, 0.2065, 1) if failed else (0, 0, 0.7935), abs=1e-4)
    assert "(95% interval)" in report.to_text()


@pytest.mark.parametrize(("share", "text"), [((1.0, 0.2065, 1.0), "is 0.21-1 "), ((0.0, 0.0, 0.7935), "is 0-0.79 ")])
def test_the_failed_share_of_one_run_in_words(share, text):
    assert text in share_sentence(share)


def test_the_command_memorises_a_runs_own_examples(run, study):
    code, out, err = run(run_of(study), "--memorize")
    assert code == 0 and "memorize: the model can memorise: 100% of 32 training examples right" in " ".join(
        out.split()
    )
    assert "memorising 32 examples" in err  # the bar
    report = diagnose(run_of(study), memorize=True, memorize_rate=1e-9)
    assert of(report, "memorize").likelihood == "likely" and of(report, "memorize").figures["rate"] <= 1e-9
    assert any("Mend first: memorize" in step for step in report.next_steps)


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
    with pytest.raises(InputError, match="nothing of a run there"):
        diagnose(tmp_path)
    assert os.listdir(tmp_path) == []
