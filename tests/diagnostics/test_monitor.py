"""A monitor before its training, and after it: events do nothing."""

from __future__ import annotations

import pytest
from transformers import Trainer, TrainerControl, TrainingArguments

from hf_stability import StabilityCallback
from hf_stability.diagnostics.monitor import Monitor
from hf_stability.errors import InputError
from tests import toy


def call_every_event(monitor):
    monitor.begin_epoch()
    monitor.begin_step()
    monitor.before_step(None, 1)
    monitor.after_step()
    monitor.end_step(1, TrainerControl())
    monitor.flush()
    monitor.evaluated({"eval_loss": 1.0}, 1)
    verdict = monitor.end(TrainerControl())
    monitor.release()
    return verdict


def test_before_a_training_events_do_nothing():
    callback = StabilityCallback()
    assert call_every_event(Monitor(callback)) is None and callback.verdicts == []
    assert (callback.recorder, callback.meter, callback.alarm, callback.verdict, callback.constant) == (None,) * 5
    assert not callback.stopped and callback.evaluation.metrics == {} and callback._micro_batches == []
    with pytest.raises(RuntimeError, match="has not trained"):
        _ = callback.record


def test_after_a_training_events_do_nothing_and_what_was_found_stays(tmp_path):
    callback = StabilityCallback(tensorboard=False, heat_map=False)
    args = TrainingArguments(str(tmp_path), **{**toy.QUIET, "max_steps": 4, "eval_strategy": "steps"})
    data = {"train_dataset": toy.data(64), "eval_dataset": toy.data(40, seed=1), "compute_metrics": toy.accuracy}
    trainer = Trainer(toy.model(), args, callbacks=[callback], **data)
    trainer.train()
    verdict, metrics = callback.verdict, callback.evaluation.metrics
    assert call_every_event(callback.monitor) is None
    assert callback.verdict is verdict and callback.verdicts == [verdict] and callback.evaluation.metrics is metrics
    assert callback.record["step"].tolist() == [1, 2, 3, 4] and callback.meter is None
    assert callback.monitor.model is None and callback.monitor.evaluations.loop is None  # nothing of it is kept


def test_a_second_training_has_a_monitor_of_its_own(tmp_path):
    callback = StabilityCallback(tensorboard=False, heat_map=False)
    args = TrainingArguments(str(tmp_path), **{**toy.QUIET, "max_steps": 2})
    trainer = Trainer(toy.model(), args, train_dataset=toy.data(64), callbacks=[callback])
    monitors = []
    for _ in range(2):
        callback.stopped_early = True  # an earlier training's does not count
        trainer.train()
        monitors.append(callback.monitor)
        assert not callback.stopped_early and callback.verdict.status == "unknown"
    assert monitors[0] is not monitors[1] and len(callback.verdicts) == 2


def test_a_diagnostic_of_the_arguments_that_there_is_not_ends_the_training_before_it_begins(tmp_path):
    args = TrainingArguments(str(tmp_path), **{**toy.QUIET, "max_steps": 2})
    args.diagnostics = ["clippin"]
    callback = StabilityCallback()
    trainer = Trainer(toy.model(), args, train_dataset=toy.data(64), callbacks=[callback])
    with pytest.raises(InputError, match="clipping"):
        trainer.train()
    args.diagnostics = ["clipping"]
    trainer.train()
    assert callback.record["clip_factor"].shape == (2,)
