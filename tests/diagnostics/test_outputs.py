import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.diagnostics.outputs import combine_statistics, output_statistics


def statistics(logits, labels):
    return output_statistics(
        torch.tensor(logits), torch.tensor(labels), logits.shape[1], logits.shape[1], "cpu"
    ).numpy()


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 4), st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(0, 2**31))
def test_processes_put_together_equal_one_that_saw_everything(width, sizes, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(sum(sizes), width)).astype("f4")
    labels = rng.integers(0, width, sum(sizes))
    cuts = np.cumsum(sizes)[:-1]
    parts = [statistics(a, b) for a, b in zip(np.split(logits, cuts), np.split(labels, cuts), strict=True)]
    combined = combine_statistics(np.stack(parts)[:, None], width)[0]
    centred = logits - logits.mean(1, keepdims=True)
    assert combined[0] == pytest.approx(centred.std(0, ddof=1).mean(), rel=1e-4)
    assert combined[1 : 1 + width].tolist() == np.bincount(labels, minlength=width).tolist()
    assert combined[1 + width :].tolist() == np.bincount(logits.argmax(1), minlength=width).tolist()


def test_logits_that_are_all_the_same_have_no_spread():
    assert combine_statistics(statistics(np.ones((5, 2), "f4"), np.zeros(5, int))[None, None], 2)[0, 0] == 0


@pytest.mark.parametrize("logits", [None, torch.ones(4, 7)])
def test_outputs_of_an_unknown_shape_are_nan(logits):
    assert output_statistics(logits, None, 2, 2, "cpu").isnan().all()


def test_a_single_example_has_no_spread_to_speak_of():
    assert np.isnan(combine_statistics(statistics(np.ones((1, 2), "f4"), np.zeros(1, int))[None, None], 2)[0, 0])
