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
    """A run of each kind, with checks at all fractions; those numbered in `alarmed` look bad from 0.3 on."""
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
    threshold = bench.THRESHOLD
    assert bench.alarmed_by(made, 0.2, threshold) == {0: False, 1: False}
    assert bench.alarmed_by(made, 0.3, threshold) == bench.alarmed_by(made, 0.5, threshold) == {0: True, 1: False}


def test_the_alarms_table_keeps_healed_and_borderline_runs_apart():
    made = rows(["failed"] * 4 + ["ok"] * 5 + ["healed"] * 2 + ["borderline"], alarmed=[0, 1, 2, 9])
    last = bench.alarm_table(made, "bert", bench.THRESHOLD)[-1].split(" | ")
    assert [cell.split(" =")[0] for cell in last[1:6]] == ["3/4", "3/3", "0/5", "1/2", "0/1"]


def test_the_precision_in_use_counts_all_runs_that_did_not_fail():
    made = rows(["failed"] * 4 + ["ok"] * 5 + ["healed"] * 2 + ["borderline"], alarmed=[0, 1, 2, 9])
    first, *_, last = bench.alarm_table_in_use(made, "bert", bench.THRESHOLD)[2:]
    cells = last.strip("| ").split(" | ")
    assert [cell.split(" =")[0] for cell in cells[1:3]] == ["1/8", "3/4"]
    assert cells[3].startswith(f"{0.1 * 0.75 / (0.1 * 0.75 + 0.9 / 8):.2f} (")
    assert first.strip("| ").split(" | ") == ["10%", "0/8 = 0.00 (0.00-0.32)", *["-"] * 4]


EVALUATIONS = [{"step": step, "eval_accuracy": step / 1000} for step in (38, 76, 114)]


@pytest.mark.parametrize(
    ("step", "found"),
    [
        (19, None),
        (35, None),
        (36, 38),
        (38, 38),
        (57, 38),
        (73, 38),
        (74, 76),
        (75, 76),
        (76, 76),
        (113, 114),
        (375, 114),
    ],
)
def test_the_dev_score_at_a_look_is_the_nearest_evaluations_two_steps_late_at_most(step, found):
    assert bench.dev_score_at(EVALUATIONS, step) == (None if found is None else found / 1000)


def test_of_two_evaluations_at_hand_the_nearer_one_counts():
    evaluations = [{"step": step, "eval_accuracy": step / 1000} for step in (9, 12)]
    assert bench.dev_score_at(evaluations, 10) == 0.009 and bench.dev_score_at(evaluations, 11) == 0.012


@pytest.mark.parametrize("total", [189, 375])  # BERT and RoBERTa; ALBERT
def test_each_look_of_the_tables_has_its_own_evaluation(tmp_path, monkeypatch, total):
    every = math.ceil(0.1 * total)
    evaluations = [{"step": i * every, "eval_accuracy": i / 100} for i in range(1, 11) if i * every <= total]
    (tmp_path / "metrics.json").write_text(json.dumps({"evaluations": evaluations}), encoding="utf-8")
    (tmp_path / "run.json").write_text(json.dumps({"seed": 1, "accuracy": 0.7}), encoding="utf-8")
    (tmp_path / "verdict.json").write_text(json.dumps({"status": "ok", "evidence": {}}), encoding="utf-8")
    record = {
        "info": {"max_steps": total, "warmup_steps": every},
        "layers": ["embeddings", "layer_00", "layer_01", "classifier"],
        "layer_norms": RNG.uniform(1, 2, (total, 4)),
        "labels": np.full((total, 2), 8),
    } | {name: RNG.uniform(0.5, 1, total) for name in ("loss", "logit_std", "grad_norm")}
    monkeypatch.setattr(bench, "read_steps", lambda path: record)
    made = bench.looks(tmp_path, "albert")
    assert [bench.at(made, fraction)[0]["dev_score"] for fraction in bench.FRACTIONS] == [
        -0.01,
        -0.02,
        -0.03,
        -0.04,
        -0.05,
    ]
    assert bench.at(made, 0.05)[0]["dev_score"] == ""
    for row in made:  # nothing else looks ahead
        assert row["loss"] == pytest.approx(
            record["loss"][: row["step"]][-math.ceil(0.1 * total) :].mean() / math.log(2), abs=1e-5
        )


@pytest.mark.parametrize(("number", "alarmed"), [(10, 0), (11, 1), (13, 1), (20, 1), (21, 2)])
def test_the_threshold_lets_a_tenth_of_all_ok_runs_but_one_be_alarmed(number, alarmed):
    made = rows(["ok"] * number)
    for row in made:
        row["loss"] = row["seed"] / number
    threshold = bench.fit_threshold(made, bench.WEIGHTS)
    raised = bench.alarmed_by(made, 0.5, threshold)
    assert sorted(raised.values()).count(True) == alarmed
    highest_left = max(bench.risk_of(r) for r in made if not raised[r["seed"]])
    assert highest_left < threshold <= highest_left + 0.001


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


@pytest.mark.skipif(not (bench.RESULTS / "runs.csv").is_file(), reason="the test's runs are not there yet")
def test_the_committed_tables_are_those_of_the_committed_runs(tmp_path, monkeypatch, capsys):
    committed = (bench.RESULTS / "results.md").read_text(encoding="utf-8")
    for name in ("runs.csv", "unbalanced.csv", "fit.json"):
        (tmp_path / name).write_bytes((bench.RESULTS / name).read_bytes())
    assert (bench.RESULTS / "alarms.png").is_file()
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    bench.report(tmp_path / "none")
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == committed
    assert (tmp_path / "alarms.png").stat().st_size > 10_000


# ---- unbalanced classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bench.UNBALANCED)
def test_the_sentences_of_a_setting_have_its_shares_and_none_comes_twice(name):
    setting = bench.UNBALANCED[name]
    splits = bench.draw_sentences(setting)
    texts = [text for rows in splits.values() for text, _ in rows]
    assert len(texts) == len(set(texts)) == 1000 + bench.EXAMPLES
    assert splits == bench.draw_sentences(setting)
    counts = np.bincount([label for rows in splits.values() for _, label in rows], minlength=len(setting.shares))
    expected = np.array(setting.shares) * len(texts)
    assert (np.abs(counts - expected) <= 4 * np.sqrt(expected)).all() and counts.min() > 0
    assert {label for _, label in splits["train"]} == set(range(len(setting.shares)))


def test_the_ten_classes_are_the_grammars():
    assert len(bench.KINDS_AND_FORMS) == 10
    splits = bench.draw_sentences(bench.UNBALANCED["ten"])
    forms = {text: bench.KINDS_AND_FORMS[label][1] for text, label in splits["first"]}
    pronouns = ("himself", "herself", "itself", "themselves")
    for text, form in forms.items():
        assert (form == "reflexive") == any(word in text.rstrip(".").split() for word in pronouns)
        assert form != "property" or " is " in text or " are " in text


@pytest.mark.parametrize(
    "matthews, finite, outcome",
    [
        (0.9, True, "sound"),
        (0.5, True, "sound"),
        (0.3, True, "between"),
        (0.1, True, "failed"),
        (0.9, False, "failed"),
    ],
)
def test_the_outcome_of_a_run(matthews, finite, outcome):
    assert bench.outcome_of({"matthews": matthews, "finite": finite}) == outcome


def unbalanced_rows():
    """Two sound runs, one of which only the old rule alarms, and a failed one that both do, the new one later."""
    risky, calm = {"level": -50.0, "trend": 0.0, "spread": 0.0}, {"level": 5.0, "trend": 0.0, "spread": 0.0}
    made = []
    for seed, kind in ((1, "sound"), (2, "sound"), (3, "failed")):
        for fraction in (0.2, 0.5):
            bad = kind == "failed" or (seed == 1 and fraction == 0.2)
            losses = {"loss": 1.0 if fraction >= 0.5 else math.nan, "loss_before": 1.0}
            made.append({"setting": "rare07", "seed": seed, "kind": kind, "fraction": fraction} | losses)
            made[-1] |= risky if bad else calm
    return made


def test_the_first_alarms_by_both_rules_on_the_same_records():
    made = unbalanced_rows()
    assert bench.first_alarms(made, "sound", "before") == {("rare07", 1): 0.2, ("rare07", 2): None}
    assert bench.first_alarms(made, "sound", "now") == {("rare07", 1): None, ("rare07", 2): None}
    assert bench.first_alarms(made, "failed", "before") == {("rare07", 3): 0.2}
    assert bench.first_alarms(made, "failed", "now") == {("rare07", 3): 0.5}


def test_the_table_of_unbalanced_classes():
    rows = [line.strip("| ").split(" | ") for line in bench.unbalanced_table(unbalanced_rows())[2:]]
    assert [row[0] for row in rows] == ["rare07", "all"] and rows[0][1:] == rows[1][1:]
    assert [cell.split(" =")[0] for cell in rows[0][1:]] == ["3", "1/2", "0/2", "-", "-", "1/1", "1/1"]


def test_a_run_of_a_setting_leaves_what_the_report_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "EXAMPLES", 32)
    monkeypatch.setattr(bench, "EPOCHS", 10)
    monkeypatch.setattr(bench, "LAYERS", 1)
    bench.run_unbalanced(tmp_path, "test_unbalanced", ["rare15"], minutes=60, most=1)
    folder = tmp_path / "test_unbalanced" / "rare15" / "6001"
    written = (folder / "run.json").stat().st_mtime_ns
    bench.run_unbalanced(tmp_path, "test_unbalanced", ["rare15", "rare07"], minutes=0, most=1)
    bench.run_unbalanced(tmp_path, "test_unbalanced", ["rare15"], minutes=60, most=1)
    assert (folder / "run.json").stat().st_mtime_ns == written and len(list(tmp_path.glob("*/*/*"))) == 1
    found = bench.unbalanced_looks(folder, "rare15")
    assert [row["step"] for row in found] == early_warning.check_steps(2, 20)
    for row in found:
        assert math.isnan(row["loss"]) or row["fraction"] >= 0.5
        assert math.isfinite(row["loss_before"]) and row["kind"] in ("sound", "between", "failed")
