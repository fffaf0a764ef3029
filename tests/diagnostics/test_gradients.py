import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModel, T5Config, T5ForConditionalGeneration

from hf_stability.diagnostics.gradients import GradientMeter, group_norms, layer_grad_norms, layers_of, tensor_norms
from tests import toy


def backward(model, rows=8):
    batch = toy.data(rows).with_format("torch")[:]
    model(input_ids=batch["input_ids"], labels=batch["label"]).loss.backward()
    return model


@pytest.mark.parametrize("architecture", toy.CONFIGS)
def test_layers_are_named_from_input_to_output(architecture):
    encoder = ["shared_layer_00"] if architecture == "albert" else ["layer_00", "layer_01", "layer_02"]
    pooler = [] if architecture in ("roberta", "electra") else ["pooler"]
    assert list(layers_of(toy.model(architecture))) == ["embeddings", *encoder, *pooler, "classifier"]


@pytest.mark.parametrize("architecture", toy.CONFIGS)
def test_every_trainable_parameter_is_in_one_layer(architecture):
    model = toy.model(architecture)
    grouped = [id(p) for group in layers_of(model).values() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("architecture", toy.CONFIGS)
def test_norms_equal_a_slow_loop(architecture):
    model = backward(toy.model(architecture))
    norms = layer_grad_norms(model)
    for name, group in layers_of(model).items():
        slow = sum(float(p.grad.double().square().sum()) for p in group if p.grad is not None) ** 0.5
        assert norms[name].item() == pytest.approx(slow, rel=1e-5)


def test_frozen_parameters_are_left_out():
    model = toy.model()
    model.bert.embeddings.requires_grad_(False)
    model.bert.encoder.layer[0].requires_grad_(False)
    assert list(layers_of(model)) == ["layer_01", "layer_02", "pooler", "classifier"]


def test_a_base_model_has_no_classifier():
    model = AutoModel.from_config(toy.config())
    assert list(layers_of(model)) == ["embeddings", "layer_00", "layer_01", "layer_02", "pooler"]


def test_two_stacks_are_told_apart():
    small = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 2, "vocab_size": 30}
    names = list(layers_of(T5ForConditionalGeneration(T5Config(**small))))
    assert names[0] == "embeddings"
    assert {"encoder_layer_00", "encoder_layer_01", "decoder_layer_00", "decoder_layer_01"} < set(names)


def test_a_plain_module_goes_by_its_submodules():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 4)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(12))
            self.head = nn.Linear(4, 2)
            self.scale = nn.Parameter(torch.ones(()))

    names = list(layers_of(Plain()))
    assert names == ["scale", "embeddings", *(f"layer_{i:02d}" for i in range(12)), "head"]


def test_a_model_without_gradients_has_norms_of_zero():
    assert {float(norm) for norm in layer_grad_norms(toy.model()).values()} == {0.0}


def test_a_parameter_without_gradient_counts_as_zero():
    model = backward(toy.model())
    expected = layer_grad_norms(model)
    model.bert.pooler.dense.bias.grad = None
    weight = model.bert.pooler.dense.weight.grad
    norms = layer_grad_norms(model)
    assert norms["pooler"] == torch.linalg.vector_norm(weight)
    assert norms["layer_01"] == expected["layer_01"]


def test_the_total_is_bitwise_torchs():
    model = backward(toy.model())
    total = torch.linalg.vector_norm(GradientMeter(model).parameter_norms())
    assert torch.equal(total, torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 2**31))
def test_group_norms_take_a_leading_seed_axis(seeds, index, seed):
    norms = torch.rand((seeds, len(index)), generator=torch.Generator().manual_seed(seed))
    stacked = group_norms(norms, torch.tensor(index), 4)
    for row, one in zip(norms, stacked, strict=True):
        slow = [sum(n.item() ** 2 for n, i in zip(row, index, strict=True) if i == group) ** 0.5 for group in range(4)]
        assert one.tolist() == pytest.approx(slow, rel=1e-5)
        assert torch.equal(group_norms(row, torch.tensor(index), 4), one)


def test_tensor_norms_keep_their_precision():
    assert tensor_norms([torch.ones(4, dtype=torch.bfloat16)]).dtype == torch.bfloat16
