"""Failing seeds trained again with a change: the arms, what came out of hand-made runs, and (slow) a real tiny study."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from hf_stability import cli
from hf_stability.analysis import analyze
from hf_stability.analysis.interventions import (
    ANALYSIS,
    COLLAPSED,
    InterventionsOptions,
    arms,
    check,
    kind_of,
    outcome,
)
from hf_stability.errors import InputError
from hf_stability.study.records import RunRecord, read_run
from hf_stability.study.study import run_jobs


pytestmark = pytest.mark.usefixtures("no_heat_maps")


def test_the_arms_are_the_steps_that_training_has():
    found = arms(50, InterventionsOptions(steps=(0, 5, 80, 5), branch_at=0.5))
    late = [f"{name}_0025" for name in COLLAPSED]
    assert list(found) == ["unchanged", "correction_on_0000", "correction_on_0005", "correction_off_0005", *late]
    assert found["unchanged"] == {} and kind_of({}) == "unchanged"
    assert found["correction_on_0005"] == {
        "bias_correction": False,
        "intervention": "correction_on",
        "intervene_at": 5,
    }
    assert found["correction_off_0005"]["bias_correction"] is True
    assert {found[name]["intervene_at"] for name in late} == {25} and kind_of(found[late[0]]) == "collapsed"
    shared = arms(50, InterventionsOptions(), own_layers=False)
    assert len(COLLAPSED) - len([arm for arm in shared if kind_of(shared[arm]) == "collapsed"]) == 2  # ALBERT


def test_an_arm_is_counted():
    runs = [
        RunRecord("id", "arm", seed, "rte", status, "accuracy", last=score, planned_steps=20)
        for seed, (status, score) in enumerate([("ok", 0.9), ("failed", 0.5), ("ok", 0.8), ("diverged", None)], 1)
    ]
    ratios = {1: 0.5, 2: 0.1, 3: 0.3}
    records = {
        seed: {"step": np.arange(1, 21), "update_ratio": np.where(np.arange(1, 21) > 18, ratio, 9.0)[:, None]}
        for seed, ratio in ratios.items()
    }
    study = SimpleNamespace(steps=lambda run: records.get(run.seed))
    low, high = stats.binomtest(2, 4).proportion_ci(method="wilson")
    assert outcome(study, runs) == {
        "ok": 2, "n": 4, "share": 0.5, "share_low": pytest.approx(low), "share_high": pytest.approx(high),
        "median_score": 0.8, "update_ratio": 0.3, "cls_variance": None,
    }  # fmt: skip
    nothing = outcome(study, [])
    assert nothing["n"] == 0 and nothing["share"] is None and nothing["median_score"] is None


@pytest.mark.parametrize(
    "values, says",
    [({"steps": (-1,)}, "--steps -1"), ({"branch_at": 1.0}, "--branch_at 1.0"), ({"seeds": 0}, "--seeds 0")],
)
def test_options_out_of_range_are_refused(values, says):
    with pytest.raises(InputError, match=says):
        check(InterventionsOptions(**values))


def test_the_sentences_and_the_figure_come_from_the_numbers_alone():
    def row(arm, kind, step, ok, n=20):
        share = ok / n
        return {"arm": arm, "kind": kind, "step": step, "ok": ok, "n": n, "share": share, "share_low": share,
                "share_high": share, "median_score": 0.5}  # fmt: skip

    rows = [row("unchanged", "unchanged", None, 0), row("correction_on_0000", "correction_on", 0, 20)]
    rows += [row("correction_on_0040", "correction_on", 40, 3), row("quarter_rate", "collapsed", 94, 1)]
    numbers = {"recipe": "devlin2019", "planned_steps": 189, "tables": {"arms": rows}}
    said = " ".join(ANALYSIS.sentences(numbers))
    assert "failed seeds of devlin2019" in said and "20 of 20 fail again" in said and "quarter_rate 1 of 20" in said
    assert "on from step 0 saves 20 of 20" in said and "on from step 40 saves 3 of 20" in said
    left, right = ANALYSIS.draw(numbers).axes
    assert [label.get_text() for label in left.get_xticklabels()] == ["0", "40"] and right.get_xlabel().endswith("94")
    numbers["ends"] = {
        end: {"n": n, "cls_variance": v, "update_ratio": 5e-5}
        for end, n, v in (("saved", 23, 0.7), ("failed", 37, 0.06))
    }
    assert "0.7 in saved runs (n = 23) and 0.06 in runs that fail again (n = 37)" in ANALYSIS.sentences(numbers)[-1]
    rows[0]["ok"] = 3
    assert (
        "not repeatable here" in ANALYSIS.sentences(numbers)[0]
        and "only 17 of 20 fail" in ANALYSIS.sentences(numbers)[0]
    )


def test_marks_at_the_same_step_do_not_cover_each_other():
    row = {"ok": 1, "n": 2, "share": 0.5, "share_low": 0.1, "share_high": 0.9}
    rows = [
        {"arm": kind, "kind": kind, "step": step, **row}
        for kind in ("correction_on", "correction_off")
        for step in (5, 80)
    ]
    left = ANALYSIS.draw({"tables": {"arms": rows}}).axes[0]
    places = [x for bars in left.containers for x in bars.lines[0].get_xdata()]
    assert len(set(places)) == 4 and [round(x) for x in places] == [0, 1, 0, 1]


@pytest.mark.slow
def test_a_real_study(tiny_jobs, tmp_path, capsys):
    """All runs fail at this rate; what is asked is that the arms are trained once, and are what they say."""
    jobs = tiny_jobs(tmp_path, seeds=(1, 2), max_steps=6, learning_rate=0.5)
    runs = run_jobs(jobs, tmp_path, quiet=True)
    assert [run.status for run in runs] == ["failed", "failed"]
    words = ["analyze", "interventions", str(tmp_path), "--steps", "0", "2", "--seeds", "1"]
    assert cli.main(words) == 2
    assert "10 runs are missing (unchanged, correction_on_0000, correction_on_0002" in (
        error := capsys.readouterr().err
    )
    assert "Add --make_runs" in error and not (tmp_path / "analysis").exists()
    assert cli.main([*words, "--make_runs", "--workers", "2"]) == 0
    out = capsys.readouterr().out
    assert "1 of 1 fail again" in out
    made = tmp_path / "analysis" / "interventions"
    numbers = json.loads((made / "interventions.json").read_text())
    assert [row["n"] for row in numbers["tables"]["arms"]] == [1] * 10
    assert all(row["cls_variance"] is not None for row in numbers["tables"]["arms"])
    layers = [key for key in numbers["tables"]["course"][0] if key.startswith("update_ratio/")]
    assert len(layers) > 2 and len(numbers["tables"]["course"]) == 10 * 6 and len(numbers["tables"]["runs"]) == 10
    assert (made / "interventions_course.png").is_file()
    before = {path: path.stat().st_mtime_ns for path in made.rglob("run.json")}
    again = analyze("interventions", tmp_path, steps=(0, 2), seeds=1, make_runs=True)
    assert again.numbers == numbers and before == {path: path.stat().st_mtime_ns for path in made.rglob("run.json")}

    # From step 0 on it is the recipe with bias correction.
    run_jobs(
        tiny_jobs(tmp_path / "on", seeds=(1,), max_steps=6, learning_rate=0.5, bias_correction=True),
        tmp_path / "on",
        quiet=True,
    )
    corrected = read_run(tmp_path / "on" / "runs" / "devlin2019" / "seed-001")
    switched = read_run(made / "study" / "devlin2019" / "runs" / "correction_on_0000" / "seed-001")
    assert (switched.train_loss, switched.metrics) == (corrected.train_loss, corrected.metrics)
    assert switched.train_loss != runs[0].train_loss
    unchanged = read_run(made / "study" / "devlin2019" / "runs" / "unchanged" / "seed-001")
    assert (unchanged.train_loss, unchanged.metrics) == (runs[0].train_loss, runs[0].metrics)
    assert cli.main([*words, "--branch_at", "0.9", "--make_runs", "--workers", "0"]) == 0  # other arms beside these
