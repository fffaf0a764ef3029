import copy

import numpy as np
import pytest
import torch
from torch import nn

from hf_stability.errors import InputError
from hf_stability.methods.mixout import MixLinear, apply_mixout, mixout
from tests import toy


def reference(weight, pretrained, keep, p):
    """The paper's equation, an entry at a time, in float64."""
    weight, pretrained = weight.double().numpy(), pretrained.double().numpy()
    out = np.empty_like(weight)
    for o in range(out.shape[0]):
        for i in range(out.shape[1]):
            m = float(keep[i])
            out[o, i] = ((1 - m) * pretrained[o, i] + m * weight[o, i] - p * pretrained[o, i]) / (1 - p)
    return out


def mask(columns, p, seed):
    return torch.bernoulli(torch.full((columns,), 1 - p), generator=torch.Generator().manual_seed(seed)).bool()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_papers_equation_and_either_gradient(p):
    torch.manual_seed(0)
    weight, pretrained = torch.rand(7, 5, requires_grad=True), torch.rand(7, 5)
    keep = mask(5, p, 3)
    for rescale in (False, True):
        mixed = mixout(weight, pretrained, p, rescale, torch.Generator().manual_seed(3))
        np.testing.assert_allclose(
            mixed.detach(), reference(weight.detach(), pretrained, keep, p), rtol=2e-5, atol=1e-6
        )
        upstream = torch.rand(7, 5)
        (gradient,) = torch.autograd.grad(mixed, weight, upstream)
        scale = 1 / (1 - p) if rescale else 1.0  # the authors leave it out
        np.testing.assert_allclose(gradient, upstream * keep.float() * scale, rtol=1e-6)


def test_the_exact_gradient_is_the_derivative():
    weight = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    pretrained = torch.rand(3, 4, dtype=torch.float64)

    def function(w):
        return mixout(w, pretrained, 0.6, True, torch.Generator().manual_seed(1))

    assert torch.autograd.gradcheck(function, weight)


def test_the_mean_over_masks_is_the_weight():
    torch.manual_seed(0)
    weight, pretrained, p, n = torch.rand(2, 3), torch.rand(2, 3), 0.7, 20_000
    mean = sum(mixout(weight, pretrained, p) for _ in range(n)) / n
    error = (weight - pretrained).abs() * (p / (1 - p) / n) ** 0.5  # standard error of the mean
    assert ((mean - weight).abs() < 5 * error + 1e-4).all()


def test_towards_zero_it_is_dropout_on_the_input():
    weight, inputs, p = torch.rand(4, 6), torch.rand(3, 6), 0.4
    mixed = mixout(weight, torch.zeros(4, 6), p, generator=torch.Generator().manual_seed(2))
    dropped = inputs * mask(6, p, 2) / (1 - p)
    torch.testing.assert_close(inputs @ mixed.T, dropped @ weight.T)


def test_0_is_the_weight_itself_and_1_is_refused():
    weight = torch.rand(2, 2)
    assert mixout(weight, torch.rand(2, 2), 0.0) is weight
    for p in (1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="--mixout"):
            mixout(weight, weight, p)


BLOCK = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "output.dense",
]
ALBERT = "albert.encoder.albert_layer_groups.0.albert_layers.0"
PLACES = {
    "bert": [f"bert.encoder.layer.{i}.{name}" for i in range(3) for name in BLOCK] + ["classifier"],
    "roberta": [f"roberta.encoder.layer.{i}.{name}" for i in range(3) for name in BLOCK]
    + ["classifier.dense", "classifier.out_proj"],
    "albert": [f"{ALBERT}.{name}" for name in ("attention.query", "attention.key", "attention.value")]
    + [f"{ALBERT}.attention.dense", f"{ALBERT}.ffn_output", "classifier"],
}


@pytest.mark.parametrize("architecture", PLACES)
def test_the_layers_with_a_dropout_beside_them(architecture):
    model = toy.model(architecture)
    assert sorted(apply_mixout(model, 0.9)) == sorted(PLACES[architecture])


def test_frozen_layers_are_left_out_and_so_is_distilberts_intermediate_layer():
    model = toy.model()
    model.bert.requires_grad_(False)
    assert apply_mixout(model, 0.9) == ["classifier"]
    assert not [name for name in apply_mixout(toy.model("distilbert"), 0.9) if name.endswith("lin1")]


@pytest.mark.parametrize("architecture", PLACES)
def test_all_means_all(architecture):
    model = toy.model(architecture)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert sorted(apply_mixout(model, 0.9, "all")) == sorted(linears)


@pytest.mark.parametrize("architecture", PLACES)
def test_what_is_saved_is_a_plain_model(architecture, tmp_path):
    model, plain = toy.model(architecture), toy.model(architecture)
    apply_mixout(model, 0.5, "all")
    assert list(model.state_dict()) == list(plain.state_dict())
    model.save_pretrained(tmp_path)
    loaded = type(plain).from_pretrained(tmp_path)
    assert torch.equal(toy.weights(loaded), toy.weights(plain))
    assert not any(isinstance(module, MixLinear) for module in loaded.modules())


def test_in_evaluation_it_is_the_model_that_it_was_and_in_training_another():
    rows = torch.tensor(toy.data(4)["input_ids"])
    values = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    plain, model = toy.model(**values), toy.model(**values)
    apply_mixout(model, 0.7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
        for parameter in plain.parameters():
            parameter.add_(0.01)
    assert torch.equal(model.eval()(rows).logits, plain.eval()(rows).logits)
    model.train()
    assert not torch.equal(model(rows).logits, model(rows).logits)


def test_memory_is_one_copy_of_the_layers_concerned():
    model = toy.model()
    names = apply_mixout(model, 0.5)
    buffers = {name: b.numel() for name, b in model.named_buffers() if name.endswith("pretrained_weight")}
    assert sorted(buffers) == sorted(f"{name}.pretrained_weight" for name in names)
    assert all(buffers[f"{name}.pretrained_weight"] == model.get_submodule(name).weight.numel() for name in names)


def test_what_matches_nothing_or_is_not_known_is_refused():
    with pytest.raises(InputError, match="no trained linear layer in this Embedding"):
        apply_mixout(nn.Embedding(3, 3), 0.5)
    with pytest.raises(InputError, match="--mixout_where some: must be dropout or all"):
        apply_mixout(toy.model(), 0.5, "some")
    model = toy.model()
    assert apply_mixout(model, 0.0) == [] and not any(isinstance(m, MixLinear) for m in model.modules())
    apply_mixout(model, 0.5, "all")
    with pytest.raises(InputError, match="no trained linear layer"):  # a second time
        apply_mixout(copy.deepcopy(model), 0.5)
