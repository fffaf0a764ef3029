"""The figures in the text of docs/statistics.md are those of the package, and every function that it names exists."""

from __future__ import annotations

import re

import pytest

from benchmarks import statistics_coverage as benchmark
from benchmarks import statistics_pairs as pairs
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


def test_what_the_text_says_of_the_same_seeds():
    failed = pairs.failures().values()
    phis = [float(phi) for own in failed for phi in pairs.phis(own)]
    assert f"failures is {sum(phis) / len(phis):.2f} over 20 seeds ({len(phis)} pairs of recipes" in PAGE
    rows = [row for row in pairs.read() if row["figure"] == pairs.SAME_SEEDS]
    assert "covers at least 0.94 in every setting" in PAGE
    assert min(row["share"] for row in rows if row["method"] == pairs.PAIRED) == pytest.approx(0.94, abs=0.005)
    width = {(row["method"], row["scores"]): float(row["width"]) for row in rows
        if row["what"] == "coverage" and row["n"] == 20 and row["correlation"] == "0.5"}  # fmt: skip
    ratios = [
        own / width[pairs.INDEPENDENT, scores] for (method, scores), own in width.items() if method == pairs.PAIRED
    ]
    assert f"up to {1 - min(ratios):.0%} narrower with 20 seeds" in PAGE

    def power(method, n):
        found = [row for row in rows if (row["what"], row["method"], row["n"]) == ("power", method, n)]
        return {(row["scores"], row["correlation"]): row["share"] for row in found}

    exact, mid, fisher = (
        {n: power(method, n) for n in (10, 20)} for method in (pairs.MCNEMAR, pairs.MID_P, pairs.FISHER)
    )
    assert all(exact[10][place] < fisher[10][place] for place in fisher[10])
    better = {
        scores
        for scores, correlation in fisher[20]
        if exact[20][scores, correlation] > fisher[20][scores, correlation]
    }
    assert better == {"0.5 and 0.2 fail", "0.5 and 0.05 fail"}
    assert all(mid[20][place] > max(exact[20][place], fisher[20][place]) for place in fisher[20])
    assert max(row["share"] for row in rows if row["what"] == "size") < 0.05
    means = [row["share"] for row in pairs.read() if row["figure"] == pairs.MEANS and row["what"] == "coverage"]
    assert f"covers only {min(means):.2f} with 5" in PAGE


def test_the_chances_in_the_text():
    assert 1 - 0.95**13 == pytest.approx(0.5, abs=0.02) and "in nearly half of all studies" in PAGE
    assert f"{0.9**5:.0%} of all samples of 5 runs" in PAGE and f"{0.9**20:.0%} of the samples of 20" in PAGE
