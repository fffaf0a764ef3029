"""Recipes with the same seeds and with different numbers of runs: exact sums against slow loops, pages against the committed table."""

from __future__ import annotations

import math
from itertools import product

import pytest
from scipy.stats import pearsonr

from benchmarks import statistics_pairs as benchmark
from benchmarks.statistics_pairs import FISHER, INDEPENDENT, MCNEMAR, MID_P, PAIRED
from hf_stability.statistics import (
    fisher_exact_p,
    mcnemar_p,
    paired_share_difference_interval,
    share_difference_interval,
)


def test_the_chances_of_a_seed_are_those_of_two_normal_numbers():
    assert benchmark.chances(0.2, 0.5, 0.0) == pytest.approx([0.1, 0.1, 0.4, 0.4])
    both = 1 / 4 + math.asin(0.9) / (2 * math.pi)
    assert benchmark.chances(0.5, 0.5, 0.9) == pytest.approx([both, 0.5 - both, 0.5 - both, both], abs=1e-5)
    assert benchmark.chances(0.05, 0.3, 0.5)[:2].sum() == pytest.approx(0.05)


def test_the_exact_rows_are_sums_over_all_sequences_of_seeds(monkeypatch):
    """The oracle goes through the 4^3 ends of three seeds."""
    monkeypatch.setattr(benchmark.simulation, "NUMBERS", (3,))
    monkeypatch.setattr(benchmark.simulation, "SHARE_PAIRS", ((0.5, 0.2), (0.3, 0.3)))
    monkeypatch.setattr(benchmark, "CORRELATIONS", (0.5,))
    monkeypatch.setattr(benchmark, "ALPHA", 0.3)  # so that three seeds can tell
    benchmark.rejections.cache_clear()
    found = {(row["what"], row["method"], row["scores"]): row for row in benchmark.same_seeds_rows()}
    benchmark.rejections.cache_clear()
    for a, b in ((0.5, 0.2), (0.3, 0.3)):
        chance, sums = benchmark.chances(a, b, 0.5), dict.fromkeys([PAIRED, INDEPENDENT, MCNEMAR, FISHER, MID_P], 0.0)
        width = 0.0
        for ends in product(range(4), repeat=3):
            probability = math.prod(chance[end] for end in ends)
            e, f, g, h = (ends.count(kind) for kind in range(4))
            ci = {
                PAIRED: paired_share_difference_interval(e, f, g, h),
                INDEPENDENT: share_difference_interval(e + f, 3, e + g, 3),
            }
            for method, (low, high) in ci.items():
                sums[method] += probability * (low <= a - b <= high)
            width += probability * (ci[PAIRED][1] - ci[PAIRED][0])
            sums[FISHER] += probability * (fisher_exact_p(e + f, 3, e + g, 3) <= 0.3)
            sums[MCNEMAR] += probability * (mcnemar_p(f, g) <= 0.3)
            tail = sum(math.comb(f + g, k) for k in range(min(f, g))) + math.comb(f + g, min(f, g)) / 2
            sums[MID_P] += probability * (2 * tail / 2 ** (f + g) <= 0.3)
        for method, expected in sums.items():
            what = "coverage" if method in (PAIRED, INDEPENDENT) else "size" if a == b else "power"
            assert float(found[what, method, f"{a} and {b} fail"]["share"]) == pytest.approx(expected, abs=6e-5)
        assert float(found["coverage", PAIRED, f"{a} and {b} fail"]["width"]) == pytest.approx(width, rel=1e-3)


def test_the_rows_of_different_numbers_of_runs(monkeypatch):
    for name, value in (("DATA_SETS", 3), ("PERMUTATIONS", 19), ("TRUTH_RUNS", 20_000)):
        monkeypatch.setattr(benchmark.simulation, name, value)
    monkeypatch.setattr(benchmark, "UNEQUAL", ((3, 7),))
    benchmark.simulation.true_values.cache_clear()
    rows = [*benchmark.unequal_share_rows(), *benchmark.unequal_mean_rows()]
    benchmark.simulation.true_values.cache_clear()
    assert all(tuple(row) == benchmark.COLUMNS and 0 <= float(row["share"]) <= 1 for row in rows)
    assert {(row["n"], row["n_b"]) for row in rows} == {(3, 7)} and len(rows) == 2 * (6 + 9)


def test_phi_is_the_correlation_of_the_failures_of_two_recipes():
    parts = benchmark.failures()
    assert sum(len(failed) for failed in parts.values()) > 10
    for failed in parts.values():
        assert failed.shape[1] == 20 and (0 < failed.sum(1)).all() and (failed.sum(1) < 20).all()
        assert benchmark.phis(failed)[0] == pytest.approx(pearsonr(failed[0], failed[1]).statistic)


def test_the_pages_are_made_from_the_committed_table():
    assert benchmark.to_markdown() == (benchmark.HERE / "statistics_pairs.md").read_text(encoding="utf-8")
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert benchmark.page_text(page) == page and benchmark.MARKS[0] in page
