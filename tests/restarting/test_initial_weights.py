"""The copy of a ready model's weights, in memory and on disk."""

import pytest
import torch
from torch import nn

from hf_stability.restarting.initial_weights import InitialWeights


@pytest.mark.parametrize("free", [None, 0])
def test_the_weights_are_put_back_into_the_same_tensors(tmp_path, free):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = list(model.parameters())
    initial = InitialWeights(model, tmp_path, rank=1, free=free)
    assert (tmp_path / "initial_weights_1.pt").exists() is (free == 0)
    model[0].weight.requires_grad_(True)
    model(torch.randn(8, 3)).sum().backward()
    torch.optim.SGD(model.parameters(), 1.0).step()
    assert not torch.equal(model[0].weight, before["0.weight"])
    initial.put_back()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(a is b for a, b in zip(model.parameters(), tensors, strict=True))
    assert not model[0].weight.requires_grad and model[0].bias.grad is None
    initial.close()
    assert list(tmp_path.iterdir()) == []
