from pathlib import Path

import pytest

from benchmarks import hf_trainer_tests
from tests.processes import run_script


FAKE_TESTS = """
import unittest

import torch
from transformers import ANameOfAnotherVersion, Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, x, labels=None):
        return {"loss": (self.weight * x).square().mean()}


def test_training(tmp_path):
    arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to="none", use_cpu=True, save_strategy="no")
    data = [{"x": torch.ones(2), "labels": torch.ones(1)}] * 2
    Trainer(Model(), arguments, train_dataset=data).train()
    assert not list(tmp_path.iterdir())


class FakeTest(unittest.TestCase):
    def test_callbacks(self):
        for kind, arguments in ((Trainer, TrainingArguments), (Seq2SeqTrainer, Seq2SeqTrainingArguments)):
            callbacks = kind(Model(), arguments(report_to="none", use_cpu=True)).callback_handler.callbacks
            self.assertFalse([callback for callback in callbacks if "Stab" in type(callback).__name__])

    def test_subclass(self):
        class Mine(Trainer):
            pass

        self.assertEqual([cls.__name__ for cls in Mine.__mro__[1:]], ["Trainer", "object"])

    def test_placeholder(self):
        ANameOfAnotherVersion()

    def test_skipped(self):
        self.skipTest("no GPU")
"""
TEST = "tests/trainer/test_fake.py::"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All three variants, as main() makes them: the checkout, the folder of results, and the return value."""
    folder = tmp_path_factory.mktemp("hf")
    trainer_tests = folder / "checkout" / "tests" / "trainer"
    trainer_tests.mkdir(parents=True)
    (trainer_tests / "test_fake.py").write_text(FAKE_TESTS)
    command = [str(folder / "checkout"), "--output", str(folder / "out")]
    return command, hf_trainer_tests.main(command)


@pytest.mark.slow
def test_differences_are_found(runs, capsys):
    command, code = runs
    assert code == 1
    assert hf_trainer_tests.main(command) == 1  # everything is there: nothing is run, the report is the same
    printed = capsys.readouterr().out
    assert "| stock | 3 | 1 | 1 | 0 |" in printed
    assert "| stable_trainer | 1 | 3 | 1 | 0 |" in printed
    assert "| callback | 2 | 2 | 1 | 0 |" in printed
    assert "stable_trainer: 2 of 5 tests differ" in printed and "callback: 1 of 5 tests differ" in printed
    assert f"{TEST}FakeTest::test_callbacks: passed -> failed\n      AssertionError: " in printed
    assert printed.count("NOT LISTED") == 3 and "3 differences are not listed" in printed


@pytest.mark.slow
def test_listed_differences_are_no_errors(runs, capsys, monkeypatch):
    both = ("stable_trainer", "callback")
    listed = [(both, "*::test_callbacks", "a callback more"), (both[:1], "*::test_subclass", "a subclass")]
    monkeypatch.setattr(hf_trainer_tests, "DIFFERENCES", listed)
    assert hf_trainer_tests.main(runs[0]) == 0
    printed = capsys.readouterr().out
    assert printed.count("listed: a callback more") == 2 and printed.count("listed: a subclass") == 1
    assert "Every difference is listed" in printed

    monkeypatch.setattr(hf_trainer_tests, "DIFFERENCES", listed[1:])
    assert hf_trainer_tests.main(runs[0]) == 1


@pytest.mark.slow
def test_a_process_that_ends_in_a_test_loses_that_test_alone(tmp_path, monkeypatch):
    """The first process ends in `b`, the second begins after it."""
    results, started = tmp_path / "results.jsonl", []

    class Process:
        def __init__(self, command, **kwargs):
            known = hf_trainer_tests.read_results(results)
            started.append(list(known))
            for test in "abc":
                if test not in known:
                    outcome = "started" if test == "b" else "passed"
                    hf_trainer_tests.append_result(results, f"{test}", outcome)
                    if outcome == "started":
                        break
            self.returncode = -11 if len(started) == 1 else 0

        def poll(self):
            return self.returncode

        def kill(self):
            pass

    monkeypatch.setattr(hf_trainer_tests.subprocess, "Popen", Process)
    for _ in range(2):  # the second time everything is there
        found = hf_trainer_tests.run("stock", tmp_path, tmp_path, 300, "")
        assert {test: result["outcome"] for test, result in found.items()} == {
            "a": "passed",
            "b": "crashed",
            "c": "passed",
        }
        assert found["b"]["error"] == "exit code -11"
        assert started == [[], ["a", "b"]]


@pytest.mark.slow
def test_results_of_changed_tests_are_not_taken(tmp_path):
    (tmp_path / "test_a.py").write_text("")
    files = [tmp_path / "test_a.py"]
    first = hf_trainer_tests.fingerprint("stock", files, "", 300)
    assert first == hf_trainer_tests.fingerprint("stock", files, "", 300)
    assert first != hf_trainer_tests.fingerprint("stock", files, "evaluate", 300)
    assert first != hf_trainer_tests.fingerprint("callback", files, "", 300)
    files[0].write_text("import torch")
    assert first != hf_trainer_tests.fingerprint("stock", files, "", 300)


def test_a_test_that_another_run_lacks_differs(capsys):
    results = {name: {"a.py::test": {"outcome": "passed", "error": ""}} for name in ("stock", "callback")}
    assert hf_trainer_tests.report({**results, "stable_trainer": {}}) == 1
    assert "a.py::test: passed -> not there" in capsys.readouterr().out


@pytest.mark.parametrize("flags, says", [([], "no tests/trainer"), (["--timeout", "0"], "--timeout 0")])
def test_bad_input_is_refused_in_one_line(flags, says, tmp_path, capsys):
    (tmp_path / "tests" / "trainer").mkdir(parents=True)
    if flags:
        (tmp_path / "tests" / "trainer" / "test_a.py").write_text("")
    assert hf_trainer_tests.main([str(tmp_path), *flags]) == 2
    message = capsys.readouterr().err
    assert says in message and message.count("\n") == 1


@pytest.mark.slow
def test_a_test_that_hangs_fails(tmp_path):
    folder, results = tmp_path / "tests" / "trainer", tmp_path / "results.jsonl"
    folder.mkdir(parents=True)
    (folder / "test_a.py").write_text("def test_a():\n    while True:\n        pass\n")
    script = Path(hf_trainer_tests.__file__)
    run_script(script, [tmp_path, "--child", "stock", "--timeout", "0.5", "--output", results], timeout=60)
    (found,) = hf_trainer_tests.read_results(results).values()
    assert found["outcome"] == "failed" and "Timeout" in found["error"]
