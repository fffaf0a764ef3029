"""Optimizers in their wrappers, and the parameter group of the encoder."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from hf_stability.utils.optimizers import encoder_group, inner_optimizer, peak_rate
from tests import toy
from tests.utils.test_layers import lora


def groups_of(*parts, rates=None):
    """The parameter groups of an optimizer of these."""
    rates = rates or [1.0] * len(parts)
    groups = [{"params": list(part), "lr": rate} for part, rate in zip(parts, rates, strict=True)]
    return torch.optim.SGD(groups, lr=1.0).param_groups


def test_accelerates_wrapper_is_opened():
    optimizer = torch.optim.AdamW(torch.nn.Linear(2, 2).parameters())
    once = Accelerator(cpu=True).prepare(optimizer)
    assert once is not optimizer
    assert inner_optimizer(once) is optimizer is inner_optimizer(optimizer)
    assert inner_optimizer(type(once)(once)) is optimizer  # a second training's
    assert inner_optimizer(None) is None
    optimizer.optimizer = "adamw"  # an attribute of one's own
    assert inner_optimizer(optimizer) is optimizer


def test_the_group_of_the_encoder_has_most_of_its_layers_parameters():
    model = toy.model()
    names = dict(model.named_parameters())
    decay = [p for name, p in names.items() if not name.endswith("bias")]
    plain = [p for name, p in names.items() if name.endswith("bias")]
    assert encoder_group(groups_of(plain, decay), model) == 1
    assert encoder_group(groups_of(plain, decay, rates=[9.0, 1.0]), model) == 1  # the rate decides only between equals
    # the embeddings are larger than the layers, and no layer
    embeddings, encoder = model.bert.embeddings.parameters(), model.bert.encoder.parameters()
    assert encoder_group(groups_of(embeddings, encoder), model) == 1
    adapters = lora(toy.model())
    parts = [
        [p for name, p in adapters.named_parameters() if p.requires_grad and ("lora" in name) is x]
        for x in (False, True)
    ]
    assert encoder_group(groups_of(*parts), adapters) == 1


def test_of_equal_groups_it_is_the_one_with_the_highest_rate_then_the_first():
    model = toy.model()
    layers = model.bert.encoder.layer
    assert encoder_group(groups_of(layers[0].parameters(), layers[1].parameters(), rates=[1e-5, 2e-5]), model) == 1
    assert encoder_group(groups_of(layers[0].parameters(), layers[1].parameters()), model) == 0
    model.bert.requires_grad_(False)
    assert encoder_group(groups_of(model.classifier.parameters()), model) == 0
    line = torch.nn.Linear(2, 2)  # no layers: all groups are equals
    assert encoder_group(groups_of([line.bias], [line.weight]), line) == 0
    assert encoder_group(groups_of([line.bias], [line.weight], rates=[1e-3, 1e-2]), line) == 1
    assert encoder_group([], line) == 0


@pytest.mark.parametrize(
    ("group", "rate"), [({"lr": 0.0, "initial_lr": 2e-5}, 2e-5), ({"lr": torch.tensor(0.5)}, 0.5)]
)
def test_the_peak_rate_is_that_before_the_schedule(group, rate):
    assert peak_rate(group) == rate
