"""`train_with_restarts`. The oracle is a fresh run of the stock Trainer with the attempt's seed and settings."""

import pytest
import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from hf_stability import StabilityCallback, StableTrainer, train_with_restarts
from hf_stability.errors import InputError
from tests import toy


def factory(folder, cls=Trainer, callbacks=None, given=None, **values):
    def make(start):
        args = TrainingArguments(
            str(folder), **{**toy.QUIET, "max_steps": 12, "learning_rate": 1e-3, "seed": 3, **values}
        )
        args = args if start is None else (given or start.arguments)(args)
        own = None if callbacks is None else list(callbacks)
        trainer = cls(toy.model(seed=args.seed % 1000), args, train_dataset=toy.data(64), callbacks=own)
        trainer.remove_callback(PrinterCallback)
        return trainer

    return make


@pytest.mark.slow
@pytest.mark.parametrize("restart_with", ["seed", "gentle"])
def test_the_last_attempt_equals_a_fresh_run(tmp_path, alarming, restart_with):
    callback = StabilityCallback(tensorboard=False, heat_map=False)
    trainer = train_with_restarts(factory(tmp_path / "r", callbacks=[callback]), 2, restart_with)
    steps = [5, 5, 12] if restart_with == "seed" else [5, 7, 12]  # the first check comes after the warmup
    assert [(a.reason, a.steps) for a in callback.attempts] == list(zip(("alarm", "alarm", None), steps, strict=True))
    assert trainer.stability is callback
    assert callback.verdict.sentence.endswith(f"after 2 restarts, {sum(steps)} update steps in all.")
    settings = callback.attempts[-1].settings
    assert settings == (
        {} if restart_with == "seed" else {"learning_rate": pytest.approx(1e-3 / 9), "warmup_steps": 0.1}
    )
    fresh = factory(tmp_path / "f", seed=trainer.args.seed, **settings)(None)
    fresh.train()
    assert torch.equal(toy.weights(trainer), toy.weights(fresh))


def test_wrong_factories_are_refused(tmp_path):
    with pytest.raises(InputError, match="the factory returned a StableTrainer, which restarts by itself"):
        train_with_restarts(factory(tmp_path, StableTrainer))
    with pytest.raises(InputError, match=r"the factory must give the Trainer start.arguments\(args\)"):
        train_with_restarts(factory(tmp_path, given=lambda args: args))
    with pytest.raises(InputError, match="the StabilityCallback has on_alarm='stop'; give 'restart', or leave it out"):
        train_with_restarts(factory(tmp_path, callbacks=[StabilityCallback(on_alarm="stop")]))
    with pytest.raises(InputError, match=r"--restart_with mosbach: give seed, gentle or a recipe"):
        train_with_restarts(factory(tmp_path), restart_with="mosbach")
    with pytest.raises(
        InputError, match="--restart_with mosbach2021: TrainingArguments has no"
    ):  # before any training
        train_with_restarts(factory(tmp_path), restart_with="mosbach2021")
    with pytest.raises(InputError, match="the factory must return a Trainer, not NoneType"):
        train_with_restarts(lambda start: None)
    with pytest.raises(InputError, match="give a function that makes the trainer, not a Trainer"):
        train_with_restarts(factory(tmp_path)(None))


@pytest.mark.slow
@pytest.mark.parametrize("same", ["model", "trainer"])
def test_a_factory_must_make_a_new_model(tmp_path, alarming, same):
    made = {}

    def make(start):
        args = start.arguments(TrainingArguments(str(tmp_path), **{**toy.QUIET, "max_steps": 12}))
        if same == "trainer" and made:
            made["trainer"].args = args
            return made["trainer"]
        model = made.setdefault("model", toy.model())
        return (
            made.setdefault("trainer", Trainer(model, args, train_dataset=toy.data(64)))
            if same == "trainer"
            else Trainer(model, args, train_dataset=toy.data(64))
        )

    with pytest.raises(InputError, match="must make a new model for each attempt"):
        train_with_restarts(make)
