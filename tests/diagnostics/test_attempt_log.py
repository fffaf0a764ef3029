"""`attempts.json`: what it has, and what it clears away between two attempts."""

import json
import os

import pytest

from hf_stability.diagnostics.attempt import ALARM, NON_FINITE_LOSS
from hf_stability.diagnostics.attempt_log import AttemptLog, read_attempts
from hf_stability.errors import InputError


def checkpoint(folder, step, age=0):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "trainer_state.json").write_text("{}")
    if age:
        for each in (path / "trainer_state.json", path):
            os.utime(each, (each.stat().st_atime, each.stat().st_mtime - age))
    return path


@pytest.fixture
def log(tmp_path):
    made = AttemptLog(tmp_path / "stability", tmp_path, max_restarts=2)
    made.begin()
    return made


def reread(log):
    return AttemptLog(log.folder, log.output_dir, log.max_restarts, read_attempts(log.folder))


def test_a_run_with_two_restarts(log):
    (log.folder / "steps.rec").write_text("first")
    log.abandon(ALARM, {"step": 30}, 30, 100)
    log.clean([{"loss": float("nan"), "step": 10}])
    assert (log.number, log.is_last, log.spent) == (1, False, 30)
    assert (log.folder / "attempt-0" / "steps.rec").read_text() == "first"
    assert json.loads((log.folder / "attempt-0" / "log_history.json").read_text()) == [{"loss": None, "step": 10}]
    log.settings, log.seeds = {"learning_rate": 1e-5}, {"init": 7, "data": 8, "dropout": 9}
    log.abandon(NON_FINITE_LOSS, None, 5, 100)
    log.clean()
    assert log.is_last and reread(log).attempts == log.attempts
    log.finish({"step": 40}, 100, 100)
    assert [a.number for a in log.attempts] == [0, 1, 2] and log.attempts[2].reason is None
    assert [a.steps for a in log.attempts] == [30, 5, 100] and log.spent == 35 and log.number == 2
    assert len(read_attempts(log.folder)["attempts"]) == 3
    assert reread(log).attempts == log.attempts[:2]  # a finished run that is resumed is in its last attempt


def test_only_the_runs_own_checkpoints_are_deleted(tmp_path):
    old, torn = checkpoint(tmp_path, 9000, age=100), tmp_path / "checkpoint-20"
    log = AttemptLog(tmp_path / "stability", tmp_path, max_restarts=1)
    log.begin()
    own, other = checkpoint(tmp_path, 10), tmp_path / "checkpoint-best"
    torn.mkdir()
    other.mkdir()
    log.abandon(ALARM, None, 30, 100)
    assert own.exists() and not reread(log).is_clean  # killed here: a resume clears the way first
    log = reread(log)
    log.clean()
    assert old.exists() and other.exists() and not own.exists() and not torn.exists() and reread(log).is_clean
    log.clean()  # killed before the file said so: once more does no harm


def test_a_new_run_does_not_read_an_earlier_ones_attempts(log):
    log.abandon(ALARM, None, 30, 100)
    log.clean()
    again = AttemptLog(log.folder, log.output_dir, 2)
    again.begin()
    assert again.number == 0 and reread(again).number == 0 and not (log.folder / "attempt-0").exists()


def test_other_processes_write_nothing(tmp_path):
    log = AttemptLog(None, tmp_path, max_restarts=1)
    log.begin()
    log.abandon(ALARM, None, 3, 10)
    log.clean([])
    assert log.number == 1 and list(tmp_path.iterdir()) == []


def test_another_schema_is_refused(log):
    (log.folder / "attempts.json").write_text('{"schema": "hf_stability.attempts/9"}')
    with pytest.raises(InputError, match=r"attempts.json: schema 'hf_stability.attempts/9'"):
        read_attempts(log.folder)
