"""`hf-stability export`: what it prints and writes; that it starts at once."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_stability import cli
from hf_stability.study.records import RunRecord
from hf_stability.study.report.summary import summarize
from hf_stability.study.report.summary_page import recipes_table


def runs() -> list[RunRecord]:
    values = {"metric": "accuracy", "task": "rte", "baseline": 0.5, "steps": 30, "planned_steps": 30, "evaluations": 1}
    scores = {"a_b": (0.7 + 1e-9, 0.5), "c&d": (0.8, 0.9)}
    return [
        RunRecord(
            f"{recipe}{seed}",
            recipe,
            seed,
            status="ok" if score > 0.5 else "failed",
            last=score,
            best=score,
            metrics={"eval_accuracy": score, "eval_loss": 0.1},
            sentence=f'said of {seed}, quoted "so"',
            **values,
        )  # fmt: skip
        for recipe, own in scores.items()
        for seed, score in enumerate(own, 1)
    ]


@pytest.fixture
def folder(tmp_path) -> Path:
    for run in runs():
        (tmp_path / "study" / "runs" / run.name).mkdir(parents=True)
        (tmp_path / "study" / "runs" / run.name / "run.json").write_text(json.dumps(run.to_dict()))
    return tmp_path / "study"


def test_csv_has_a_row_per_run_with_numbers_in_full(folder, capsys):
    assert cli.main(["export", str(folder), "--to", "csv"]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert err == "" and [(row["recipe"], row["seed"]) for row in rows] == [
        (run.recipe, str(run.seed)) for run in runs()
    ]
    for row, run in zip(rows, runs(), strict=True):
        assert float(row["last"]) == float(row["eval_accuracy"]) == run.last and row["sentence"] == run.sentence
        assert row["alarm_step"] == "" and row["eval_loss"] == "0.1"


def test_parquet_has_the_same_rows_with_types(folder, tmp_path, capsys):
    from pyarrow import parquet

    file = tmp_path / "runs.parquet"
    assert cli.main(["export", str(folder), "--to", "parquet", "--output", str(file), "--recipe", "c&d", "a_b"]) == 0
    assert capsys.readouterr().out == f"{file}: 4 runs of 2 recipes\n"
    table = parquet.read_table(file)
    kinds = {field.name: str(field.type) for field in table.schema}
    assert (kinds["seed"], kinds["alarm_step"], kinds["last"], kinds["audited"]) == (
        "int64",
        "int64",
        "double",
        "bool",
    )
    rows = table.to_pylist()
    assert [row["recipe"] for row in rows] == ["c&d", "c&d", "a_b", "a_b"]  # in the order given
    assert rows[2]["last"] == 0.7 + 1e-9 and rows[2]["alarm_step"] is None


def test_tables_have_the_cells_of_summary_md(folder, capsys):
    assert cli.main(["export", str(folder), "--to", "markdown"]) == 0
    markdown = capsys.readouterr().out
    assert markdown == recipes_table(summarize(runs())) + "\n"
    assert cli.main(["export", str(folder), "--to", "latex"]) == 0
    latex = capsys.readouterr().out.splitlines()
    assert latex[0] == "% needs \\usepackage{booktabs}" and latex[1].startswith("\\begin{tabular}{lr")
    assert [line for line in latex if line.startswith("\\") and "rule" in line] == [
        "\\toprule", "\\midrule", "\\bottomrule",
    ]  # fmt: skip
    rows = [line.removesuffix(r" \\").split(" & ") for line in latex if line.endswith(r" \\")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    del cells[1]
    escaped = [[cell.replace("_", r"\_").replace("&", r"\&").replace("%", r"\%") for cell in row] for row in cells]
    assert rows == [[cell.replace(r"c\&d", r"c\&d") for cell in row] for row in escaped]


def test_runs_without_a_record_are_counted(folder, capsys):
    for name, file in (("seed-003", "error.txt"), ("seed-004", "")):
        (folder / "runs" / "a_b" / name).mkdir()
        (folder / "runs" / "a_b" / name / "config.json").write_text("{}")
        if file:
            (folder / "runs" / "a_b" / name / file).write_text("Traceback")
    assert cli.main(["export", str(folder), "--to", "csv"]) == 0
    out, err = capsys.readouterr()
    assert err == "left out: 1 crashed and 1 unfinished\n" and out.count("\n") == 5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "export: give the study's folder first"),
        (["FOLDER"], "export: give the format with --to: csv, parquet, latex, markdown"),
        (["FOLDER", "--to", "xlsx"], "--to xlsx: no such format"),
        (["FOLDER", "--to", "markdwn"], "--to markdwn: no such format (did you mean markdown?)"),
        (["FOLDER", "--to", "parquet"], "--to parquet: this is no text; give a file"),
        (["FOLDER", "--to", "csv", "--output", "."], "--output .: no file can be written there"),
        (["FOLDER", "--to", "csv", "--output", "gone/a.csv"], "--output gone/a.csv: no file can be written there"),
        (["FOLDER", "--to", "csv", "--recipe", "ab"], "--recipe ab: no finished run"),
        (["nowhere", "--to", "csv"], "nowhere: no finished run"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(folder, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["export", *(str(folder) if word == "FOLDER" else word for word in argv)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"hf-stability: error: {message}") and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_it_imports_nothing_heavy(folder):
    code = """
import sys
from hf_stability.cli import main
main(["export", sys.argv[1], "--to", "csv"])
print(sorted({"torch", "transformers", "pandas", "datasets", "matplotlib", "pyarrow", "ray"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
