"""Recipes of several studies on equal terms: what is refused, what is told."""

from __future__ import annotations

import json

import pytest

from hf_stability import cli
from hf_stability.errors import InputError
from hf_stability.study.report.page.compare import comparison, read_arms, unequal_terms
from hf_stability.utils.files import write_json
from tests.study.report.page.test_page import write_study


@pytest.fixture
def studies(tmp_path):
    """Two studies with the same data and seeds; `good` is in both."""
    first = write_study(tmp_path / "one", {"good": (0.7, 0), "bad": (0.7, 4)}, seeds=6)
    second = write_study(tmp_path / "two", {"good": (0.72, 0)}, seeds=6)
    for folder in (first, second):
        change(folder, data_fingerprint="d", model_fingerprint="m")
    return first, second


def change(folder, **values):
    for path in folder.glob("runs/*/*/config.json"):
        content = json.loads(path.read_text())
        content["job"].update(values)
        write_json(path, content)


def test_recipes_of_one_name_are_told_by_their_study(studies):
    first, second = studies
    assert [arm.name for arm in read_arms([first, second])] == ["bad", "one/good", "two/good"]
    assert [arm.name for arm in read_arms([first / "runs" / "bad", second])] == ["bad", "good"]
    assert {run.recipe for arm in read_arms([first, second]) for run in arm.runs} == {"bad", "one/good", "two/good"}


def test_equal_terms(studies):
    first, second = studies
    arms = read_arms([first / "runs" / "bad", second])
    assert unequal_terms(arms) == []
    text = comparison([first / "runs" / "bad", second])
    assert text.startswith("On ") and "good has the fewest failed runs: 0 of 6" in text
    assert "Data, model, update steps, evaluations and seeds are equal." in text
    assert "| A " in text and "4 of 6" in text


def test_unequal_terms_are_told_and_other_data_is_refused(studies, tmp_path):
    first, second = studies
    change(second, model_fingerprint="other")
    longer = json.loads(next(second.glob("runs/good/seed-001/run.json")).read_text())["planned_steps"] * 2
    for path in second.glob("runs/good/*/run.json"):
        write_json(path, {**json.loads(path.read_text()), "planned_steps": longer, "steps": longer, "evaluations": 99})
    told = " ".join(unequal_terms(read_arms([first / "runs" / "bad", second])))
    assert "pretrained models differ" in told and "update steps differ" in told and "evaluations differ" in told
    assert "seeds" not in told
    change(second, data_fingerprint="other")
    with pytest.raises(InputError, match="bad and good have different data"):
        comparison([first / "runs" / "bad", second])
    for path in second.glob("runs/*/*/config.json"):
        path.unlink()
    assert "Whether all have the same data is unknown" in comparison([first / "runs" / "bad", second])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give two recipes or more"),
        (["one/runs/good"], "give two recipes or more"),
        (["one", "one"], "is given twice"),
        (["one", "three"], "no such folder"),
        (["one/runs"], "no finished run"),
    ],
)
def test_bad_input_is_one_line(studies, monkeypatch, capsys, words, message):
    monkeypatch.chdir(studies[0].parent)
    assert cli.main(["compare", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1


def test_the_command_prints_it(studies, capsys):
    assert cli.main(["compare", str(studies[0] / "runs" / "bad"), str(studies[1]), "--rope", "0.02"]) == 0
    assert "practical equivalence (±0.02)" in capsys.readouterr().out
