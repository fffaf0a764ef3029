"""Numbers, lists and tables as text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.utils.text import (
    apart,
    decimal,
    duration_text,
    error_line,
    joined,
    latex_table,
    loss_text,
    markdown_table,
    p_text,
    share_text,
    shortened,
)


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.5274, 3, "0.527"),
        (-0.0123, 3, "-0.012"),
        (1.0, 3, "1.000"),
        (0.9996, 3, "1.000"),
        (-0.9996, 3, "-1.000"),
        (10.5, 2, "10.50"),
        (-0.0001, 3, "0.000"),
        (-0.0, 3, "0.000"),
        (0.5, 1, "0.5"),
        (2, 2, "2.00"),
        (math.inf, 3, "inf"),
        (-math.inf, 3, "-inf"),
        (math.nan, 3, "nan"),
        (None, 3, "-"),
    ],
)
def test_a_decimal_has_no_zero_before_the_point(value, decimals, text):
    assert decimal(value, decimals) == text


def test_a_minus_before_zero_is_kept_on_demand():
    assert decimal(-0.0001, minus_zero=True) == "-0.000" and decimal(0.0001, minus_zero=True) == "0.000"
    assert decimal(-0.5, minus_zero=True) == "-0.500"


@given(st.floats(-1e6, 1e6), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_a_decimal_reads_back_as_the_rounded_number(value, decimals):
    assert float(decimal(value, decimals)) == round(value, decimals)
    assert float(decimal(value, decimals, minus_zero=True)) == round(value, decimals)


def test_numbers_that_look_alike_get_more_decimals():
    assert apart(0.5, 0.6) == ["0.500", "0.600"]
    assert apart(0.50020, 0.50010) == ["0.5002", "0.5001"]
    assert apart(0.5, 0.5) == apart(0.5, 0.5 + 1e-12) == ["0.500", "0.500"]
    assert apart(0.12345499999, 0.12345500001) == ["0.123", "0.123"]  # the same to 9 decimals, though not to 5
    assert apart(0.1, 0.1, 0.1004) == ["0.1000", "0.1000", "0.1004"]
    assert apart(None, 0.5) == ["-", "0.500"] and apart(None, None) == ["-", "-"]
    assert apart(-0.0001, 0.0) == ["-0.0001", "0.0000"]
    assert apart(-0.0001, 0.0, minus_zero=True) == ["-0.000", "0.000"]
    assert apart(0.5, 0.5, decimals=1) == ["0.5", "0.5"]


@given(st.floats(-2, 2), st.floats(-1e-3, 1e-3))
@settings(max_examples=200, deadline=None)
def test_numbers_that_differ_to_nine_decimals_are_told_apart(value, step):
    other = value + step
    texts = apart(value, other)
    assert (texts[0] == texts[1]) == (round(value, 9) == round(other, 9))


def test_shares():
    assert [share_text(share) for share in (0, 0.0, 0.004, 0.45, 0.996, 1)] == ["0", "0", "0.00", "0.45", "1.00", "1"]


def test_p_values():
    assert [p_text(p) for p in (0.0009, 0.001, 0.043, 0.5, 1.0)] == [
        "p < 0.001", "p = 0.001", "p = 0.043", "p = 0.500", "p = 1.000",
    ]  # fmt: skip
    assert [p_text(p, 0.1) for p in (0.0009, 0.0996, 0.1, 1.0)] == ["p < 0.001", "p = 0.100", "p = 0.10", "p = 1.00"]


def test_losses():
    assert [loss_text(loss) for loss in (14.19, 0.69, 0.095, 0.04, 3e-5, 0.0)] == [
        "14.19", "0.69", "0.10", "0.04", "3e-05", "0",
    ]  # fmt: skip


def test_durations():
    seconds = (-1, 0, 45.2, 59.6, 90, 3599, 7800, 24 * 3600 - 1, 3.2 * 24 * 3600)
    texts = ["0 s", "0 s", "45 s", "1 min", "2 min", "1 h 0 min", "2 h 10 min", "1 d 0 h", "3 d 5 h"]
    assert [duration_text(value) for value in seconds] == texts


def test_a_long_name_loses_its_middle():
    assert [shortened("devlin2019+mixout", width) for width in (17, 16, 8, 5)] == [
        "devlin2019+mixout", "devlin2...mixout", "dev...ut", "devli",
    ]  # fmt: skip


def test_words_are_joined_as_in_a_sentence():
    assert [joined(words) for words in ([], ["a"], ["a", "b"], ("a", "b", "c"))] == ["", "a", "a and b", "a, b and c"]
    assert joined(iter([1, 2, 3]), "or") == "1, 2 or 3"


def test_a_table_is_lined_up():
    table = markdown_table(["a", "b"], [["long cell", "1"], ["x|y", "2\n2"]])
    assert table.splitlines() == [
        "| a         | b   |",
        "|-----------|-----|",
        "| long cell | 1   |",
        "| x\\|y      | 2 2 |",
    ]
    assert markdown_table(["a"], []) == "| a |\n|---|"


def test_a_table_that_is_not_lined_up():
    table = markdown_table(["a", "b"], [["long cell", "1"], ["x|y", "22"]], lined_up=False)
    assert table.splitlines() == ["| a | b |", "| --- | --- |", "| long cell | 1 |", "| x\\|y | 22 |"]


def test_a_row_of_another_length_is_no_table():
    with pytest.raises(ValueError):
        markdown_table(["a", "b"], [["1", "2", "3"]])


def test_a_latex_table_has_the_rules_of_booktabs_and_no_special_characters():
    text = latex_table(["a_b", "95% of"], [["x & y", "0.5"], ["{z}", "<1"]])
    assert text.splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"a\_b & 95\% of \\",
        r"\midrule",
        r"x \& y & 0.5 \\",
        r"\{z\} & $<$1 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_an_error_in_one_line():
    error = ValueError("no space\n left\n#0 a frame ")
    assert error_line(error) == "no space left #0 a frame"
    assert error_line(error, first=True) == "no space"
    assert error_line(error, kind=True, first=True) == "ValueError: no space"
    assert error_line(KeyError(), kind=True) == "KeyError"
    assert error_line(RuntimeError(" \n"), first=True) == "RuntimeError"
