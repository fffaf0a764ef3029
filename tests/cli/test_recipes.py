"""`hf-stability recipes`: the packaged recipes."""

from __future__ import annotations

import pytest

from hf_stability import cli
from hf_stability.recipe import describe_recipe, recipe_names
from hf_stability.recipe.load import is_add_on


@pytest.fixture
def shown(capsys, monkeypatch):
    """A function of the terminal's width: the lines with a recipe, and the titles between them."""

    def lines(columns: int) -> tuple[list[str], list[str]]:
        monkeypatch.setenv("COLUMNS", str(columns))
        assert cli.main(["recipes"]) == 0
        printed = capsys.readouterr().out.splitlines()
        return [line for line in printed if line.startswith(" ")], [line for line in printed if line[0] != " "]

    return lines


def test_each_recipe_has_a_line_whole_ones_first(shown):
    lines, titles = shown(160)
    names = [line.split()[0] for line in lines]
    assert sorted(names) == recipe_names() and sorted(names, key=is_add_on) == names
    assert [line.split(maxsplit=1)[1] for line in lines] == [describe_recipe(name) for name in names]
    assert all(len(line) <= 160 for line in lines)
    assert "Take mosbach2021" in titles[0] and "with +" in titles[1] and len(titles) == 2
    assert not is_add_on("mosbach2021") and is_add_on("mixout")


def test_a_narrow_terminal_cuts_lines(shown):
    lines, _ = shown(70)
    assert sorted(line.split()[0] for line in lines) == recipe_names()
    assert all(len(line) <= 70 for line in lines) and any(line.endswith(" ...") for line in lines)
