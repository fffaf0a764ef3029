"""The benchmark's sums, on made rows; and that the committed tables are those of the committed runs."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import early_detection as bench
from hf_stability.diagnostics import early_warning


RNG = np.random.default_rng(0)


def rows(kinds, alarmed=(), setting="bert"):
    """A run of each kind, with checks at all fractions; those numbered in `alarmed` look bad from .3 on."""
    made = []
    for seed, kind in enumerate(kinds):
        for fraction in np.arange(0.05, 1, 0.05).round(2):
            bad = seed in alarmed and fraction >= 0.3
            far = {"level": -50.0, "trend": -50.0, "spread": -50.0, "loss": 5.0}
            near = {"level": 5.0, "trend": 0.0, "spread": 5.0, "loss": 0.0}
            made.append(
                {"setting": setting, "seed": seed, "kind": kind, "fraction": fraction, "checked": fraction >= 0.2}
                | (far if bad else near)
                | {"dev_score": RNG.normal(), "train_loss": RNG.normal(), "total_norm": RNG.normal()}
            )
    return made


def test_auc_is_scikit_learns_ties_included():
    values = RNG.integers(0, 5, (3, 40)).astype(float)
    failed = RNG.random(40) < 0.4
    found = bench.auc(values[:, failed], values[:, ~failed])
    assert found == pytest.approx([roc_auc_score(failed, row) for row in values])


def test_the_bootstrap_is_one_over_resampled_runs():
    values, failed = RNG.normal(size=(2, 60)), np.arange(60) < 25
    values[0, failed] += 1
    drawn = bench.bootstrap(values, failed)
    rng = np.random.default_rng(1)
    slow = []
    for _ in range(2000):
        bad, good = rng.choice(np.flatnonzero(failed), 25), rng.choice(np.flatnonzero(~failed), 35)
        slow.append(bench.auc(values[:, bad], values[:, good]))
    assert drawn.shape == (2, bench.N_BOOT)
    assert drawn.mean(1) == pytest.approx(np.mean(slow, 0), abs=0.01)
    assert drawn.std(1) == pytest.approx(np.std(slow, 0), rel=0.1)


def test_precision_at_a_prevalence():
    value, low, high = bench.precision_at(0.1, 45, 50, 5, 50)
    assert value == pytest.approx(0.1 * 0.9 / (0.1 * 0.9 + 0.9 * 0.1)) and low < value < high
    value, low, high = bench.precision_at(0.5, 45, 50, 0, 50)  # no false alarm seen: still no certainty
    assert value == 1 and 0.9 < low < high <= 1
    assert math.isnan(bench.precision_at(0.5, 0, 50, 0, 50)[0])


def test_an_alarm_is_raised_at_any_check_up_to_a_fraction():
    made = rows(["failed", "ok"], alarmed=[0])
    threshold = early_warning.THRESHOLD
    assert bench.alarmed_by(made, 0.2, threshold) == {0: False, 1: False}
    assert bench.alarmed_by(made, 0.3, threshold) == bench.alarmed_by(made, 0.5, threshold) == {0: True, 1: False}


def test_the_alarms_table_keeps_healed_and_borderline_runs_apart():
    made = rows(["failed"] * 4 + ["ok"] * 5 + ["healed"] * 2 + ["borderline"], alarmed=[0, 1, 2, 9])
    last = bench.alarm_table(made, "bert", early_warning.THRESHOLD)[-1].split(" | ")
    assert [cell.split(" =")[0] for cell in last[1:6]] == ["3/4", "3/3", "0/5", "1/2", "0/1"]


def test_fitting_finds_what_tells_the_runs_apart():
    made = rows(["failed"] * 6 + ["ok"] * 6, alarmed=range(6))
    for row in made:
        row.update({name: row[name] / 10 + RNG.normal() for name in ("level", "spread", "trend", "loss")})
    weights = bench.fit_weights(made, ("level", "trend", "spread", "loss"))
    assert weights["level"] < 0 and weights["spread"] < 0
    threshold = bench.fit_threshold(made, weights)
    highest = [
        max(bench.risk_of(r, weights) for r in made if r["seed"] == seed and r["checked"] and r["fraction"] <= 0.5)
        for seed in range(6, 12)
    ]
    assert max(highest) < threshold <= max(highest) + 0.001


def test_the_package_holds_what_was_fitted():
    fitted = json.loads((bench.RESULTS / "fit.json").read_text(encoding="utf-8"))
    assert early_warning.WEIGHTS == fitted["weights"]["risk"] and early_warning.THRESHOLD == fitted["threshold"]


@pytest.mark.skipif(not (bench.RESULTS / "runs.csv").is_file(), reason="the test's runs are not there yet")
def test_the_committed_tables_are_those_of_the_committed_runs(tmp_path, monkeypatch, capsys):
    committed = (bench.RESULTS / "results.md").read_text(encoding="utf-8")
    for name in ("runs.csv", "fit.json"):
        (tmp_path / name).write_bytes((bench.RESULTS / name).read_bytes())
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    bench.report(tmp_path / "none")
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == committed
