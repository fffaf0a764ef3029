"""The simulation of hf_stability.statistics: its candidates against slow loops, its page against its committed tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm, skew

from benchmarks import statistics_coverage as benchmark
from benchmarks.statistics_coverage import CHOSEN, FIFTH, HALF, HEAVY, NORMAL, SKEWED, STD, SUPERIORITY
from hf_stability.statistics import probability_of_superiority, std_interval


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(benchmark, "DATA_SETS", 3)
    monkeypatch.setattr(benchmark, "DRAWS", 60)
    monkeypatch.setattr(benchmark, "TRUTH_RUNS", 20_000)
    monkeypatch.setattr(benchmark, "PERMUTATIONS", 19)
    for cached in (benchmark.true_values, benchmark.true_superiority):
        cached.cache_clear()
    yield
    for cached in (benchmark.true_values, benchmark.true_superiority):
        cached.cache_clear()


# ---- made runs ------------------------------------------------------------------------------------------------------


def test_made_runs_are_as_the_docstring_says():
    drawn = {scores.name: scores.draw(np.random.default_rng(0), (50_000,)) for scores in benchmark.ONE}
    normal, fifth, half = (drawn[scores.name] for scores in (NORMAL, FIFTH, HALF))
    assert normal.mean() == pytest.approx(0.87, abs=1e-3) and normal.std() == pytest.approx(0.015, rel=0.02)
    assert (fifth < 0.7).mean() == pytest.approx(0.2, abs=0.01) and (half < 0.7).mean() == pytest.approx(0.5, abs=0.01)
    assert fifth[fifth < 0.7].mean() == pytest.approx(0.5, abs=1e-3)
    assert (
        skew(drawn[SKEWED.name]) < -1 and ((drawn[HEAVY.name] - 0.87) ** 4).mean() > 5 * drawn[HEAVY.name].var() ** 2
    )


def test_pairs_share_half_of_their_variance_and_fail_together():
    a, b = benchmark.pairs_of_seeds(NORMAL, NORMAL, np.random.default_rng(0), (50_000,))
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.5, abs=0.02)
    a, b = benchmark.pairs_of_seeds(HALF, HALF, np.random.default_rng(0), (50_000,))
    assert (a < 0.7).mean() == pytest.approx(0.5, abs=0.01) == (b < 0.7).mean()
    assert ((a < 0.7) & (b < 0.7)).mean() == pytest.approx(1 / 3, abs=0.01)  # 1/4 + asin(1/2) / (2 pi)


def test_the_truth_is_that_of_theory(small):
    mean, std = benchmark.true_values(FIFTH)
    assert mean == pytest.approx(0.8 * 0.87 + 0.2 * 0.5, abs=0.005)
    assert std == pytest.approx(math.sqrt(0.16 * 0.37**2 + 0.8 * 0.015**2 + 0.2 * 0.01**2), abs=0.003)
    ahead = benchmark.PAIRS["normal, 1 std apart"]
    assert benchmark.true_superiority(*ahead) == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.01)


# ---- candidates -----------------------------------------------------------------------------------------------------


def test_the_chosen_intervals_are_the_packages():
    a, b = np.random.default_rng(0).normal(size=(2, 4, 9))
    found = benchmark.std_candidates(a)[CHOSEN[STD]]
    assert found == tuple(pytest.approx(end) for end in std_interval(a))
    found = benchmark.superiority_candidates(a, b)[CHOSEN[SUPERIORITY]]
    assert (found[0][2], found[1][2]) == probability_of_superiority(a[2], b[2])[1:]


def test_the_jackknife_and_the_bootstrap_are_those_of_a_slow_loop(small):
    scores = np.random.default_rng(0).normal(size=(2, 8))
    found = benchmark.std_candidates(scores)
    rows = np.random.default_rng(0).integers(8, size=(60, 8))
    for k, own in enumerate(scores):
        pseudo = [8 * math.log(own.var(ddof=1)) - 7 * math.log(np.delete(own, i).var(ddof=1)) for i in range(8)]
        low, high = (end[k] for end in found["jackknife of ln variance"])
        assert math.log(low * high) == pytest.approx(np.mean(pseudo))

        def log_and_error(values):
            moved = values - values.mean()
            kurtosis = (moved**4).mean() / (moved**2).mean() ** 2
            return math.log(values.var(ddof=1)), math.sqrt((kurtosis - 5 / 8) / 7)

        log, error = log_and_error(own)
        ratio = [(drawn[0] - log) / drawn[1] for drawn in (log_and_error(own[row]) for row in rows)]
        ends = np.quantile(ratio, [0.975, 0.025], method="nearest")
        expected = [math.exp((log - end * error) / 2) for end in ends]
        assert [end[k] for end in found["bootstrap t of ln variance"]] == pytest.approx(expected, rel=1e-6)


def test_newcombes_ends_just_reach_the_share():
    low, high = (float(end[0]) for end in benchmark._newcombe(np.array([0.75]), 10))
    for end in (low, high):
        variance = end * (1 - end) * (1 + 9 * ((1 - end) / (2 - end) + end / (1 + end))) / 100
        assert abs(end - 0.75) == pytest.approx(1.96 * math.sqrt(variance), abs=2e-3)


# ---- rows and the page ----------------------------------------------------------------------------------------------


def test_every_part_has_its_rows(small, monkeypatch):
    monkeypatch.setattr(benchmark, "NUMBERS", (5, 8))
    rows = list(benchmark.measured_rows())
    assert all(tuple(row) == benchmark.COLUMNS and 0 <= float(row["share"]) <= 1 for row in rows)
    candidates = [row for row in rows if row["figure"] in CHOSEN]
    assert len(candidates) == 2 * (len(benchmark.ONE) * 4 + len(benchmark.PAIRS) * 3)
    tests = {row["method"] for row in rows if row["what"] == "size"}
    assert tests == {row["method"] for row in rows if row["what"] == "power"} and len(tests) == 6


def test_what_was_chosen_is_what_the_rule_picks():
    for figure, method in CHOSEN.items():
        assert benchmark.choose(figure) == method


def test_the_report_and_the_page_are_made_from_the_committed_tables():
    assert benchmark.to_markdown() == (benchmark.HERE / "statistics.md").read_text(encoding="utf-8")
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert benchmark.page_text(page) == page and benchmark.MARKS[0] in page
