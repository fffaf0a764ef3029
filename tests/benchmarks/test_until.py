"""The simulation of `--until`: a study against the policy's own looks, and its page against its committed table."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from benchmarks import until as benchmark
from hf_stability.statistics import mean_difference
from hf_stability.study.job import Job
from hf_stability.study.policies.until import make_plan, take_look
from hf_stability.study.records import RunRecord


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(benchmark, "STUDIES", 6)
    monkeypatch.setattr(benchmark, "SEEDS", 10)
    monkeypatch.setattr(benchmark, "LOOKS", [5, 8, 10])
    monkeypatch.setattr(benchmark, "FEWEST", 1)
    monkeypatch.setattr(benchmark, "PERMUTATIONS", 299)


def test_made_runs_are_as_the_docstring_says(monkeypatch):
    monkeypatch.setattr(benchmark, "STUDIES", 2000)
    failed = benchmark.made_shares((0.3, 0.5), np.random.default_rng(0))
    assert failed.shape == (2, 2000, 20) and failed.mean((1, 2)) == pytest.approx([0.3, 0.5], abs=0.01)
    scores = benchmark.made_scores(((1, 0), (0, 0.2)), np.random.default_rng(0))
    assert scores[0].mean() == pytest.approx(0.885, abs=1e-3) and scores[0].std() == pytest.approx(0.015, rel=0.02)
    assert scores[1].mean() == pytest.approx(0.87 - 0.2 * 0.37, abs=5e-3)
    assert (scores[1] < 0.7).mean() == pytest.approx(0.2, abs=0.01)


def test_the_tests_are_the_packages():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 15))
    expected = [mean_difference(*rows, paired=True).p for rows in zip(a, b + 0.8, strict=True)]
    assert benchmark.scores_p(a, b + 0.8) == pytest.approx(expected, abs=0)
    a, b = np.array([[1.0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]), np.array([[1.0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    expected = [fisher_exact([[n, 5 - n], [5, 0]]).pvalue for n in (2, 0)]
    assert benchmark.shares_p(a, b) == pytest.approx(expected)


def test_a_row_is_what_the_policy_does_study_by_study(small):
    shares = (0.05, 0.05, 0.95)
    runs = benchmark.made_shares(shares, np.random.default_rng(3))
    row = benchmark.measured("failed_share", "", runs, shares, benchmark.shares_p)
    jobs = [Job(name, seed, "t", {}, {}, "m", "d") for name in "abc" for seed in range(1, 11)]
    plan = make_plan(jobs, "failed_share", None)
    ends, false, found, estimates = [], [], [], []
    for study in range(benchmark.STUDIES):
        records = [
            RunRecord("", job.recipe, job.seed, "t", "failed" if runs["abc".index(job.recipe), study, job.seed - 1] else "ok", "m")
            for job in jobs
        ]  # fmt: skip
        looks = []
        for number in range(1, 4):
            looks.append(take_look(plan, records, number))
            if looks[-1]["decided"]:
                break
        ab, ac, bc = zip(*(look["pairs"] for look in looks), strict=True)
        ends.append(looks[-1]["seeds"])
        false.append(any(pair["p"] <= plan["level"] for pair in ab))
        found.append(all(pair[-1]["p"] <= plan["level"] for pair in (ac, bc)))
        estimates.append(ac[-1]["values"][1] - ac[-1]["values"][0])
    assert float(row["seeds"]) == pytest.approx(np.mean(ends), abs=1e-4)
    assert [float(row[key]) for key in ("false", "found")] == pytest.approx([np.mean(false), np.mean(found)], abs=1e-4)
    assert float(row["estimate"]) == pytest.approx(np.mean(estimates), abs=1e-4) and row["truth"] == "0.9000"


def test_every_row_has_its_columns(small):
    rows = list(benchmark.rows())
    assert len(rows) == len(benchmark.SHARES) + len(benchmark.SCORES)
    assert all(tuple(row) == benchmark.COLUMNS and 5 <= float(row["seeds"]) <= 10 for row in rows)
    assert all((row["false"] == "") == (len(set(row["setting"].split(", "))) == row["n"]) for row in rows[:13])


def test_the_error_rate_is_kept():
    """The committed table: at most 0.05 plus two standard errors in every setting without a difference."""
    rates = [float(row["false"]) for row in benchmark.results() if row["false"]]
    assert len(rates) == 13 and max(rates) <= 0.05 + 2 * (0.05 * 0.95 / benchmark.STUDIES) ** 0.5


def test_the_page_is_made_from_the_committed_table():
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert benchmark.page_text(page) == page and benchmark.MARKS[0] in page
