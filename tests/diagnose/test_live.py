"""Live Trainers, which are left as they are."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from hf_stability import StableTrainer, StableTrainingArguments
from hf_stability.diagnose import diagnose
from hf_stability.utils.optimizers import encoder_group
from tests import toy
from tests.diagnose.tools import FAST, of, trainer_of, two_groups


pytestmark = pytest.mark.usefixtures("no_heat_maps")


def test_a_live_trainer_before_and_after_training(tmp_path):
    trainer = trainer_of(tmp_path)
    before = diagnose(trainer)
    assert before.status is None and of(before, "labels").likelihood == "unlikely"
    assert of(before, "frozen weights").likelihood == "unlikely" and "NaN" in before.not_looked_at
    trainer.train()
    after = diagnose(trainer)
    assert after.status == trainer.stability.verdict.status and after.sentence == trainer.stability.verdict.sentence
    for name in ("NaN", "layers", "update steps", "learning rate", "frozen weights"):
        of(after, name)
    assert of(after, "learning rate").figures["peak"] == pytest.approx(1e-3)
    assert of(after, "ended early").likelihood == "unlikely"


def test_a_live_trainer_is_left_as_it_is(tmp_path):
    def trained(look: bool):
        trainer = trainer_of(tmp_path / str(look))
        if look:
            diagnose(trainer, memorize=True)
        trainer.train()
        if look:
            weights, mode = toy.weights(trainer).clone(), trainer.model.training
            assert of(diagnose(trainer, memorize=True), "memorize")
            assert torch.equal(toy.weights(trainer), weights) and trainer.model.training is mode
        return toy.weights(trainer)

    assert torch.equal(trained(True), trained(False))


def test_the_rate_that_is_looked_at_is_the_encoders(tmp_path):
    model = toy.model()
    trainer = trainer_of(tmp_path, model, trainer_class=Trainer)
    trainer.optimizer = two_groups(model)
    assert encoder_group(trainer.optimizer.param_groups, model) == 1
    trainer.train()
    assert max(entry.get("learning_rate", 0) for entry in trainer.state.log_history) > 5e-4  # the log's is the head's
    report = diagnose(trainer)
    rate = of(report, "learning rate")
    assert rate.figures["peak"] == pytest.approx(2e-5) and "--learning_rate 2e-05" in report.rescue
    assert rate.sentence.endswith("This is the encoder's rate; the parameter groups have 2e-5 to 0.001.")
    # of the files alone, the log says the first group's
    trainer.save_state()
    rate = of(diagnose(tmp_path / "live"), "learning rate")
    assert rate.figures["peak"] > 5e-4 and rate.sentence.endswith("which shows only the first parameter group's rate.")
    rate = of(diagnose(tmp_path / "live", training={"learning_rate": 2e-5}), "learning rate")
    assert rate.figures["peak"] == pytest.approx(2e-5) and "first parameter group" not in rate.sentence


class Holder:
    """A hook that cannot be copied, as a logger's."""

    def __init__(self):
        self.lock, self.calls = threading.Lock(), 0

    def __call__(self, *_):
        self.calls += 1


def test_a_model_with_a_hook_that_cannot_be_copied_is_memorised_without_it(tmp_path):
    model, hook = toy.model(), Holder()
    model.bert.register_forward_hook(hook)
    trainer = trainer_of(tmp_path, model)
    assert of(diagnose(trainer, memorize=True), "memorize")
    assert hook.calls == 0 and list(model.bert._forward_hooks.values()) == [hook]


class Lossless(transformers.BertForSequenceClassification):
    def forward(self, input_ids, attention_mask=None, labels=None):
        return super().forward(input_ids, attention_mask)


def refuse(examples):
    raise KeyError("token_type_ids")


@pytest.mark.parametrize(
    ("model", "collator", "why"),
    [
        (Lossless, None, "InputError: the model's forward returns no loss on these examples"),
        (None, refuse, "KeyError: 'token_type_ids'"),
    ],
)
def test_what_cannot_be_memorised_is_said_with_the_reason(tmp_path, model, collator, why):
    trainer = trainer_of(tmp_path, model=model(toy.config()) if model else None)
    if collator is not None:
        trainer.data_collator = collator
    report = diagnose(trainer, memorize=True)
    assert report.not_looked_at["memorize"] == f"a model and a collator that take these examples ({why})"
    assert why.partition(":")[0] in report.to_text() and "--memorize tells" not in report.to_text()


def test_an_optimizer_that_was_passed_in_is_looked_at(tmp_path):
    from hf_stability import AdamW

    trainer = trainer_of(tmp_path, trainer_class=Trainer)
    trainer.optimizer = AdamW(trainer.model.parameters(), lr=1e-3, bias_correction=False)
    trainer.train()
    report = diagnose(trainer)
    assert of(report, "learning rate").figures["bias_correction"] is False
    assert "--bias_correction False" in report.rescue and "--optim" not in report.rescue


def test_a_trainer_of_a_plain_module_and_of_other_data_gets_what_can_be_said(tmp_path):
    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.line = torch.nn.Linear(2, 2)

        def forward(self, x, labels=None):
            logits = self.line(x)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    data = [{"x": [0.1 * i, 1.0], "labels": i % 2} for i in range(16)]
    trainer = Trainer(Plain(), TrainingArguments(str(tmp_path), **{**FAST, "eval_strategy": "no"}), train_dataset=data)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    report = diagnose(trainer, memorize=True)
    assert of(report, "frozen weights").likelihood == "unlikely"
    assert {"memorize", "labels", "tokenizer"} <= set(report.not_looked_at)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_live_model_is_tried_from_its_beginning(tmp_path, frozen):
    def make():
        model = AutoModelForSequenceClassification.from_config(toy.config())
        return model.requires_grad_(not frozen)

    args = StableTrainingArguments(str(tmp_path), **FAST, seed_streams=True)
    trainer = StableTrainer(model_init=make, args=args, train_dataset=toy.data(64), eval_dataset=toy.data(40, seed=1))
    transformers.set_seed(77)  # somewhere else than where a fresh model leaves them
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    finding = of(diagnose(trainer, memorize=True), "memorize")
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert finding.likelihood == ("likely" if frozen else "unlikely")
    assert finding.figures["trained_before"] == 0 and finding.figures["learned"] is not frozen
