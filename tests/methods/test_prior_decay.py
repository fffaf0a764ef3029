import pytest
import torch
from torch import nn

from hf_stability.errors import InputError
from hf_stability.methods.prior_decay import PriorDecay, pretrained_parameters
from tests import toy


def moved(parameters):
    """Put them somewhere else, with gradients; what they were, in float64."""
    start = [p.detach().double().clone() for p in parameters]
    torch.manual_seed(1)
    for p in parameters:
        p.data.add_(torch.randn_like(p))
        p.grad = torch.randn_like(p)
    return start


def test_the_gradient_added_is_that_of_the_term_in_the_loss():
    parameters = [nn.Parameter(torch.rand(3, 4)), nn.Parameter(torch.rand(5))]
    prior = PriorDecay(parameters, 0.3)
    start = moved(parameters)
    exact = [p.detach().double().requires_grad_() for p in parameters]
    penalty = 0.3 / 2 * sum((w - u).square().sum() for w, u in zip(exact, start, strict=True))
    gradients = torch.autograd.grad(penalty, exact)
    expected = [p.grad.double() + g for p, g in zip(parameters, gradients, strict=True)]
    assert float(prior.penalty()) == pytest.approx(float(penalty.detach()), rel=1e-6)
    prior.add_gradient()
    for p, g in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad.double(), g, rtol=1e-6, atol=1e-6)


def test_a_parameter_without_gradient_gets_none():
    parameters = [nn.Parameter(torch.rand(2)), nn.Parameter(torch.rand(2))]
    prior = PriorDecay(parameters, 1.0)
    parameters[0].grad = torch.zeros(2)
    parameters[0].data.add_(1.0)
    prior.add_gradient()
    torch.testing.assert_close(parameters[0].grad, torch.ones(2))
    assert parameters[1].grad is None


def test_the_decoupled_step_has_each_groups_rate_and_comes_before_the_optimizers():
    first, second = nn.Parameter(torch.rand(3)), nn.Parameter(torch.rand(2, 2))
    prior = PriorDecay([first, second], 0.5)
    start = moved([first, second])
    before = [first.detach().double().clone(), second.detach().double().clone()]
    grads = [first.grad.double(), second.grad.double()]
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.01}])
    handle = prior.attach(optimizer)
    optimizer.step()
    for p, w, u, g, lr in zip((first, second), before, start, grads, (0.1, 0.01), strict=True):
        torch.testing.assert_close(p.detach().double(), w - lr * 0.5 * (w - u) - lr * g, rtol=1e-6, atol=1e-6)
    handle.remove()
    after = first.detach().clone()
    first.grad, second.grad = None, None
    optimizer.step()
    assert torch.equal(first, after)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
def test_the_head_is_left_out(architecture):
    model = toy.model(architecture)
    chosen = {id(p) for p in pretrained_parameters(model)}
    outside = [name for name, p in model.named_parameters() if id(p) not in chosen]
    assert outside and all(name.startswith("classifier") for name in outside)


def test_frozen_parameters_and_names_that_are_not_asked_for_are_left_out():
    model = toy.model()
    model.bert.embeddings.requires_grad_(False)
    names = [name for name, _ in model.named_parameters() if name.endswith("weight")]
    chosen = {id(p) for p in pretrained_parameters(model, names)}
    found = [name for name, p in model.named_parameters() if id(p) in chosen]
    assert found and all(
        name.startswith(("bert.encoder", "bert.pooler")) and name.endswith("weight") for name in found
    )


def test_0_does_nothing_and_what_cannot_be_is_refused():
    parameter = nn.Parameter(torch.rand(3))
    prior = PriorDecay([parameter], 0.0)
    moved([parameter])
    weight, gradient = parameter.detach().clone(), parameter.grad.clone()
    prior.add_gradient()
    prior.step(torch.optim.SGD([parameter], lr=1.0))
    assert torch.equal(parameter, weight) and torch.equal(parameter.grad, gradient)
    with pytest.raises(InputError, match="--prior_decay -1.0"):
        PriorDecay([parameter], -1.0)
    with pytest.raises(InputError, match="no pretrained parameter"):
        PriorDecay([], 1.0)
