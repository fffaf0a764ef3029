"""A model's logits among its outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_stability.diagnostics.named_output import named_output


LOGITS, OTHER, LOSS = np.zeros((4, 3)), np.zeros((4, 8)), np.array(0.7)


@pytest.mark.parametrize(
    "outputs",
    [
        LOGITS,
        (LOGITS, OTHER),
        [LOGITS, OTHER],
        (LOSS, LOGITS, OTHER),
        (None, LOGITS),
        (torch.tensor(0.7), LOGITS),
        {"logits": LOGITS, "features": OTHER},
        {"features": OTHER, "logits": LOGITS},
        {"logits": (LOGITS, OTHER)},
        {"features": OTHER, "head": {"logits": LOGITS}},
        {"loss": LOSS, "scores": LOGITS},  # nothing is called logits: the first array
        ({"features": OTHER, "logits": LOGITS}, OTHER),
    ],
)
def test_the_logits_are_found(outputs):
    assert named_output(outputs) is LOGITS


def test_the_names_of_a_tuple_count():
    assert named_output((OTHER, LOGITS), ["features", "logits"]) is LOGITS
    assert named_output((OTHER, LOGITS), ["features"]) is OTHER  # names of another tuple
    assert named_output((OTHER, LOGITS), ["a", "b"]) is OTHER


def test_another_name_and_no_first_array():
    output = {"loss": LOSS, "last_hidden_state": OTHER, "logits": LOGITS}
    assert named_output(output, key="last_hidden_state") is OTHER
    assert named_output({"features": OTHER}, or_first=False) is None
    assert named_output({"head": {"features": OTHER}}, or_first=False) is None
    assert named_output((LOSS, LOGITS), or_first=False) is LOGITS  # a tuple has no names


@pytest.mark.parametrize("nothing", [(), [], {}, (LOSS,), (None,), {"loss": LOSS}, None])
def test_there_may_be_none(nothing):
    assert named_output(nothing) is None
