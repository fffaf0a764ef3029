"""The tables of a report: their cells, and the same tables as Markdown and LaTeX."""

from __future__ import annotations

import re

import pytest

from hf_stability.study.report.elsewhere.read import from_scores
from hf_stability.study.report.page.contents import report_contents
from hf_stability.study.report.page.tables import Table, pairs_table, recipes_table, to_latex, to_markdown
from hf_stability.utils.text import latex
from tests.study.report.page.test_contents import BAD, GOOD, recipe, run


def cells(table, row=0):
    return dict(zip(table.header, table.rows[row], strict=True))


def test_the_recipes_are_in_the_order_of_the_ranking():
    table = recipes_table(report_contents([*BAD, *GOOD]))
    assert [row[0] for row in table.rows] == ["good", "bad"]
    assert cells(table)["failed"] == "0 (0-0.32)" and cells(table)["mean"] == "0.712 (0.699-0.726)"
    assert cells(table, 1)["failed"] == "6 = 0.75 (0.41-0.93)"
    assert cells(table, 1)["std (all)"].endswith("*")  # most runs failed
    assert cells(table, 1)["std (not failed)"].endswith(", n = 2")
    assert any("no sign of stability" in note for note in table.notes)


def test_update_steps_are_told_where_they_differ():
    assert "update steps" not in recipes_table(report_contents([*BAD, *GOOD])).header
    long = recipe("long", [0.9] * 8, steps=300, planned_steps=300)
    table = recipes_table(report_contents([*GOOD, *long]))
    assert [cells(table, row)["update steps"] for row in (0, 1)] == ["300", "100"]
    assert any("do not have the same compute" in note for note in table.notes)
    unknown = recipe("long", [0.9] * 8, steps=0, planned_steps=0)
    assert "update steps" not in recipes_table(report_contents([*GOOD, *unknown])).header


def test_stopped_runs_have_bounds():
    table = recipes_table(report_contents([*GOOD, *BAD, run("bad", 30, None, "stopped")]))
    assert cells(table, 1)["failed"] == "6 to 7 of 9" and cells(table, 1)["mean"] == "-"


def test_the_pairs_of_the_first_recipe_come_first():
    table = pairs_table(report_contents([*BAD, *GOOD, *recipe("near", [0.7] * 7, [0.47])]))
    assert [row[:2] for row in table.rows] == [("good", "near"), ("good", "bad"), ("near", "bad")] and table.first == 2
    row = cells(table, 1)
    assert (row["A is"], row["failed A / B"], row["n"]) == ("fails less", "0 of 8 / 6 of 8", "8 pairs")
    assert re.fullmatch(r"-0\.750 \(-0\.\d{3} to -0\.\d{3}\)", row["failed share, A - B"])
    assert any("The families are all pairs of 3 recipes: 3 tests of failed shares" in note for note in table.notes)


def test_without_a_baseline_no_failed_runs_are_told():
    runs = from_scores({"a": [0.7, 0.8, 0.9], "b": [0.6, 0.7, 0.7]}, "accuracy")
    table = pairs_table(report_contents(runs))
    assert cells(table)["failed A / B"] == "unknown / unknown" and cells(table)["failed share, A - B"] == "-"


def test_markdown_has_a_cell_for_each_column():
    lines = to_markdown(recipes_table(report_contents([*BAD, *GOOD]))).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4 and len({row.count("|") for row in rows}) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 5% #1", r"a\_b \& 5\% \#1"),
        ("p < 0.001", r"p $<$ 0.001"),
        ("\\{~^", r"\textbackslash{}\{\textasciitilde{}\textasciicircum{}"),
    ],
)
def test_latex_escapes(text, expected):
    assert latex(text) == expected


def test_latex_is_whole():
    table = Table("t", "A_b", ("recipe", "x"), (("a_1", "0.5"), ("b&c", "< 0.1")), notes=("Read it.",))
    text = to_latex(table)
    assert re.findall(r"\\(toprule|midrule|bottomrule)", text) == ["toprule", "midrule", "bottomrule"]
    assert text.count("{") == text.count("}") and r"\begin{tabular}{lr}" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [1, 1, 1]
