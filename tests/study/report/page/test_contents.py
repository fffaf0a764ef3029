"""A report's numbers against slow ones: scipy, loops, counts by hand. Settings are read from folders written here."""

from __future__ import annotations

import dataclasses
import json
import statistics as plain_statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hf_stability.errors import InputError
from hf_stability.study.records import RunRecord
from hf_stability.study.report.page.contents import finding, report_contents, scored_runs
from hf_stability.utils.files import write_json


OK = [0.70, 0.71, 0.72, 0.69, 0.73, 0.70, 0.74, 0.71]


def run(recipe: str, seed: int, last: float | None, status: str = "ok", **values) -> RunRecord:
    values = {"baseline": 0.53, "steps": 100, "planned_steps": 100, "task": "rte", "metric": "accuracy", **values}
    task, metric = values.pop("task"), values.pop("metric")
    return RunRecord("id", recipe, seed, task, status, metric, last, last, **values)


def recipe(name: str, ok: list[float], failed: list[float] = (), first_seed: int = 1, **values) -> list[RunRecord]:
    scores = [(score, "ok") for score in ok] + [(score, "failed") for score in failed]
    return [run(name, seed, score, status, **values) for seed, (score, status) in enumerate(scores, first_seed)]


GOOD, BAD = recipe("good", OK), recipe("bad", [0.70, 0.72], [0.47] * 6)


def figures(contents, name):
    return next(figures for figures in contents["recipes"] if figures["recipe"] == name)


# ---- recipes --------------------------------------------------------------------------------------------------------


def test_a_recipes_scores_have_their_interval():
    own = figures(report_contents([*BAD, *GOOD]), "good")
    low, high = stats.t.interval(0.95, 7, plain_statistics.mean(OK), stats.sem(OK))
    assert (own["mean"], own["mean_low"], own["mean_high"]) == pytest.approx((plain_statistics.mean(OK), low, high))
    assert own["std"] == own["std_ok"] == pytest.approx(plain_statistics.stdev(OK))
    assert own["std_ok_low"] < own["std_ok"] < own["std_ok_high"]
    assert (own["median"], own["min"], own["max"]) == (plain_statistics.median(OK), 0.69, 0.74)
    assert (own["n_scores"], own["n_ok"], own["failed"], own["runs"], own["steps"]) == (8, 8, 0, 8, 100)


def test_failed_runs_count_in_the_mean_and_not_in_the_std_of_the_others():
    own = figures(report_contents(BAD), "bad")
    assert own["mean"] == pytest.approx((0.70 + 0.72 + 6 * 0.47) / 8)
    assert own["n_ok"] == 2 and own["std_ok"] == pytest.approx(plain_statistics.stdev([0.70, 0.72]))
    assert own["std_ok_low"] is None  # two runs are too few for an interval


scores = st.lists(st.floats(0.4, 0.9), min_size=0, max_size=6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(scores, scores).filter(lambda pair: sum(map(len, pair)) > 1), min_size=2, max_size=3))
def test_failed_runs_come_first_in_the_ranking(pairs):
    runs = [run for number, pair in enumerate(pairs) for run in recipe(f"r{number}", *pair)]
    contents = report_contents(runs)
    ranked = [figures(contents, name) for name in contents["ranking"]]
    keys = [(own["failed"] / own["runs"], -own["mean"]) for own in ranked]
    assert keys == sorted(keys) and len(ranked) == len(pairs)


def test_a_recipe_that_nearly_always_fails_has_a_small_std_and_is_last():
    always = recipe("always", [0.71], [0.47] * 19)
    contents = report_contents([*always, *recipe("wide", [0.6 + 0.01 * k for k in range(20)])])
    assert figures(contents, "always")["std"] < figures(contents, "wide")["std"]
    assert contents["ranking"] == ["wide", "always"] and contents["pairs"][0]["finding"] == "fails less"


def test_stopped_runs_leave_a_recipe_without_mean_and_test():
    stopped = [*BAD, run("bad", 20, None, "stopped", steps=10)]
    contents = report_contents([*GOOD, *stopped])
    own, pair = figures(contents, "bad"), contents["pairs"][0]
    assert contents["ranking"] == ["good", "bad"]
    assert own["mean"] is own["std"] is own["failed_share"] is None and own["n_scores"] == 0
    assert pair["share"] is pair["mean"] is None and pair["finding"] == "undecided"
    assert contents["expected_maximum"]["bad"] is None
    (left,) = contents["left_out"]
    assert (left["recipe"], left["n"], left["kind"]) == ("bad", 1, "stopped by an alarm")


def test_a_run_without_a_known_verdict_keeps_its_score():
    unjudged = [dataclasses.replace(run, status="unjudged") for run in GOOD]
    assert len(scored_runs(unjudged).scores) == 8 and not scored_runs(unjudged).ok.any()


# ---- pairs ----------------------------------------------------------------------------------------------------------


def test_a_pair_is_tested_as_scipy_does():
    pair = report_contents([*BAD, *GOOD])["pairs"][0]
    assert (pair["a"], pair["b"], pair["failed"], pair["runs"]) == ("good", "bad", [0, 6], [8, 8])
    assert pair["share"]["estimate"] == -0.75
    assert pair["share"]["p"] == pair["share"]["p_holm"] == pytest.approx(stats.fisher_exact([[0, 8], [6, 2]])[1])
    assert pair["share"]["low"] < -0.75 < pair["share"]["high"] < 0
    differences = [a.last - b.last for a, b in zip(GOOD, BAD, strict=True)]
    low, high = stats.t.interval(0.95, 7, plain_statistics.mean(differences), stats.sem(differences))
    assert pair["mean"]["paired"] and pair["mean"]["n"] == [8, 8]
    assert (pair["mean"]["low"], pair["mean"]["high"]) == pytest.approx((low, high))
    assert pair["spread"] is None  # some runs failed
    wins = sum((a.last > b.last) + (a.last == b.last) / 2 for a in GOOD for b in BAD) / 64
    assert pair["superiority"]["estimate"] == pytest.approx(wins)


@pytest.mark.parametrize("change", ["other seeds", "fewer seeds", "unknown seeds"])
def test_only_recipes_with_the_same_known_seeds_are_paired(change):
    others = {
        "other seeds": recipe("other", OK, first_seed=2),
        "fewer seeds": recipe("other", OK[1:]),
        "unknown seeds": [dataclasses.replace(run, seed=-run.seed) for run in recipe("other", OK)],
    }[change]
    pair = report_contents([*GOOD, *others])["pairs"][0]
    low, high = stats.ttest_ind(OK, [run.last for run in others], equal_var=False).confidence_interval()
    low, high = (low, high) if pair["a"] == "good" else (-high, -low)
    assert not pair["mean"]["paired"] and (pair["mean"]["low"], pair["mean"]["high"]) == pytest.approx((low, high))


def test_holm_covers_all_pairs_of_one_kind_of_test():
    runs = [*GOOD, *BAD, *recipe("middle", OK[:5], [0.47] * 3)]
    contents = report_contents(runs)
    shares = [pair["share"] for pair in contents["pairs"]]
    ordered = sorted(shares, key=lambda test: test["p"])
    expected, highest = [], 0.0
    for rank, test in enumerate(ordered):
        highest = max(highest, min(1.0, (3 - rank) * test["p"]))
        expected.append(highest)
    assert [test["p_holm"] for test in ordered] == pytest.approx(expected)
    assert contents["family"] == {"pairs": 3, "recipes": 3, "share": 3, "mean": 3, "spread": 0}


def test_spread_is_tested_where_no_run_failed():
    spread = report_contents([*GOOD, *recipe("wide", [0.5, 0.9, 0.6, 0.8, 0.55, 0.85, 0.7, 0.72])])["pairs"][0][
        "spread"
    ]
    assert spread["n"] == [8, 8] and spread["p"] < 0.05


def pair_of(share_p=1.0, share=0.0, word="undecided", mean_p=0.001, above=True):
    return {
        "share": {"estimate": share, "p_holm": share_p},
        "mean": {"p_holm": mean_p},
        "equivalence": word,
        "above_noise": above,
    }


@pytest.mark.parametrize(
    ("pair", "word"),
    [
        (pair_of(0.01, -0.5, "worse"), "fails less"),
        (pair_of(0.01, 0.5, "better"), "fails more"),
        (pair_of(word="better"), "better"),
        (pair_of(word="better", mean_p=0.06), "undecided"),
        (pair_of(word="worse", above=False), "within noise"),
        (pair_of(word="worse", above=None), "worse"),
        (pair_of(word="equal", mean_p=0.5), "equal"),
        (pair_of(), "undecided"),
        ({"share": None, "mean": None, "equivalence": None, "above_noise": None}, "undecided"),
    ],
)
def test_the_finding_of_a_pair(pair, word):
    assert finding(pair) == word


def test_the_noise_floor_is_that_of_the_development_set():
    runs = [*GOOD, *recipe("near", [score - 0.02 for score in OK])]
    mean = plain_statistics.mean(OK)
    low, high = stats.binomtest(round(mean * 1000), 1000).proportion_ci(method="wilson")
    contents = report_contents(runs, examples=1000)
    assert contents["noise_floor"] == pytest.approx((high - low) / 2, rel=1e-3)
    assert contents["pairs"][0]["above_noise"] is False and contents["pairs"][0]["finding"] == "within noise"
    assert report_contents(runs)["noise_floor"] is None and report_contents(runs)["pairs"][0]["finding"] == "better"
    f1 = [dataclasses.replace(run, metric="f1") for run in runs]
    assert report_contents(f1, examples=1000)["noise_floor"] is None  # no share of the examples


# ---- the rest -------------------------------------------------------------------------------------------------------


def test_the_expected_maximum_and_its_cost():
    runs = [run("a", 1, 0.5), run("a", 2, 0.7), run("a", 3, None, "diverged", baseline=0.6)]
    runs = [dataclasses.replace(run, baseline=0.6) for run in runs]
    found = report_contents(runs)["expected_maximum"]["a"]
    assert found["n"] == [1, 2, 3] and found["cost"] == [100, 200, 300]
    assert found["scores"] == pytest.approx([0.6, (0.7 + 0.6 + 0.7) / 3, 0.7])  # all subsets, by hand


def test_the_numbers_are_json():
    contents = report_contents([*GOOD, *BAD, run("one", 1, 0.7), run("none", 1, None, "diverged", baseline=None)])
    assert json.loads(json.dumps(contents, allow_nan=False)) == contents


def write_run(folder, record, rate=2e-5, version="2.13.0"):
    path = folder / "runs" / record.name
    job = {
        "task": "rte", "model": "/home/me/bert-large", "dtype": "float32", "args": {"learning_rate": rate},
        "model_config": {"hidden_dropout_prob": 0.1}, "sources": {"learning_rate": "command line"},
    }  # fmt: skip
    path.mkdir(parents=True)
    write_json(path / "config.json", {"job": job, "versions": {"torch": version}})
    write_json(path / "verdict.json", {"evidence": {"examples": 277}})
    return path


def test_settings_versions_and_crashed_runs_come_from_the_folder(tmp_path):
    for record in GOOD:
        write_run(tmp_path, record)
    for record in BAD:
        write_run(tmp_path, record, rate=5e-5, version="2.12.0" if record.seed == 1 else "2.13.0")
    for record in [*GOOD, *BAD]:
        write_json(tmp_path / "runs" / record.name / "run.json", record.to_dict())
    (write_run(tmp_path, run("bad", 50, None)) / "error.txt").write_text("Traceback\nValueError: x")
    write_run(tmp_path, run("third", 1, None))
    contents = report_contents([*GOOD, *BAD], tmp_path)
    assert contents["examples"] == 277 and contents["noise_floor"] is not None
    assert ["learning_rate", "2e-05", "command line"] in contents["settings"]["good"]
    assert ["model", "bert-large", ""] in contents["settings"]["good"]
    assert contents["differing_settings"] == [["learning_rate", "2e-05", "5e-05"]]
    assert contents["versions"] == [
        {"versions": {"torch": "2.13.0"}, "n": 15},
        {"versions": {"torch": "2.12.0"}, "n": 1},
    ]
    assert [(left["recipe"], left["kind"], left["n"]) for left in contents["left_out"]] == [
        ("bad", "crashed", 1),
        ("third", "unfinished", 1),
    ]


@pytest.mark.parametrize(
    ("runs", "given", "message"),
    [
        ([], {}, "there are no finished runs"),
        ([*GOOD, run("b", 1, 0.5, metric="f1")], {}, "several metrics .accuracy, f1."),
        ([*GOOD, run("b", 1, 0.5, task="cola")], {}, "several tasks .cola, rte."),
        (GOOD, {"rope": -0.1}, "--rope -0.1: need a number of at least 0"),
        (GOOD, {"rope": float("nan")}, "--rope nan"),
        (GOOD, {"examples": 0}, "--examples 0"),
    ],
)
def test_runs_that_make_no_report(runs, given, message):
    with pytest.raises(InputError, match=message):
        report_contents(runs, **given)
