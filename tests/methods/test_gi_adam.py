"""GI-Adam next to a slow loop in float64."""

import math

import pytest
import torch

from hf_stability import AdamW
from hf_stability.errors import InputError
from hf_stability.methods.gi_adam import GIAdam, GIAdamMethod


BETAS, EPS, DECAY = (0.9, 0.99), 1e-3, 0.1


def slow_gi_adam(weights, gradients, rate):
    """The paper's equation for one tensor in float64, with decoupled weight decay: the weights after each step."""
    w, m, v, path = weights.double(), 0.0, gradients[0].double() ** 2, []
    for t, g in enumerate(gradients.double(), 1):
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        v = BETAS[1] * v + (1 - BETAS[1]) * g * g
        m_hat, v_hat = m / (1 - BETAS[0] ** t), v / (1 - BETAS[1] ** t)
        w = w - rate * DECAY * w - rate * m_hat / (v_hat.sqrt() + EPS)
        path.append(w)
    return torch.stack(path)


@pytest.mark.parametrize("kernel", [{}, {"fused": True}, {"foreach": True}])
def test_steps_are_the_papers(kernel):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    gradients = torch.randn(6, 3, 4, generator=generator, dtype=torch.float64)
    p = torch.nn.Parameter(start.clone())
    optimizer = GIAdam([p], lr=0.1, betas=BETAS, eps=EPS, weight_decay=DECAY, **kernel)
    for gradient, after in zip(gradients, slow_gi_adam(start, gradients, 0.1), strict=True):
        p.grad = gradient.clone()
        optimizer.step()
        torch.testing.assert_close(p.detach(), after, rtol=1e-9, atol=1e-9)


def test_with_a_constant_gradient_a_step_is_the_root_of_the_correction_of_adams():
    sizes = {}
    for kind in (AdamW, GIAdam):
        p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        optimizer = kind([p], lr=1.0, betas=(0.9, 0.999), eps=1e-12, weight_decay=0.0)
        sizes[kind] = []
        for _ in range(100):
            before, p.grad = p.detach().clone(), torch.tensor([0.1, -2.0, 3.0], dtype=torch.float64)
            optimizer.step()
            sizes[kind].append((p.detach() - before).abs())
    for t in (1, 10, 100):
        ratio = sizes[GIAdam][t - 1] / sizes[AdamW][t - 1]
        torch.testing.assert_close(ratio, torch.full_like(ratio, math.sqrt(1 - 0.999**t)))


def test_an_overflow_in_the_first_gradient_does_not_stay():
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = GIAdam([p], lr=0.1)
    p.grad = torch.tensor([float("inf"), float("nan"), 2.0])
    optimizer._init_group(optimizer.param_groups[0], *[[] for _ in range(6)])
    assert optimizer.state[p]["exp_avg_sq"].tolist() == [0.0, 0.0, 4.0]


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="--gi_adam with --bias_correction false"):
        GIAdamMethod(gi_adam=True).check({"bias_correction": False})
    with pytest.raises(InputError, match="--optim sgd: --gi_adam works only with torch's AdamW"):
        GIAdamMethod(gi_adam=True).check({"optim": "sgd"})
    with pytest.raises(InputError, match="--gi_adam, but a AdamW was passed"):
        GIAdamMethod(gi_adam=True).check_optimizer(AdamW([torch.nn.Parameter(torch.ones(1))]))
