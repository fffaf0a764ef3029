"""`hf-stability report`: what it prints, its refusals, and that it needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hf_stability import cli
from tests.study.report.page.test_page import FILES, write_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("report"), {"good": (0.7, 0), "bad": (0.7, 4)})


@pytest.mark.slow
def test_it_writes_the_page_and_prints_the_verdict_without_torch(folder):
    code = """
import sys
from hf_stability.cli import main
code = main(["report", sys.argv[1], "--rope", "0.02"])
print(code, sorted({"torch", "transformers", "datasets", "ray", "pandas"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "0 []", done.stderr
    assert lines[0].startswith("On rte, good has the fewest failed runs: 0 of 5 ") and "(±0.02)" in lines[1]
    assert lines[4].startswith(f"The page: {folder / 'report' / 'report.html'}.")
    assert all((folder / "report" / name).is_file() for name in FILES)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "report: give a study's folder, --runs or --scores"),
        (["nowhere"], "report nowhere: no such folder"),
        (["."], "report .: no finished run of a study"),
        ([".", "--rop", "1"], "--rop: no such argument (did you mean --rope?)"),
        ([".", "--rope", "x"], "argument --rope: invalid float value: 'x'"),
        ([".", "--task_name", "rte"], "--task_name: it belongs to --runs or --scores"),
        ([".", "--baseline", "0.5"], "--baseline: it belongs to --runs or --scores"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"hf-stability: error: {message}") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_task_is_named_in_the_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scores.csv").write_text("recipe,seed,accuracy\na,1,0.7\na,2,0.5\n")
    assert cli.main(["report", "--scores", "scores.csv", "--baseline", "0.5", "--task_name", "my reviews"]) == 0
    assert capsys.readouterr().out.startswith("On my reviews, a failed in 1 of 2 ")
    assert "<title>Stability over seeds: my reviews</title>" in (tmp_path / "report" / "report.html").read_text()
