"""Norms over training: loops, numpy and Mann & Whitney's U."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from hf_stability.analysis.norms_over_training import (
    first_lasting,
    lower_layers,
    phase_medians,
    quartiles,
    separation,
    stays_below,
    windowed,
)


def test_lower_layers():
    layers = ["embeddings", *(f"layer_{i:02d}" for i in range(12)), "pooler", "classifier"]
    assert lower_layers(layers) == layers[:5]
    assert lower_layers(["embeddings", "shared_layer_00", "classifier"]) == ["embeddings", "shared_layer_00"]
    assert lower_layers(["one", "two", "three"]) == ["one"]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 15), st.integers(0, 2**32 - 1))
def test_windows_and_phases_against_loops(total, windows, warmup, seed):
    windows, warmup = min(windows, total), min(warmup, total)
    rng = np.random.default_rng(seed)
    norms = rng.lognormal(size=(total, 2))
    norms[rng.random((total, 2)) < 0.2] = np.nan
    steps = np.arange(1, total + 1)
    kept = rng.random(total) < 0.8
    found = windowed(steps[kept], norms[kept], total, windows)
    phases = phase_medians(steps[kept], norms[kept], warmup, total)
    for layer in range(2):
        by_window, by_phase = {}, {}
        for step, norm in zip(steps[kept], norms[kept, layer], strict=True):
            if math.isfinite(norm):
                by_window.setdefault(int((step - 1) * windows / total), []).append(norm)
                later = sum(3 * (step - 1 - warmup) >= k * (total - warmup) for k in (1, 2))
                phase = 0 if step <= warmup else 1 + later
                by_phase.setdefault(phase, []).append(norm)
        for result, expected in ((found, by_window), (phases, by_phase)):
            for part in range(len(result)):
                want = float(np.median(expected[part])) if part in expected else math.nan
                assert result[part, layer] == pytest.approx(want, nan_ok=True)


@settings(max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_the_first_lasting_true(below):
    every = [i for i in range(len(below)) if all(below[i:])]
    assert first_lasting(np.array(below)) == (every[0] if every else None)


def test_windows_without_a_norm_are_passed_over():
    norms = np.array([1, 0.01, np.nan, 0.01])
    assert stays_below(norms, np.ones(4), 0.1) == 1
    assert stays_below(np.full(3, np.nan), np.ones(3), 0.1) is None


def test_quartiles_are_numpys_without_nan():
    norms = np.array([[1.0, np.nan], [2.0, np.nan], [4.0, np.nan]])
    (first, middle, third), n = quartiles(norms)
    assert (first[0], middle[0], third[0], n.tolist()) == (1.5, 2, 3, [3, 0]) and np.isnan(middle[1])
    assert np.isnan(quartiles(np.zeros((0, 2)))[0]).all()


def test_separation_is_mann_whitneys_u_over_the_pairs():
    ok, failed = np.array([1, 2, 5, np.nan]), np.array([1, 0.5, 3])
    u = mannwhitneyu(ok[:3], failed).statistic
    share, low, high = separation(ok, failed)
    assert share == pytest.approx(u / 9) and low < share < high
    assert all(math.isnan(value) for value in separation(ok, []))
