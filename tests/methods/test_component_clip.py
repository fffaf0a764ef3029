import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerCallback

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments
from hf_stability.errors import InputError
from hf_stability.methods.component_clip import clip_components
from tests import toy


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.lists(st.integers(1, 9), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_each_gradient_is_clipped_as_torch_clips_it_alone(seed, max_norm, sizes):
    generator = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(size, 3, generator=generator) * 10 for size in sizes]
    expected = []
    for gradient in gradients:
        parameter = torch.nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(parameter, max_norm)
        expected.append(parameter.grad)
    norms = clip_components(gradients, max_norm)
    for gradient, other, norm in zip(gradients, expected, norms, strict=True):
        torch.testing.assert_close(gradient, other)
        torch.testing.assert_close(norm, other.norm(), rtol=1e-4, atol=1e-6)
        assert norm <= max_norm * (1 + 1e-6)


def test_norms_that_are_known_are_not_taken_again():
    gradients = [torch.ones(4), torch.ones(9)]
    after = clip_components(gradients, 1.5, torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(after, torch.tensor([1.5, 1.5]), rtol=1e-5, atol=0)
    torch.testing.assert_close(gradients[1], torch.full((9,), 0.5), rtol=1e-5, atol=0)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("nan")])
def test_no_norm_is_refused(max_norm):
    with pytest.raises(InputError, match="--component_clip"):
        clip_components([torch.ones(2)], max_norm)


def test_it_acts_without_global_clipping_and_a_global_clip_out_of_reach_changes_nothing(tmp_path):
    """n components of norm c have a norm of c sqrt(n) at most together, so clipping all at 1.0 multiplies by exactly 1."""
    limit, norms = 0.02, {0.0: [], 1.0: []}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            norms[args.max_grad_norm] += [p.grad.norm().item() for p in model.parameters()]

    def train(max_grad_norm):
        values = {**toy.QUIET, "learning_rate": 1e-3, "max_steps": 4, "eval_strategy": "no"}
        values |= {"component_clip": limit, "max_grad_norm": max_grad_norm}
        args = StableTrainingArguments(str(tmp_path / str(max_grad_norm)), **values)
        quick = StabilityCallback(heat_map=False, tensorboard=False)
        return toy.weights(toy.train(StableTrainer, args, [quick, Keep()]))

    weights = {max_grad_norm: train(max_grad_norm) for max_grad_norm in norms}
    n = len(norms[0.0]) // 4
    assert limit * n**0.5 < 1 and max(norms[0.0]) == pytest.approx(limit, rel=1e-3)
    assert sum(norm > 0.99 * limit for norm in norms[0.0]) > 10  # many were clipped
    assert norms[0.0] == norms[1.0] and torch.equal(weights[0.0], weights[1.0])
