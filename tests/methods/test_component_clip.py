import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.errors import InputError
from hf_stability.methods.component_clip import clip_components


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
