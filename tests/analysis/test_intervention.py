"""Changes in mid-training: against a slow Adam, against recipes that start with the change, and after a resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from hf_stability import AdamW, StableTrainer, StableTrainingArguments
from hf_stability.analysis.intervention import BETA2, EPS, INTERVENTIONS, QUARTER, Intervention
from hf_stability.diagnostics.step_record import read_steps
from hf_stability.errors import InputError
from hf_stability.utils.layers import parameters_with_layers
from tests import toy


OF_THE_OPTIMIZER = [("correction_on", False), ("correction_off", True)]
OF_THE_OPTIMIZER += [(name, on) for name in ("reset_moments", "beta2_98", "eps_1e-12") for on in (True, False)]
STEPS = 12


def slow_adam(gradients, name, at, corrects, rate=0.1, beta1=0.9, beta2=0.999, eps=1e-6):
    """Adam without weight decay, number by number, with the change before step `at` (counted from 0)."""
    weights, m, v, since = np.zeros(gradients.shape[1]), 0.0, 0.0, 0
    for done, gradient in enumerate(gradients):
        if done == at:
            if name == "reset_moments":
                m, v, since = 0.0, 0.0, done
            corrects = {"correction_on": True, "correction_off": False}.get(name, corrects)
            beta2 = BETA2 if name == "beta2_98" else beta2
            eps = EPS if name == "eps_1e-12" else eps
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        t = done - since + 1
        c1, c2 = (1 - beta1**t, 1 - beta2**t) if corrects else (1.0, 1.0)
        weights = weights - rate * (m / c1) / (np.sqrt(v / c2) + eps)
    return weights


@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize("name, corrects", OF_THE_OPTIMIZER)
def test_the_optimizer_changes_as_a_slow_adam_does(name, corrects, at):
    gradients = np.random.default_rng(0).normal(size=(STEPS, 4)) * 1e-5  # so small that eps counts
    weights = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = AdamW([weights], lr=0.1, eps=1e-6, weight_decay=0.0, bias_correction=corrects)
    done = 0
    Intervention(intervention=name, intervene_at=at).attach(optimizer, lambda: done)
    for gradient in gradients:
        weights.grad = torch.tensor(gradient)
        optimizer.step()
        done += 1
    expected = slow_adam(gradients, name, at, corrects)
    assert np.allclose(weights.detach().numpy(), expected, rtol=1e-6, atol=0)
    unchanged = slow_adam(gradients, "none", at, corrects)
    changes_nothing = at == 0 and name == "reset_moments"
    assert np.allclose(expected, unchanged, rtol=1e-4) == changes_nothing


def train(tmp_path, folder="out", resume=None, callbacks=None, architecture="bert", **values):
    given = {"max_steps": STEPS, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 0, "seed": 3}
    intervention = {key: values.pop(key) for key in ("intervention", "intervene_at") if key in values}
    args = StableTrainingArguments(str(tmp_path / folder), **{**toy.QUIET, **given, **values})
    methods = [Intervention(**intervention)] if intervention else []
    return toy.train(StableTrainer, args, callbacks, resume, architecture, methods=methods)


def test_from_the_first_step_on_it_is_the_other_recipe(tmp_path):
    on = toy.weights(train(tmp_path, bias_correction=True))
    off = toy.weights(train(tmp_path, bias_correction=False))
    switched_on = train(tmp_path, bias_correction=False, intervention="correction_on")
    switched_off = train(tmp_path, bias_correction=True, intervention="correction_off")
    assert torch.equal(toy.weights(switched_on), on) and torch.equal(toy.weights(switched_off), off)
    assert not torch.equal(on, off)


def test_the_rate_is_a_quarter_from_the_step_on(tmp_path):
    rates = [
        [log["learning_rate"] for log in train(tmp_path, logging_steps=1, **values).state.log_history[:STEPS]]
        for values in ({}, {"intervention": "quarter_rate", "intervene_at": 5})
    ]
    factors = np.array(rates[1]) / np.array(rates[0])
    assert factors.tolist() == pytest.approx([1.0] * 5 + [QUARTER] * (STEPS - 5))


@pytest.mark.parametrize("which, layers", [("lower", ["layer_00"]), ("upper", ["layer_02"])])
def test_a_third_of_the_layers_gets_its_pretrained_weights_back(which, layers):
    model = toy.model()
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    method = Intervention(intervention=f"{which}_third_back", intervene_at=2)
    method.prepare_model(model, None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    moved = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = AdamW(model.parameters())
    method.before_step(optimizer, 1)
    assert all(torch.equal(parameter, moved[name]) for name, parameter in model.named_parameters())
    method.before_step(optimizer, 2)
    for layer, name, parameter in parameters_with_layers(model):
        assert torch.equal(parameter, start[name] if layer in layers else moved[name]), name


def test_a_model_without_layers_of_its_own_is_refused(tmp_path):
    with pytest.raises(InputError, match="--intervention lower_third_back: this model has no layers"):
        train(tmp_path, architecture="albert", intervention="lower_third_back")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(INTERVENTIONS))
def test_training_is_the_same_until_the_change_and_another_after_it(tmp_path, name):
    corrects = name != "correction_on"
    records = [
        read_steps(
            Path(train(tmp_path, folder, bias_correction=corrects, **values).args.output_dir) / "stability/steps.rec"
        )
        for folder, values in (("plain", {}), ("changed", {"intervention": name, "intervene_at": 6}))
    ]
    plain, changed = (record["loss"] for record in records)
    assert len(plain) == STEPS and np.array_equal(
        plain[:7], changed[:7]
    )  # the loss of step 7 is that before its update
    assert not np.array_equal(plain[7:], changed[7:])


class Die(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 9:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("name", ["correction_on", "beta2_98", "quarter_rate", "upper_third_back"])
def test_a_resume_after_the_change_is_the_whole_run_bitwise(tmp_path, name):
    values = {"bias_correction": name != "correction_on", "intervention": name, "intervene_at": 4}
    values |= {"save_strategy": "steps", "save_steps": 6}
    whole = toy.weights(train(tmp_path, "whole", **values))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "resumed", callbacks=[Die()], **values)
    assert torch.equal(toy.weights(train(tmp_path, "resumed", resume=True, **values)), whole)


@pytest.mark.parametrize(
    "values, says",
    [
        ({"intervention": "correction_on"}, "--intervention correction_on: the correction is on already"),
        ({"intervention": "correction_off", "bias_correction": False}, "--intervention correction_off: it is off"),
        ({"intervention": "beta3"}, "--intervention beta3: must be one of none, correction_on"),
        ({"intervention": "beta2_98", "intervene_at": -1}, "--intervene_at -1: must be 0 or more"),
        ({"intervention": "beta2_98", "optim": "sgd"}, "needs torch's AdamW; give --optim adamw_torch"),
    ],
)
def test_what_contradicts_is_refused(tmp_path, values, says):
    with pytest.raises(InputError, match=says):
        train(tmp_path, **values)
