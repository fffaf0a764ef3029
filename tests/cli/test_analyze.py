"""`hf-stability analyze`: what it prints, its refusals, its help, and that it needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hf_stability import cli
from hf_stability.analysis import ANALYSES
from tests.analysis.made_study import LAYERS, leave_run


@pytest.fixture
def folder(tmp_path):
    import numpy as np

    leave_run(tmp_path / "study", "a", 1, "failed", np.ones((10, len(LAYERS))), last=0.5, train_loss=0.7)
    return tmp_path / "study"


@pytest.mark.slow
def test_it_prints_the_sentences_and_the_files_without_torch(folder):
    code = """
import sys
from hf_stability.cli import main
code = main(["analyze", "gradients", sys.argv[1], "--windows", "5"])
print(code, sorted({"torch", "transformers", "datasets", "ray", "pandas"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "0 []", done.stderr
    assert lines[0] == "No ok runs here: all 1 run of a failed, so there is nothing to compare."
    assert lines[-2] == str(folder / "analysis" / "gradients" / "gradients.md")


def test_options_of_all_kinds_are_flags(folder, monkeypatch):
    given = []
    monkeypatch.setattr("hf_stability.analysis.analysis.write", lambda *arguments: [])
    monkeypatch.setattr("hf_stability.analysis.gradients.Gradients.sentences", lambda *arguments: [])
    monkeypatch.setattr(
        "hf_stability.analysis.gradients.Gradients.numbers", lambda self, study, options: given.append(options) or {}
    )
    assert cli.main(["analyze", "gradients", str(folder), "--windows", "5", "--below", "0.2", "--recipe", "a"]) == 0
    assert (given[0].windows, given[0].below) == (5, 0.2)


@pytest.mark.parametrize("name", [None, *ANALYSES])
def test_help_is_short_and_teaches(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["analyze", *([name] if name else []), "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and out.count("\n") <= 60 and max(map(len, out.splitlines())) <= 119
    assert "example" in out and (name or all(purpose in out for purpose in ANALYSES.values()))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "analyze: give an analysis, gradients"),
        (["gradient", "."], "analyze gradient: no such analysis (did you mean gradients?)"),
        (["gradients"], "analyze gradients: give the study's folder"),
        (["gradients", "nowhere"], "analyze nowhere: no such folder"),
        (["gradients", "."], ".: no finished run"),
        (["gradients", ".", "--window", "3"], "--window: no such argument (did you mean --windows?)"),
        (["ensemble", ".", "--runs", "x"], "argument --runs: invalid choice: 'x'"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["analyze", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"hf-stability: error: {message}") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
