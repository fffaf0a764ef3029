"""Remedies that are only values: the Trainer does what their recipes say."""

import pytest
import torch
from transformers import TrainerCallback

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments
from hf_stability.recipe import load_recipe
from tests import toy


class Noise(TrainerCallback):
    """Keeps the embedding's output for a fixed input, twice, in each mode."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        embedding, rows = model.get_input_embeddings(), torch.tensor(toy.data(4)["input_ids"])
        self.training = embedding.training
        table = embedding.weight.detach()[rows]
        self.trained = [(embedding(rows).detach() - table).abs() for _ in range(2)]
        model.eval()
        self.evaluated = (embedding(rows).detach() - table).abs()
        model.train()


@pytest.mark.parametrize("init", [True, False])
def test_neftunes_noise_is_on_in_training_only(init, tmp_path):
    """Also with `model_init`, which makes the model when training begins, as in a study."""
    alpha = load_recipe("neftune").args["neftune_noise_alpha"]
    noise, quiet = Noise(), StabilityCallback(heat_map=False, tensorboard=False)
    values = {**toy.QUIET, "max_steps": 1, "eval_strategy": "no"}
    args = StableTrainingArguments.from_recipe("neftune", "bert", output_dir=str(tmp_path), **values)
    trainer = toy.train(StableTrainer, args, [quiet, noise], init=init)
    limit = alpha / (10 * 16) ** 0.5  # alpha / sqrt(tokens x width)
    assert noise.training and (noise.evaluated == 0).all()
    assert all(0.9 * limit < drawn.max() <= limit * (1 + 1e-6) for drawn in noise.trained)
    assert not torch.equal(*noise.trained)
    assert not trainer.model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize(("model_type", "beta2"), [("bert", 0.999), ("roberta", 0.98), ("modernbert", 0.98)])
def test_the_untuned_warmup_is_ma_and_yarats(model_type, beta2, tmp_path):
    args = StableTrainingArguments.from_recipe(
        "devlin2019+untuned_warmup", model_type, output_dir=str(tmp_path), use_cpu=True
    )
    assert args.adam_beta2 == beta2 and args.bias_correction
    assert args.get_warmup_steps(10_000) == args.get_warmup_steps(189) == round(2 / (1 - beta2))
    trainer = StableTrainer(toy.model(), args, train_dataset=toy.data(16))
    trainer.create_optimizer_and_scheduler(num_training_steps=189)
    shape = trainer.lr_scheduler.lr_lambdas[0]
    for t in (1, 50, 100):  # the Trainer's factor at update t is the rule's at t - 1
        assert shape(t - 1) == pytest.approx(min(1, (1 - beta2) / 2 * (t - 1)))
