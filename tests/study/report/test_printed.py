"""What a study prints at its end fits a terminal, whatever runs and names there are."""

from __future__ import annotations

import dataclasses
import re
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.study.report.printed import MOST_COMPARISONS, WIDTH, printed_summary
from hf_stability.study.report.summary import summarize
from tests.study.report.test_summary import CENSORED, FOUR, NARROW, POLICY, SPREAD, early, run, study, whole


LONG = ("devlin2019+child_tuning_d", "transformers_default")
GRID = "transformers_default+rates,learning_rate=0.0001,bias_correction="


def text_of(runs, metric: str = "matthews_correlation") -> str:
    named = [dataclasses.replace(r, metric=metric if r.metric else "") for r in runs]
    return printed_summary(summarize(named), "rte")


def of(recipe: str, runs):
    return [dataclasses.replace(r, recipe=recipe) for r in runs]


def tables(text: str) -> list[list[list[str]]]:
    """Of each table its rows, as cells; the header is the first."""
    parts = [part.splitlines() for part in text.split("\n\n") if "----" in part]
    return [[re.split(r"\s{2,}", line.strip()) for line in lines if "----" not in line] for lines in parts]


def test_the_table_names_the_metric_once_and_has_a_row_for_each_recipe():
    text = text_of([*study(LONG[0], [0.5] * 4, [0.75, 0.85]), *study(LONG[1], [], [0.8, 0.82])])
    assert text.startswith("matthews_correlation at the end of training\n\n") and text.count("matthews") == 1
    ((header, *rows),) = tables(text)
    assert header == ["recipe", "runs", "failed (95% interval)", "mean", "std of non-failed", "std", "max"]
    assert rows == [
        [LONG[0], "6", "4 = 0.67 (0.30-0.90)", "0.600", "0.071", "0.158", "0.850"],
        [LONG[1], "2", "0 (0-0.66)", "0.810", "0.014", "0.014", "0.820"],
    ]


def test_below_it_are_a_line_per_comparison_and_where_the_rest_is():
    text = text_of([*study("devlin2019", [0.5] * 4, []), *study("mosbach2021", [], SPREAD[:4])])
    assert text.splitlines()[-3:] == [
        "devlin2019 vs mosbach2021: failed 4 of 4 vs 0 of 4, Fisher p = 0.029",
        "",
        "Notes, tests and every run: rte/summary.md",
    ]
    text = text_of([*study("a", [], SPREAD), *study("b", [], NARROW), *study("c", [0.5], [0.7])])
    assert "\nComparisons (p of std: Brown-Forsythe test; p not corrected for 3 comparisons):\na vs b: " in text
    stds = [f"{statistics.stdev(scores):.3f}" for scores in (SPREAD, NARROW)]
    assert f"a vs b: none failed; std {stds[0]} vs {stds[1]}, p < 0.001\n" in text
    assert "a vs c: failed 0 of 10 vs 1 of 2, Fisher p = 0.167\n" in text
    assert "none failed; std 0.000 vs -, no test" in text_of([*study("a", [], [0.6] * 2), *study("b", [], [0.7])])


def test_stopped_runs_have_tables_of_their_own_and_are_not_tested():
    text = text_of([*of("a", CENSORED), *study("b", [0.5], [0.7, 0.8]), *of("c", POLICY), run(1, 0.7, recipe="c")])
    scores, alarms, policy = tables(text)
    assert scores[1] == ["a", "10", "2", "-", "-", "-", "0.750"]
    assert alarms == [
        ["stopped by an alarm", "runs", "failed share: bounds", "audited estimate", "steps saved"],
        ["a", "4", "0.20-0.60 (0.06-0.83)", "0.40 (0.07-0.81), 1 of 2", "220 = 0.22"],
    ]
    assert policy == [
        ["stopped early", "runs", "budget, in runs", "best finished run"],
        ["c", "2", "3.50", "seed 1: 0.700"],
    ]
    assert "a vs b: failed share 0.20-0.60 vs 0.33; not tested, runs were stopped\n" in text
    assert "a vs c: not compared, seeds were stopped early\n" in text and "p = " not in text
    reported = text_of([early(1), whole(2, 0.7, report=0.65)], "accuracy")
    assert "seed 2: 0.700, 0.650 on the second half" in reported
    assert reported.startswith("accuracy at the end of training, on the first half of the development set\n")


def test_runs_that_do_not_count_are_told_of():
    text = text_of([*FOUR, run(5, None, "unknown"), run(1, None, "crashed", "b")])
    assert "\nNot counted: 1 crashed and 1 unknown of a.\nNot counted: 1 crashed of b.\n" in text
    assert "a vs b: nothing to compare" in text
    assert "Not counted" not in text_of(study("a", [0.5], [0.7]))


def test_scores_of_a_half_are_said_to_be_so():
    text = text_of([whole(1, 0.7, report=0.6)], "accuracy")
    assert text.startswith("accuracy at the end of training, on the first half of the development set\n")


def test_names_that_are_too_long_for_a_comparison_are_numbered():
    text = text_of([*study(f"{GRID}true", [0.5], [0.7]), *study(f"{GRID}false", [], SPREAD)])
    assert "recipe 1 vs recipe 2: failed 1 of 2 vs 0 of 10, Fisher p = 0.167" in text
    ((_, *rows),) = tables(text)
    names = "".join(cells[0] for cells in rows)
    assert names == f"1 {GRID}true2 {GRID}false"


def test_of_many_comparisons_a_handful_is_printed():
    text = text_of([r for name in "abcdefghij" for r in study(name, [0.5], SPREAD)])
    assert len(re.findall(r"^\w vs \w: ", text, re.MULTILINE)) == MOST_COMPARISONS
    assert "\n4 more comparisons: see summary.md.\n" in text


def test_p_values_of_two_way_seeds_come_with_a_caution():
    cell = {"init": 1, "order": 1, "dropout": 1}
    runs = [dataclasses.replace(r, cell=cell) for r in [*study("a", [0.5], [0.7]), *study("b", [], [0.7, 0.8])]]
    assert "See two_way.md." in text_of(runs) and "two_way.md" not in text_of([run(1, 0.5), run(1, 0.6, recipe="b")])


any_run = st.sampled_from([*FOUR, *CENSORED, *POLICY, run(77, None, "unknown"), run(78, None, "waiting")])
name = st.sampled_from([*LONG, "mosbach2021", f"{GRID}true", f"{GRID}false", "x" * 120])


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(name, st.lists(any_run, min_size=1, max_size=12), min_size=1), st.sampled_from([1, 3, 40]))
@pytest.mark.parametrize("metric", ["accuracy", "matthews_correlation"])
def test_every_line_fits_the_terminal(metric, by_recipe, times):
    text = text_of([r for recipe, runs in by_recipe.items() for r in of(recipe, runs * times)], metric)
    assert max(map(len, text.splitlines())) <= WIDTH == 100
    assert text.endswith("\n\nNotes, tests and every run: rte/summary.md")
    pairs = min(len(by_recipe) * (len(by_recipe) - 1) // 2 if len(by_recipe) <= 3 else len(by_recipe) - 1, 5)
    assert len(re.findall(r"^.* vs .*: ", text, re.MULTILINE)) == pairs
