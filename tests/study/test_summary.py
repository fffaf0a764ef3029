"""A study's tables against figures worked out the slow way."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.study.records import RunRecord
from hf_stability.study.summary import markdown_table, summarize, to_markdown, write_summary


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


def test_failed_diverged_and_crashed_runs_are_counted_each_where_it_belongs():
    (figures,) = summarize(FOUR)["recipes"]
    assert figures["runs"] == 3 and figures["failed"] == 2 and figures["crashed"] == 1
    assert figures["mean"] == 0.625 and figures["median"] == 0.625 and figures["max"] == 0.75
    assert figures["std"] == pytest.approx(math.sqrt(2) * 0.125)  # two scores .25 apart, ddof = 1
    assert figures["best_mean"] == 0.675 and figures["evaluations"] == [3]


def test_a_study_of_crashes_has_a_table_too():
    summary = summarize([run(1, None, "crashed"), run(2, None, "crashed")])
    assert summary["metric"] is None
    row = to_markdown(summary).splitlines()[-1]
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["a", "0 (+2 crashed)", "0", *"------"]


def test_the_metric_is_named_though_the_first_run_crashed():
    assert summarize([run(1, None, "crashed"), run(2, 0.5)])["metric"] == "accuracy"
    assert "accuracy: mean" in to_markdown(summarize([run(1, None, "crashed"), run(2, 0.5)]))


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
        assert figures["runs"] + figures["crashed"] == len(own)
        assert figures["failed"] == sum(r.status in ("failed", "diverged") for r in own)
        for key, reference, least in (
            ("mean", statistics.fmean, 1),
            ("std", statistics.stdev, 2),
            ("median", statistics.median, 1),
            ("max", max, 1),
        ):
            if len(scores) < least:
                assert figures[key] is None
            else:
                assert figures[key] == pytest.approx(reference(scores), abs=1e-12)


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
    text = (tmp_path / "first" / "summary.md").read_text()
    assert all(r.sentence in text for r in FOUR)


def test_a_sentence_with_commas_quotes_lines_and_bars_stays_one_row(tmp_path):
    odd = dataclasses.replace(FOUR[0], sentence='failed: "x", y | z\nand more')
    write_summary(tmp_path, summarize([odd]))
    with open(tmp_path / "summary.csv", newline="") as file:
        assert [row["sentence"] for row in csv.DictReader(file)] == [odd.sentence]
    text = (tmp_path / "summary.md").read_text()
    (row,) = [line for line in text.splitlines() if "failed:" in line]
    assert row.replace("\\|", "").count("|") == 6


def test_columns_of_a_table_are_lined_up():
    table = markdown_table(["a", "b"], [["long cell", "1"], ["x|y", "22"]]).splitlines()
    assert table == ["| a         | b  |", "|-----------|----|", "| long cell | 1  |", "| x\\|y      | 22 |"]
