"""The three sentences: each case that a study can end in, and the numbers in them."""

from __future__ import annotations

import dataclasses
import statistics

import pytest

from hf_stability.statistics import seeds_for_means, seeds_for_shares, wilson_interval
from hf_stability.study.report.page.conclusion import advice, conclusion
from hf_stability.study.report.page.contents import report_contents
from tests.prose import Text, faults
from tests.study.report.page.test_contents import BAD, GOOD, OK, recipe, run


def sentences(runs, **given):
    found = conclusion(report_contents(runs, **given))
    assert len(found) == 3 and all(text.endswith(".") and "  " not in text for text in found)
    assert not [fault for text in found for fault in faults(Text("page", 1, "page", text))]
    return found


def test_fewer_failed_runs_and_it_is_decided():
    failed, mean, change = sentences([*BAD, *GOOD])
    assert failed == (
        "On rte, good has the fewest failed runs: 0 of 8 (95% interval 0 to 0.32); by Fisher's exact test, this is decided "
        "against bad (6 of 8; p = 0.007)."
    )
    assert mean.startswith(
        "The mean accuracy of good at the end of training is 0.712 (n = 8, failed runs included), 0.18"
    )
    assert "above that of bad (95% interval " in mean and "paired by 8 seeds" in mean
    assert "the noise floor of the development set is unknown (its number of examples was not given)" in mean
    n = next(n for n in range(1, 200) if wilson_interval(0, n)[1] < 0.05)
    assert change == (
        "More seeds will hardly change which of good and bad to use on these data; to show that good fails in less than 0.05 "
        f"of its runs takes {n} runs without a failure ({n - 8} more than here)."
    )


def test_fewer_failed_runs_and_it_is_open():
    failed, _, change = sentences([*GOOD, *recipe("near", OK[:6], [0.47, 0.5])])
    assert "this is not decided against near (2 of 8; p = 0.467)" in failed
    n = seeds_for_shares(0, 0.25)
    assert f"(0 of 8 and 2 of 8), about {n} seeds per recipe ({n - 8} more than here) decide between them" in change


def test_holm_is_named_with_its_family():
    failed, mean, _ = sentences([*GOOD, *BAD, *recipe("near", OK[:6], [0.47, 0.5])])
    assert "by Fisher's exact test with Holm's correction over 3 pairs, this is decided against bad (6 of 8;" in failed
    assert "and not decided against near (2 of 8;" in failed and "after Holm's correction over 3 pairs" in mean


def test_nobody_failed_so_the_means_count():
    others = recipe("other", [score + 0.1 for score in OK])
    failed, mean, change = sentences([*GOOD, *others], examples=10_000)
    assert failed.startswith(
        "On rte, failed runs do not decide between other and good: other failed in 0 of 8 (95% interval"
    )
    assert "0.100 above that of good" in mean and "the whole interval is outside the region" in mean
    assert "the difference is above the noise floor of 10000 development examples" in mean
    assert change.startswith("More seeds will hardly change which of other and good")


def test_the_means_are_within_noise():
    _, mean, change = sentences([*GOOD, *recipe("other", [score + 0.03 for score in OK])], examples=277)
    assert "below the noise floor of 277 development examples" in mean and "so that the two are not ranked" in mean
    assert "more development examples would" in change


def test_the_means_are_open():
    others = recipe("other", [score + change for score, change in zip(OK, [0.09, -0.05] * 4, strict=True)])
    contents = report_contents([*GOOD, *others])
    _, mean, change = sentences([*GOOD, *others])
    pair = contents["pairs"][0]
    std = statistics.stdev(a.last - b.last for a, b in zip(GOOD, others, strict=True))
    n = seeds_for_means(abs(abs(pair["mean"]["estimate"]) - 0.01), std, paired=True)
    assert "so that this is undecided" in mean
    assert f"about {n} seeds per recipe" in change and "that it is larger than 0.01 with power 0.8." in change


def test_equal_means():
    _, mean, _ = sentences([*GOOD, *recipe("other", [score + 0.001 for score in OK])])
    assert "the whole interval is inside the region of practical equivalence (±0.01)" in mean


def test_one_recipe():
    failed, mean, change = sentences(GOOD)
    assert (
        failed
        == "On rte, good failed in 0 of 8 (95% interval 0 to 0.32); there is no other recipe to compare it with."
    )
    assert "(n = 8, 95% interval 0.699 to 0.726), with a std of 0.017 (95% interval" in mean
    assert change.startswith("A second recipe, run with the same seeds, would make this a comparison")


def test_one_run_and_all_runs_without_a_score():
    assert "(n = 1)" in sentences([run("a", 1, 0.7)])[1]
    assert "has no mean" in sentences([run("a", 1, None, "diverged")])[1]


@pytest.mark.parametrize(("status", "words"), [("unjudged", "have no verdicts"), ("stopped", "16 runs were stopped")])
def test_failed_shares_that_are_not_known(status, words):
    runs = [dataclasses.replace(run, status=status) for run in [*GOOD, *BAD]]
    if status == "stopped":
        runs = [dataclasses.replace(run, last=None, best=None) for run in runs]
    assert words in sentences(runs)[0]


def test_many_recipes_are_counted():
    runs = [*GOOD, *(run for number in range(6) for run in recipe(f"bad{number}", [0.7], [0.47] * 7))]
    failed, _, _ = sentences(runs)
    assert "bad2 (7 of 8; p = " in failed and "and 3 others." in failed and "bad4" not in failed


# ---- the advice -----------------------------------------------------------------------------------------------------


def advised(runs, **given):
    text = advice(report_contents(runs, **given))
    assert text.endswith(".") and not faults(Text("page", 1, "page", text))
    return text


def test_the_advice_names_the_recipe_and_how_sure_it_is():
    near = recipe("near", OK[:6], [0.47, 0.5])
    assert advised([*BAD, *GOOD]) == "Use good. Against bad, this is decided."
    assert advised([*GOOD, *near]) == "Use good. Against near, it is not decided."
    assert advised([*GOOD, *BAD, *near]) == "Use good. Against bad, this is decided. Against near, it is not decided."
    better = recipe("other", [x + 0.1 for x in OK])
    assert advised([*GOOD, *better], examples=10_000) == "Use other. Against good, this is decided."
    assert advised([*GOOD, *better], examples=20) == "Use other. Against good, it is not decided."  # within noise
    assert advised([*GOOD, *recipe("other", [x + 0.001 for x in OK])]) == "Use other. As good: good."


def test_the_advice_counts_many_recipes():
    bad = [run for number in range(4) for run in recipe(f"bad{number}", [0.7] * 2, [0.47] * 18)]
    good = recipe("good", [x + 0.001 * k for k in range(5) for x in OK[:4]])
    assert advised([*good, *bad]) == "Use good. Against all 4 other recipes, this is decided."


def test_the_advice_tells_a_higher_mean_with_more_failures():
    other = recipe("other", [0.99] * 19, [0.47])
    assert advised([*recipe("good", (OK * 3)[:20]), *other]) == "Use good. A higher mean, but more failed runs: other."


def test_the_advice_tells_what_a_run_costs():
    long = recipe("long", [0.9] * 8, steps=300, planned_steps=300)
    assert advised([*GOOD, *long]).endswith(" One of its runs takes 300 update steps, one of good takes 100.")


@pytest.mark.parametrize(
    ("status", "words"), [("unjudged", "because no baseline was given"), ("stopped", "because runs were stopped")]
)
def test_there_is_no_advice_without_failed_shares(status, words):
    runs = [dataclasses.replace(run, status=status) for run in [*GOOD, *BAD]]
    if status == "stopped":
        runs = [dataclasses.replace(run, last=None, best=None) for run in runs]
    assert words in advised(runs) and "Use " not in advised(runs)


def test_one_recipe_is_no_choice():
    assert advised(GOOD) == (
        "0 of 8 runs of good failed. It is the only recipe here, so these runs do not tell whether another one is better."
    )
    assert "would show whether these failures can be avoided" in sentences(BAD)[2]


def test_means_that_decide_are_told_beside_open_failed_shares():
    _, _, change = sentences([*recipe("good", [x + 0.2 for x in OK]), *recipe("near", OK[:7], [0.47])])
    n = seeds_for_shares(0, 0.125)
    assert change.startswith(
        "More seeds will hardly change that good is better than near, because the means decide; if the"
    )
    assert f"of both are those seen here (0 of 8 and 1 of 8), about {n} seeds per recipe" in change


def test_another_recipe_with_open_failed_shares_is_told():
    others = recipe("other", [score + change for score, change in zip(OK, [0.09, -0.05] * 4, strict=True)])
    few = [*GOOD[:4], *others[:4], *recipe("bad", [], [0.47] * 4)]
    n = seeds_for_shares(0, 1, alpha=0.05 / 3)
    assert (
        f"; about {n} seeds per recipe ({n - 4} more than here) show that bad fails more often." in sentences(few)[2]
    )
