import copy
import logging

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils.data import DataLoader
from transformers import AutoModel, T5Config, T5ForConditionalGeneration

from hf_stability.diagnostics.gradients import GradientMeter, group_norms, layer_grad_norms, tensor_norms
from hf_stability.errors import InputError
from hf_stability.utils.layers import layers_of
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


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_a_wrapper_changes_no_name(wrap):
    model = backward(toy.model())
    assert type(wrap(model)) is not type(model)
    assert layer_grad_norms(wrap(model)) == layer_grad_norms(model)


# ---- many seeds at once ------------------------------------------------------------------------------------------------------


SEEDS = 3


def slow_norms(model):
    """Layer -> norm, a Python number, parameter by parameter."""
    return {
        layer: sum(float(p.grad.double().square().sum()) for p in group if p.grad is not None) ** 0.5
        for layer, group in layers_of(model).items()
    }


class Tiny(nn.Module):
    """A model with a parameter of every kind: a matrix, a bias, a scalar, one that is never used."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(toy.VOCABULARY, 6)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2))
        self.scale = nn.Parameter(torch.rand(()))
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(6, 2)

    def forward(self, ids):
        hidden = self.embed(ids).mean(1)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden) * self.scale


def tiny_models():
    models = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        models.append(Tiny())
    return models


class Stacked(nn.Module):
    """Many models of one kind as one, by `vmap`: its parameters carry the models' names, and a seed axis in front."""

    def __init__(self, models):
        super().__init__()
        self.skeleton = [copy.deepcopy(models[0])]  # in a list: its own parameters are not this module's
        stacked, _ = stack_module_state(models)
        for name, child in copy.deepcopy(models[0]).named_children():
            self.add_module(name, child)
        for name, value in stacked.items():
            *path, last = name.split(".")
            setattr(self.get_submodule(".".join(path)), last, nn.Parameter(value.detach()))

    def forward(self, ids):
        parameters = dict(self.named_parameters())
        return vmap(lambda one: functional_call(self.skeleton[0], one, (ids,)))(parameters)


def tiny_loss(logits, labels):
    """Sum over seeds of the mean over examples: each seed's gradient is its own run's."""
    return sum(nn.functional.cross_entropy(one, labels) for one in logits.reshape(-1, *logits.shape[-2:]))


def tiny_batches():
    rows = toy.data(32).with_format("torch")[:]
    return DataLoader(list(zip(rows["input_ids"], rows["label"], strict=True)), batch_size=8)


def check_against_single_models(stacked_norms, models):
    singles = [slow_norms(model) for model in models]
    assert list(stacked_norms) == list(singles[0])
    for layer, norms in stacked_norms.items():
        assert norms.shape == (SEEDS,)
        assert norms.tolist() == pytest.approx([single[layer] for single in singles], rel=1e-5)
    assert len(set(stacked_norms["head"].tolist())) == SEEDS
    assert stacked_norms["unused"].tolist() == [0.0] * SEEDS


def test_a_plain_loop_over_stacked_seeds():
    models = tiny_models()
    model = Stacked(models)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, *models)]
    for ids, labels in tiny_batches():
        for one in (model, *models):
            tiny_loss(one(ids), labels).backward()
        check_against_single_models(layer_grad_norms(model, seed_axis=True), models)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_an_accelerate_loop_over_stacked_seeds():
    models = tiny_models()
    model = Stacked(models)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, batches = accelerator.prepare(model, optimizer, tiny_batches())
    plain = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]
    updates = 0
    for ids, labels in batches:
        with accelerator.accumulate(model):
            accelerator.backward(tiny_loss(model(ids), labels))
            for one in models:
                (tiny_loss(one(ids), labels) / 2).backward()
            if accelerator.sync_gradients:
                updates += 1
                check_against_single_models(layer_grad_norms(model, seed_axis=True), models)
                for single in plain:
                    single.step()
                    single.zero_grad()
            optimizer.step()
            optimizer.zero_grad()
    assert updates == 2


def test_an_accelerate_loop_over_one_model():
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    model = Tiny()
    model, optimizer, batches = accelerator.prepare(model, torch.optim.SGD(model.parameters()), tiny_batches())
    for ids, labels in batches:
        accelerator.backward(tiny_loss(model(ids), labels))
        norms = layer_grad_norms(model)
        assert {layer: float(norm) for layer, norm in norms.items()} == pytest.approx(slow_norms(model), rel=1e-5)
        accelerator.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()


def test_a_meter_measures_stacked_seeds_step_by_step():
    model = Stacked(tiny_models())
    meter = GradientMeter(model, seed_axis=True)
    assert meter.parameter_norms().shape == (SEEDS, 0)
    assert torch.equal(meter.layer_norms(meter.parameter_norms()), torch.zeros(SEEDS, len(meter.names)))
    ids, labels = next(iter(tiny_batches()))
    tiny_loss(model(ids), labels).backward()
    norms = meter.layer_norms(meter.parameter_norms())
    assert norms.shape == (SEEDS, len(meter.names))
    total = torch.linalg.vector_norm(norms, dim=-1)
    for seed in range(SEEDS):
        grads = [p.grad[seed] for p in model.parameters() if p.grad is not None]
        assert total[seed].item() == pytest.approx(torch.nn.utils.get_total_norm(grads).item(), rel=1e-5)


def test_parameters_that_are_not_stacked_are_no_seeds():
    model = Stacked(tiny_models())
    model.head.bias = nn.Parameter(torch.zeros(2))
    with pytest.raises(
        InputError,
        match=r"seed_axis=True: head.bias has the shape \(2,\) and scale \(3,\), .*torch.func.stack_module_state",
    ):
        layer_grad_norms(model, seed_axis=True)
    with pytest.raises(InputError, match=r"seed_axis=True: scale has the shape \(\) "):
        layer_grad_norms(Tiny(), seed_axis=True)
    model.head.bias.requires_grad_(False)  # one that is shared by all seeds may be frozen
    assert layer_grad_norms(model, seed_axis=True)["head"].tolist() == [0.0] * SEEDS


# ---- gradients that cannot be seen -------------------------------------------------------------------------------------------


class DeepSpeedEngine(nn.Module):
    """A stand-in: DeepSpeed's engine is a module around the model."""

    def __init__(self, module):
        super().__init__()
        self.module = module


class FullyShardedDataParallel(nn.Module):
    """A stand-in for torch's."""

    def __init__(self, module):
        super().__init__()
        self._fsdp_wrapped_module = module


def zero_3(model):
    for number, parameter in enumerate(model.parameters()):
        parameter.ds_id, parameter.ds_tensor = number, parameter.data[:1]
    return model


def zero_2(model):
    for parameter in model.parameters():
        parameter._hp_mapping = None
    return model


HIDDEN = {
    "engine": (DeepSpeedEngine, "DeepSpeed.*safe_get_full_grad.*on all ranks"),
    "zero_3": (zero_3, "DeepSpeed.*safe_get_full_grad.*on all ranks"),
    "zero_2": (zero_2, "DeepSpeed.*safe_get_full_grad.*on all ranks"),
    "fsdp_1": (FullyShardedDataParallel, "FullyShardedDataParallel.*fully_shard"),
}


@pytest.mark.parametrize("with_gradients", [True, False])  # None, or what one process has of them
@pytest.mark.parametrize("kind", HIDDEN)
def test_hidden_gradients_are_an_error_and_never_numbers(kind, with_gradients, caplog):
    hide, message = HIDDEN[kind]
    model = hide(backward(toy.model()) if with_gradients else toy.model())
    with pytest.raises(InputError, match=message):
        layer_grad_norms(model)
    with caplog.at_level(logging.WARNING):
        meter = GradientMeter(model)
        for _ in range(2):
            norms = meter.layer_norms(meter.parameter_norms())
            assert norms.shape == (len(meter.names),) and norms.isnan().all()
    (said,) = caplog.messages  # once, not every step
    assert said.startswith("Gradient norms are NaN: ")
    assert not meter.is_whole()


def test_of_many_processes_one_speaks(monkeypatch, caplog):
    monkeypatch.setenv("RANK", "1")
    assert GradientMeter(zero_3(toy.model())).hidden
    assert not caplog.messages
