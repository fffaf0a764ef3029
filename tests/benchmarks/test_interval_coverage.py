"""The simulation of intervals: its many data sets at once against the package's functions and slow loops."""

from __future__ import annotations

import math
import re
from functools import partial

import numpy as np
import pytest

from benchmarks import interval_coverage as benchmark
from benchmarks.interval_coverage import CHOSEN, PAIRED, RESTARTS
from hf_stability.statistics import expected_maximum, t_interval
from hf_stability.study.report import two_way_page
from hf_stability.study.report.against_restarts import against_restarts, resample
from hf_stability.study.report.restarts import jackknife_standard_error


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(benchmark, "DATA_SETS", 4)
    monkeypatch.setattr(benchmark, "DRAWS", 60)
    monkeypatch.setattr(benchmark, "TRUTH_RUNS", 20_000)
    for cached in (benchmark.true_means, benchmark.true_best):
        cached.cache_clear()
    yield
    for cached in (benchmark.true_means, benchmark.true_best):
        cached.cache_clear()


FAILING = benchmark.MEASURED[5]


def sorted_runs(seed, size):
    """The base's runs in the order of what selects, as the benchmark's draws count them."""
    other, select, report = benchmark.made_runs(FAILING, np.random.default_rng(seed), size)
    order = np.argsort(select, axis=1, kind="stable")
    return other, *(np.take_along_axis(values, order, 1) for values in (select, report))


@pytest.mark.parametrize("budget", [1.5, 3.0, 6.67])
def test_the_intervals_are_the_packages(small, budget):
    runs = sorted_runs(0, (4, 8))
    own, others = benchmark._resamples(8, 60)
    found = benchmark.candidates(benchmark.restarts_drawn(*runs, budget, own, others))[CHOSEN[RESTARTS]]
    for i, (scores, select, report) in enumerate(zip(*runs, strict=True)):
        expected = against_restarts(scores, select, report, budget, np.random.default_rng(0), 60)
        assert (found[0][i], found[1][i]) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_the_paired_intervals_are_the_packages(small):
    values = np.random.default_rng(0).normal(size=(4, 8))
    found = benchmark.candidates(benchmark.mean_drawn(values, resample(8, 60, np.random.default_rng(0))))
    low, high = t_interval(values)
    assert CHOSEN[PAIRED] == "t"
    assert found["t"][0] == pytest.approx(low) and found["t"][1] == pytest.approx(high)
    for ends in found.values():
        assert (ends[0] < values.mean(1)).all() and (values.mean(1) < ends[1]).all()


@pytest.mark.parametrize("budget", [2, 6])
def test_the_standard_errors_are_the_jackknifes(small, budget):
    others, select, report = sorted_runs(1, (2, 7))
    own, times = resample(7, 5, np.random.default_rng(1)), resample(7, 5, np.random.default_rng(2))
    drawn = benchmark.restarts_drawn(others, select, report, budget, own, times)

    def best(select, report):
        return float(expected_maximum(select, budget, report, replace=True))

    for i in range(2):
        for b in range(5):
            runs = np.repeat(np.arange(7), own[b].astype(int))
            other = np.repeat(others[i], times[b].astype(int))
            error = jackknife_standard_error(partial(best), select[i][runs], report[i][runs])
            expected = math.hypot(error, other.std(ddof=1) / math.sqrt(7))
            assert drawn.errors[i, b] == pytest.approx(expected, rel=1e-6)


def test_the_truth_is_that_of_a_long_simulation(small):
    rng = np.random.default_rng(3)
    _, select, report = benchmark.made_runs(FAILING, rng, (20_000, 3))
    best = np.take_along_axis(report, select.argmax(1)[:, None], 1).mean()
    assert benchmark.true_best(FAILING, 3.0) == pytest.approx(best, abs=0.005)
    other, base = benchmark.true_means(FAILING)
    assert other == pytest.approx(0.89, abs=0.001) and base == pytest.approx(0.5 * (0.87 + 0.49), abs=0.005)


def test_a_part_has_every_candidate_at_every_setting(small, monkeypatch):
    monkeypatch.setattr(benchmark, "PARTS", {"choice": (benchmark.CHOICE, (5, 8), (1.25, 6.0))})
    rows = list(benchmark.part_rows("choice"))
    assert len(rows) == (2 + 3) * len(benchmark.CHOICE) * len(benchmark.METHODS)  # 6 restarts of 5 runs: none
    assert all(tuple(row) == benchmark.COLUMNS and 0 <= float(row["coverage"]) <= 1 for row in rows)


def test_what_was_chosen_is_what_the_rule_picks():
    for interval, method in CHOSEN.items():
        assert benchmark.choose(benchmark.read("choice"), interval) == method


def test_the_report_is_made_from_the_committed_tables():
    assert benchmark.to_markdown() == (benchmark.HERE / "results.md").read_text(encoding="utf-8")
    low, median, high = benchmark.measured(RESTARTS, 20)
    text = benchmark.coverage_text(RESTARTS, 20)
    assert text == f"covers {low:.2f} to {high:.2f}, median {median:.2f}, in simulations at n = 20"
    with pytest.raises(SystemExit, match="not measured at n = 21"):
        benchmark.coverage_text(PAIRED, 21)


def test_wilson_and_the_two_way_components_cover_what_the_package_says():
    found = [row["coverage"] for row in benchmark.read("others") if row["interval"] == "failed share"]
    assert np.median(found) == pytest.approx(0.95, abs=0.02)
    strong = {5: [], 10: []}
    for row in benchmark.read("others"):
        if row["interval"] == "variance component" and benchmark._is_strong(row["scores"]):
            strong[row["n"]].append(row["coverage"])
    note = two_way_page.COVERAGE_NOTE
    low_5, high_5, low_10, high_10 = map(float, re.findall(r"0\.\d\d", note))
    assert (low_5, high_5) == (round(min(strong[5]), 2), round(max(strong[5]), 2))
    assert (low_10, high_10) == (round(min(strong[10]), 2), round(max(strong[10]), 2))
