"""The frame: every analysis is whole, its files are written once and the same, its figure comes from the JSON alone."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest

from hf_stability.analysis import ANALYSES, FinishedStudy, analyze
from hf_stability.analysis.analysis import Analysis, csv_text, load_analysis, write
from hf_stability.errors import InputError
from tests.analysis.made_study import LAYERS, leave_run


LABELS = np.array([0, 1] * 10)


@pytest.fixture
def study(tmp_path):
    """Two ok runs and a failed one of a recipe, with all files."""
    for seed, status in ((1, "ok"), (2, "ok"), (3, "failed")):
        logits = 2.0 * np.eye(2)[np.where(np.arange(20) < seed, 1 - LABELS, LABELS)]
        norms = np.full((12, len(LAYERS)), 1.0 / seed)
        leave_run(
            tmp_path,
            "a",
            seed,
            status,
            norms,
            logits,
            LABELS,
            last=0.9 - 0.1 * seed,
            train_loss=0.1 * seed,
            baseline=0.5,
        )
    return tmp_path


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_has_its_name_and_explains_its_options(name):
    analysis = load_analysis(name)
    assert isinstance(analysis, Analysis) and analysis.name == name
    for option in dataclasses.fields(analysis.Options):
        assert option.metadata["help"].endswith("."), option.name
    analysis.Options()  # each option has a default


def test_an_analysis_leaves_its_files_and_the_figure_comes_from_the_json_alone(study):
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    result = analyze("generalisation", study, bins=1)
    target = study / "analysis" / "generalisation"
    names = ["generalisation.json", "correlations.csv", "bins.csv", "points.csv"]
    names += ["generalisation.png", "generalisation.svg", "generalisation.md"]
    assert [path.name for path in result.files] == names and sorted(p.name for p in target.iterdir()) == sorted(names)
    numbers = json.loads(result.files[0].read_text())
    assert numbers == result.numbers and numbers["options"]["bins"] == 1 and numbers["recipes"] == {"a": 3}
    rows = list(csv.DictReader((target / "points.csv").open()))
    assert [float(row["score"]) for row in rows] == [point["score"] for point in numbers["tables"]["points"]]
    for sentence in result.sentences:
        assert sentence in result.files[-1].read_text()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradients", "generalisation", "churn", "ensemble"])
def test_the_same_bytes_each_time_and_again_from_the_json(study, tmp_path, name):
    result = analyze(name, study, output_dir=tmp_path / "first")
    again = write(load_analysis(name), json.loads(result.files[0].read_text()), tmp_path / "again")
    assert [path.read_bytes() for path in result.files] == [path.read_bytes() for path in again]
    assert [path.name for path in result.files] == [path.name for path in again]


def test_a_table_that_has_lost_its_rows_loses_its_file(tmp_path, monkeypatch):
    class Empty(Analysis):
        name = "empty"

        def sentences(self, numbers):
            return ["Nothing."]

        def draw(self, numbers):
            return None

    monkeypatch.setattr("hf_stability.study.report.figures.write_figure", lambda *arguments: [])
    for rows in ([{"a": None, "b": 0.1}], []):
        files = write(Empty(), {"tables": {"rows": rows}}, tmp_path)
        assert (tmp_path / "rows.csv").exists() == bool(rows) == (tmp_path / "rows.csv" in files)
    assert csv_text([{"a": None, "b": 0.1}]) == "a,b\n,0.1\n"


def test_the_jobs_of_each_study_are_planned_once_and_their_tables_are_joined(study, tmp_path, monkeypatch):
    planned = []

    class WithRuns(Analysis):
        name = "with-runs"

        def beside(self, study, options):
            return [study]

        def jobs(self, study, options):
            planned.append(study)
            return ["a job"]

        def numbers_of_arms(self, study, arms, options):
            return {"n": len(planned), "tables": {"rows": [arms]}}

        def sentences(self, numbers):
            return []

        def figures(self, numbers):
            return {}

    monkeypatch.setattr("hf_stability.analysis.analysis.load_analysis", lambda name: WithRuns())
    monkeypatch.setattr("hf_stability.analysis.analysis.provide", lambda *arguments: [])
    monkeypatch.setattr("hf_stability.analysis.more_runs.read_arms", lambda study, own, jobs: {"jobs": len(jobs)})
    result = analyze("with-runs", study, output_dir=tmp_path / "out")
    assert len(planned) == 2 and result.numbers["tables"] == {"rows": [{"jobs": 1}, {"jobs": 1}]}


def test_the_study_that_analyses_read(study):
    found = FinishedStudy(study)
    assert [run.seed for run in found.ok] == [1, 2] and [run.seed for run in found.failed] == [3]
    run = found.runs[0]
    assert found.learning_rate(run) == 2e-5 and found.steps(run)["layers"] == LAYERS
    assert found.predictions(run)[0].shape == (20, 2) and found.model_folder(run) is None
    with pytest.raises(InputError, match="names the study's data"):
        found.data  # noqa: B018
    (study / "runs" / run.name / "config.json").unlink()
    assert found.job(run) == {} and found.learning_rate(run) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gradient"}, r"analyze gradient: no such analysis \(did you mean gradients\?\); choose gradients"),
        ({"bin": 3}, r"analyze generalisation: no such option bin \(did you mean bins\?\)"),
        ({"bins": 0}, "--bins 0: give 1 to 1000"),
        ({"name": "ensemble", "runs": "some"}, "--runs some: choose one of ok, all"),
        ({"name": "churn", "runs": "ok"}, "no such option runs; it takes no options"),
        ({"recipes": ["b"]}, "--recipe b: no finished run"),
        ({"folder": "nowhere"}, "analyze nowhere: no such folder"),
        ({"output_dir": "runs/a/seed-001/run.json"}, "this is a file|is a file; give a folder"),
    ],
)
def test_wrong_input_writes_nothing(study, monkeypatch, arguments, message):
    monkeypatch.chdir(study)
    arguments = {"name": "generalisation", "folder": ".", **arguments}
    with pytest.raises(InputError, match=message):
        analyze(arguments.pop("name"), arguments.pop("folder"), **arguments)
    assert not (study / "analysis").exists()


def test_a_study_that_lacks_something_is_told_so(tmp_path):
    leave_run(tmp_path, "a", 1)
    with pytest.raises(InputError, match=r"^analyze gradients: No run in .* has a steps\.rec\."):
        analyze("gradients", tmp_path)
