"""`hf-stability status`: what it prints, and that it starts at once."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from hf_stability import cli
from hf_stability.cli import status as command
from hf_stability.study.progress_file import write_progress
from tests.study.test_status import HERE, PLANNED, RUNNING, finish


@pytest.fixture
def folder(tmp_path):
    finish(tmp_path, 1, "ok")
    write_progress(tmp_path, RUNNING)
    return tmp_path


def test_text_and_json(folder, capsys):
    assert cli.main(["status", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{folder}: running, process {HERE.process}") and "340/1000" in out and err == ""
    assert cli.main(["status", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["planned"] == list(PLANNED)


def test_watching_goes_on_until_the_study_ends(folder, capsys, monkeypatch):
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            write_progress(folder, dataclasses.replace(RUNNING, state="ended"))

    monkeypatch.setattr(command.time, "sleep", sleep)
    assert cli.main(["status", str(folder), "--watch"]) == 0
    out, _ = capsys.readouterr()
    assert (
        waited == [2.0] * 3 and out.count("\n") < 20 and out.startswith(f"{folder}: ended at ") and "\x1b" not in out
    )


def test_ctrl_c_ends_the_watching_with_the_last_status(folder, capsys, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", interrupted)
    assert cli.main(["status", str(folder), "--watch"]) == 0
    assert capsys.readouterr().out.startswith(f"{folder}: running")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "status: give the study's folder first"),
        (["nowhere"], "status nowhere: no such folder"),
        (["."], "status .: no study in this folder"),
        ([".", "--wach"], "--wach: no such argument (did you mean --watch?)"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["status", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"hf-stability: error: {message}") and err.count("\n") == 1


def test_it_imports_nothing_heavy(folder):
    code = """
import sys
from hf_stability.cli import main
main(["status", sys.argv[1]])
print(sorted({"torch", "transformers", "pandas", "scipy", "datasets", "matplotlib", "ray"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
