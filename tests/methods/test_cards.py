"""Docstrings of the packaged methods, from which the site makes their cards."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from hf_stability.methods import METHODS


SECTIONS = ("Equation", "When to use it", "Cost", "Differences", "Measured here")
OPTIONAL = ("Differences", "Measured here")
PAGES = Path(__file__).parents[2] / "docs"


def card(method: type) -> tuple[str, str, dict[str, str]]:
    """The first line of a method's docstring, the paragraph below it, and its sections: title -> text."""
    opening, *parts = re.split(r"^([A-Z][a-z ]+):\n(?=    )", inspect.getdoc(method), flags=re.M)
    first, _, text = opening.partition("\n\n")
    return first, text.strip(), dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_a_card_has_its_sections_in_order(method):
    first, text, sections = card(method)
    name, colon, what = first.partition(": ")
    assert name and colon and what.endswith(".") and "\n" not in first
    assert "https://arxiv.org/abs/" in text and len(text.split()) > 25
    assert list(sections) == [title for title in SECTIONS if title in sections or title not in OPTIONAL]
    for title, body in sections.items():
        assert len(body.split()) > 3, title
        assert all(line.startswith("    ") for line in body.strip("\n").split("\n") if line), title
    assert max(map(len, sections["Equation"].split("\n"))) <= 80  # the page shows no more
    assert re.search(r"n = \d+|of 20|Not run yet", sections["Measured here"])
    assert all((PAGES / page).is_file() for page in re.findall(r"\]\((\w+\.md)\)", method.__doc__))


def test_the_cards_have_headings_of_their_own():
    names = [card(method)[0].partition(":")[0] for method in METHODS]
    assert len(set(names)) == len(METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_each_setting_of_a_card_is_named_in_it(method):
    """The equation or the text names the switch, so that a reader finds the setting."""
    switch = fields(method.Arguments)[0].name
    assert switch in method.__doc__
