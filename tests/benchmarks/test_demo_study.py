"""The arithmetic of the demo's studies; the runs themselves are the study's and tested there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_linear_schedule_with_warmup

from hf_stability.recipe import load_recipe, resolve
from hf_stability.tasks.demo.data import SPLIT_SIZES


sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "demo_study"))  # scripts that import one another
import report
import run


@pytest.mark.parametrize(("epochs", "warmup"), [(3, None), (20, None), (3, 126)])
def test_the_schedule_is_the_trainers(epochs, warmup):
    steps = run.steps_of(epochs)
    assert (steps, run.EXAMPLES) == (63 * epochs, SPLIT_SIZES["demo_pair"]["train"])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    warmup_steps = -(-steps // 10) if warmup is None else warmup
    scheduler = get_linear_schedule_with_warmup(optimizer, warmup_steps, steps)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(run.schedule(epochs, warmup), rates, atol=1e-12)


def test_the_mean_factor_makes_the_summed_steps_equal():
    on = sum(share * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) for t, share in enumerate(run.schedule(3).tolist(), start=1))
    assert run.mean_factor(3) * run.schedule(3).sum() == pytest.approx(on)


def test_arms_are_recipes_that_differ_in_what_they_say(tmp_path):
    arms = run.confirm_arms(2e-4, {"devlin2019": 1e-4, "mosbach2021": 2e-4})
    assert "devlin2019_best" in arms and "mosbach2021_best" not in arms
    for name, values in arms.items():
        path = run.write_arm(tmp_path, name, values)
        # A user's own file goes over the demo's preset.
        arm = resolve(load_recipe(str(path)), "bert", {"learning_rate": 1.0})
        original = resolve(load_recipe(values["recipe"]), "bert", {"learning_rate": 1.0})
        changed = {key: r.value for key, r in arm.items() if key not in original or r.value != original[key].value}
        wanted = {key: value for key, value in values.items() if key != "recipe"}
        assert changed == {k: v for k, v in wanted.items() if k not in original or v != original[k].value}
    assert all(run.arm_values("choose", name)["recipe"] == "devlin2019" for name in run.choice_arms("devlin2019"))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm(p_values):
    adjusted = report.holm(p_values)
    for level in (0.01, 0.05, 0.2, 0.5):
        rejected, rest = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
        while (
            rest and p_values[rest[0]] * len(rest) <= level
        ):  # step down: the smallest against level / how many are left
            rejected.add(rest.pop(0))
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected


def test_a_sign_flip_test_and_an_interval_of_a_clear_difference():
    differences = np.array([0.2, 0.25, 0.3, 0.22, 0.27, 0.24, 0.26, 0.21, 0.28, 0.29])
    assert report.sign_flip_p(differences) == pytest.approx(2 / 2**10)
    low, high = report.mean_interval(differences)
    assert differences.min() < low < differences.mean() < high < differences.max()
    assert report.sign_flip_p(np.array([0.1, -0.1, 0.2, -0.2])) == 1.0
