"""How the project is written: the README is one page, sentences are short, and no text breaks a rule of plain English."""

from __future__ import annotations

import statistics

import pytest

from tests import prose


README = prose.ROOT / "README.md"


# ---- the project ----------------------------------------------------------------------------------------------------


def test_the_readme_is_one_page():
    text = README.read_text()
    assert text.count("\n") < 150
    assert len(text.split()) < 1200


@pytest.mark.parametrize("page", prose.pages(), ids=prose.relative)
def test_a_pages_sentences_are_short(page):
    assert statistics.median(prose.lengths(page)) <= 18


@pytest.mark.parametrize(
    "place", ["hf_stability", "benchmarks", "examples", "recipes", "docs", "README.md", "CHANGES.md"]
)
def test_no_text_breaks_a_rule(place):
    texts = prose.texts([prose.ROOT / place])
    # A protocol is a promise, written before its runs: its words stay.
    found = [f"{t.path}:{t.line}: {fault}" for t in texts if "PROTOCOL" not in t.path for fault in prose.faults(t)]
    assert not found, "\n".join(found)


# ---- the tool -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One is here. Two is there!", ["One is here.", "Two is there!"]),
        ("See Lee et al. 2020. It helps.", ["See Lee et al. 2020.", "It helps."]),
        ("A rate of 2.5e-4 is high. `x.y` is a name.", ["A rate of 2.5e-4 is high.", "`code` is a name."]),
        ("It ends (so far.) Then it goes on.", ["It ends (so far.)", "Then it goes on."]),
        ("one\n  two", ["one two"]),
        ("Word.", []),
    ],
)
def test_sentences(text, parts):
    assert prose.sentences(text) == parts


def test_words_are_counted_without_signs():
    assert prose.words("The run - here - has `code` and 3 words.") == 8


def test_a_page_is_read_without_its_code_tables_and_headings(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Of headings\n\nThe [link](x.md) is\nhere. It is short.\n\n- An item.\n- Another **item**.\n\n"
        "| a | table |\n| --- | --- |\n\n```bash\nrun this\n```\n<!-- a comment\nof two lines -->\n\nThe end.\n"
    )
    found = [(text.line, text.text) for text in prose.page_texts(page)]
    assert found == [(3, "The link is here. It is short."), (6, "An item."), (7, "Another item."), (18, "The end.")]


def test_python_is_read_by_kinds(tmp_path):
    code = tmp_path / "code.py"
    code.write_text(
        '"""A docstring of it."""\n# A comment on\n# two lines.\nLIMIT = 3\n"""A limit of it."""\n'
        'def f(x):\n    logger.warning(f"--x {x}: it is wrong")\n    raise ValueError("this is " "not good")\n'
        'y = {"help": "what it is"}\nz = "three words here"\nw = "two words"\n'
    )
    found = {(text.kind, text.line, text.text) for text in prose.python_texts(code)}
    assert found == {
        ("docstring", 1, "A docstring of it."),
        ("comment", 2, "A comment on two lines."),
        ("docstring", 5, "A limit of it."),
        ("warn", 7, "--x {}: it is wrong"),
        ("raise", 8, "this is not good"),
        ("help", 9, "what it is"),
        ("text", 10, "three words here"),
    }


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("Of the runs 3 failed.", True),
        ("Three of the runs failed. What remains is noise.", True),
        ("What does a verdict mean?", False),
        ("A model whose layers are frozen.", True),
        ("The accuracy is .55 here.", True),
        ("The accuracy is 0.55 here, in file.5 too.", False),
        ("Runs failed at -.5 and (.3-.4).", True),
        ("It is the constant's accuracy.", True),
        ("The recipe's value goes over the default.", True),
    ],
)
def test_rules(text, broken):
    assert bool(prose.faults(prose.Text("x", 1, "page", text))) is broken
