"""The mean of models' weights: equal models bit for bit, and torch's own mean."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.analysis.average_weights import average_weights, load_weights
from hf_stability.errors import InputError
from tests import toy


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 7),
    st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    st.integers(0, 99),
)
def test_the_average_of_equal_models_is_the_model_bit_for_bit(runs, dtype, seed):
    weights = torch.randn(30, generator=torch.manual_seed(seed)).to(dtype)
    weights[0], weights[1] = -0.0, 1e-7
    mean = average_weights([{"w": weights.clone(), "ids": torch.arange(3)} for _ in range(runs)])
    assert mean["w"].dtype == dtype and mean["ids"].equal(torch.arange(3))
    assert mean["w"].view(torch.uint8).equal(weights.view(torch.uint8))


def test_the_average_is_torchs_mean_and_works_on_a_model():
    models = [toy.model(seed=seed) for seed in range(3)]
    mean = average_weights(model.state_dict() for model in models)
    for name, tensor in mean.items():
        if tensor.is_floating_point():
            expected = torch.stack([model.state_dict()[name].double() for model in models]).mean(0)
            assert torch.allclose(tensor.double(), expected, atol=1e-7)
    models[0].load_state_dict(mean)


def test_models_that_do_not_fit_each_other_are_refused(tmp_path):
    w = {"w": torch.ones(2)}
    for others in ({"v": torch.ones(2)}, {"w": torch.ones(3)}):
        with pytest.raises(InputError, match="different architecture"):
            average_weights([w, others])
    with pytest.raises(InputError, match="ids: differs"):
        average_weights([{"ids": torch.arange(2)}, {"ids": torch.ones(2, dtype=torch.int64)}])
    with pytest.raises(InputError, match="no models"):
        average_weights([])
    with pytest.raises(InputError, match="safetensors"):
        load_weights(tmp_path)
