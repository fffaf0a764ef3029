"""Head first; tests/methods/test_update_steps.py has whole update steps."""

import pytest
import torch
from transformers import TrainerCallback

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments
from hf_stability.errors import InputError
from hf_stability.methods.head_first import HeadFirst, head_steps, two_schedules
from tests import toy


def test_the_share_is_rounded_up_and_leaves_a_step_for_all_weights():
    assert [head_steps(share, 10) for share in (0.0, 0.01, 0.2, 0.21, 0.999)] == [0, 1, 2, 3, 9]
    assert head_steps(0.5, 1) == 0 and head_steps(0.1, 30) == 3


def test_each_part_has_the_whole_schedule():
    def shape(done):  # 10% warmup, then decay to 0, over 100 steps
        return done / 10 if done < 10 else (100 - done) / 90

    factors = [two_schedules(shape, done, 20, 100, head_factor=4.0) for done in range(101)]
    assert factors[0] == factors[20] == factors[100] == 0
    assert max(factors[:20]) == factors[2] == 4 and max(factors[20:]) == factors[28] == 1
    assert factors[11] == pytest.approx(4 * shape(55)) and factors[60] == pytest.approx(shape(50))
    assert [two_schedules(shape, done, 0, 100) for done in (0, 7, 50)] == [shape(done) for done in (0, 7, 50)]


class Watching(TrainerCallback):
    """Keeps the encoder's and the head's weights, the rate and the optimizer's counters after each step."""

    def __init__(self):
        self.encoder, self.head, self.rates, self.counters = [], [], [], []

    def on_step_begin(self, args, state, control, lr_scheduler=None, **kwargs):
        self.rates.append(lr_scheduler.get_last_lr()[0])

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.encoder.append(toy.weights(model.bert).clone())
        self.head.append(toy.weights(model.classifier).clone())
        optimizer = getattr(optimizer, "optimizer", optimizer)
        self.counters.append({name: self.counter(optimizer, p) for name, p in model.named_parameters()})

    @staticmethod
    def counter(optimizer, parameter):
        return int(optimizer.state[parameter]["step"]) if parameter in optimizer.state else 0


def test_the_encoder_stays_and_is_recorded_until_its_turn(tmp_path):
    watching = Watching()
    values = {
        **toy.QUIET,
        "learning_rate": 1e-3,
        "max_steps": 10,
        "warmup_steps": 0.2,
        "logging_steps": 1,
        "eval_strategy": "no",
    }
    args = StableTrainingArguments(str(tmp_path), **values, head_first=0.4, head_first_lr=0.01, weight_decay=0.1)
    callbacks = [StabilityCallback(heat_map=False, tensorboard=False), watching]
    trainer = toy.train(StableTrainer, args, callbacks)
    encoder, head = torch.stack(watching.encoder), torch.stack(watching.head)
    assert torch.equal(encoder[:4], encoder[:1].expand(4, -1))
    assert [torch.equal(a, b) for a, b in zip(head, head[1:], strict=False)] == [False] * 3 + [True] + [False] * 5
    assert (encoder[5:] != encoder[4:-1]).any(dim=1).all()
    # each part begins with a warmup from 0, and has moments of its own
    assert watching.rates[0] == watching.rates[4] == 0
    assert max(watching.rates[:4]) == pytest.approx(0.01, rel=0.3) and max(watching.rates[4:]) <= 1e-3
    assert [step["classifier.weight"] for step in watching.counters] == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6]
    assert [step["bert.pooler.dense.weight"] for step in watching.counters] == [0] * 4 + [1, 2, 3, 4, 5, 6]
    # the record has the gradients that were dropped, and the early warning waits for the second warmup
    record = trainer.stability.record
    assert record["layer_norms"].shape == (10, 6) and (record["layer_norms"] > 0).all()
    assert record["info"]["warmup_steps"] == 4 + 2
    logged = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    head = record["layer_norms"][:4, record["layers"].index("classifier")]
    assert logged[:4] == pytest.approx(head.tolist(), rel=1e-5)  # the norm by which the head is clipped


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(InputError, match="--head_first with --lr_bias_correction"):
        HeadFirst(head_first=0.5).check({"lr_bias_correction": True})
    values = {**toy.QUIET, "max_steps": 2}
    plateau = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"}
    args = StableTrainingArguments(str(tmp_path), **values, **plateau, head_first=0.5)
    with pytest.raises(InputError, match="--head_first: needs a schedule that is a function of the step"):
        toy.train(StableTrainer, args)
    model = toy.model()
    model.classifier.requires_grad_(False)
    args = StableTrainingArguments(str(tmp_path), **values, head_first=0.5)
    with pytest.raises(InputError, match="--head_first: this model has no new head to train first"):
        StableTrainer(model, args, train_dataset=toy.data(16)).train()
