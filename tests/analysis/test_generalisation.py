"""Score against train loss: runs on a known line, and scipy's correlation."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, pearsonr, rankdata, ttest_rel

from hf_stability import cli
from hf_stability.analysis import FinishedStudy
from hf_stability.analysis.generalisation import (
    ALL_OK,
    ANALYSIS,
    GeneralisationOptions,
    _against_short,
    _longer_text,
    binned,
    spearman,
)  # fmt: skip
from hf_stability.errors import InputError
from hf_stability.study.records import RunRecord
from hf_stability.study.study import run_jobs
from hf_stability.utils.files import finite, plain
from tests.analysis.made_study import leave_run
from tests.prose import ROOT


def numbers_of(folder, **options):
    found = ANALYSIS.numbers(FinishedStudy(folder), GeneralisationOptions(**options))
    return json.loads(json.dumps(finite(plain(found)), allow_nan=False))


def study_on_a_line(folder, slope):
    """Five ok runs at train losses 1e-5 to 0.1, their score on a line of log10(loss), and a failed run."""
    for seed, exponent in enumerate(range(-5, 0), 1):
        leave_run(folder, "a", seed, last=0.5 + slope * exponent, train_loss=10.0**exponent, baseline=0.5)
    leave_run(folder, "a", 6, "failed", last=0.5, train_loss=0.69, baseline=0.5)
    return folder


def test_a_known_line_without_a_decline(tmp_path):
    numbers = numbers_of(study_on_a_line(tmp_path, -0.05), bins=1)
    (row, own) = numbers["tables"]["correlations"]
    assert (
        row == {"group": ALL_OK, "spearman": pytest.approx(-1), "low": None, "high": None, "n": 5}
        and own["group"] == "a"
    )
    assert (numbers["smallest_train_loss"], numbers["largest_train_loss"]) == (1e-5, 0.1)
    assert (numbers["n"], numbers["n_ok"], numbers["n_at_papers_loss"]) == (6, 5, 1)
    bins = numbers["tables"]["bins"]
    assert [row["mean"] for row in bins] == pytest.approx([0.75, 0.7, 0.65, 0.6, 0.55]) and {r["n"] for r in bins} == {
        1
    }
    assert bins[0]["loss_from"] == pytest.approx(1e-5) and bins[0]["loss_to"] == pytest.approx(1e-4)
    text = " ".join(ANALYSIS.sentences(numbers))
    assert "5 ok runs (of 6) ends between 1e-05 and 0.10" in text and "1 of them are at or below 1e-5" in text
    assert "no decline is seen" in text


def test_a_known_line_with_a_decline_and_a_range_that_is_too_narrow(tmp_path):
    text = " ".join(ANALYSIS.sentences(numbers_of(study_on_a_line(tmp_path / "a", 0.05), bins=1)))
    assert "has a mean accuracy of 0.250 (n = 1); the best bin (0.10 to 1.00) has 0.450" in text
    leave_run(tmp_path / "b", "a", 1, last=0.8, train_loss=0.3)
    text = " ".join(ANALYSIS.sentences(numbers_of(tmp_path / "b")))
    assert "these runs say nothing about smaller losses" in text and "not defined (n = 1)" in text


def test_the_figure_has_a_mark_per_run_and_a_line_per_bin(tmp_path):
    numbers = numbers_of(study_on_a_line(tmp_path, -0.05), bins=1)
    (ax,) = ANALYSIS.draw(numbers).axes
    assert sum(len(marks.get_offsets()) for marks in ax.collections) == 6
    assert ax.get_xscale() == "log"
    assert sum(len(line.get_xdata()) == 2 and line.get_color() == "0.45" for line in ax.lines) == 5


def test_studies_without_ok_runs_or_without_scores(tmp_path):
    leave_run(tmp_path / "a", "a", 1, "failed", last=0.5, train_loss=0.69)
    assert ANALYSIS.sentences(numbers_of(tmp_path / "a"))[0].startswith("No ok runs here: none of 1 runs")
    leave_run(tmp_path / "b", "a", 1, "stopped")
    assert "finished runs" in ANALYSIS.missing(FinishedStudy(tmp_path / "b"), GeneralisationOptions())[0]
    with pytest.raises(InputError, match="--bins 0"):
        ANALYSIS.missing(FinishedStudy(tmp_path / "b"), GeneralisationOptions(bins=0))


def test_longer_trainings_are_compared_on_the_same_seeds():
    def run(seed, last, status="ok", loss=1e-6):
        return RunRecord(
            "id", "a", seed, "t", status, "accuracy", last=last, best=0.95, train_loss=loss, planned_steps=60
        )

    scores = {1: (0.8, 0.9), 2: (0.7, 0.9), 3: (0.9, 0.92), 4: (0.5, 0.9)}
    short = {seed: run(seed, last, "failed" if seed == 4 else "ok") for seed, (last, _) in scores.items()}
    row = _against_short("5_times_longer", [run(seed, longer) for seed, (_, longer) in scores.items()], short)
    low, high = ttest_rel([0.9, 0.9, 0.92], [0.8, 0.7, 0.9]).confidence_interval()
    assert (row["pairs"], row["n"], row["n_at_papers_loss"], row["steps"]) == (3, 4, 4, 60)
    assert (row["difference"], row["difference_low"], row["difference_high"]) == pytest.approx((0.32 / 3, low, high))
    said = _longer_text(row, "accuracy")
    assert "4 of 4 runs are at or below 1e-5" in said and "is 0.907, against 0.800 (+0.107, 95% interval" in said
    nothing = _against_short("5_times_longer", [run(4, 0.9)], short)
    assert nothing["pairs"] == 0 and "not compared" in _longer_text(finite(nothing), "accuracy")


@pytest.mark.slow
def test_a_tiny_study_is_trained_longer(tiny_jobs, tmp_path, capsys):
    run_jobs(tiny_jobs(tmp_path, seeds=(1, 2)), tmp_path, quiet=True)
    words = ["analyze", "generalisation", str(tmp_path), "--times_longer", "3", "--seeds", "1"]
    assert cli.main(words) == 2 and "1 runs are missing (3_times_longer" in capsys.readouterr().err
    assert cli.main([*words, "--make_runs", "--workers", "0"]) == 0
    tables = json.loads((tmp_path / "analysis" / "generalisation" / "generalisation.json").read_text())["tables"]
    (row,) = tables["longer"]
    assert (row["n"], row["steps"]) == (1, 12) and [p["recipe"] for p in tables["points"]].count("3_times_longer") == 1
    assert cli.main([*words[:3], "--times_longer", "1"]) == 2 and "--times_longer 1: give 2" in capsys.readouterr().err


# ---- pure functions -------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=4, max_size=12))
def test_spearman_is_pearsons_correlation_of_ranks_with_bonett_and_wrights_interval(pairs):
    a, b = np.array(pairs, dtype=float).T
    r, low, high = spearman(a, b)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert math.isnan(r)
        return
    assert r == pytest.approx(pearsonr(rankdata(a), rankdata(b)).statistic)
    if abs(r) < 1 - 1e-9:
        error = math.sqrt((1 + r**2 / 2) / (len(a) - 3))
        assert norm.cdf((math.atanh(high) - math.atanh(r)) / error) == pytest.approx(0.975)
        assert math.atanh(r) - math.atanh(low) == pytest.approx(math.atanh(high) - math.atanh(r))


def test_spearman_of_few_runs_and_of_wrong_values():
    assert spearman([1, 2, 3], [1, 3, 2])[0] == pytest.approx(0.5) and math.isnan(spearman([1, 2, 3], [1, 3, 2])[1])
    assert all(math.isnan(value) for value in spearman([1], [2]))
    with pytest.raises(InputError, match="one finite value"):
        spearman([1, math.nan], [1, 2])


def test_a_bins_interval_is_students():
    (row,) = binned([0.2, 0.25, 0.3], [0.7, 0.8, 0.9], per_decade=2)
    half = (
        4.302652729911275 * 0.1 / math.sqrt(3)
    )  # t at 0.975 with 2 degrees of freedom, from a published table: 4.303
    assert (row["mean"], row["n"]) == (pytest.approx(0.8), 3)
    assert (row["low"], row["high"]) == (pytest.approx(0.8 - half), pytest.approx(0.8 + half))
    assert (row["loss_from"], row["loss_to"]) == (pytest.approx(0.1), pytest.approx(10**-0.5))


def test_the_numbers_of_the_page_are_those_of_the_demo_study():
    page = " ".join((ROOT / "docs" / "paper_experiments.md").read_text().split())
    with (ROOT / "benchmarks" / "demo_study" / "results" / "runs.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "confirm" and row["status"] == "ok"]
    recipes, losses, last = (np.array([row[key] for row in rows]) for key in ("recipe", "train_loss", "last"))
    losses, last = losses.astype(float), last.astype(float)
    r, low, high = spearman(losses, last)
    assert f"Over its {len(rows)} ok runs, with losses from {losses.min():.3f} to {losses.max():.2f}" in page
    assert f"the correlation is {r:.2f} ({low:.2f} to {high:.2f})" in page
    ends = [spearman(losses[recipes == name], last[recipes == name])[1:] for name in set(recipes)]
    below, around = sum(high < 0 for _, high in ends), sum(low <= 0 <= high for low, high in ends)
    assert (len(ends), below + around) == (10, 10)
    assert f"Within its ten arms the interval is below 0 in {below} and contains 0 in {around}." in page
    _, first, second, _ = binned(losses, last)
    assert f"{first['mean']:.3f} for losses of 0.10 to 0.18 (n = {first['n']})" in page
    assert f"{second['mean']:.3f} for losses of 0.32 to 0.56 (n = {second['n']})" in page
