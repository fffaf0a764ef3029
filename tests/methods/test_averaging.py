"""Averaged weights; tests/methods/test_update_steps.py has whole runs, in float64."""

import pytest
import torch
from transformers import TrainerCallback

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments
from hf_stability.errors import InputError
from hf_stability.methods.averaging import LAST, Averaging, add_to_average
from hf_stability.utils.optimizers import inner_optimizer
from tests import toy


def test_the_averages_are_the_equations():
    seen = [torch.full((2,), value, dtype=torch.float64) for value in (1.0, 5.0, 3.0)]
    swa, ema = [seen[0].clone()], [seen[0].clone()]
    for count, weights in enumerate(seen[1:], 1):
        add_to_average(swa, [weights], count, "swa")
        add_to_average(ema, [weights], count, "ema", decay=0.75)
    torch.testing.assert_close(swa[0], torch.full((2,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(ema[0], torch.full((2,), 0.75 * (0.75 * 1 + 0.25 * 5) + 0.25 * 3, dtype=torch.float64))


class Last(TrainerCallback):
    """Keeps the weights after each step."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append(toy.weights(model).clone())


def arguments(folder, **values):
    given = {**toy.QUIET, "learning_rate": 1e-3, "max_steps": 6, "eval_strategy": "no", **values}
    return StableTrainingArguments(str(folder), **given)


def test_the_average_is_evaluated_and_saved_and_the_last_weights_are_kept(tmp_path):
    plain, averaged = Last(), Last()
    quiet = {"heat_map": False, "tensorboard": False}
    toy.train(StableTrainer, arguments(tmp_path / "plain"), [StabilityCallback(**quiet), plain])
    values = {
        "average": "swa",
        "average_from": 0.5,
        "eval_strategy": "steps",
        "eval_steps": 6,
        "save_strategy": "steps",
    }
    args = arguments(tmp_path, **values, save_steps=6)
    trainer = toy.train(StableTrainer, args, [StabilityCallback(**quiet), averaged])
    for before, same in zip(plain.seen[:5], averaged.seen[:5], strict=True):  # training itself is as it was
        assert torch.equal(before, same)
    mean = torch.stack(plain.seen[3:]).mean(0)
    torch.testing.assert_close(toy.weights(trainer), mean, rtol=1e-6, atol=1e-7)
    optimizer = inner_optimizer(trainer.optimizer)
    last = torch.cat([optimizer.state[p][LAST].flatten() for p in trainer.model.parameters()])
    assert torch.equal(last, plain.seen[5])
    final = trainer.last_metrics["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(final, rel=1e-6)
    saved = type(trainer.model).from_pretrained(tmp_path / "checkpoint-6")
    assert torch.equal(toy.weights(saved), toy.weights(trainer))


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="--average swa with --load_best_model_at_end"):
        Averaging(average="swa").check({"load_best_model_at_end": True})
    with pytest.raises(
        InputError, match=r"--average_from 0.25 with --head_first 0.5: .* Give --average_from 0.5 or more"
    ):
        Averaging(average="swa").check({"head_first": 0.5})
    Averaging(average="swa", average_from=0.5).check({"head_first": 0.5})
