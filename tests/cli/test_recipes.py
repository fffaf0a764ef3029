"""`hf-stability recipes`: the packaged recipes."""

from __future__ import annotations

from hf_stability import cli
from hf_stability.recipe import describe_recipe, recipe_names


def test_each_recipe_has_a_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(len(line.split()) > 3 and len(line) <= 160 for line in lines)
    assert next(line for line in lines if line.startswith("devlin2019 ")).split(maxsplit=1)[1] == describe_recipe(
        "devlin2019"
    )


def test_a_narrow_terminal_cuts_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(len(line) <= 70 for line in lines) and any(line.endswith(" ...") for line in lines)
