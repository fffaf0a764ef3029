"""The figures in the text of docs/statistics.md are those of the package, and every function that it names exists."""

from __future__ import annotations

import re

import pytest

from benchmarks import statistics_coverage as benchmark
from hf_stability import statistics
from hf_stability.statistics import noise_floor, seeds_for_shares, shares_found, wilson_interval
from tests.prose import ROOT


PAGE = " ".join((ROOT / "docs/statistics.md").read_text(encoding="utf-8").split())


def test_every_function_on_the_page_exists():
    rows = re.findall(
        r"^\|[^|]+\|[^|]+\| (`[^|]+) \|", (ROOT / "docs/statistics.md").read_text(encoding="utf-8"), re.M
    )
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(names) > 15 and set(names) <= set(statistics.__all__)


def test_the_seeds_of_the_example():
    assert f"It needs {seeds_for_shares(0.3, 0.05)} per recipe" in PAGE
    assert f"the power is only {shares_found(0.3, 0.05, 20):.2f}" in PAGE


def test_the_intervals_in_the_text():
    low, high = wilson_interval(4, 10)
    assert f"(0.40, 95% interval {low:.2f} to {high:.2f})" in PAGE
    assert f"the interval goes up to {wilson_interval(0, 20)[1]:.2f} for 20 runs" in PAGE
    assert noise_floor(0.7, 277) == pytest.approx(0.05, abs=0.005) and "about 0.05 to each side" in PAGE


def test_the_measured_figures_in_the_text():
    def shares(figure, what="coverage", n=None, column="figure"):
        rows = benchmark.coverage_rows() if what == "coverage" else benchmark.rows_of_tests(what)
        return {row["scores"]: row["share"] for row in rows if row[column] == figure and n in (None, row["n"])}

    stds = [
        row for row in benchmark.coverage_rows() if row["figure"] == benchmark.STD and "% fail" not in row["scores"]
    ]
    low, high = min(stds, key=lambda row: row["share"]), max(row["share"] for row in stds)
    assert f"covers {low['share']:.2f} to {high:.2f} if no run fails" in PAGE and low["scores"].startswith("skewed")
    three = (benchmark.SUPERIORITY, "failed share", "difference of failed shares")
    least = min(row["share"] for row in benchmark.coverage_rows() if row["figure"] in three)
    assert f"cover at least {least:.2f} in every setting" in PAGE
    assert f"If 20% do, the interval covers {shares('mean', n=5)['20% fail']:.2f}: a third" in PAGE
    assert 0.8**5 == pytest.approx(1 / 3, abs=0.01)
    assert set(shares("exchanges within seeds", "power", 5, "method").values()) == {0} and 2 / 32 > 0.05
    levene = [row["share"] for row in benchmark.rows_of_tests("size") if row["method"] == "Levene (mean)"]
    assert f"in up to {max(levene):.0%} of the studies" in PAGE


def test_the_chances_in_the_text():
    assert 1 - 0.95**13 == pytest.approx(0.5, abs=0.02) and "in nearly half of all studies" in PAGE
    assert f"{0.9**5:.0%} of all samples of 5 runs" in PAGE and f"{0.9**20:.0%} of the samples of 20" in PAGE
