"""`hf-stability restarts`: a real tiny study through the command, its table against its runs' own numbers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from itertools import combinations

import numpy as np
import pytest

from hf_stability import cli
from hf_stability.errors import InputError
from hf_stability.study.records import RunRecord
from hf_stability.study.report.restarts import tabulate
from hf_stability.study.report.restarts_page import analyse, policies_table, write_restarts
from hf_stability.study.report.scores import read_recipes, read_scores
from hf_stability.utils.files import write_json
from tests.study.report.test_scores import leave_run


pytestmark = pytest.mark.usefixtures("no_heat_maps")


@pytest.fixture(scope="module")
def arguments(tiny_study):
    evaluated = "--validation_half both --max_steps 8 --eval_strategy steps --eval_steps 2"
    return [*tiny_study, *evaluated.split(), "--learning_rate", "3e-3"]


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    """A study of four seeds, evaluated four times on both halves. Not to be changed."""
    folder = tmp_path_factory.mktemp("restarts") / "study"
    assert cli.main([*arguments, "--seeds", "4", "--output_dir", str(folder)]) == 0
    return folder


def metrics(folder, seed):
    return json.loads((folder / "runs" / "devlin2019" / f"seed-00{seed}" / "metrics.json").read_text())


def test_both_halves_are_on_record_at_every_evaluation_and_the_first_counts(finished):
    for run in read_recipes(finished)["devlin2019"]:
        record = metrics(finished, run.seed)
        assert [entry["step"] for entry in record["evaluations"]] == [2, 4, 6, 8]
        halves = [(entry["eval_first_accuracy"], entry["eval_second_accuracy"]) for entry in record["evaluations"]]
        assert (run.last, run.report) == halves[-1] and run.accuracy == run.last
        assert run.best == max(first for first, _ in halves) == record["best"]["eval_first_accuracy"]
        assert f"accuracy {run.last:.3f}" in run.sentence and "on 12 examples" in run.sentence
        with np.load(finished / "runs" / run.name / "predictions.npz") as saved:
            assert (saved["logits"].argmax(-1) == saved["labels"]).mean() == run.last
    (figures,) = json.loads((finished / "summary.json").read_text())["recipes"]
    assert figures["report_mean"] == pytest.approx(np.mean([halves_of(finished, k)[1] for k in range(1, 5)]))
    text = (finished / "summary.md").read_text()
    assert "accuracy: mean on the second half" in text and "Scores and verdicts come from the first half" in text


def halves_of(folder, seed):
    last = metrics(folder, seed)["last"]
    return last["eval_first_accuracy"], last["eval_second_accuracy"]


def test_the_expected_maximum_is_the_mean_over_all_that_could_be_drawn(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "study")
    folder = tmp_path / "study"
    assert cli.main(["restarts", str(folder), "--budget", "3", "--recipe", "devlin2019"]) == 0
    out = capsys.readouterr().out
    text = (folder / "restarts.md").read_text()
    assert out.startswith(text) and "Selected on the first half of the development set, valued on the second." in text
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    maxima = {int(row[0]): row[1:] for row in rows if len(row) == 3 and row[0].isdigit()}
    halves = [halves_of(finished, seed) for seed in range(1, 5)]
    for n in range(1, 5):
        kept = []
        for drawn in combinations(halves, n):
            best = max(first for first, _ in drawn)
            kept.append(np.mean([second for first, second in drawn if first == best]))
        assert float(maxima[n][0]) == pytest.approx(np.mean(kept), abs=6e-4)
    assert maxima[1] == [maxima[1][0]] * 2  # both formulas
    stops = [row for row in rows if len(row) == 7 and row[0].isdigit()]
    assert {row[1] for row in stops} == {"25%", "50%", "75%"} and all(float(row[3]) <= 3 for row in stops)
    assert "chosen by its own gain" in text
    assert (folder / "figures" / "restarts.png").stat().st_size > 10_000
    before = {path: path.read_bytes() for path in (folder / "restarts.md", *folder.glob("figures/restarts.*"))}
    write_restarts(folder, budget=3)
    assert {path: path.read_bytes() for path in before} == before and len(before) == 3


def test_one_development_set_selects_and_reports_and_it_is_said(tmp_path):
    rng = np.random.default_rng(0)
    for recipe in ("a", "b"):
        for seed in range(1, 13):
            leave_run(tmp_path, seed, tuple(rng.random(4).round(2)), recipe=recipe)
    leave_run(tmp_path, 13, (0.4,), status="diverged", planned_steps=40)
    text = write_restarts(tmp_path)
    assert text.count("Selected and valued on the same development set. On new examples expect lower scores") == 2
    assert "N = 13 finished runs. 1 of them diverged" in text and "at a budget of 10 runs" in text
    found = analyse(read_scores(tmp_path, read_recipes(tmp_path)["b"]))
    assert (np.diff(found.without) >= 0).all() and found.without[-1] == found.scores.scores.max()
    assert found.budget == 10 and (found.replaced <= found.without + 1e-12).all()
    assert "look at 25%, finish half the budget" in text and (found.rule_costs <= 12).all()


def test_the_table_of_policies_has_a_row_for_each():
    rng = np.random.default_rng(0)
    rows = tabulate(3, [0.1, 0.5], rng.normal(size=(12, 2)), rng.random(12))
    text = policies_table(rows, "accuracy").splitlines()
    assert rows and len(text) == 2 + len(rows) and "accuracy: restarts at this budget" in text[0]


def test_without_looks_there_is_no_early_stopping(tmp_path):
    leave_run(tmp_path, 1, (0.5,))
    leave_run(tmp_path, 2, (0.6,))
    assert "No early stopping: the runs were not evaluated before their end" in write_restarts(tmp_path)
    shutil.rmtree(tmp_path / "runs")
    leave_run(tmp_path, 1)
    assert "No early stopping: a budget of 1 of 1 runs is too small to stop one" in write_restarts(tmp_path)


def test_what_cannot_be_drawn_from_is_refused_and_nothing_is_written(tmp_path, capsys):
    for seed in (1, 2):
        leave_run(tmp_path, seed)
    run = leave_run(tmp_path, 3, recipe="c")
    two_way = RunRecord(**{**run.to_dict(), "cell": {"init": 1, "order": 1, "dropout": 1}})
    with pytest.raises(InputError, match="c: its runs have two-way seeds"):
        analyse(dataclasses.replace(read_scores(tmp_path, [run]), runs=(two_way,)))
    restarted = dataclasses.replace(run, attempts=[], steps_spent=50)
    with pytest.raises(InputError, match="c: its runs may begin again"):
        analyse(dataclasses.replace(read_scores(tmp_path, [run]), runs=(restarted,)))
    leave_run(tmp_path, 1, status="stopped", planned_steps=40, recipe="d")
    for given, message in (
        (
            [str(tmp_path), "--recipe", "a", "--budget", "3"],
            "--budget 3: must be between 1 and 2, the number of finished runs of a",
        ),
        ([str(tmp_path), "--recipe", "a", "--budget", "nan"], "--budget nan: must be between 1 and 2"),
        ([str(tmp_path)], "d: 1 of 1 runs were stopped by an alarm"),
        ([str(tmp_path), "--recipe", "e"], "--recipe e: no finished run"),
        ([str(tmp_path / "none")], "no finished run; give a study's folder"),
        ([], "restarts: give the study's folder first"),
        ([str(tmp_path), "--budgets", "3"], "--budgets: no such argument (did you mean --budget?)"),
        ([str(tmp_path), "--budget", "x"], "argument --budget: invalid float value: 'x'"),
    ):
        assert cli.main(["restarts", *given]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err
    assert not (tmp_path / "restarts.md").exists() and not (tmp_path / "figures").exists()


@pytest.mark.parametrize("command", ["restarts", "two_way"])
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "How to read it" in text and "examples:" in text and "--recipe" in text
    assert max(map(len, text.splitlines())) <= 130


def test_a_metric_that_cannot_be_read_back_is_named(tmp_path):
    run = leave_run(tmp_path)
    write_json(tmp_path / "runs" / run.name / "metrics.json", {"evaluations": None})
    with pytest.raises(InputError, match="metrics.json: cannot be read"):
        write_restarts(tmp_path)
