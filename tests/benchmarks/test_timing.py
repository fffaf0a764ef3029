import json

import numpy as np
import pytest

from benchmarks.timing import interleaved, machine, ratio_interval


def test_ratio_is_of_the_same_block():
    """Drift that hits both alike leaves the ratio alone: 1.2 exactly, though the times differ tenfold."""
    drift = np.geomspace(1, 10, 20)
    times = {"ours": list(1.2 * drift), "peer": list(drift)}
    assert ratio_interval(times, "ours", "peer") == pytest.approx((1.2, 1.2, 1.2), rel=1e-12)


def test_ratio_interval_of_a_known_case():
    """Of the ratios 1, ..., 99 the interval of the median has ranks 40 and 60 (the binomial's, 95%)."""
    ratios = np.arange(1, 100, dtype=float)
    median, low, high = ratio_interval({"a": list(ratios), "b": [1.0] * 99}, "a", "b")
    assert median == 50
    assert low == pytest.approx(40, abs=1.01)
    assert high == pytest.approx(60, abs=1.01)


def test_ratio_interval_covers_the_median():
    """About 95 of 100 intervals hold the true median; fewer than 85 would be a broken interval."""
    rng = np.random.default_rng(0)
    held = 0
    for i in range(100):
        times = {"a": list(rng.lognormal(np.log(1.1), 0.1, 25)), "b": [1.0] * 25}
        _, low, high = ratio_interval(times, "a", "b", n_boot=500, seed=i)
        held += low <= 1.1 <= high
    assert held >= 85


def test_ratio_interval_is_reproducible_and_leaves_the_global_state_alone():
    times = {"a": [1.0, 1.3, 1.1, 1.7], "b": [1.0, 1.0, 1.2, 1.0]}
    before = np.random.get_state()[1].copy()
    assert ratio_interval(times, "a", "b", seed=3) == ratio_interval(times, "a", "b", seed=3)
    assert np.array_equal(before, np.random.get_state()[1])


def test_ratio_interval_names_what_is_wrong():
    with pytest.raises(ValueError, match="no times of 'c'.*'a', 'b'"):
        ratio_interval({"a": [1.0], "b": [1.0]}, "a", "c")
    with pytest.raises(ValueError, match="'a' has 1 blocks, 'b' has 2"):
        ratio_interval({"a": [1.0], "b": [1.0, 1.0]}, "a", "b")


def test_interleaved_takes_turns_in_orders_that_favour_none():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = interleaved(functions, blocks=60, steps=2, warmup=1, progress=False)
    assert list(times) == ["a", "b", "c"]
    assert all(len(t) == 60 and min(t) > 0 for t in times.values())

    assert calls[:3] == ["a", "b", "c"]  # the warmup
    blocks = [calls[i : i + 6] for i in range(3, len(calls), 6)]
    assert len(blocks) == 60
    for block in blocks:
        assert block[0::2] == block[1::2] and sorted(block[0::2]) == ["a", "b", "c"]
    for name in "abc":
        first = sum(block[0] == name for block in blocks)
        assert 8 <= first <= 32  # 20 expected, 3.3 standard deviations to either side


def test_interleaved_measures_seconds_per_call(monkeypatch):
    """By a clock of our own: a call of `slow` takes 4 s, one of `quick` 1 s."""
    clock = [0.0]
    monkeypatch.setattr("benchmarks.timing.perf_counter", lambda: clock[0])

    def take(seconds):
        clock[0] += seconds

    times = interleaved({"quick": lambda: take(1), "slow": lambda: take(4)}, blocks=3, steps=5, progress=False)
    assert times == {"quick": [1.0] * 3, "slow": [4.0] * 3}


@pytest.mark.parametrize("blocks, steps", [(0, 1), (1, 0)])
def test_interleaved_refuses_nothing_to_do(blocks, steps):
    with pytest.raises(ValueError, match="at least 1"):
        interleaved({"a": lambda: None}, blocks=blocks, steps=steps)
    with pytest.raises(ValueError, match="empty"):
        interleaved({}, blocks=1, steps=1)


def test_machine_is_plain_json():
    record = json.loads(json.dumps(machine()))
    assert set(record) == {"processor", "cpus", "threads", "torch", "python", "system"}  # no host name, no path
