"""The figures in the text of docs/statistics.md are those of the package, and every function that it names exists."""

from __future__ import annotations

import re

import pytest

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


def test_the_chances_in_the_text():
    assert 1 - 0.95**13 == pytest.approx(0.5, abs=0.02) and "in nearly half of all studies" in PAGE
    assert f"{0.9**5:.0%} of all samples of 5 runs" in PAGE and f"{0.9**20:.0%} of the samples of 20" in PAGE
