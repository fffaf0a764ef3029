"""A study's tables against figures worked out the slow way."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import statistics
from fractions import Fraction
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, fisher_exact, levene

from hf_stability.study.records import RunRecord
from hf_stability.study.report.statistics import wilson_interval
from hf_stability.study.report.summary import (
    SUMMARY_SCHEMA,
    audited_failed_share,
    markdown_table,
    summarize,
    to_markdown,
    write_summary,
)


def run(seed: int, last: float | None, status: str = "ok", recipe: str = "a", best: float | None = None, **values):
    metric = "" if status == "crashed" else "accuracy"
    best = last if best is None else best
    sentence = f"{status}: said of {seed}"
    return RunRecord("id", recipe, seed, "rte", status, metric, last, best, sentence=sentence, **values)


FOUR = [
    run(1, 0.5, "failed", best=0.6, evaluations=3),
    run(2, 0.75, evaluations=3),
    run(3, None, "diverged", evaluations=3),
    run(4, None, "crashed"),
]


def study(recipe: str, failed: list[float], ok: list[float], **values) -> list[RunRecord]:
    """A recipe's runs with these last scores."""
    statuses = ["failed"] * len(failed) + ["ok"] * len(ok)
    pairs = enumerate(zip(statuses, [*failed, *ok], strict=True), 1)
    return [run(seed, last, status, recipe, **values) for seed, (status, last) in pairs]


def table(summary) -> list[dict[str, str]]:
    """The rows of the recipes' table, by header."""
    lines = [line for line in to_markdown(summary).splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def sentences(runs) -> list[str]:
    return [comparison["sentence"] for comparison in summarize(runs)["comparisons"]]


FAILED = "failed = share (95% interval)"
STD_OK, STD = "accuracy: std of the ok runs (conditional)", "accuracy: std, all runs"


# ---- figures --------------------------------------------------------------------------------------------------------


def test_failed_diverged_and_crashed_runs_are_counted_each_where_it_belongs():
    (figures,) = summarize(FOUR)["recipes"]
    assert figures["runs"] == 3 and figures["failed"] == 2 and figures["crashed"] == 1 and figures["scores"] == 2
    assert figures["failed_share"] == 2 / 3
    assert figures["mean"] == 0.625 and figures["median"] == 0.625 and figures["max"] == 0.75
    assert figures["std"] == pytest.approx(math.sqrt(2) * 0.125)  # two scores .25 apart, ddof = 1
    assert figures["std_ok"] is None  # of one
    assert figures["best_mean"] == 0.675 and figures["evaluations"] == [3]


def test_the_std_of_the_ok_runs_leaves_failed_and_diverged_runs_out():
    runs = [*study("a", [0.25], [0.5, 0.75]), run(4, 0.125, "diverged")]
    (figures,) = summarize(runs)["recipes"]
    assert figures["std_ok"] == pytest.approx(math.sqrt(2) * 0.125)
    assert figures["std"] == pytest.approx(statistics.stdev([0.25, 0.5, 0.75, 0.125]))
    (row,) = table(summarize(runs))
    assert row[STD_OK] == ".177" and row[STD] == ".277"


runs = st.lists(
    st.builds(
        run,
        seed=st.integers(0, 99),
        last=st.none() | st.floats(-1, 1),
        status=st.sampled_from(["ok", "failed", "diverged", "crashed"]),
        recipe=st.sampled_from(["b", "a", "c"]),
        evaluations=st.integers(0, 3),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(runs)
def test_figures_are_those_of_the_statistics_module(runs):
    summary = summarize(runs)
    assert [figures["recipe"] for figures in summary["recipes"]] == list(dict.fromkeys(r.recipe for r in runs))
    for figures in summary["recipes"]:
        own = [r for r in runs if r.recipe == figures["recipe"]]
        judged = [r for r in own if r.status != "crashed"]
        scores = [r.last for r in judged if r.last is not None]
        ok = [r.last for r in judged if r.status == "ok" and r.last is not None]
        assert figures["runs"] + figures["crashed"] == len(own)
        assert figures["failed"] == sum(r.status in ("failed", "diverged") for r in own)
        assert figures["scores"] == len(scores)
        for key, values, reference, least in (
            ("mean", scores, statistics.fmean, 1),
            ("std", scores, statistics.stdev, 2),
            ("std_ok", ok, statistics.stdev, 2),
            ("median", scores, statistics.median, 1),
            ("max", scores, max, 1),
        ):
            if len(values) < least:
                assert figures[key] is None
            else:
                assert figures[key] == pytest.approx(reference(values), abs=1e-12)
        if judged:
            interval = binomtest(figures["failed"], len(judged)).proportion_ci(method="wilson")
            assert figures["failed_share"] == figures["failed"] / len(judged)
            assert figures["failed_share_low"] == pytest.approx(interval.low)
            assert figures["failed_share_high"] == pytest.approx(interval.high)
        else:
            shares = ("failed_share", "failed_share_low", "failed_share_high")
            assert [figures[key] for key in shares] == [None, None, None]
    assert json.loads(json.dumps(summary, allow_nan=False))["schema"] == SUMMARY_SCHEMA == "hf_stability.summary/4"


# ---- the recipes' table ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "n", "cell"),
    [
        (0, 20, "0 (0-.16)"),
        (9, 20, "9 = .45 (.26-.66)"),
        (20, 20, "20 = 1 (.84-1)"),
        (1, 1, "1 = 1 (.21-1)"),
        (1, 300, "1 = .00 (.00-.02)"),
    ],
)
def test_the_failed_share_stands_with_its_interval(failed, n, cell):
    (row,) = table(summarize(study("a", [0.5] * failed, [0.75] * (n - failed))))
    assert row[FAILED] == cell


def test_columns_stand_in_order_and_each_with_a_score_names_the_metric():
    (row,) = table(summarize(study("a", [], [0.5, 0.75], evaluations=3)))
    scores = [STD_OK, STD, "accuracy: mean", "accuracy: median", "accuracy: max"]
    best = "accuracy: mean of the best of 3 evaluations"
    assert list(row) == ["recipe", "runs", FAILED, *scores, best]


def test_every_header_of_a_score_names_the_metric_in_the_runs_table_too(tmp_path):
    write_summary(tmp_path, summarize([dataclasses.replace(r, metric="f1" if r.metric else "") for r in FOUR]))
    headers = [line for line in (tmp_path / "summary.md").read_text().splitlines() if line.startswith("| recipe")]
    assert len(headers) == 2
    for header, bare in zip(headers, ([2, FAILED], [2, "best of", "verdict"]), strict=True):
        cells = [cell.strip() for cell in header.strip("|").split("|")]
        rest = cells[bare[0] :]
        assert [cell for cell in rest if not cell.startswith("f1: ")] == bare[1:] and len(rest) > len(bare)
    assert "accuracy" not in "".join(headers)


def test_scores_have_three_decimals_and_no_zero_before_the_point():
    (row,) = table(summarize([run(1, -0.0123), run(2, 1.0), run(3, -0.0001)]))
    assert (row["accuracy: mean"], row["accuracy: median"], row["accuracy: max"]) == (".329", ".000", "1.000")
    assert table(summarize([run(1, -0.0123)]))[0]["accuracy: mean"] == "-.012"


def test_the_best_has_a_column_only_among_equal_numbers_of_evaluations():
    best = "accuracy: mean of the best of 3 evaluations"
    a = study("a", [], [0.5, 0.75], best=0.8, evaluations=3)
    same = summarize([*a, *study("b", [], [0.5], best=0.7, evaluations=3), run(9, None, "crashed", "c")])
    assert [row[best] for row in table(same)] == [".800", ".700", "-"]
    assert "best evaluation" not in to_markdown(same)

    for others, numbers in (
        (study("b", [], [0.5], evaluations=20), "(a 3, b 20)"),
        (study("b", [], [0.5], evaluations=3) + [run(8, 0.5, recipe="b", evaluations=2)], "(a 3, b 2 or 3)"),
    ):
        summary = summarize([*a, *others])
        assert not any("best" in header for header in table(summary)[0])
        (why,) = [line for line in to_markdown(summary).splitlines() if "best evaluation" in line]
        assert numbers in why and "higher by selection" in why


@pytest.mark.parametrize("evaluations", [0, 1])
def test_the_best_of_one_evaluation_or_none_has_no_column(evaluations):
    text = to_markdown(summarize(study("a", [], [0.5], evaluations=evaluations)))
    assert "best" not in text


def test_one_run_has_a_score_and_no_std():
    (row,) = table(summarize([run(1, 0.5)]))
    assert row == {
        "recipe": "a",
        "runs": "1",
        FAILED: "0 (0-.79)",
        STD_OK: "-",
        STD: "-",
        "accuracy: mean": ".500",
        "accuracy: median": ".500",
        "accuracy: max": ".500",
    }


def test_a_study_of_crashes_has_a_table_too():
    summary = summarize([run(1, None, "crashed"), run(2, None, "crashed"), run(1, None, "crashed", "b")])
    assert summary["metric"] is None
    assert [list(row.values()) for row in table(summary)] == [
        ["a", "0 (+2 crashed)", *"------"],
        ["b", "0 (+1 crashed)", *"------"],
    ]
    assert summary["comparisons"][0]["fisher_p"] is None
    assert summary["comparisons"][0]["sentence"] == "a against b: failed 0 of 0 against 0 of 0. Nothing to compare."


def test_runs_that_are_not_in_all_figures_are_told_of():
    text = to_markdown(summarize(FOUR))
    assert "- Crashed runs are in no figure.\n" in text
    assert "- Runs without a score: 1 of a. They are in the failed share only." in text
    whole = to_markdown(summarize(study("a", [0.5], [0.75])))
    assert "rashed" not in whole and "without a score" not in whole


def test_the_metric_is_named_though_the_first_run_crashed():
    assert summarize([run(1, None, "crashed"), run(2, 0.5)])["metric"] == "accuracy"
    assert "accuracy: mean" in to_markdown(summarize([run(1, None, "crashed"), run(2, 0.5)]))


# ---- comparisons ----------------------------------------------------------------------------------------------------

SPREAD = [0.60, 0.62, 0.65, 0.66, 0.68, 0.70, 0.71, 0.72, 0.74, 0.76]
NARROW = [0.70 + score / 100 for score in SPREAD]


def test_a_recipe_that_nearly_always_fails_has_a_small_std_which_is_no_stability():
    failing, other = study("a", [0.473] * 19, [0.6]), study("b", [0.473] * 2, SPREAD)
    (text,) = sentences([*failing, *other])
    assert text.startswith("a against b: failed 19 of 20 against 2 of 12 (Fisher's exact p < .001). ")
    assert "b is the more stable of the two: it fails less often." in text
    assert "that of a is small because its runs fail, and is no stability." in text
    (text,) = sentences([*other, *failing])
    assert text.startswith("b against a: failed 2 of 12 against 19 of 20 (Fisher's exact p < .001). b is the more")
    assert "that of a is small because its runs fail, and is no stability." in text


def test_where_few_runs_fail_the_smaller_std_has_another_cause():
    (text,) = sentences([*study("a", [0.70], NARROW), *study("b", [], SPREAD)])
    assert "The difference in failed shares may be chance." in text and "because" not in text
    assert "that of a is smaller, but more of its runs fail: it is no stability." in text


def test_the_larger_std_of_the_recipe_that_fails_more_needs_no_comment():
    (text,) = sentences([*study("a", [0.473] * 9, SPREAD), *study("b", [], NARROW)])
    assert "b is the more stable of the two: it fails less often. Std, all runs: .114 against .001. Brown" in text


def test_without_failed_runs_the_spreads_are_compared():
    spread, narrow = study("a", [], SPREAD), study("b", [], NARROW)
    f, p = levene(SPREAD, NARROW, center="median")
    stds = [f"{statistics.stdev(scores):.3f}".lstrip("0") for scores in (SPREAD, NARROW)]
    assert p < 0.001
    assert sentences([*spread, *narrow]) == [
        "a against b: failed 0 of 10 against 0 of 10 (Fisher's exact p = 1.000). "
        f"Std of the ok runs: {stds[0]} against {stds[1]}. "
        f"Brown-Forsythe: F(1, 18) = {f:.2f}, p < .001 (n = 10 and 10). "
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
    assert "more stable" not in text and "they say how far these are from the others" in text
    (text,) = sentences([*study("a", [0.47, 0.53], []), *study("b", [0.47] * 3, [])])
    assert "where no run succeeds they say nothing of stability" in text and "more stable" not in text


def test_numbers_that_differ_are_not_printed_as_the_same():
    (text,) = sentences([*study("a", [], [0.5, 0.5001]), *study("b", [], [0.5, 0.5002])])
    assert "Std of the ok runs: .0001 against .0001" not in text and ".00007 against .00014" in text


@pytest.mark.parametrize(
    ("b", "reason"),
    [
        ([0.7] * 3, "the scores of each group are all the same (n = 2 and 3)"),
        ([0.7], "a group has fewer than 2 scores (n = 2 and 1)"),
        ([0.7, 0.8], "each score is as far from its group's median as the others, as two always are (n = 2 and 2)"),
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
            because = f"that of {more} is small because its runs fail, and is no stability"
            although = f"that of {more} is smaller, but more of its runs fail: it is no stability"
            assert (because in text, although in text) == (shares[more] >= 0.5, shares[more] < 0.5)
        else:
            assert "no stability" not in text.split(" against ", 1)[1]
    elif shares[less] > 0:
        assert not named
    elif named:
        ok = {name: statistics.stdev(last for _, last in own if last is not None) for name, own in recipes.items()}
        assert ok[named[0]] == min(ok.values()) and comparison["brown_forsythe"]["p"] < 0.05


# ---- stopped runs ---------------------------------------------------------------------------------------------------


def alarmed(seed: int, status: str, step: int = 40, recipe: str = "a", audited: bool = False, **values) -> RunRecord:
    """A run of 100 planned update steps with an alarm at `step`."""
    last, steps = (None, step) if status == "stopped" else (0.5 if status == "failed" else 0.75, 100)
    return run(seed, last, status, recipe, alarm_step=step, audited=audited, steps=steps, planned_steps=100, **values)


# Of 10 runs 6 were to be stopped, and 2 of them were finished anyway.
CENSORED = [
    *(run(seed, 0.7 + seed / 100, steps=100, planned_steps=100) for seed in (1, 2, 3)),
    run(4, 0.5, "failed", steps=100, planned_steps=100),
    *(alarmed(seed, "stopped", step) for seed, step in ((5, 30), (6, 40), (7, 50), (8, 60))),
    alarmed(9, "failed", audited=True),
    alarmed(10, "ok", audited=True),
]


def test_the_figures_of_a_recipe_with_stopped_runs():
    (figures,) = summarize(CENSORED)["recipes"]
    counts = ("runs", "failed", "stopped", "alarmed", "audited", "audited_failed", "scores", "saved_steps")
    assert [figures[key] for key in counts] == [10, 2, 4, 6, 2, 1, 6, 70 + 60 + 50 + 40]
    assert figures["saved_share"] == 0.22
    assert figures["failed_share_if_all_heal"] == 0.2 and figures["failed_share_if_all_fail"] == 0.6
    for key, count in (("failed_share_if_all_heal", 2), ("failed_share_if_all_fail", 6)):
        interval = binomtest(count, 10).proportion_ci(method="wilson")
        assert [figures[f"{key}_low"], figures[f"{key}_high"]] == pytest.approx([interval.low, interval.high])
    assert figures["failed_share_audited"] == (2 + 4 / 2) / 10  # one of two audited runs failed, so two of the four
    of_audited = binomtest(1, 2).proportion_ci(method="wilson")
    low, high = (wilson_interval(2 + 4 * share, 10)[i] for i, share in enumerate((of_audited.low, of_audited.high)))
    assert figures["failed_share_audited_low"] == pytest.approx(float(low))
    assert figures["failed_share_audited_high"] == pytest.approx(float(high))
    for key in ("failed_share", "failed_share_low", "std_ok", "std", "mean", "median", "best_mean"):
        assert figures[key] is None  # of those that were not stopped: they flatter
    assert figures["max"] == 0.75


def test_without_stopped_runs_the_bounds_are_the_failed_share():
    warned = [alarmed(8, "failed", recipe="a"), alarmed(9, "ok", recipe="a")]
    (figures,) = summarize([*study("a", [0.5], [0.7] * 3), *warned])["recipes"]
    assert figures["failed_share"] == figures["failed_share_if_all_heal"] == figures["failed_share_if_all_fail"]
    assert figures["alarmed"] == 2 and figures["audited"] == figures["stopped"] == figures["saved_steps"] == 0
    assert figures["failed_share_audited"] is None and figures["std"] is not None
    text = to_markdown(summarize(warned))
    assert "stopped" not in text and "audit" not in text.lower() and "bounds" not in text.lower()


def test_where_no_run_was_audited_there_is_no_estimate():
    summary = summarize([run(1, 0.7), alarmed(2, "stopped")])
    assert summary["recipes"][0]["failed_share_audited"] is summary["recipes"][0]["failed_share_audited_high"] is None
    assert [table(summary)[0][column] for column in STOPS] == ["1", "0-.50 (0-.91)", "-", "60 = .60"]


STOPS = [
    "stopped",
    "failed share: bounds (95% limits)",
    "failed share: audited estimate (95% interval), failed of audited",
    "update steps saved = share",
]


def test_stopped_runs_have_columns_and_a_note_each_where_there_are_any():
    summary = summarize([*CENSORED, *study("b", [0.5], [0.7, 0.8])])
    a, b = table(summary)
    assert list(a)[2:7] == [FAILED, *STOPS]
    assert [a[column] for column in (FAILED, *STOPS)] == [
        "2",
        "4",
        ".20-.60 (.06-.83)",
        ".40 (.07-.81), 1 of 2",
        "220 = .22",
    ]
    assert [b[column] for column in (FAILED, *STOPS)] == ["1 = .33 (.06-.79)", "0", "-", "-", "-"]
    assert [a[column] for column in (STD_OK, STD, "accuracy: mean", "accuracy: median")] == ["-"] * 4
    assert a["accuracy: max"] == ".750" and "-" not in [b[STD], b["accuracy: mean"]]
    notes = [line for line in to_markdown(summary).splitlines() if line.startswith("- ")]
    starts = ("- Stopped runs", "- Bounds:", "- Audited estimate:", "- Saved:")
    assert [sum(note.startswith(start) for note in notes) for start in starts] == [1] * 4
    assert not any("without a score" in note for note in notes)  # that is said of others


def test_a_stopped_run_has_no_part_in_how_many_evaluations_there_are():
    runs = [*study("a", [], [0.5, 0.75], evaluations=3), alarmed(8, "stopped", evaluations=1)]
    summary = summarize([*runs, *study("b", [], [0.6, 0.7], evaluations=3)])
    assert summary["recipes"][0]["evaluations"] == [3]
    assert [row["accuracy: mean of the best of 3 evaluations"] for row in table(summary)] == ["-", ".650"]


def test_a_diverged_run_that_its_alarm_ended_counts_as_failed_and_in_no_number_of_evaluations():
    ended = dataclasses.replace(alarmed(8, "stopped", evaluations=1), status="diverged")
    summary = summarize([*study("a", [], [0.5, 0.75], evaluations=3), ended])
    (figures,) = summary["recipes"]
    assert (figures["failed"], figures["stopped"], figures["saved_steps"], figures["evaluations"]) == (1, 0, 0, [3])
    assert figures["failed_share"] == 1 / 3 and "- Runs without a score: 1 of a." in to_markdown(summary)


def test_a_comparison_with_stopped_runs_has_bounds_and_no_test():
    other = study("b", [0.5] * 4, [0.7] * 6)
    comparison = summarize([*CENSORED, *other])["comparisons"][0]
    assert comparison["sentence"] == (
        "a against b: failed share .20 to .60 (4 of 10 stopped; audited estimate .40) against .40 (0 of 10 stopped). "
        "The bounds overlap: which of the two fails less often is open. "
        "Stopped runs are censored: neither failed shares nor spreads are tested."
    )
    assert comparison["fisher_p"] is comparison["brown_forsythe"]["p"] is comparison["brown_forsythe"]["f"] is None
    assert comparison["stopped"] == [4, 0] and comparison["failed_share_if_all_fail"] == [0.6, 0.4]
    text = to_markdown(summarize([*CENSORED, *other]))
    assert "Fisher" not in text and "Brown" not in text and "p = " not in text and "more stable" not in text
    (apart,) = sentences([*study("b", [0.5] * 9, [0.7]), *CENSORED])
    assert apart.startswith(
        "b against a: failed share .90 (0 of 10 stopped) against .20 to .60 (4 of 10 stopped; audited"
    )
    assert (
        "Whatever the stopped runs had done, a smaller share of a would have failed here; it may be chance." in apart
    )


def test_recipes_without_stopped_runs_are_tested_beside_one_that_has_some():
    spread, narrow = study("b", [], SPREAD), study("c", [], NARROW)
    texts = sentences([*CENSORED, *spread, *narrow])
    assert ["Brown-Forsythe: F" in text for text in texts] == [False, False, True]
    notes = to_markdown(summarize([*CENSORED, *spread, *narrow]))
    assert "p is two-sided; a difference" in notes  # one test only, nothing to correct for


def test_a_recipe_of_stopped_runs_only_has_bounds():
    summary = summarize([alarmed(1, "stopped"), alarmed(2, "stopped"), run(1, None, "crashed", "b")])
    a, b = table(summary)
    assert list(a.values()) == ["a", "2", "0", "2", "0-1 (0-1)", "-", "120 = .60", *"-----"]
    assert list(b.values()) == ["b", "0 (+1 crashed)", "-", "0", *"--------"]
    assert summary["comparisons"][0]["sentence"] == "a against b: failed 0 of 2 against 0 of 0. Nothing to compare."


# ---- runs that a policy stopped early ---------------------------------------------------------------------------------


def early(seed: int, recipe: str = "a"):
    return run(seed, None, "stopped early", recipe, steps=25, planned_steps=100, ended_at_look=True)


def whole(seed: int, last: float, status: str = "ok", recipe: str = "a", report: float | None = None):
    metrics = {} if report is None else {"eval_second_accuracy": report}
    return run(seed, last, status, recipe, steps=100, planned_steps=100, evaluations=3, metrics=metrics)


POLICY = [
    early(1),
    whole(2, 0.7, report=0.65),
    early(3),
    whole(4, 0.7, report=0.6),
    whole(5, 0.5, "failed", report=0.5),
]


def test_runs_stopped_early_are_neither_failed_nor_ok_nor_stopped_by_an_alarm():
    (figures,) = summarize(POLICY)["recipes"]
    assert [figures[key] for key in ("runs", "failed", "stopped", "stopped_early", "alarmed", "scores")] == [
        5,
        1,
        0,
        2,
        0,
        3,
    ]
    assert figures["failed_share"] is figures["std"] is figures["mean"] is figures["report_mean"] is None
    assert (figures["failed_share_if_all_heal"], figures["failed_share_if_all_fail"]) == (0.2, 0.6)
    assert figures["budget"] == 3.5 and figures["saved_steps"] == 0 and figures["max"] == 0.7
    assert figures["best_run"] == {"seed": 2, "score": 0.7, "report": 0.65}  # of equals the smaller seed
    summary = summarize(POLICY)
    (row,) = table(summary)
    assert (row["runs"], row[FAILED], row["stopped early"], row["budget, runs"]) == ("5", "1", "2", "3.50")
    assert "stopped" not in row and "Runs without a score" not in to_markdown(summary)
    assert "a: the best finished run is seed 2, accuracy .700; .650 on the second half, which did not select it." in (
        to_markdown(summary)
    )


def test_without_a_reporting_half_it_is_said_that_the_best_is_too_high():
    text = to_markdown(summarize([early(1), whole(2, 0.7)]))
    assert (
        "seed 2, accuracy .700, on the set that selected it (--validation_half both keeps a half for the report)"
        in text
    )


def test_nothing_is_tested_on_a_recipe_whose_runs_were_stopped_early():
    summary = summarize([*POLICY, *study("b", [], SPREAD), *study("c", [], NARROW)])
    assert ["neither failed shares nor spreads" in c["sentence"] for c in summary["comparisons"]] == [
        True,
        True,
        False,
    ]
    assert [c["fisher_p"] is None for c in summary["comparisons"]] == [True, True, False]
    assert summary["comparisons"][0]["brown_forsythe"]["p"] is None
    assert "p is two-sided; a difference" in to_markdown(summary)  # one test only, nothing to correct for


def test_what_a_policy_ended_may_have_diverged_and_is_then_known_to_have_failed():
    gone = run(6, None, "diverged", steps=25, planned_steps=100, alarm_step=25, ended_at_look=True)
    for others, bounds in ((POLICY, (2 / 6, 4 / 6)), ([whole(2, 0.7), whole(4, 0.7)], (1 / 3, 1 / 3))):
        (figures,) = summarize([*others, gone])["recipes"]
        assert (figures["failed_share_if_all_heal"], figures["failed_share_if_all_fail"]) == bounds
        assert (
            figures["mean"] is figures["std"] is figures["failed_share"] is None and figures["best_run"]["seed"] == 2
        )
    assert figures["budget"] == 2.25 and figures["stopped_early"] == 1
    (figures,) = summarize([whole(2, 0.7), dataclasses.replace(gone, ended_at_look=False)])["recipes"]  # by its alarm
    assert figures["stopped_early"] == 0 and figures["failed_share"] == 0.5


def test_of_a_policy_that_finished_nothing_yet_there_is_no_best_run():
    (figures,) = summarize([early(1), run(2, None, "crashed")])["recipes"]
    assert figures["best_run"] is None and figures["budget"] == 0.25


outcomes_of_stops = st.lists(
    st.tuples(st.sampled_from(["unalarmed", "stopped", "audited"]), st.sampled_from(["ok", "failed", "diverged"])),
    min_size=1,
    max_size=25,
)


@settings(deadline=None)
@given(outcomes_of_stops)
def test_the_bounds_hold_whatever_the_stopped_runs_would_have_done(outcomes):
    """`outcomes`: what is known of a run, and how it ends where nobody stops it."""
    runs = [
        run(seed, 0.5, end) if kind == "unalarmed"
        else alarmed(seed, "stopped" if kind == "stopped" else end, audited=kind == "audited")
        for seed, (kind, end) in enumerate(outcomes)
    ]  # fmt: skip
    (figures,) = summarize(runs)["recipes"]
    truth = sum(end != "ok" for _, end in outcomes) / len(outcomes)
    low, high = figures["failed_share_if_all_heal"], figures["failed_share_if_all_fail"]
    assert low <= truth <= high and high - low == pytest.approx(figures["stopped"] / len(outcomes))
    outer = figures["failed_share_if_all_heal_low"], figures["failed_share_if_all_fail_high"]
    assert outer[0] <= low <= high <= outer[1]
    if figures["audited"]:
        inner = [figures[f"failed_share_audited{end}"] for end in ("_low", "", "_high")]
        assert sorted([outer[0], *inner, outer[1]]) == pytest.approx([outer[0], *inner, outer[1]], abs=1e-12)
        assert low - 1e-12 <= inner[1] <= high + 1e-12
    kinds = {kind for kind, _ in outcomes}
    assert (figures["failed_share"] is None) == ("stopped" in kinds)
    text = to_markdown(summarize([*runs, *study("b", [], SPREAD)]))
    if "stopped" in kinds:
        assert "Fisher" not in text and "Brown-Forsythe" not in text and "stable" not in text
        assert "stopped" in text


@settings(max_examples=20, deadline=None)
@given(
    ends=st.lists(st.booleans(), min_size=1, max_size=7),
    others=st.lists(st.booleans(), max_size=4),
    share=st.sampled_from([Fraction(1, 5), Fraction(1, 2), Fraction(9, 10)]),
)
def test_the_audited_estimate_is_unbiased_over_all_draws(ends, others, share):
    """`ends`: whether each run that raises an alarm would fail; `others`: whether each of the others failed.

    Every draw of audits is gone through, with its probability; where none is drawn there is no estimate.
    """
    n, expected, probability = len(ends) + len(others), Fraction(0), Fraction(0)
    for number in range(1, len(ends) + 1):
        for audited in combinations(range(len(ends)), number):
            failed = sum(ends[i] for i in audited)
            counts = (sum(others) + failed, len(ends) - number, failed, number, n)
            weight = share**number * (1 - share) ** (len(ends) - number)
            exact = Fraction(counts[0] * number + counts[1] * failed, number * n)
            assert audited_failed_share(*counts)[0] == pytest.approx(float(exact))
            expected, probability = expected + weight * exact, probability + weight
    assert expected / probability == Fraction(sum(ends) + sum(others), n)


def coverage(alarms: float, failing: float, otherwise: float, n: int = 20, audits: float = 0.2) -> float:
    """How often the interval holds the failed share, exactly, among studies with both a stopped and an audited run.

    Args:
        alarms: probability of an alarm.
        failing: probability that an alarmed run fails; `otherwise`: that another one does.
    """
    truth = alarms * failing + (1 - alarms) * otherwise
    grid = np.meshgrid(*map(np.arange, (n + 1, n + 1, n + 1, n + 1)), indexing="ij")
    possible = (grid[1] > 0) & (grid[1] < grid[0]) & (grid[2] <= grid[1]) & (grid[3] <= n - grid[0])
    alarmed, audited, audited_failed, failed = (values[possible] for values in grid)
    weights = binom.pmf(alarmed, n, alarms) * binom.pmf(audited, alarmed, audits)
    weights *= binom.pmf(audited_failed, audited, failing) * binom.pmf(failed, n - alarmed, otherwise)
    kept = weights > 1e-9
    rows = zip(*(values[kept].tolist() for values in (alarmed, audited, audited_failed, failed)), strict=True)
    intervals = np.array([limits(k + f, a - m, f, m, n) for a, m, f, k in rows])
    held = (intervals[:, 0] <= truth) & (truth <= intervals[:, 1])
    return float(weights[kept][held].sum() / weights[kept].sum())


@cache
def limits(*counts: int) -> tuple[float, float]:
    return audited_failed_share(*counts)[1:]


def test_the_interval_of_the_audited_estimate_holds_what_its_docstring_says():
    settings = list(product([0.1, 0.2, 0.5, 0.8], [0.1, 0.5, 0.9], [0.0, 0.1, 0.3]))
    found = dict(zip(settings, (coverage(*setting) for setting in settings), strict=True))
    assert statistics.median(found.values()) == pytest.approx(0.99, abs=0.005)
    assert min(found.values()) == found[0.1, 0.1, 0.0] == pytest.approx(0.885, abs=0.005)
    assert min(share for setting, share in found.items() if setting != (0.1, 0.1, 0.0)) > 0.95


# ---- files ----------------------------------------------------------------------------------------------------------


def test_the_files_are_the_same_bytes_each_time_and_hold_every_run(tmp_path):
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_summary(tmp_path / name, summarize(FOUR))
        files = sorted((tmp_path / name).iterdir())
        assert [path.name for path in files] == ["summary.csv", "summary.json", "summary.md"]
        written.append([path.read_bytes() for path in files])
    assert written[0] == written[1]

    with open(tmp_path / "first" / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["recipe"], row["seed"], row["status"], row["last"]) for row in rows] == [
        ("a", "1", "failed", "0.5"),
        ("a", "2", "ok", "0.75"),
        ("a", "3", "diverged", ""),
        ("a", "4", "crashed", ""),
    ]
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    assert [RunRecord(**content) for content in summary["runs"]] == FOUR
    assert to_markdown(summary) == to_markdown(summarize(FOUR))
    text = (tmp_path / "first" / "summary.md").read_text()
    assert all(r.sentence in text for r in FOUR)


def test_a_sentence_with_commas_quotes_lines_and_bars_stays_one_row(tmp_path):
    odd = dataclasses.replace(FOUR[0], sentence='failed: "x", y | z\nand more')
    write_summary(tmp_path, summarize([odd]))
    with open(tmp_path / "summary.csv", newline="") as file:
        assert [row["sentence"] for row in csv.DictReader(file)] == [odd.sentence]
    text = (tmp_path / "summary.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("|") and "failed:" in line]
    assert row.replace("\\|", "").count("|") == 7  # round six columns


def test_columns_of_a_table_are_lined_up():
    table = markdown_table(["a", "b"], [["long cell", "1"], ["x|y", "22"]]).splitlines()
    assert table == ["| a         | b  |", "|-----------|----|", "| long cell | 1  |", "| x\\|y      | 22 |"]
