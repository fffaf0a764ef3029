"""The course of changed runs: made records against a slow loop."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from hf_stability.analysis.intervention_course import arm_course, by_end, course, draw_course
from hf_stability.study.records import RunRecord


LAYERS = ["embeddings", "layer_00"]
STEPS = 20


def record(seed, steps=STEPS):
    rng = np.random.default_rng(seed)
    return {"layers": LAYERS, "step": np.arange(1, steps + 1), "cls_variance": rng.random(steps), "update_ratio": rng.random((steps, 2))}  # fmt: skip


def run(seed, status):
    return RunRecord("id", "arm", seed, "t", status, "accuracy", planned_steps=STEPS)


def test_a_window_is_the_median_over_its_steps_and_runs():
    records = [record(1), record(2), record(3, steps=7)]  # the third one diverged
    records[0]["cls_variance"][0] = np.nan
    rows = course(records, STEPS, windows=4)
    assert [(row["from_step"], row["to_step"], row["n"]) for row in rows] == [
        (1, 5, 3),
        (6, 10, 3),
        (11, 15, 2),
        (16, 20, 2),
    ]
    for row in rows:
        own = [
            (r, i) for r in records for i, step in enumerate(r["step"]) if row["from_step"] <= step <= row["to_step"]
        ]
        expected = [v for r, i in own if not np.isnan(v := r["cls_variance"][i])]
        assert row["cls_variance"] == pytest.approx(np.median(expected))
        assert row["update_ratio"] == pytest.approx(np.median([x for r, i in own for x in r["update_ratio"][i]]))
        for place, layer in enumerate(LAYERS):
            assert row[f"update_ratio/{layer}"] == pytest.approx(
                np.median([r["update_ratio"][i, place] for r, i in own])
            )
    assert len(course(records, 3)) == 3  # no window is shorter than an update step


def test_what_was_not_recorded_is_none():
    bare = {"layers": LAYERS, "step": np.arange(1, 5), "update_ratio": np.empty((4, 0))}
    (row,) = course([bare], 4, windows=1)
    assert row["cls_variance"] is None and row["update_ratio"] is None and row["n"] == 1


def test_saved_and_failed_runs_are_apart_and_drawn():
    runs = [run(1, "ok"), run(2, "failed"), run(3, "diverged"), run(4, "unknown")]
    assert {end: [r.seed for r in own] for end, own in by_end(runs).items()} == {"saved": [1], "failed": [2, 3]}
    study = SimpleNamespace(steps=lambda run: None if run.seed == 3 else record(run.seed))
    rows = []
    for name, kind, step in (
        ("unchanged", "unchanged", None),
        ("correction_on", "correction_on", 5),
        ("beta2_98", "collapsed", 10),
    ):
        rows += arm_course(study, runs, {"arm": name, "kind": kind, "step": step}, STEPS)
    assert {(row["arm"], row["end"]) for row in rows} == {
        (a, e) for a in ("unchanged", "correction_on", "beta2_98") for e in ("saved", "failed")
    }
    saved = [row for row in rows if row["arm"] == "correction_on" and row["end"] == "saved"]
    assert saved[4]["cls_variance"] == pytest.approx(record(1)["cls_variance"][4])
    figure = draw_course(rows)
    assert len(figure.axes) == 4  # two kinds of arms, two quantities
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert [line.get_xdata()[0] for line in dots] == [6, 6]  # the step after the change, saved and failed
