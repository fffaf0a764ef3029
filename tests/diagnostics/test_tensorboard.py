"""The order of the event files in one folder."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from hf_stability.diagnostics.attempt import ALARM, Attempt
from hf_stability.diagnostics.tensorboard import TensorBoard, _wait_for_a_later_name
from tests.events import Events


def test_a_file_of_this_second_is_waited_for(tmp_path):
    second = int(time.time())
    (tmp_path / f"events.out.tfevents.{second}.host.7.9.stability").write_bytes(b"")
    _wait_for_a_later_name(tmp_path)
    assert second < time.time() < second + 30


@pytest.mark.parametrize("name", ["events.out.tfevents.{}.host.7.9", "events.out.tfevents.mine", "{}"])
def test_others_are_not(tmp_path, monkeypatch, name):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited"))
    _wait_for_a_later_name(tmp_path)
    (tmp_path / name.format(int(time.time()) - 60)).write_bytes(b"")
    _wait_for_a_later_name(tmp_path)


def test_a_new_attempt_goes_on_after_the_last_one(tmp_path):
    """Read back with TensorBoard's own reader: no step comes twice, none runs backwards."""
    state = SimpleNamespace(global_step=0, is_hyper_param_search=False)
    args, attempts = SimpleNamespace(output_dir=str(tmp_path)), [Attempt(0, reason=ALARM, steps=3, total_steps=5)]
    for earlier, steps in (((), 3), (attempts, 5)):
        sink = TensorBoard(tmp_path, args, state, attempts=earlier)
        sink.open(["step", "loss"])
        for step in range(1, steps + 1):
            sink.numbers({"loss": 10.0 * len(earlier) + step}, step)
            sink.writer.add_scalar("train/loss", step, step)  # as the Trainer's own callback
        sink.close(abandoned=True)
    events = Events(tmp_path)
    expected = [(1, 1), (2, 2), (3, 3), (4, 11), (5, 12), (6, 13), (7, 14), (8, 15)]
    assert events.scalar("tensorboard", "loss") == expected
    assert [step for step, _ in events.scalar("tensorboard", "train/loss")] == [step for step, _ in expected]
    assert events.text("tensorboard", "attempt") == [
        "Attempt 1 begins here. The one before had an alarm at its step 3."
    ]
    (begins,) = events.multiplexer.Tensors("tensorboard", "attempt/text_summary")
    assert begins.step == 4
