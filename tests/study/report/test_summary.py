"""A study's figures against figures worked out the slow way; of censored runs also how their table reads."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from hf_stability.statistics import wilson_interval
from hf_stability.study.records import RunRecord
from hf_stability.study.report.summary import SUMMARY_SCHEMA, summarize
from hf_stability.study.report.summary_page import to_markdown


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


SPREAD = [0.60, 0.62, 0.65, 0.66, 0.68, 0.70, 0.71, 0.72, 0.74, 0.76]
NARROW = [0.70 + score / 100 for score in SPREAD]

FAILED = "failed = share (95% interval)"
STD_OK, STD = "accuracy: std of runs that did not fail", "accuracy: std of all runs"


# ---- figures --------------------------------------------------------------------------------------------------------


def test_failed_diverged_and_crashed_runs_are_counted_each_where_it_belongs():
    (figures,) = summarize(FOUR)["recipes"]
    assert figures["runs"] == 3 and figures["failed"] == 2 and figures["crashed"] == 1 and figures["scores"] == 2
    assert figures["failed_share"] == 2 / 3
    assert figures["mean"] == 0.625 and figures["median"] == 0.625 and figures["max"] == 0.75
    assert figures["std"] == pytest.approx(math.sqrt(2) * 0.125)  # two scores 0.25 apart, ddof = 1
    assert figures["std_ok"] is None  # of one
    assert figures["best_mean"] == 0.675 and figures["evaluations"] == [3]


def test_the_std_of_the_ok_runs_leaves_failed_and_diverged_runs_out():
    runs = [*study("a", [0.25], [0.5, 0.75]), run(4, 0.125, "diverged")]
    (figures,) = summarize(runs)["recipes"]
    assert figures["std_ok"] == pytest.approx(math.sqrt(2) * 0.125)
    assert figures["std"] == pytest.approx(statistics.stdev([0.25, 0.5, 0.75, 0.125]))
    (row,) = table(summarize(runs))
    assert row[STD_OK] == "0.177" and row[STD] == "0.277"


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
    assert [table(summary)[0][column] for column in STOPS] == ["1", "0-0.50 (0-0.91)", "-", "60 = 0.60"]


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
        "0.20-0.60 (0.06-0.83)",
        "0.40 (0.07-0.81), 1 of 2",
        "220 = 0.22",
    ]
    assert [b[column] for column in (FAILED, *STOPS)] == ["1 = 0.33 (0.06-0.79)", "0", "-", "-", "-"]
    assert [a[column] for column in (STD_OK, STD, "accuracy: mean", "accuracy: median")] == ["-"] * 4
    assert a["accuracy: max"] == "0.750" and "-" not in [b[STD], b["accuracy: mean"]]
    notes = [line for line in to_markdown(summary).splitlines() if line.startswith("- ")]
    starts = ("- Stopped runs", "- Bounds:", "- Audited estimate:", "- Saved:")
    assert [sum(note.startswith(start) for note in notes) for start in starts] == [1] * 4
    assert not any("without a score" in note for note in notes)  # that is said of others


def test_a_stopped_run_has_no_part_in_how_many_evaluations_there_are():
    runs = [*study("a", [], [0.5, 0.75], evaluations=3), alarmed(8, "stopped", evaluations=1)]
    summary = summarize([*runs, *study("b", [], [0.6, 0.7], evaluations=3)])
    assert summary["recipes"][0]["evaluations"] == [3]
    assert [row["accuracy: mean of the best of 3 evaluations"] for row in table(summary)] == ["-", "0.650"]


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
        "a against b: failed share 0.20 to 0.60 (4 of 10 stopped; audited estimate 0.40) against 0.40 (0 of 10 stopped). "
        "The bounds overlap: which of the two fails less often is open. "
        "Stopped runs are censored, so neither failed shares nor spreads are tested."
    )
    assert comparison["fisher_p"] is comparison["brown_forsythe"]["p"] is comparison["brown_forsythe"]["f"] is None
    assert comparison["stopped"] == [4, 0] and comparison["failed_share_if_all_fail"] == [0.6, 0.4]
    text = to_markdown(summarize([*CENSORED, *other]))
    assert "Fisher" not in text and "Brown" not in text and "p = " not in text and "more stable" not in text
    (apart,) = sentences([*study("b", [0.5] * 9, [0.7]), *CENSORED])
    assert apart.startswith(
        "b against a: failed share 0.90 (0 of 10 stopped) against 0.20 to 0.60 (4 of 10 stopped; audited"
    )
    assert (
        "a has the smaller failed share here, whatever the stopped runs would have done. This may be chance." in apart
    )


def test_recipes_without_stopped_runs_are_tested_beside_one_that_has_some():
    spread, narrow = study("b", [], SPREAD), study("c", [], NARROW)
    texts = sentences([*CENSORED, *spread, *narrow])
    assert ["Brown-Forsythe: F" in text for text in texts] == [False, False, True]
    notes = to_markdown(summarize([*CENSORED, *spread, *narrow]))
    assert "p is two-sided. A difference" in notes  # one test only, nothing to correct for


def test_a_recipe_of_stopped_runs_only_has_bounds():
    summary = summarize([alarmed(1, "stopped"), alarmed(2, "stopped"), run(1, None, "crashed", "b")])
    a, b = table(summary)
    assert list(a.values()) == ["a", "2", "0", "2", "0-1 (0-1)", "-", "120 = 0.60", *"-----"]
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
    assert (
        "a: the best finished run is seed 2, accuracy 0.700; 0.650 on the second half, which did not select it."
        in (to_markdown(summary))
    )


def test_without_a_reporting_half_it_is_said_that_the_best_is_too_high():
    text = to_markdown(summarize([early(1), whole(2, 0.7)]))
    assert (
        "seed 2, accuracy 0.700, on the set that selected it (--validation_half both keeps a half for the report)"
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
    assert "p is two-sided. A difference" in to_markdown(summary)  # one test only, nothing to correct for


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
