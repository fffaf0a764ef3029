"""The examples as a user runs them: processes of their own, offline."""

from pathlib import Path

import numpy as np
import pytest

from hf_stability import read_steps, steps_frame
from tests.processes import run_script


EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, folder, *arguments, processes=1):
    done = run_script(EXAMPLES / f"{script}.py", ["--output_dir", folder, *arguments], processes, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(
    ("script", "processes"),
    [("plain_loop", 1), ("accelerate_loop", 1), ("accelerate_loop", 2), ("trainer", 1)],
)
def test_an_example_records_every_step_and_ends_with_a_verdict(tmp_path, script, processes):
    out = run(script, tmp_path, processes=processes)
    assert out.splitlines()[-1].startswith("ok: accuracy ")
    assert out.count("accuracy ") == 1 and "ALARM" not in out  # of two processes one speaks
    record, frame = read_steps(tmp_path), steps_frame(tmp_path)
    assert record["step"].tolist() == list(range(1, 101)) and record["info"] == {"max_steps": 100, "warmup_steps": 10}
    top = ["classifier"] if script == "plain_loop" else ["pooler", "classifier"]
    assert record["layers"] == ["embeddings", "layer_00", "layer_01", *top]
    assert np.isfinite(frame).all(axis=None) and (record["layer_norms"] > 0).all()
    assert (record["labels"].sum(1) == 16).all()  # all examples of the step, whoever has seen them
    np.testing.assert_allclose(record["grad_norm"][:5], np.linalg.norm(record["layer_norms"][:5], axis=1), rtol=1e-4)
    rates = record["learning_rate"]
    assert rates.argmax() in (9, 10) and rates[-1] < rates.max() / 10


@pytest.mark.parametrize(
    ("script", "processes"),
    [("plain_loop", 1), pytest.param("accelerate_loop", 2, marks=pytest.mark.slow)],
)
def test_a_run_that_fails_raises_the_alarm_before_its_verdict(tmp_path, script, processes):
    out = run(script, tmp_path, "--learning_rate", "1", processes=processes)
    alarm, verdict = out.splitlines()
    assert alarm.startswith("ALARM step ") and "looks like one that fails" in alarm
    assert verdict.startswith("failed: accuracy ") and "vanished" in verdict
