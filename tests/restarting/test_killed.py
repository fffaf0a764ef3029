"""A run that is killed in its second attempt, between two attempts, and a run of two processes."""

from pathlib import Path

import pytest
import torch

from hf_stability.diagnostics.step_record import read_steps
from tests.processes import run_script


SCRIPT = Path(__file__).with_name("killed.py")


@pytest.mark.slow
def test_a_killed_run_continues_in_the_right_attempt(tmp_path):
    whole = run_script(SCRIPT, [tmp_path / "whole", 0, "never"])
    assert whole.returncode == 0, whole.stderr
    weights, attempts, steps = torch.load(tmp_path / "whole.pt")
    assert [(a["reason"], a["steps"]) for a in attempts] == [("alarm", 5), (None, 12)] and steps == 12
    for where, left in (("8", ["checkpoint-3", "checkpoint-6"]), ("1", []), ("between", ["checkpoint-3"])):
        folder = tmp_path / f"killed-{where}"
        assert run_script(SCRIPT, [folder, 0, where]).returncode == 9
        assert sorted(path.name for path in folder.glob("checkpoint-*")) == left
        resumed = run_script(SCRIPT, [folder, 1, "never"])
        assert resumed.returncode == 0, resumed.stderr
        found = torch.load(f"{folder}.pt")
        assert torch.equal(found[0], weights) and found[1:] == (attempts, steps)
        assert list(read_steps(folder / "stability" / "steps.rec")["step"]) == list(range(1, 13))
        assert list(read_steps(folder / "stability" / "attempt-0" / "steps.rec")["step"]) == list(range(1, 6))


@pytest.mark.slow
def test_two_processes_begin_again_together(tmp_path):
    done = run_script(SCRIPT, [tmp_path / "two", 0, "fresh"], processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["equal", "True", "12", "alarm"] * 2
