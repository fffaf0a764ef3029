"""`summary.md` and `summary.csv`: the recipes' table, its notes, and the files."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest

from hf_stability.study.records import RunRecord
from hf_stability.study.report.summary import summarize
from hf_stability.study.report.summary_page import to_markdown, write_summary
from tests.study.report.test_summary import FAILED, FOUR, STD, STD_OK, run, study, table


# ---- the recipes' table ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "n", "cell"),
    [
        (0, 20, "0 (0-0.16)"),
        (9, 20, "9 = 0.45 (0.26-0.66)"),
        (20, 20, "20 = 1 (0.84-1)"),
        (1, 1, "1 = 1 (0.21-1)"),
        (1, 300, "1 = 0.00 (0.00-0.02)"),
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
    assert (row["accuracy: mean"], row["accuracy: median"], row["accuracy: max"]) == ("0.329", "0.000", "1.000")
    assert table(summarize([run(1, -0.0123)]))[0]["accuracy: mean"] == "-0.012"


def test_the_best_has_a_column_only_among_equal_numbers_of_evaluations():
    best = "accuracy: mean of the best of 3 evaluations"
    a = study("a", [], [0.5, 0.75], best=0.8, evaluations=3)
    same = summarize([*a, *study("b", [], [0.5], best=0.7, evaluations=3), run(9, None, "crashed", "c")])
    assert [row[best] for row in table(same)] == ["0.800", "0.700", "-"]
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
        FAILED: "0 (0-0.79)",
        STD_OK: "-",
        STD: "-",
        "accuracy: mean": "0.500",
        "accuracy: median": "0.500",
        "accuracy: max": "0.500",
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
    assert "- Crashed runs are not counted in any figure.\n" in text
    assert "- Runs without a score: 1 of a. They count only in the failed share." in text
    whole = to_markdown(summarize(study("a", [0.5], [0.75])))
    assert "rashed" not in whole and "without a score" not in whole


def test_the_metric_is_named_though_the_first_run_crashed():
    assert summarize([run(1, None, "crashed"), run(2, 0.5)])["metric"] == "accuracy"
    assert "accuracy: mean" in to_markdown(summarize([run(1, None, "crashed"), run(2, 0.5)]))


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
