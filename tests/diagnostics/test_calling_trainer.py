"""The Trainer as read off the call stack; an interrupt leaves nothing behind."""

import copy
import gc
import weakref

import pytest
import torch
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_stability import StabilityCallback, StableTrainer
from hf_stability.diagnostics.calling_trainer import calling_evaluation, training_loop
from hf_stability.diagnostics.forward_pass import ForwardHook
from tests import toy


pytestmark = pytest.mark.usefixtures("no_heat_maps")


FAST = {**toy.QUIET, "num_train_epochs": 2, "eval_strategy": "epoch"}


def made(tmp_path, *callbacks, trainer_class=Trainer, model=None, **values):
    data = {"train_dataset": toy.data(64), "eval_dataset": toy.data(40, seed=1), "compute_metrics": toy.accuracy}
    data |= {key: values.pop(key) for key in list(values) if key in data}
    args = TrainingArguments(str(tmp_path), **{**FAST, **values})
    return trainer_class(model or toy.model(), args, callbacks=list(callbacks), **data)


class Look(TrainerCallback):
    """Keeps what is found in each event."""

    def __init__(self):
        self.loops, self.evaluations, self.running = [], [], []

    def on_train_begin(self, args, state, control, **kwargs):
        self.loops.append(training_loop(self))

    def on_step_end(self, args, state, control, **kwargs):
        self.running.append(self.loops[-1].is_running())

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluations.append(calling_evaluation(self.loops[-1].trainer) if self.loops else None)


@pytest.mark.parametrize("trainer_class", [Trainer, StableTrainer])
def test_the_trainer_and_its_evaluations_are_found(tmp_path, trainer_class):
    look = Look()
    trainer = made(tmp_path, look, trainer_class=trainer_class)
    trainer.train()
    (loop,) = look.loops
    assert loop.trainer is trainer and all(look.running) and len(look.running) == 16 and not loop.is_running()
    first, second = look.evaluations
    assert first.prefix == "eval" and first.dataset is trainer.eval_dataset
    expected = trainer.predict(trainer.eval_dataset)
    assert (second.output.predictions == expected.predictions).all()
    assert (second.output.label_ids == expected.label_ids).all()
    trainer.evaluate()
    assert look.evaluations[-1] is None  # the user's, after training


def test_a_users_evaluations_do_not_count(tmp_path):
    class Evaluates(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 16:
                self.trainer.evaluate(toy.data(12, seed=7))

    class Own(Trainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 3:
                self.evaluate()
            return super().training_step(*args, **kwargs)

        def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
            if eval_dataset is None:
                super().evaluate(toy.data(20, seed=8), metric_key_prefix="train")
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    callback, evaluates = StabilityCallback(tensorboard=False), Evaluates()
    evaluates.trainer = made(tmp_path, evaluates, callback, trainer_class=Own)
    evaluates.trainer.train()
    assert len(callback.evaluation.labels) == 40 and callback.evaluation.step == 16
    assert callback.verdict.evidence["examples"] == 40


def test_of_several_sets_the_first_counts(tmp_path):
    callback = StabilityCallback(tensorboard=False)
    sets = {"b": toy.data(30, seed=2), "a": toy.data(40, seed=1)}
    made(tmp_path, callback, eval_dataset=sets).train()
    assert len(callback.evaluation.labels) == 30
    assert set(callback.evaluation.metrics) >= {"eval_accuracy", "eval_loss"}


class Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


class OutOfMemory(Trainer):
    """Raises in the middle of a step, while the model's hook is at work."""

    def compute_loss(self, *args, **kwargs):
        result = super().compute_loss(*args, **kwargs)
        if self.state.global_step == 5:
            raise MemoryError("out of memory")
        return result


def interrupted(trainer):
    try:
        trainer.train()
    except (KeyboardInterrupt, MemoryError):
        pass
    else:
        raise AssertionError("the training was not interrupted")


@pytest.mark.parametrize("kind", ["event", "step"])
@pytest.mark.parametrize("bases", [(), (StableTrainer,)])
def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch, kind, bases):
    writers = []
    close = SummaryWriter.close
    monkeypatch.setattr(SummaryWriter, "close", lambda self: (writers.append(self), close(self))[1])
    model, callback = toy.model(), StabilityCallback(diagnostics="all")
    base = OutOfMemory if kind == "step" else Trainer
    trainer_class = type("Mine", (*[type(b.__name__, (b,), {}) for b in bases], base), {}) if not bases else None
    if bases:
        from hf_stability import StabilityMixin

        trainer_class = type("Mine", (StabilityMixin, base), {})
    callbacks = [callback, Interrupt()] if kind == "event" else [callback]
    interrupted(made(tmp_path, *callbacks, model=model, trainer_class=trainer_class))
    gc.collect()
    assert not any(module._forward_hooks for module in model.modules())
    assert not callback._micro_batches and len(writers) == 1
    again = StabilityCallback(tensorboard=False)
    made(tmp_path / "again", again, model=model).train()
    assert not model._forward_hooks and len(again.record["step"]) == 16
    assert len(callback.record["step"]) < 16  # the first one saw nothing of the second training


def test_a_hook_that_was_left_goes_at_the_next_forward_pass(tmp_path):
    model, callback = toy.model(), StabilityCallback(tensorboard=False)
    trainer = made(tmp_path, callback, Interrupt(), model=model)
    try:
        trainer.train()
    except KeyboardInterrupt as error:  # somebody keeps its traceback, as a notebook does
        kept = error
        assert any(isinstance(hook, ForwardHook) for hook in model._forward_hooks.values())
        model.train()(input_ids=torch.ones(2, 4, dtype=torch.long), labels=torch.tensor([0, 1]))
    assert kept and not model._forward_hooks and not callback._micro_batches


def test_a_callback_is_not_kept_alive_by_the_model(tmp_path):
    model, callback = toy.model(), StabilityCallback(tensorboard=False)
    interrupted(made(tmp_path, callback, Interrupt(), model=model))
    gone = weakref.ref(callback)
    del callback
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("trainer_class", [Trainer, StableTrainer])
def test_copies_of_the_model_in_mid_training(tmp_path, trainer_class):
    class Copies(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            self.average = AveragedModel(model)

        def on_step_end(self, args, state, control, model=None, **kwargs):
            self.average.update_parameters(model)
            self.copy = copy.deepcopy(model)

        def on_evaluate(self, args, state, control, model=None, **kwargs):
            torch.save(model, tmp_path / "best.pt")

    copies = Copies()
    trainer = made(tmp_path, StabilityCallback(), copies, trainer_class=trainer_class)
    trainer.train()
    loaded = torch.load(tmp_path / "best.pt", weights_only=False)
    assert torch.equal(toy.weights(loaded), toy.weights(trainer.model))
    recorded = trainer.callback_handler.callbacks
    record = next(c for c in recorded if isinstance(c, StabilityCallback)).record
    for model in (loaded, copies.copy, copies.average.module):  # their hooks do nothing
        model.train()(input_ids=torch.ones(2, 4, dtype=torch.long), labels=torch.tensor([0, 1]))
    assert len(record["step"]) == 16


class Seeds:
    """A user's loop over seeds."""

    def run(self, tmp_path, rate=1e-3):
        settings = locals()
        made(tmp_path, StabilityCallback(tensorboard=False), learning_rate=rate).train()
        return settings


def test_a_users_local_variables_stay_as_they_were(tmp_path):
    assert set(Seeds().run(tmp_path)) == {"self", "tmp_path", "rate"}


@pytest.mark.parametrize("trainer_class", [Trainer, StableTrainer])
def test_an_interrupted_training_that_goes_away_late_does_not_end_the_next(tmp_path, trainer_class):
    class Frees(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                errors.clear()
                gc.collect()

    callback, errors = StabilityCallback(tensorboard=False), []
    try:
        made(tmp_path, callback, Interrupt(), trainer_class=trainer_class).train()
    except KeyboardInterrupt as error:
        errors.append(error)
    made(tmp_path, callback, Frees(), trainer_class=trainer_class).train()
    assert callback.record["step"].tolist() == list(range(1, 17)) and not callback.guard.off
    assert callback.verdict.status in ("ok", "failed")


def test_two_callbacks_on_one_trainer_both_see_the_training(tmp_path):
    callbacks = [StabilityCallback(tensorboard=False, output_dir=tmp_path / name) for name in "ab"]
    made(tmp_path, *callbacks).train()
    first, second = (callback.record["loss"] for callback in callbacks)
    assert (first == second).all() and len(first) == 16
