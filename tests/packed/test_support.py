"""The packed step refuses by name."""

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers import AutoModelForTokenClassification, BertForSequenceClassification

from hf_stability import StableTrainer, StableTrainingArguments
from hf_stability.errors import InputError
from hf_stability.packed.forward import packed_forward, use_step
from hf_stability.packed.support import CONFIG, check_config
from tests import toy


class OwnHead(BertForSequenceClassification):
    """A head that reads every position."""

    def forward(self, input_ids, labels=None):
        return self.classifier(self.bert(input_ids).last_hidden_state.mean(1))


class MeanPool(nn.Module):
    """The same, as a module."""

    def forward(self, states):
        return states.mean(1)


def with_part(architecture, name, part):
    model = toy.model(architecture)
    model.set_submodule(name, part)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: toy.model("distilbert"), "a distilbert model has no packed step; bert, roberta"),
        (lambda: toy.model("deberta"), "a deberta-v2 model has no packed step"),
        (lambda: AutoModelForTokenClassification.from_config(toy.config()), "BertForTokenClassification is not"),
        (lambda: toy.model().bert, "BertModel is not"),
        (lambda: OwnHead(toy.config()), "OwnHead is not"),
        (lambda: nn.Linear(2, 2), "Linear is not a model of transformers"),
        (lambda: toy.model(is_decoder=True), "config has is_decoder True"),
        (lambda: toy.model(output_hidden_states=True), "config has output_hidden_states True"),
        (lambda: toy.model(chunk_size_feed_forward=2), "config has chunk_size_feed_forward 2"),
        (lambda: with_part("roberta", "classifier", MeanPool()), "classifier is a MeanPool"),
        (lambda: with_part("roberta", "classifier", nn.Sequential(nn.Linear(16, 2))), "classifier is a Sequential"),
        (lambda: with_part("bert", "bert.pooler", MeanPool()), "bert.pooler is a MeanPool"),
        (
            lambda: with_part("bert", "bert.encoder.layer.1.attention.self", MeanPool()),
            "layer.1.attention.self is a MeanPool",
        ),
    ],
)
def test_a_model_that_it_does_not_support_is_refused(make, message):
    with pytest.raises(InputError, match=f"--step packed: .*{message}.*Give --step hf"):
        use_step(make())


def test_the_head_of_a_pooled_state_is_free():
    use_step(with_part("bert", "classifier", nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 2))))


def test_relative_positions_are_refused():
    config = toy.config()
    config.position_embedding_type = "relative_key"  # of older configs
    with pytest.raises(InputError, match="position_embedding_type relative_key"):
        check_config(config)
    check_config(toy.config(**{name: value for name, value in CONFIG.items() if name != "position_embedding_type"}))


def test_adapters_are_used():
    stock = toy.model().eval()
    model = get_peft_model(stock, LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=["query", "dense"])).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    rows = torch.randint(5, 60, (2, 7))
    expected = model(rows).logits
    use_step(model)
    assert stock.bert.forward.func is packed_forward
    torch.testing.assert_close(model(rows).logits, expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": "fast"}, "--step fast: give one of hf, packed"),
        (
            {"step": "packed", "gradient_checkpointing": True},
            "--step packed: does not work with --gradient_checkpointing",
        ),
        ({"step": "packed", "neftune_noise_alpha": 5.0}, "--step packed: does not work with --neftune_noise_alpha"),
    ],
)
def test_arguments_that_it_does_not_work_with_are_refused(values, message, tmp_path):
    with pytest.raises(InputError, match=message):
        StableTrainingArguments(str(tmp_path), **toy.QUIET, **values)


def test_a_trainer_refuses_it_before_training(tmp_path):
    args = StableTrainingArguments(str(tmp_path), **toy.QUIET, step="packed")
    with pytest.raises(InputError, match="a distilbert model has no packed step"):
        StableTrainer(toy.model("distilbert"), args, train_dataset=toy.data(8))
    with pytest.raises(InputError, match="does not work with DataParallel .2 GPUs"):
        use_step(toy.model(), "packed", gpus=2)
