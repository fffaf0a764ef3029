"""Vanished gradients, on hand-made traces."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.errors import InputError
from hf_stability.verdicts.vanished import vanished_mask
from tests.verdicts.made_up_runs import FAILED, GOOD, HEALED, LAYERS, STEPS, TOTAL, WARMUP, norms_of, trace, vanished


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_a_failed_run_has_its_layers_and_its_step(seed):
    found = vanished(norms_of(FAILED, rng=None if seed is None else np.random.default_rng(seed)))
    assert found["lasting"] and found["layers"] == LAYERS[:11] and found["healed_step"] is None
    assert 0.15 * TOTAL < found["first_step"] <= found["last_step"] < 0.35 * TOTAL
    assert found["since"].keys() == set(LAYERS[:11])
    json.dumps(found)


def test_small_gradients_until_shortly_after_warmup_are_no_finding():
    assert vanished(norms_of(GOOD)) is None
    assert vanished(norms_of(np.full(len(STEPS), 0.3))) is None


def test_a_collapse_that_heals_is_reported_as_healed():
    found = vanished(norms_of(HEALED))
    assert not found["lasting"] and found["layers"] == LAYERS[:11]
    assert WARMUP < found["first_step"] < 0.25 * TOTAL < 0.45 * TOTAL < found["healed_step"] < 0.65 * TOTAL
    mixed = norms_of(HEALED)
    mixed[:, 0] = FAILED
    assert vanished(mixed)["layers"] == ["embeddings"] and vanished(mixed)["lasting"]


def test_no_layer_vanishes_within_warmup():
    for last in (WARMUP, WARMUP + 1):
        assert vanished(norms_of(FAILED)[:last], steps=STEPS[:last]) is None
    assert vanished(norms_of(FAILED), warmup=TOTAL) is None
    late = vanished(norms_of(FAILED), warmup=100)
    assert late["first_step"] > 100
    with pytest.raises(InputError, match="fraction"):
        vanished(norms_of(FAILED), warmup=0.1)


def test_a_layer_that_was_always_small_or_fell_with_the_top_has_not_vanished():
    assert vanished(norms_of(np.full(len(STEPS), 0.01))) is None
    fall = trace((0, 1), (1, 1e-4))
    assert (
        vanished(norms_of(0.3 * fall, upper=fall)[:, [0, 1, 14]], layers=["embeddings", "layer_00", "classifier"])
        is None
    )


def test_the_last_layer_is_the_top_without_a_classifier():
    names = ["embeddings", "layer_00", "head"]
    found = vanished(norms_of(FAILED)[:, [0, 1, 14]], layers=names)
    assert found["layers"] == names[:2]


def test_holes_overflows_and_a_coarse_record_do_not_matter():
    norms = norms_of(FAILED)
    holed = norms.copy()
    holed[::7] = np.nan
    holed[3, 2], holed[100] = np.inf, np.inf
    assert vanished(holed)["layers"] == LAYERS[:11]
    coarse = vanished(norms[::5], steps=STEPS[::5])
    assert coarse["layers"] == LAYERS[:11] and coarse["first_step"] in STEPS[::5]
    frozen = norms.copy()
    frozen[:, 0] = np.nan
    assert vanished(frozen)["layers"] == LAYERS[1:11]
    assert vanished(norms * np.nan) is None
    assert vanished(norms[:0], steps=STEPS[:0]) is None


def test_norms_must_fit_steps_and_layers():
    with pytest.raises(InputError, match="need one row for each of"):
        vanished(norms_of(FAILED)[:, 1:])
    with pytest.raises(InputError, match="ascend"):
        vanished(norms_of(FAILED), steps=STEPS[::-1])


@given(st.floats(-8, 8), st.sampled_from([FAILED, GOOD, HEALED]))
@settings(max_examples=15, deadline=None)
def test_scaling_all_norms_changes_nothing(exponent, lower):
    assert vanished(norms_of(lower) * 10**exponent) == vanished(norms_of(lower))


def test_vanished_mask_takes_a_leading_seed_axis():
    stack = np.stack([norms_of(FAILED), norms_of(GOOD), norms_of(HEALED)])
    starts, together = vanished_mask(STEPS, stack, 14, WARMUP, TOTAL)
    assert together.shape == (3, len(starts), len(LAYERS))
    for norms, mask in zip(stack, together, strict=True):
        np.testing.assert_array_equal(vanished_mask(STEPS, norms, 14, WARMUP, TOTAL)[1], mask)
