"""The encoder inside a model, and every parameter's layer, frozen ones too."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from hf_stability.utils.adapters import trained_parts
from hf_stability.utils.layers import base_model, layers_of, parameters_with_layers, without_adapters
from tests import toy


def lora(model, names=("query",)):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=list(names), task_type="SEQ_CLS"))


def prompts(model):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2))


class Own(nn.Module):
    """A module of one's own around a pretrained model."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(16, 2)


class OwnPretrained(transformers.BertPreTrainedModel):
    """The same as a Hugging Face class, by another name than its `base_model_prefix`."""

    def __init__(self, config):
        super().__init__(config)
        self.encoder, self.classifier = transformers.BertModel(config), nn.Linear(16, 2)
        self.post_init()


T5 = transformers.T5Config(d_model=16, d_ff=16, d_kv=8, num_heads=2, num_layers=2, vocab_size=30)

ENCODERS = {
    "a head": (toy.model, "bert.", lambda model: model.bert),
    "another type": (lambda: toy.model("roberta"), "roberta.", lambda model: model.roberta),
    "a bare encoder": (lambda: transformers.BertModel(toy.config()), "", lambda model: model),
    "adapters": (lambda: lora(toy.model()), "base_model.model.bert.", lambda model: model.base_model.model.bert),
    "prompts": (lambda: prompts(toy.model()), "base_model.bert.", lambda model: model.base_model.bert),
    "DataParallel": (lambda: nn.DataParallel(toy.model()), "module.bert.", lambda model: model.module.bert),
    "compiled": (lambda: torch.compile(toy.model()), "_orig_mod.bert.", lambda model: model._orig_mod.bert),
    "two wrappers": (
        lambda: nn.DataParallel(torch.compile(lora(toy.model()))),
        "module._orig_mod.base_model.model.bert.",
        lambda model: model.module._orig_mod.base_model.model.bert,
    ),
    "an own module": (lambda: Own(transformers.BertModel(toy.config())), "encoder.", lambda model: model.encoder),
    "an own module around a head": (lambda: Own(toy.model()), "encoder.bert.", lambda model: model.encoder.bert),
    "an own class": (lambda: OwnPretrained(toy.config()), "encoder.", lambda model: model.encoder),
    "a plain module": (lambda: nn.Linear(2, 2), "", lambda model: model),
    "an encoder and a decoder": (lambda: transformers.T5ForConditionalGeneration(T5), "", lambda model: model),
    "an encoder's stack": (lambda: transformers.T5EncoderModel(T5), "", lambda model: model),
}


@pytest.mark.parametrize("case", ENCODERS)
def test_the_encoder_inside_a_model(case):
    make, prefix, encoder = ENCODERS[case]
    model = make()
    assert base_model(model) == (prefix, encoder(model))
    inside = {id(p) for name, p in model.named_parameters() if name.startswith(prefix)}
    assert inside == {id(p) for p in encoder(model).parameters()}


def test_the_model_in_adapters():
    model = toy.model()
    assert without_adapters(model) is model and without_adapters(lora(model)) is model


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel, torch.compile])
@pytest.mark.parametrize("architecture", toy.CONFIGS)
def test_a_frozen_parameter_has_the_layer_that_it_had_when_it_was_trained(architecture, wrap):
    model = toy.model(architecture)
    names = [name for name, _ in model.named_parameters()]
    trained = {id(parameter): layer for layer, group in layers_of(model).items() for parameter in group}
    model.requires_grad_(False)
    found = list(parameters_with_layers(wrap(model)))
    assert layers_of(model) == {} and [name for _, name, _ in found] == names
    assert {id(parameter): layer for layer, _, parameter in found} == trained


def test_an_adapter_is_in_the_layer_that_it_adapts():
    layers = list(layers_of(toy.model()))
    found = list(parameters_with_layers(lora(toy.model())))
    assert sorted({layer for layer, _, _ in found}) == sorted(layers)
    assert {layer for layer, _, p in found if p.requires_grad} == {"layer_00", "layer_01", "layer_02", "classifier"}


def test_of_several_adapters_each_has_its_own_groups():
    peft, model = pytest.importorskip("peft"), lora(toy.model())
    model.add_adapter("french", peft.LoraConfig(r=2, target_modules=["value"], task_type="SEQ_CLS"))
    assert list(layers_of(model)) == ["default_layer_00", "default_layer_01", "default_layer_02", "classifier"]
    model.set_adapter("french")
    layers = ["french_layer_00", "french_layer_01", "french_layer_02", "classifier"]
    found = trained_parts(model)
    assert list(layers_of(model)) == found["layers"] == layers and found["adapters"] == "LORA"
    assert trained_parts(toy.model()) is None
    assert trained_parts(toy.model().requires_grad_(False))["layers"] == []
