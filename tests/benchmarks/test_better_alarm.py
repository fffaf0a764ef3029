"""The benchmark of the better alarm: its sums on made runs, and that the package and the tables are those of runs.csv."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from benchmarks import better_alarm as bench
from benchmarks import early_detection as first_test
from hf_stability.diagnostics import early_warning
from hf_stability.diagnostics.alarm_odds import Counts


FRACTIONS = np.arange(0.15, 0.96, 0.05).round(2)


@pytest.fixture(scope="module")
def everything():
    """The committed runs of the first test."""
    rows = first_test.read_rows()
    return {name: bench.runs_of(rows, name) for name in first_test.SETTINGS}


def made(values, failed=1):
    """Runs with one quantity, `level`: `(R, C)`; the first ones failed."""
    kinds = np.array(["failed"] * failed + ["ok"] * (len(values) - failed))
    return bench.Runs(kinds, FRACTIONS[: np.shape(values)[1]], {"level": np.asarray(values, float)})


def slow_level(row, fractions, first, hold, until):
    """The highest threshold at which a run raises an alarm: try all of its values."""
    best = -math.inf
    for threshold in row:
        above = [f for f, value in zip(fractions, row, strict=True) if value >= threshold and first <= f <= until]
        places = [fractions.tolist().index(f) for f in above]
        if any(all(i + k in places for k in range(hold)) for i in places):
            best = max(best, threshold)
    return best


@settings(max_examples=30)
@given(
    values=arrays.arrays(float, (3, 9), elements=st.integers(-5, 5)),
    first=st.sampled_from([0.0, 0.3, 0.5]),
    hold=st.integers(1, 3),
)
def test_an_alarm_holds_at_checks_in_a_row(values, first, hold):
    runs = made(values)
    found = bench.alarm_levels(runs, runs.evidence["level"], first, hold)
    assert found.tolist() == [slow_level(row, runs.fractions, first, hold, bench.HALF) for row in values]
    more = bench.alarm_levels(runs, runs.evidence["level"], first, hold + 1)
    assert (more <= found).all()  # one check more is never easier


def test_one_check_above_is_no_alarm_if_two_in_a_row_are_asked_for():
    runs = made([[0, 9, 0, 9, 0], [0, 7, 8, 0, 0]])
    assert bench.alarm_levels(runs, runs.evidence["level"], hold=2).tolist() == [0, 7]


@pytest.mark.parametrize(("number", "alarmed"), [(10, 0), (19, 0), (20, 1), (53, 2), (128, 6)])
def test_the_threshold_lets_at_most_five_percent_of_the_other_runs_be_alarmed(number, alarmed):
    levels = np.arange(number + 1.0)
    runs = made(levels[:, None])
    threshold = bench.threshold_of([runs], [levels])
    assert (levels[1:] > threshold).sum() == alarmed and alarmed <= 0.05 * number


def test_a_held_out_setting_has_no_say_in_its_threshold(everything):
    bert = everything["bert"]
    worse = bench.Runs(bert.kinds, bert.fractions, {name: value - 3 for name, value in bert.evidence.items()})
    before = bench.held_out_counts(everything)
    after = bench.held_out_counts({**everything, "bert": worse})
    rule = bench.fitted_rule(bench.CHOSEN, [everything["roberta"], everything["albert"]])
    assert before["bert"] == bench.first_alarms(bert, bench.scores(bert, rule[0]), rule[1])._asdict()
    assert (
        after["bert"] == bench.first_alarms(worse, bench.scores(worse, rule[0]), rule[1])._asdict() != before["bert"]
    )


def test_the_package_has_the_numbers_that_the_runs_give(everything):
    content = bench.fit_package(everything)
    assert bench.matches_package(content)
    assert json.loads((bench.RESULTS / "better_alarm.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(content)
    )


def test_the_packages_rule_keeps_to_its_share_of_false_alarms_and_one_step_lower_does_not(everything):
    weights = early_warning.WEIGHTS
    shares = {0.0: [], -0.001: []}
    for runs in everything.values():
        found = {name: runs.evidence[name] for name in bench.FOUR}
        risks = early_warning.risk(found, progress=runs.fractions)
        assert risks == pytest.approx(1 / (1 + np.exp(-bench.logit(runs, weights))))
        by_half = risks[:, runs.fractions <= 0.501].max(1)[~runs.failed]
        for step, own in shares.items():
            own.append((by_half >= early_warning.THRESHOLD + step).mean())
    assert max(shares[0.0]) <= bench.FALSE_ALARMS < max(shares[-0.001])


def test_first_alarms_are_counted_where_they_come():
    values = np.zeros((4, len(FRACTIONS)))
    values[0, 3], values[1, 6], values[2, 12] = 1, 1, 1  # at 30, 45 and 75%
    runs = made(values, failed=2)
    assert bench.first_alarms(runs, runs.evidence["level"], 0.5) == Counts(2, 2, (1, 1, 0), (0, 0, 1))


def test_the_regression_is_that_of_statsmodels_but_for_its_penalty():
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 8)) + np.arange(400)[:, None] % 2
    runs = bench.Runs(np.where(np.arange(400) % 2, "failed", "ok"), FRACTIONS[:8], {"level": values})
    found = bench.regression([runs], ["level"])
    used = runs.fractions > 0.199
    x, y = values[:, used].ravel(), np.repeat(runs.failed, used.sum())
    wanted = sm.Logit(y, sm.add_constant(x)).fit(disp=0).params
    assert [found["bias"], found["level"]] == pytest.approx(wanted, abs=0.01)


def test_a_fresh_test_stops_as_soon_as_enough_runs_failed_and_enough_did_not(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(first_test, "run_setting", lambda out, name, part, seeds, more: asked.append(seeds[0]) or out)
    monkeypatch.setattr(first_test, "run_folders", lambda folder: range(20 * len(asked)))
    monkeypatch.setattr(first_test, "kind_of", lambda number: "failed" if number % 2 else "borderline")
    bench.test(tmp_path, ["bert"], [])
    assert asked == [f"{first}-{first + 19}" for first in (20001, 20021, 20041, 20061, 20081)]
    asked.clear()
    monkeypatch.setattr(first_test, "kind_of", lambda number: "ok")
    bench.test(tmp_path, ["bert"], [])
    assert len(asked) == 12


def test_the_report_of_fresh_runs_on_the_first_runs(monkeypatch, tmp_path, capsys):
    """The first test's rows stand for fresh ones: the same counts as in better_alarm.md."""
    (tmp_path / "fresh.csv").write_bytes((bench.RESULTS / "runs.csv").read_bytes())
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    monkeypatch.setattr(first_test, "RESULTS", tmp_path)
    bench.report(tmp_path / "none")
    page = (tmp_path / "fresh.md").read_text(encoding="utf-8")
    committed = (first_test.Path(bench.__file__).parent / "early_warning" / "better_alarm.md").read_text(
        encoding="utf-8"
    )
    row = next(line for line in committed.splitlines() if line.startswith("| albert | now |"))
    assert row in page and "| bert | 1.00: met | 0.78: met |" in page
    assert "others: no setting." in page and page.count("| after 0%, up to 30% |") == 2


def test_a_rule_is_better_if_the_intervals_of_its_false_alarms_are_apart():
    first, fewer, few = (bench.Measured(40, 50, false, 50, 0.9, (0.8, 1.0), 0.9) for false in (20, 12, 2))
    assert bench.is_better(few, first) and not bench.is_better(fewer, first) and not bench.is_better(first, few)


def test_the_alarms_of_the_tests_rule_are_those_of_the_package(everything):
    """Also for a run that learns, at a loss below `LEARNS`: its risk is 0."""
    albert = everything["albert"]
    loss = albert.evidence["loss"].copy()
    loss[0] = 0.1
    learns = np.where(loss < early_warning.LEARNS, bench.NEVER, 0.0)
    runs = bench.Runs(albert.kinds, albert.fractions, {**albert.evidence, "loss": loss, "learns": learns})
    found = {name: runs.evidence[name] for name in bench.FOUR}
    risks = np.where(loss < early_warning.LEARNS, 0.0, early_warning.risk(found, progress=runs.fractions))
    _, weights, threshold = bench.package_rule()
    assert ((bench.scores(runs, weights) > threshold) == (risks >= early_warning.THRESHOLD)).all()


def test_a_report_without_runs_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="run test first"):
        bench.report(tmp_path / "none")


@pytest.mark.slow
def test_the_committed_tables_are_those_of_the_committed_runs(monkeypatch, tmp_path, capsys):
    for name in ("runs.csv", "unbalanced.csv"):
        (tmp_path / name).write_bytes((bench.RESULTS / name).read_bytes())
    committed = {n: (bench.RESULTS / n).read_text(encoding="utf-8") for n in ("better_alarm.md", "better_alarm.json")}
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    monkeypatch.setattr(first_test, "RESULTS", tmp_path)
    bench.fit()
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in committed} == committed


def test_no_failed_run_had_a_loss_at_which_the_package_says_that_it_learns(everything):
    lowest = min(np.nanmin(own.evidence["loss"][own.kinds == "failed"]) for own in everything.values())
    assert early_warning.LEARNS < lowest and round(lowest, 3) == 0.857
