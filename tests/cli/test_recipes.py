"""`hf-stability recipes`: the packaged recipes."""

from __future__ import annotations

import pytest

from hf_stability import cli
from hf_stability.cli.recipes import summary
from hf_stability.recipe.load import recipe_names


def test_each_recipe_has_a_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(len(line.split()) > 3 and len(line) <= 160 for line in lines)
    assert next(line for line in lines if line.startswith("devlin2019 ")).split(maxsplit=1)[1] == (
        "BERT's default fine-tuning: Devlin et al., NAACL 2019, as run by Mosbach et al.: AdamW WITHOUT bias correction, 3 epochs."
    )


def test_a_narrow_terminal_cuts_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(len(line) <= 70 for line in lines) and any(line.endswith(" ...") for line in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Mixout: Lee et al., \"A title. Of\n# two lines\", ICLR 2020\n# (arXiv 1). More.\nargs: {}\n", "Mixout: Lee et al., ICLR 2020."),
        ("# One paragraph\n#\n# another\n", "One paragraph"),
        ("args: {}\n# late\n", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_the_summary_is_the_first_sentence_of_the_first_comment(text, expected):
    assert summary(text) == expected
