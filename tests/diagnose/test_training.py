"""Update steps, rates and losses of a run."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest

from hf_stability.diagnose import diagnose
from hf_stability.diagnose.files import Run, read_run_files
from hf_stability.diagnose.training import training_values
from tests.diagnose.tools import of


def test_training_flags_say_what_the_files_do_not(output, tmp_path):
    shutil.copy(output / "trainer_state.json", tmp_path)
    state = tmp_path / "trainer_state.json"
    assert of(diagnose(state), "learning rate").figures["peak"] < 1e-3  # as far as the log shows it
    assert "(bias correction is assumed on)" in of(diagnose(state), "learning rate").sentence
    training = {"learning_rate": 2e-3, "bias_correction": False, "warmup_steps": 0.25}
    report = diagnose(state, training=training)
    rate = of(report, "learning rate").figures
    assert rate["peak"] == pytest.approx(2e-3) and not rate["bias_correction"]
    assert rate["effective_peak"] == pytest.approx(2e-3 * (1 - 0.9**3) / math.sqrt(1 - 0.999**3))  # step 3
    assert of(report, "warmup").figures == {"warmup_steps": 2, "share": 0.25}


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([(10, 1e-5), (20, 2e-5), (30, 1e-5)], 20),  # it rises until step 20
        ([(2, 2e-5), (20, 1e-5)], 0),
        ([(50, 2e-5), (99, 1e-5)], None),  # a warmup may have ended before the first entry
        ([(50, 2e-5)], None),
    ],
)
def test_warmup_in_the_log(rates, expected):
    run = Run("x", total_steps=100, history=[{"step": step, "learning_rate": rate} for step, rate in rates])
    assert training_values(run)["warmup_steps"] == expected


def test_rates_without_a_record_are_the_trainers_schedule(output):
    with_record = training_values(read_run_files(output))
    run = read_run_files(output)
    run.record = None
    without = training_values(run)
    np.testing.assert_allclose(without["rates"], with_record["rates"], rtol=1e-6)
    np.testing.assert_array_equal(without["rate_steps"], with_record["rate_steps"])
    assert without["warmup_steps"] == with_record["warmup_steps"] == 0
    run.args["warmup_steps"] = 4
    np.testing.assert_allclose(training_values(run)["rates"][:6], [0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 7.5e-4])


def test_a_model_that_returns_no_loss_is_no_nan():
    record = {
        "step": np.arange(1, 5), "learning_rate": np.full(4, 1e-3), "loss": np.full(4, np.nan), "grad_norm": np.ones(4),
        "layers": ["classifier"], "layer_norms": np.ones((4, 1)), "info": {},
    }  # fmt: skip
    assert training_values(Run("x", record=record))["losses"] is None
    record["grad_norm"] = np.full(4, np.nan)
    assert training_values(Run("x", record=record))["losses"] is record["loss"]


def test_a_record_with_the_rates_of_groups():
    record = {
        "step": np.arange(1, 5), "learning_rate": np.full(4, 2e-5), "loss": np.ones(4), "grad_norm": np.ones(4),
        "learning_rates": np.tile([1e-3, 2e-5], (4, 1)), "layers": [], "layer_norms": np.ones((4, 0)), "info": {},
    }  # fmt: skip
    values = training_values(Run("x", record=record, history=[{"step": 2, "learning_rate": 1e-3}]))
    assert max(values["rates"]) == 2e-5 and "the parameter groups have 2e-5 to 0.001" in values["rate_note"]
    record["learning_rates"] = np.zeros((4, 0))
    assert training_values(Run("x", record=record))["rate_note"] is None


def test_an_optimizer_of_ones_own_in_the_files():
    """The arguments' rate is a default that nobody used."""
    history = [{"step": step, "learning_rate": 1e-3 * (100 - step) / 100} for step in (10, 20)]
    values = training_values(Run("x", args={"learning_rate": 5e-5}, history=history, total_steps=100))
    assert max(values["rates"]) == pytest.approx(9e-4) and "first parameter group" in values["rate_note"]
    below = training_values(Run("x", args={"learning_rate": 1e-3}, history=history, total_steps=100))
    assert max(below["rates"]) == pytest.approx(1e-3) and below["rate_note"] is None
