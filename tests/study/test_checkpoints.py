"""A run that was cut off goes on from its newest whole checkpoint, to the same bytes, or begins anew."""

from __future__ import annotations

import pytest

from hf_stability.study import run as run_module
from hf_stability.study.checkpoints import newest_whole_checkpoint
from hf_stability.study.run import run_job
from tests.study.tools import RUN_FILES, Killed, names_in, results


@pytest.mark.parametrize("last", [5, 8], ids=["in mid-epoch", "after its last step"])
def test_a_run_is_resumed_bit_by_bit(tiny_jobs, tmp_path, monkeypatch, last):
    (job,) = tiny_jobs(tmp_path, seeds=(1,), max_steps=8, save_strategy="steps", save_steps=2, logging_steps=2)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_job(job, whole)
    seen = []

    def killed(*_):
        raise Killed

    with pytest.raises(Killed), monkeypatch.context() as patch:
        patch.setattr(run_module, "write_results", killed)
        run_job(job, cut, lambda step, total, *_: step == last < total and killed())
    (cut / "error.txt").write_text("of an earlier crash")
    (cut / "checkpoint-7").mkdir()  # one whose writing was cut off
    start = int(newest_whole_checkpoint(cut).rpartition("-")[2])
    assert start == {5: 4, 8: 6}[last]  # epochs have 3 steps: 6 was saved after the evaluation that ends its epoch
    run_job(job, cut, lambda step, *_: seen.append(step))
    assert seen == list(range(start + 1, 9))
    assert results(cut) == results(whole)
    assert names_in(cut) == RUN_FILES  # no checkpoint, no error.txt


def test_a_run_whose_record_has_lost_steps_is_begun_anew(tiny_jobs, tmp_path, caplog):
    (job,) = tiny_jobs(tmp_path, seeds=(1,), max_steps=8, save_strategy="steps", save_steps=2, logging_steps=2)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    run_job(job, whole)

    def killed(step, *_):
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        run_job(job, torn, killed)
    record = torn / "steps.rec"
    record.write_bytes(record.read_bytes()[:-70])  # a power cut: the last rows are gone, the checkpoint is not
    seen = []
    run_job(job, torn, lambda step, *_: seen.append(step))
    assert (
        seen == list(range(1, 9))
        and "the record lacks update steps; the run starts again from the beginning" in caplog.text
    )
    assert results(torn) == results(whole)


def test_a_run_with_other_settings_is_not_resumed(tiny_jobs, tmp_path):
    (job,) = tiny_jobs(tmp_path, seeds=(1,), save_strategy="steps", save_steps=2)
    (other,) = tiny_jobs(tmp_path, seeds=(1,), save_strategy="steps", save_steps=2, learning_rate=1e-3)

    def killed(step, *_):
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        run_job(job, tmp_path / "run", killed)
    seen = []
    run_job(other, tmp_path / "run", lambda step, *_: seen.append(step))
    assert seen == [1, 2, 3, 4]
