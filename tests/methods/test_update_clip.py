"""StableAdamW next to a slow loop in float64, which follows algorithm 2 of the paper."""

import pytest
import torch

from hf_stability import AdamW
from hf_stability.errors import InputError
from hf_stability.methods.update_clip import UpdateClip, update_rms


BETAS, EPS, DECAY = (0.9, 0.99), 1e-3, 0.1


def slow_stable_adamw(weights, gradients, rate, threshold, corrects):
    """Algorithm 2 for one tensor, in float64; with `corrects=False` without the bias correction.

    Returns the weights after each step, and how often the step was clipped.
    """
    w, m, u, path, clipped = weights.double(), 0.0, 0.0, [], 0
    for t, g in enumerate(gradients.double(), 1):
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        u = BETAS[1] * u + (1 - BETAS[1]) * g * g
        m_hat, u_hat = (m / (1 - BETAS[0] ** t), u / (1 - BETAS[1] ** t)) if corrects else (m, u)
        rms = (g * g / torch.maximum(u_hat, torch.full_like(u_hat, EPS**2))).mean().sqrt().item()
        eta = rate / max(1.0, rms / threshold)
        w = w - eta * DECAY * w - eta * m_hat / (u_hat.sqrt() + EPS)
        path.append(w)
        clipped += rms > threshold
    return torch.stack(path), clipped


@pytest.mark.parametrize("corrects", [True, False])
@pytest.mark.parametrize("threshold", [1.0, 0.7])
def test_steps_are_those_of_the_papers_algorithm(threshold, corrects):
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1.0, 1.0, 30.0, 1.0, 0.1, 5.0])[:, None, None]  # jumps, which are clipped
    for shape in ((3, 4), (5, 1)):
        start = torch.randn(shape, generator=generator, dtype=torch.float64)
        gradients = torch.randn((6, *shape), generator=generator, dtype=torch.float64) * sizes
        expected, clipped = slow_stable_adamw(start, gradients, 0.1, threshold, corrects)
        p = torch.nn.Parameter(start.clone())
        optimizer = AdamW([p], lr=0.1, betas=BETAS, eps=EPS, weight_decay=DECAY, bias_correction=corrects)
        hooks = UpdateClip(update_clip=threshold).attach(optimizer)
        for gradient, after in zip(gradients, expected, strict=True):
            p.grad = gradient.clone()
            optimizer.step()
            torch.testing.assert_close(p.detach(), after, rtol=1e-6, atol=1e-9)
        assert 1 <= clipped and (clipped < 6 or not corrects)
        hooks.remove()
        assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_a_step_below_the_threshold_is_adamws_own_bit_for_bit():
    p = torch.nn.Parameter(torch.randn(4, 3))
    q = torch.nn.Parameter(p.detach().clone())
    optimizers = torch.optim.AdamW([p], lr=0.1), torch.optim.AdamW([q], lr=0.1)
    UpdateClip(update_clip=100.0).attach(optimizers[0])
    for _ in range(3):
        p.grad = torch.randn(4, 3)
        q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        assert torch.equal(p, q)


def test_the_size_is_1_where_the_gradient_is_what_is_expected():
    g = torch.randn(50)
    assert update_rms(g, g.square(), eps=1e-8).item() == pytest.approx(1, rel=1e-6)
    assert update_rms(torch.zeros(3), torch.zeros(3), eps=1e-8) == 0


def test_a_step_that_an_overflow_left_out_stays_left_out():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([p], lr=0.1)
    method = UpdateClip(update_clip=1.0)
    p.grad = torch.tensor([1.0, 2.0])
    optimizer.step()
    before, p.grad = p.detach().clone(), torch.tensor([float("nan"), float("inf")])
    method.before_step(optimizer, 1)
    method.after_step(optimizer, 1)  # the fused kernel made no step
    assert torch.equal(p, before)


def test_another_optimizer_is_refused():
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(InputError, match="--optim sgd: --update_clip works only with torch's AdamW"):
        UpdateClip(update_clip=1.0).check({"optim": "sgd"})
    with pytest.raises(InputError, match="--update_clip: works only with torch's AdamW, but a SGD was passed"):
        UpdateClip(update_clip=1.0).check_optimizer(torch.optim.SGD([p], lr=0.1))
