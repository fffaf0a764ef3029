"""`hf-stability plan`: what it prints, and that it starts at once."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from hf_stability import cli
from hf_stability.statistics import means_found, seeds_for_means, seeds_for_shares, shares_found


def printed(capsys, *argv: str) -> str:
    assert cli.main(["plan", *argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_failed_shares(capsys):
    out = printed(capsys, "--power", "0.8", "--failed", "0.3", "0.05")
    assert out.startswith("Seeds per recipe for power 0.8, two-sided level 0.05:\n")
    seeds = seeds_for_shares(0.3, 0.05)
    assert f"- failed shares 0.3 and 0.05, Fisher's exact test: {seeds}\n" in out
    rows = [(int(n), float(power)) for n, power in re.findall(r"^\| (\d+) +\| (0\.\d\d) ", out, re.M)]
    assert [n for n, _ in rows] == [5, 10, 15, 20, 25, 30, 40, 50]
    assert all(power == pytest.approx(shares_found(0.3, 0.05, n), abs=0.00501) for n, power in rows)


def test_means_and_pairs_and_both_questions_at_once(capsys):
    out = printed(capsys, "--power", "--difference", "-0.02", "--std", "0.03", "--failed", "0.5", "0.1")
    assert f"- means 0.02 apart, std 0.03, t test: {seeds_for_means(0.02, 0.03)}\n" in out
    assert f"Fisher's exact test: {seeds_for_shares(0.5, 0.1)}\n" in out
    assert f"| 20               | {shares_found(0.5, 0.1, 20):.2f} " in out
    out = printed(capsys, "--difference", "0.02", "--std", "0.03", "--paired", "--power", "0.9")
    seeds = seeds_for_means(0.02, 0.03, 0.9, paired=True)
    assert f"- means 0.02 apart, std 0.03 of the differences, paired t test: {seeds}\n" in out
    assert f"| 50               | {means_found(0.02, 0.03, 50, paired=True):.2f} " in out


def test_several_comparisons_need_more_seeds(capsys):
    out = printed(capsys, "--failed", "0.3", "0.05", "--comparisons", "13")
    assert "two-sided level 0.0038 (0.05 over 13 comparisons, Holm's strictest step)" in out
    assert f"test: {seeds_for_shares(0.3, 0.05, alpha=0.05 / 13)}\n" in out


def test_json_has_the_numbers_of_the_text_and_of_the_functions(capsys):
    argv = ["--difference", "-0.02", "--std", "0.03", "--paired", "--failed", "0.5", "0.1", "--comparisons", "13"]
    text, found = printed(capsys, *argv), json.loads(printed(capsys, *argv, "--json"))
    assert {**found, "questions": None} == {
        "schema": "hf_stability.plan/1", "power": 0.8, "alpha": 0.05, "comparisons": 13, "level": 0.05 / 13, "questions": None,
    }  # fmt: skip
    shares, means = found["questions"]
    assert (shares["question"], shares["failed"], shares["test"]) == (
        "failed shares",
        [0.5, 0.1],
        "Fisher's exact test",
    )
    assert (means["difference"], means["std"], means["paired"]) == (-0.02, 0.03, True)
    assert shares["seeds"] == seeds_for_shares(0.5, 0.1, alpha=0.05 / 13)
    assert means["seeds"] == seeds_for_means(0.02, 0.03, alpha=0.05 / 13, paired=True)
    for question in (shares, means):
        assert f"- {question['name']}, {question['test']}: {question['seeds']}\n" in text
    rows = [(int(n), *map(float, cells)) for n, *cells in re.findall(r"^\| (\d+) +\| (\S+) +\| (\S+) +\|", text, re.M)]
    for (n, *cells), *own in zip(rows, shares["found"], means["found"], strict=True):
        assert [one["seeds"] for one in own] == [n, n] and [one["power"] for one in own] == pytest.approx(
            cells, abs=0.00501
        )
    assert [one["power"] for one in means["found"]] == [
        means_found(0.02, 0.03, one["seeds"], 0.05 / 13, paired=True) for one in means["found"]
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "plan: give --failed A B, or --difference D with --std S"),
        (["--power"], "plan: give --failed A B"),
        (["--difference", "0.02"], "--std is missing"),
        (["--std", "0.02", "--failed", "0.3", "0.1"], "--difference is missing"),
        (["--failed", "0.3", "0.1", "--paired"], "--difference is missing"),
        (["--failed", "30", "5"], "failed shares 30.0 and 5.0: need shares from 0 to 1"),
        (["--failed", "0.3"], "argument --failed: expected 2 arguments"),
        (["--failed", "0.3", "0.29"], "failed shares 0.3 and 0.29: needs more than 1000 runs per recipe"),
        (["--failed", "0.3", "0.1", "--power", "80"], "power 80.0: need a number between 0 and 1"),
        (["--failed", "0.3", "0.1", "--comparisons", "0"], "--comparisons 0: need at least 1"),
        (["--failed", "0.3", "0.3", "--json"], "failed shares 0.3 and 0.3: they are the same"),
        (["--faild", "0.3", "0.1"], "--faild: no such argument (did you mean --failed?)"),
    ],
)
def test_wrong_input_is_one_line(capsys, argv, message):
    assert cli.main(["plan", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"hf-stability: error: {message}") and err.count("\n") == 1


def test_it_imports_nothing_heavy():
    code = """
import sys
from hf_stability.cli import main
main(["plan", "--failed", "0.3", "0.05"])
print(sorted({"torch", "transformers", "pandas", "datasets", "matplotlib", "ray"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
