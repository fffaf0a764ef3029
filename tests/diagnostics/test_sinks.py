"""A sink gets a training's rows, evaluations, alarm and verdict; one that raises gets no more, and the others do."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import Trainer, TrainingArguments

from hf_stability import StabilityCallback
from hf_stability.diagnostics import monitor
from hf_stability.diagnostics.guard import Guard
from hf_stability.diagnostics.sinks import Sink, Sinks
from tests import toy


COLUMNS = ["step", "loss", "labels/0", "labels/1"]


class Mine(Sink):
    """Another logger, in one class."""

    name = "my logger"

    def __init__(self):
        self.events = []

    def open(self, columns):
        self.events.append(("open", columns[:2]))

    def numbers(self, values, step):
        self.events.append(("numbers", step, values))

    def flush(self):
        self.events.append(("flush",))

    def evaluation(self, metrics, step):
        self.events.append(("evaluation", step, metrics["eval_accuracy"]))

    def end(self, outcome):
        self.events.append(("end", outcome))

    def close(self, abandoned=False):
        self.events.append(("close", abandoned))

    def kinds(self):
        return [event[0] for event in self.events]


def rows(first, last):
    steps = np.arange(first, last + 1)
    return np.column_stack([steps, 1 / steps, np.full_like(steps, 3), np.full_like(steps, 1)]).astype("<f4")


def test_rows_come_with_their_steps_and_the_entropy_of_all_labels_so_far():
    mine = Mine()
    sinks = Sinks([mine], Guard(), max_steps=8, label_counts=np.array([0.0, 2.0]))
    sinks.rows(COLUMNS, rows(1, 4))
    sinks.rows(COLUMNS, rows(5, 8))
    assert mine.kinds() == [*["numbers"] * 4, "flush"] * 2
    numbers = [event[1:] for event in mine.events if event[0] == "numbers"]
    assert [(step, values["loss"]) for step, values in numbers] == [(n, float(np.float32(1 / n))) for n in range(1, 9)]
    shares = np.array([[3 * n, n + 2] for n in range(1, 9)]) / np.array([4 * n + 2 for n in range(1, 9)])[:, None]
    entropies = -(shares * np.log(shares)).sum(1)
    np.testing.assert_allclose([values["label_entropy"] for _, values in numbers], entropies, rtol=1e-6)


def test_a_long_run_has_few_points(monkeypatch):
    monkeypatch.setattr("hf_stability.diagnostics.sinks.POINTS", 3)
    mine = Mine()
    Sinks([mine], Guard(), max_steps=8, label_counts=np.zeros(2)).rows(COLUMNS, rows(1, 8))
    assert [event[1] for event in mine.events if event[0] == "numbers"] == [1, 4, 7]


def test_without_a_sink_that_takes_numbers_no_curve_is_made(monkeypatch):
    class Verdicts(Sink):
        """Waits for the end."""

    monkeypatch.setattr("hf_stability.diagnostics.sinks.curves", None)  # calling it would raise
    guard = Guard()
    Sinks([Verdicts()], guard, max_steps=8).rows(COLUMNS, rows(1, 8))
    assert not guard.off


def test_a_sink_that_raises_gets_no_more_but_is_closed(caplog):
    class Broken(Mine):
        name = "the broken one"

        def numbers(self, values, step):
            super().numbers(values, step)
            raise ConnectionError("no such host")

    broken, mine = Broken(), Mine()
    sinks = Sinks([broken, mine], Guard(), max_steps=4, label_counts=np.zeros(2))
    sinks.rows(COLUMNS, rows(1, 4))
    sinks.close(abandoned=True)
    sinks.close(abandoned=True)
    assert broken.kinds() == ["numbers", "close"] and mine.kinds() == [*["numbers"] * 4, "flush", "close"]
    assert mine.events[-1] == ("close", True)
    assert [record.message for record in caplog.records] == [
        "The broken one is off for the rest of this training. Training continues. The cause was ConnectionError: no such host"
    ]


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_training_tells_its_sinks_what_happens(tmp_path, monkeypatch, interrupted):
    class OutOfMemory(Trainer):
        def compute_loss(self, *args, **kwargs):
            if interrupted and self.state.global_step == 5:
                raise MemoryError
            return super().compute_loss(*args, **kwargs)

    mine = Mine()
    monkeypatch.setattr(monitor, "TensorBoard", lambda *values, **more: mine)  # in its place in the list
    callback = StabilityCallback()
    values = {**toy.QUIET, "max_steps": 8, "eval_strategy": "steps", "eval_steps": 4}
    args = TrainingArguments(str(tmp_path), **values)
    data = {"train_dataset": toy.data(64), "eval_dataset": toy.data(40, seed=1), "compute_metrics": toy.accuracy}
    trainer = OutOfMemory(toy.model(), args, callbacks=[callback], **data)
    if interrupted:
        with pytest.raises(MemoryError):
            trainer.train()
        callback.release()
        assert mine.events[0][0] == "open" and mine.events[-1] == ("close", True)
        assert mine.kinds().count("evaluation") == 1 and "end" not in mine.kinds() and callback.verdict is None
        return
    trainer.train()
    kinds = [kind for kind in mine.kinds() if kind != "flush"]
    risks = [event[1] for event in mine.events if event[0] == "numbers" and "alarm/risk" in event[2]]
    rows_sent = [event[1] for event in mine.events if event[0] == "numbers" and "loss" in event[2]]
    assert kinds[0] == "open" and kinds[-2:] == ["end", "close"] and mine.events[-1] == ("close", False)
    assert rows_sent == list(range(1, 9)) and set(risks) <= set(range(1, 9))
    assert [event[1:] for event in mine.events if event[0] == "evaluation"] == [
        (entry["step"], entry["eval_accuracy"]) for entry in trainer.state.log_history if "eval_accuracy" in entry
    ]
    (outcome,) = (event[1] for event in mine.events if event[0] == "end")
    assert outcome.verdict is callback.verdict and outcome.step == 8 and outcome.finished
    assert outcome.final["final/accuracy"] == callback.evaluation.metrics["eval_accuracy"]
    assert outcome.record["step"].tolist() == rows_sent
    assert outcome.pictures == {"gradients": (tmp_path / "stability" / "gradients.png").read_bytes()}
