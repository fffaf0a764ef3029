"""`hf-stability show`: a run in the terminal, as it is left on disk."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hf_stability import cli
from hf_stability.diagnostics.attempt import Attempt
from hf_stability.study.report.one_run import _attempt_line
from hf_stability.utils.files import write_json
from tests.study.report.page.test_page import write_study


@pytest.fixture
def folder(tmp_path):
    return write_study(tmp_path / "study", {"good": (0.7, 1)}, seeds=2) / "runs" / "good"


def shown(capsys, path) -> str:
    assert cli.main(["show", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_a_failed_run(folder, capsys):
    out = shown(capsys, folder / "seed-001")
    lines = out.splitlines()
    assert lines[:2] == [str(folder / "seed-001"), "failed: accuracy 0.47."]
    assert lines[2] == f"To find the cause: hf-stability diagnose {folder / 'seed-001'}"
    assert (
        "accuracy: 0.470 at the end of training, 0.470 at the best of 4 evaluations; best constant prediction 0.530"
        in out
    )
    assert "train loss, mean over the last 10% of update steps: 0.69" in out
    assert f"{folder / 'seed-001' / 'steps.rec'}" in out and "gradients.png" not in out
    assert [cell.strip() for cell in lines[[x[:15] for x in lines].index("| learning_rate")].split("|")[1:4]] == [
        "learning_rate", "2e-05", "recipe good",
    ]  # fmt: skip
    assert lines[-1] == "Versions: torch 2.13.0"


def test_attempts_are_told_with_what_they_changed():
    first = Attempt(0, {}, {}, "alarm", None, 8, 20)
    last = Attempt(1, {"learning_rate": 8.33e-5, "bias_correction": True}, {}, None, None, 20, 20)
    assert [_attempt_line(attempt) for attempt in (first, last)] == [
        "attempt 1: an alarm, step 8 of 20",
        "attempt 2: trained to its end, step 20 of 20; with other seeds, learning_rate 8.3e-05 and bias_correction True",
    ]


def test_an_ok_run_has_no_way_to_a_diagnosis(folder, capsys):
    assert "diagnose" not in shown(capsys, folder / "seed-002")


def test_a_crashed_run_an_unfinished_run_and_a_callbacks(folder, capsys, tmp_path):
    (folder / "seed-001" / "run.json").unlink()
    (folder / "seed-001" / "verdict.json").unlink()
    assert "not finished: there is no record yet." in shown(capsys, folder / "seed-001")
    (folder / "seed-001" / "error.txt").write_text("Traceback\n  x\nValueError: no memory\n")
    assert "crashed: ValueError: no memory" in shown(capsys, folder / "seed-001")
    write_json_at = tmp_path / "trainer" / "stability"
    write_json_at.mkdir(parents=True)
    write_json(write_json_at / "verdict.json", {"status": "failed", "sentence": "failed: accuracy 0.4."})
    out = shown(capsys, tmp_path / "trainer")
    assert "failed: accuracy 0.4." in out and f"diagnose {tmp_path / 'trainer'}\n" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "show: give the run's folder first"),
        (["nowhere"], "show nowhere: no such folder"),
        (["file"], "show file: this is a file"),
        (["."], "show .: there is no verdict, no record and no settings of a run in this folder"),
        (
            ["trainer"],
            "show trainer: there is no verdict, no record and no settings of a run in this folder. It is a Trainer's",
        ),
        (["study"], "show study: this is a study's folder; give one run of it"),
    ],
)
def test_wrong_input_is_one_line(folder, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "trainer_state.json").write_text("{}")
    assert cli.main(["show", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"hf-stability: error: {message}") and err.count("\n") == 1


def test_it_imports_nothing_heavy(folder):
    code = """
import sys
from hf_stability.cli import main
main(["show", sys.argv[1]])
print(sorted({"torch", "transformers", "pandas", "scipy", "datasets", "matplotlib", "ray", "jinja2"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder / "seed-001")], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
