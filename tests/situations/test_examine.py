"""The examiner notices what it is there to notice: each of these callbacks does one thing wrong."""

import logging

import pytest
import torch

from hf_stability import StabilityCallback

from .examine import play, problems_of, script
from .situations import Situation


def everyday(learns):
    return script(learns, arguments={"num_train_epochs": 2})


def situation(**expected):
    return Situation("everyday", "", "", everyday, **{"learns": "failed", "stuck": "failed", **expected})


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return play(everyday, False, "stock", tmp_path_factory.mktemp("stock"))


def found(stock, tmp_path, **expected):
    ours = play(everyday, False, "callback", tmp_path)
    return list(problems_of(situation(**expected), False, "callback", stock, ours))


def does(monkeypatch, event, action):
    """The callback also does `action` in an event; last, so that it is not caught with what ours raises."""
    own = getattr(StabilityCallback, event)

    def both(self, args, state, control, **kwargs):
        result = own(self, args, state, control, **kwargs)
        action(self, state, **kwargs)
        return result

    monkeypatch.setattr(StabilityCallback, event, both)


def test_a_sound_callback(stock, tmp_path):
    assert found(stock, tmp_path) == []


def draw(self, state, **kwargs):
    torch.rand(1)


def change_a_weight(self, state, model, **kwargs):
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-7


def leave_a_hook(self, state, model, **kwargs):
    model.bert.register_forward_hook(lambda *args: None)


def log(self, state, **kwargs):
    state.log_history.append({"eval_accuracy": 1.0, "step": state.global_step})


def call_the_metric(self, state, **kwargs):
    self.compute_metrics.calls.append("once more")


def raise_an_error(self, state, **kwargs):
    raise ZeroDivisionError("ours")


def warn_of_an_error(self, state, **kwargs):
    logging.getLogger("hf_stability").warning("Probes are off: ZeroDivisionError: ours")


def judge_well(self, state, **kwargs):
    self.verdict = type("Verdict", (), {"status": "ok", "sentence": "ok."})


@pytest.mark.parametrize(
    "event, action, problem",
    [
        ("on_step_end", draw, "other weights"),
        ("on_step_end", change_a_weight, "other weights"),
        ("on_train_end", draw, "the random state"),
        ("on_train_end", leave_a_hook, "1 hooks are left"),
        ("on_train_end", log, "the log has more entries"),
        ("on_evaluate", call_the_metric, "the metric was called 4 times, by the stock Trainer 2 times"),
        ("on_evaluate", raise_an_error, "raised ZeroDivisionError: ours, the stock Trainer nothing"),
        ("on_evaluate", warn_of_an_error, "a warning that something raised"),
        ("on_train_end", judge_well, "verdict ok, expected failed"),
    ],
)
def test_what_is_wrong_is_seen(stock, tmp_path, monkeypatch, event, action, problem):
    does(monkeypatch, event, action)
    problems = found(stock, tmp_path)
    assert any(text.startswith(problem) for text in problems), problems


def test_a_sentence_and_a_warning_that_are_missing(stock, tmp_path):
    problems = found(stock, tmp_path, sentence="bfloat16", warns=("half precision",))
    assert [text.split(" |")[0] for text in problems] == [
        "the verdict's sentence has no 'bfloat16'",
        "0 warnings with 'half precision'",
    ]


def test_an_alarm_of_a_sound_run(stock, tmp_path, monkeypatch):
    def alarm(self, state, **kwargs):
        self.alarm = type("Alarm", (), {"sentence": "step 1 of 8: risk 0.99"})

    does(monkeypatch, "on_train_end", alarm)
    problems = found(stock, tmp_path, stuck="ok or failed")
    assert problems == []  # a stuck run may have one
    problems = found(stock, tmp_path / "again", stuck="ok")
    assert "an alarm: step 1 of 8: risk 0.99" in problems
