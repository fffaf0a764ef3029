"""`on_alarm="restart"`. The oracle of an attempt is a fresh run with its seed and settings: weights and log are equal, bit for bit."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    EarlyStoppingCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
)

from hf_stability import StabilityCallback, StabilityMixin, StableTrainer, StableTrainingArguments
from hf_stability.diagnostics.step_record import read_steps
from hf_stability.errors import InputError
from hf_stability.restarting.attempts import begin_callbacks_again, callback_states
from tests import toy


STEPS = {"max_steps": 12, "learning_rate": 1e-3, "seed": 3}
NON_FINITE = {"logging_steps": 2, "logging_strategy": "steps"}


def train(
    folder, callback=None, trainer_class=StableTrainer, init=True, callbacks=(), resume=None, own=None, **values
):
    callback = callback or StabilityCallback(tensorboard=False, heat_map=False)
    args = StableTrainingArguments(str(folder), **{**toy.QUIET, **STEPS, **values})
    return toy.train(trainer_class, args, [callback, *callbacks], init=init, resume=resume, **(own or {}))


def restart(folder, **values):
    return train(folder, **{"on_alarm": "restart", "max_restarts": 1, "restart_with": "seed", **values})


def log_of(trainer):
    """Without times."""
    return [
        {k: v for k, v in entry.items() if "per_second" not in k and "runtime" not in k}
        for entry in trainer.state.log_history
    ]


def assert_equals_a_fresh_run(trainer, folder, **values):
    attempt = trainer.stability.attempts[-1]
    fresh = train(folder, seed=trainer.args.seed, **{**values, **attempt.settings})
    assert torch.equal(toy.weights(trainer), toy.weights(fresh)) and log_of(trainer) == log_of(fresh)


@pytest.mark.parametrize(
    ("init", "values"),
    [
        pytest.param(True, {"seed_streams": True}, marks=pytest.mark.slow),
        pytest.param(True, {}, marks=pytest.mark.slow),
        pytest.param(False, {"logging_steps": 1}, marks=pytest.mark.slow),
        pytest.param(False, {"seed_streams": True, "prior_decay": 0.01}, marks=pytest.mark.slow),
        pytest.param(True, {"mixout": 0.5, "total_train_batch_size": 16}, marks=pytest.mark.slow),
        pytest.param(True, {"reinit_layers": 1}, marks=pytest.mark.slow),
        pytest.param(False, {"bf16": True}, marks=pytest.mark.slow),
        pytest.param(False, {"gradient_accumulation_steps": 3}, marks=pytest.mark.slow),  # abandoned in mid-epoch
        pytest.param(False, {"child_tuning": "D", "child_tuning_share": 0.5}, marks=pytest.mark.slow),
        pytest.param(False, {"neftune_noise_alpha": 1.0}, marks=pytest.mark.slow),
    ],
)
def test_a_restart_with_another_seed_equals_a_fresh_run_with_it(tmp_path, alarming, init, values):
    trainer = restart(tmp_path / "restart", init=init, **values)
    first, last = trainer.stability.attempts
    assert (first.reason, first.steps, first.total_steps, last.reason, last.steps) == ("alarm", 5, 12, None, 12)
    assert (
        first.alarm["step"] == 5
        and last.settings == {}
        and len(set(last.seeds.values())) == (3 if "seed_streams" in values else 1)
    )
    assert_equals_a_fresh_run(trainer, tmp_path / "fresh", init=init, **values)


def test_gentle_equals_a_fresh_run_with_its_arguments_and_the_records_are_kept(tmp_path, alarming):
    values = {"bias_correction": False, "seed_streams": True}
    trainer = restart(tmp_path / "r", restart_with="gentle", **values)
    assert trainer.stability.attempts[-1].settings == {
        "learning_rate": pytest.approx(1e-3 / 3),
        "bias_correction": True,
        "warmup_steps": 0.1,
    }
    assert_equals_a_fresh_run(trainer, tmp_path / "fresh", **values)
    folder = tmp_path / "r" / "stability"
    assert (
        len(read_steps(folder / "attempt-0" / "steps.rec")["step"]) == 5
        and len(read_steps(folder / "steps.rec")["step"]) == 12
    )
    content = json.loads((folder / "attempts.json").read_text())
    assert content["attempts"] == [attempt.to_dict() for attempt in trainer.stability.attempts]
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["sentence"].endswith("after 1 restart, 17 update steps in all.")
    assert verdict["evidence"]["restarts"] == 1 and verdict["evidence"]["steps_spent"] == 17


@pytest.mark.slow
def test_a_run_without_an_alarm_stays_the_same(tmp_path):
    trainer, plain = restart(tmp_path / "restart", init=False), train(tmp_path / "plain", init=False)
    assert torch.equal(toy.weights(trainer), toy.weights(plain)) and log_of(trainer) == log_of(plain)
    assert trainer.stability.verdict == plain.stability.verdict and plain.stability.attempts == []
    (only,) = trainer.stability.attempts
    assert (only.number, only.reason, only.steps, only.settings) == (0, None, 12, {})
    assert not (tmp_path / "plain" / "stability" / "attempts.json").exists()


class Seq2Seq(StabilityMixin, Seq2SeqTrainer):
    pass


@dataclass
class Seq2SeqArguments(StableTrainingArguments, Seq2SeqTrainingArguments):
    pass


@pytest.mark.slow
def test_the_mixin_in_front_of_another_trainer(tmp_path, alarming):
    values = {**toy.QUIET, **STEPS}
    args = Seq2SeqArguments(str(tmp_path / "r"), **values, on_alarm="restart", max_restarts=1)
    trainer = toy.train(Seq2Seq, args, [StabilityCallback(tensorboard=False, heat_map=False)])
    settings = trainer.stability.attempts[-1].settings
    assert set(settings) == {"learning_rate", "warmup_steps"}
    fresh = Seq2SeqArguments(str(tmp_path / "f"), **{**values, "seed": trainer.args.seed, **settings})
    assert torch.equal(toy.weights(trainer), toy.weights(toy.train(Seq2Seq, fresh)))


class Breaks(TrainerCallback):
    """Makes the weights NaN after an update step, in the first attempt."""

    def __init__(self, step):
        self.step, self.times = step, 0

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step and self.times == 0:
            self.times += 1
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))


def test_a_loss_that_is_nan_is_noticed_at_the_next_log(tmp_path):
    trainer = restart(tmp_path, init=False, callbacks=[Breaks(2)], **NON_FINITE)
    first, last = trainer.stability.attempts
    assert (first.reason, first.alarm, first.steps, last.steps) == ("non-finite loss", None, 4, 12)
    assert torch.isfinite(toy.weights(trainer)).all()


def test_a_callback_alone_stops_a_stock_trainer_and_says_so(tmp_path, alarming, caplog):
    trainer = train(
        tmp_path, StabilityCallback(on_alarm="restart", tensorboard=False, heat_map=False), Trainer, init=False
    )
    assert trainer.state.global_step == 5 and toy.callback_of(trainer).stopped
    said = [r.message for r in caplog.records if "train_with_restarts" in r.message]
    assert len(said) == 1 and said[0].startswith("step 5 of 12: stopped because of an alarm.")
    assert toy.callback_of(trainer).verdict.status == "stopped"


@pytest.mark.slow
def test_a_second_training_begins_with_the_users_arguments(tmp_path, alarming):
    trainer = restart(tmp_path, max_restarts=2, restart_with="gentle")
    given, changed = trainer._first_args, trainer.args
    assert (given.learning_rate, given.seed) == (1e-3, 3) and changed.learning_rate == pytest.approx(1e-3 / 9)
    assert [a.reason for a in trainer.stability.attempts] == ["alarm", "alarm", None]
    weights = toy.weights(trainer)
    trainer.train()
    assert torch.equal(weights, toy.weights(trainer)) and len(trainer.stability.attempts) == 3


@pytest.mark.slow
def test_an_abandoned_attempts_checkpoints_are_deleted_and_its_best_one_does_not_count(tmp_path, alarming):
    values = {
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "load_best_model_at_end": True,
    }
    seen = []

    class Notes(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            seen.append((sorted(path.name for path in tmp_path.glob("checkpoint-*")), state.best_model_checkpoint))

    trainer = restart(tmp_path, callbacks=[Notes()], **values)
    assert seen == [([], None), ([], None)] and len(trainer.state.log_history) == 7
    assert trainer.state.best_model_checkpoint is not None and len(list(tmp_path.glob("checkpoint-*"))) == 6
    log = json.loads((tmp_path / "stability" / "attempt-0" / "log_history.json").read_text())
    assert [entry["step"] for entry in log] == [2, 4]


class OwnStopping(EarlyStoppingCallback):
    """Its constructor takes other arguments than that of `EarlyStoppingCallback`."""

    def __init__(self):
        super().__init__(early_stopping_patience=3)


@pytest.mark.parametrize("make", [lambda: EarlyStoppingCallback(early_stopping_patience=3), OwnStopping])
def test_callbacks_that_export_their_state_begin_fresh(make):
    callback = make()
    callbacks = [callback, Breaks(1)]
    states = callback_states(SimpleNamespace(callback_handler=SimpleNamespace(callbacks=callbacks)))
    for _ in range(2):
        callback.early_stopping_patience_counter = 2
        begin_callbacks_again(callbacks, states)
        assert callback.early_stopping_patience_counter == 0 and callback.early_stopping_patience == 3


class Interrupts(TrainerCallback):
    """Ctrl-C in the second attempt, once."""

    def __init__(self, step):
        self.step, self.attempt = step, 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.attempt += 1

    def on_step_end(self, args, state, control, **kwargs):
        if (self.attempt, state.global_step) == (2, self.step):
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(("values", "max_restarts"), [({"save_strategy": "no"}, 2), ({"save_steps": 2}, 1)])
def test_an_interrupted_training_is_resumed_by_the_same_trainer(tmp_path, alarming, values, max_restarts):
    """A notebook: the model holds half-trained weights when `train` is called again."""
    args = {**toy.QUIET, **STEPS, "save_strategy": "steps", **values, "restart_with": "seed", "mixout": 0.5}
    given = StableTrainingArguments(str(tmp_path / "r"), **args, on_alarm="restart", max_restarts=max_restarts)
    trainer = StableTrainer(toy.model(), given, train_dataset=toy.data(64), callbacks=[Interrupts(3)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train(resume_from_checkpoint=True)
    assert [a.steps for a in trainer.stability.attempts] == [5] * max_restarts + [12]
    fresh = StableTrainingArguments(str(tmp_path / "f"), **{**args, "seed": trainer.args.seed, "save_strategy": "no"})
    fresh = StableTrainer(toy.model(), fresh, train_dataset=toy.data(64))
    fresh.train()
    assert torch.equal(toy.weights(trainer), toy.weights(fresh))


@pytest.mark.slow
def test_a_second_training_of_a_ready_model_has_the_users_learning_rate(tmp_path, alarming):
    trainer = restart(tmp_path, init=False, restart_with="gentle", logging_steps=1)
    trainer.train()
    first = json.loads((tmp_path / "stability" / "attempt-0" / "log_history.json").read_text())[0]
    assert first["learning_rate"] == pytest.approx(1e-3)


@pytest.mark.slow
def test_a_checkpoint_in_another_folder_tells_its_attempt(tmp_path, alarming):
    values = {"save_strategy": "steps", "save_steps": 3, "restart_with": "gentle"}
    whole = restart(tmp_path / "whole", **values)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoint-1").mkdir()  # the user's, from before
    moved = restart(tmp_path / "other", resume=str(tmp_path / "whole" / "checkpoint-6"), **values)
    told = [(a.number, a.settings, a.seeds, a.reason, a.steps) for a in moved.stability.attempts]
    assert told == [(a.number, a.settings, a.seeds, a.reason, a.steps) for a in whole.stability.attempts]
    assert torch.equal(toy.weights(whole), toy.weights(moved)) and (tmp_path / "other" / "checkpoint-1").is_dir()


def test_a_nan_in_the_last_step_is_noticed(tmp_path):
    """Nothing else is logged, evaluated or saved then, and the early warning has had its last look."""
    trainer = restart(tmp_path, init=False, callbacks=[Breaks(11)], logging_strategy="no")
    assert [(a.reason, a.steps) for a in trainer.stability.attempts] == [("non-finite loss", 12), (None, 12)]


def test_what_cannot_begin_again_is_refused(tmp_path):
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    with pytest.raises(InputError, match=r"--on_alarm restart: an optimizer was passed"):
        restart(tmp_path, init=False, own={"optimizers": (torch.optim.SGD(parameters, 0.1), None)})
    with pytest.raises(
        InputError, match=r"--restart_with reinit: --reinit_layers changes the model .* pass model_init"
    ):
        restart(tmp_path, init=False, restart_with="reinit")
    (tmp_path / "smooth.yaml").write_text("args: {label_smoothing_factor: 0.1}")
    with pytest.raises(InputError, match=r"reads label_smoothing_factor only once"):
        restart(tmp_path, init=False, restart_with=str(tmp_path / "smooth.yaml"))
    trainer = StableTrainer(toy.model(), StableTrainingArguments(str(tmp_path), **toy.QUIET, on_alarm="restart"))
    with pytest.raises(InputError, match=r"--on_alarm restart: not in a hyperparameter search"):
        trainer.train(trial={"learning_rate": 1e-3})
