"""What is said of two recipes, and what must never be said."""

from __future__ import annotations

import re
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact, levene

from hf_stability.study.report.summary import summarize
from hf_stability.study.report.summary_page import to_markdown
from tests.study.report.test_summary import NARROW, SPREAD, run, sentences, study


def test_a_recipe_that_nearly_always_fails_has_a_small_std_which_is_no_stability():
    failing, other = study("a", [0.473] * 19, [0.6]), study("b", [0.473] * 2, SPREAD)
    (text,) = sentences([*failing, *other])
    assert text.startswith("a against b: failed 19 of 20 against 2 of 12 (Fisher's exact p < 0.001). ")
    assert "b is the more stable of the two: it fails less often." in text
    assert "that of a is small because its runs fail, which is no sign of stability." in text
    (text,) = sentences([*other, *failing])
    assert text.startswith("b against a: failed 2 of 12 against 19 of 20 (Fisher's exact p < 0.001). b is the more")
    assert "that of a is small because its runs fail, which is no sign of stability." in text


def test_where_few_runs_fail_the_smaller_std_has_another_cause():
    (text,) = sentences([*study("a", [0.70], NARROW), *study("b", [], SPREAD)])
    assert "The difference in failed shares may be chance." in text and "because" not in text
    assert "that of a is smaller, but more of its runs fail: this is no sign of stability." in text


def test_the_larger_std_of_the_recipe_that_fails_more_needs_no_comment():
    (text,) = sentences([*study("a", [0.473] * 9, SPREAD), *study("b", [], NARROW)])
    assert "b is the more stable of the two: it fails less often. Std of all runs: 0.114 against 0.001. Brown" in text


def test_without_failed_runs_the_spreads_are_compared():
    spread, narrow = study("a", [], SPREAD), study("b", [], NARROW)
    f, p = levene(SPREAD, NARROW, center="median")
    stds = [f"{statistics.stdev(scores):.3f}" for scores in (SPREAD, NARROW)]
    assert p < 0.001
    assert sentences([*spread, *narrow]) == [
        "a against b: failed 0 of 10 against 0 of 10 (Fisher's exact p = 1.000). "
        f"Std: {stds[0]} against {stds[1]}. "
        f"Brown-Forsythe: F(1, 18) = {f:.2f}, p < 0.001 (n = 10 and 10). "
        "b is the more stable of the two: no run failed, and its scores spread less."
    ]
    (text,) = sentences([*study("a", [], SPREAD), *study("b", [], [score + 0.1 for score in SPREAD[1:]])])
    assert text.endswith(" (n = 10 and 9). No difference in spread is shown.") and "more stable" not in text


def test_a_test_that_std_and_distances_from_the_median_rank_differently_decides_nothing():
    """Brown-Forsythe compares mean distances from the median: with a far outlier the std may be the larger one."""
    outliers = [0.5 + sign * 0.03 for sign in (-1, 1)] * 45 + [0.5 - 0.3, 0.5 + 0.3] * 3
    plain = [0.5 + sign * (0.06 + i / 1e5) for i in range(48) for sign in (-1, 1)]
    assert statistics.stdev(outliers) > statistics.stdev(plain)
    assert levene(outliers, plain, center="median").pvalue < 0.05
    (text,) = sentences([*study("a", [], outliers), *study("b", [], plain)])
    assert text.endswith(" No difference in spread is shown.")


def test_of_equal_failed_shares_neither_is_better():
    (text,) = sentences([*study("a", [0.47] * 2, [0.7, 0.8]), *study("b", [0.47], [0.71])])
    assert "failed 2 of 4 against 1 of 2 (Fisher's exact p = 1.000). The failed shares are the same." in text
    assert "more stable" not in text and "shows how far they are from the others" in text
    (text,) = sentences([*study("a", [0.47, 0.53], []), *study("b", [0.47] * 3, [])])
    assert "where no run succeeds, this says nothing about stability" in text and "more stable" not in text


def test_numbers_that_differ_are_not_printed_as_the_same():
    (text,) = sentences([*study("a", [], [0.5, 0.5001]), *study("b", [], [0.5, 0.5002])])
    assert "Std: 0.0001 against 0.0001" not in text and "0.00007 against 0.00014" in text


@pytest.mark.parametrize(
    ("b", "reason"),
    [
        ([0.7] * 3, "the scores of each group are all the same (n = 2 and 3)"),
        ([0.7], "a group has fewer than 2 scores (n = 2 and 1)"),
        (
            [0.7, 0.8],
            "each group's scores are equally far from its median (two scores always are), so the test is undefined (n = 2 and 2)",
        ),
    ],
)
def test_brown_forsythe_says_where_it_is_undefined(b, reason):
    summary = summarize([*study("a", [], [0.6, 0.6]), *study("b", [], b)])
    test = summary["comparisons"][0]["brown_forsythe"]
    assert test["f"] is None and test["p"] is None
    assert summary["comparisons"][0]["sentence"].endswith(f"Brown-Forsythe: undefined, {reason}.")


def test_up_to_three_recipes_every_pair_is_compared_and_of_more_each_with_the_first():
    pairs = {}
    for n in (1, 2, 3, 4, 5):
        summary = summarize([r for name in "edcba"[:n] for r in study(name, [], SPREAD)])
        pairs[n] = ["".join(comparison["recipes"]) for comparison in summary["comparisons"]]
        text = to_markdown(summary)
        assert [line[2:] for line in text.splitlines() if " against " in line] == [
            comparison["sentence"] for comparison in summary["comparisons"]
        ]
        assert ("Comparisons, each pair: " in text) is (n in (2, 3))
        assert (f"Comparisons, each of {n} recipes with the first: " in text) is (n > 3)
        assert (f"not corrected for {len(pairs[n])} comparisons" in text) is (n > 2)
    assert pairs == {1: [], 2: ["ed"], 3: ["ed", "ec", "dc"], 4: ["ed", "ec", "eb"], 5: ["ed", "ec", "eb", "ea"]}


levels = st.sampled_from([0.3, 0.473, 0.47301, 0.5, 0.7, 0.71])
outcomes = st.lists(st.tuples(st.sampled_from(["ok", "failed", "diverged"]), st.none() | levels), max_size=30)
repeated = st.builds(lambda some, times: some * times, outcomes, st.integers(1, 6))
one_kind = st.builds(
    lambda status, some: [(status, last) for last in some],
    st.sampled_from(["ok", "failed"]),
    st.lists(levels, max_size=40),
)
recipe_outcomes = one_kind | repeated | outcomes


@settings(deadline=None, max_examples=300)
@given(recipe_outcomes, recipe_outcomes)
def test_no_recipe_is_called_more_stable_than_one_that_fails_less_often(first, second):
    recipes = {"a": first, "b": second}
    runs = [run(i, last, status, name) for name, own in recipes.items() for i, (status, last) in enumerate(own)]
    summary = summarize([*runs, run(999, None, "crashed", "a"), run(999, None, "crashed", "b")])
    text = to_markdown(summary)
    failed = {name: [status != "ok" for status, _ in own] for name, own in recipes.items()}
    named = re.findall(r"(\w+) is the more stable of the two", text)
    assert len(named) == text.count("more stable") == text.count("stable")
    (comparison,) = summary["comparisons"]
    p = comparison["fisher_p"]
    if not (first and second):
        assert p is None and not named
        return
    counts = [[sum(some), len(some) - sum(some)] for some in failed.values()]
    assert p == pytest.approx(fisher_exact(counts).pvalue)
    shares = {name: sum(some) / len(some) for name, some in failed.items()}
    less, more = sorted(shares, key=shares.get)
    if shares[less] < shares[more]:
        assert named == ([less] if round(p, 3) < 0.05 else [])
        std = dict(zip("ab", comparison["std"], strict=True))
        if None not in std.values() and std[more] < std[less] - 1e-9:
            because = f"that of {more} is small because its runs fail, which is no sign of stability"
            although = f"that of {more} is smaller, but more of its runs fail: this is no sign of stability"
            assert (because in text, although in text) == (shares[more] >= 0.5, shares[more] < 0.5)
        else:
            assert "no sign of stability" not in text.split(" against ", 1)[1]
    elif shares[less] > 0:
        assert not named
    elif named:
        ok = {name: statistics.stdev(last for _, last in own if last is not None) for name, own in recipes.items()}
        assert ok[named[0]] == min(ok.values()) and comparison["brown_forsythe"]["p"] < 0.05
