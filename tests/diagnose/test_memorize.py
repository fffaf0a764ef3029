import random

import numpy as np
import pytest
import torch
from transformers import default_data_collator

from hf_stability.diagnose.memorize import memorize, own_random_state, pick_examples
from tests import toy


def examples(rows=32, regression=False, labels=None):
    data = toy.data(rows, regression=regression)
    columns = {"input_ids": data["input_ids"], "label": data["label"] if labels is None else labels}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def fit(model, data, **values):
    return memorize(model, data, default_data_collator, show=False, **values)


def test_a_sound_model_learns_its_labels():
    found = fit(toy.model(), examples())
    assert found["learned"] and found["score"] == 1 and found["examples"] == 32 and not found["regression"]
    assert 8 <= found["steps"] < 300 and found["steps"] % 4 == 0  # whole passes of 4 batches
    assert found["rate"] == pytest.approx(5e-5 * 768 / 16)


def test_adapters_learn_at_a_rate_of_their_own():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "value"])
    found = fit(peft.get_peft_model(toy.model(), config), examples())
    assert found["learned"] and found["rate"] == pytest.approx(10 * 5e-5 * 768 / 16)


def test_labels_by_chance_can_be_learned_too():
    labels = np.random.default_rng(0).integers(0, 2, 32).tolist()
    assert fit(toy.model(), examples(labels=labels))["learned"]


def test_a_regression_is_learned_by_its_variance():
    found = fit(toy.model(num_labels=1, problem_type="regression"), examples(regression=True))
    assert found["learned"] and found["regression"] and 0.95 <= found["score"] <= 1


def frozen(model):
    return model.requires_grad_(False)


def frozen_encoder(model):
    model.bert.requires_grad_(False)
    return model


@pytest.mark.parametrize("break_it", [frozen, frozen_encoder])
def test_a_frozen_model_is_caught(break_it):
    found = fit(break_it(toy.model()), examples(), steps=32)
    assert not found["learned"] and found["score"] < 1


def test_labels_that_contradict_each_other_are_caught():
    data = examples(16)
    found = fit(toy.model(), [{**row, "label": label} for row in data for label in (0, 1)], steps=32)
    assert not found["learned"] and found["score"] <= 0.75


def test_a_rate_that_is_too_large_is_followed_by_a_third_from_the_same_weights(monkeypatch):
    tried = []
    from hf_stability.diagnose import memorize as module

    original = module._fit

    def watched(model, trained, batches, rate, *more):
        tried.append((rate, toy.weights(model).clone()))
        return original(model, trained, batches, rate, *more)

    monkeypatch.setattr(module, "_fit", watched)
    found = fit(toy.model(), examples(), rate=3.0, steps=12)
    assert [rate for rate, _ in tried] == [3.0, 1.0] and torch.equal(tried[0][1], tried[1][1])
    assert not found["learned"] and found["rate"] in (3.0, 1.0)
    tried.clear()
    assert fit(toy.model(), examples())["learned"] and len(tried) == 1


def test_what_the_second_rate_learned_counts_after_a_nan(monkeypatch):
    from hf_stability.diagnose import memorize as module

    def tried(score, learned):
        return {"learned": learned, "score": score, "steps": 8, "rate": 1e-3, "loss": 0.1, "regression": True}

    results = iter([tried(float("nan"), False), tried(0.99, True)])
    monkeypatch.setattr(module, "_fit", lambda *_: next(results))
    found = fit(toy.model(), examples())
    assert found["learned"] and found["score"] == 0.99


def test_a_loss_that_is_not_finite_ends_it():
    found = fit(toy.model(), examples(), rate=float("inf"), steps=100)
    assert not found["learned"] and found["steps"] < 100


def test_dropout_is_off_and_half_precision_is_not_kept():
    model = toy.model(hidden_dropout_prob=0.9, attention_probs_dropout_prob=0.9).half()
    assert fit(model, examples())["learned"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


# ---- which examples -------------------------------------------------------------------------------------------------


def test_examples_are_of_each_class_in_turn_and_none_comes_twice():
    labels = np.array([0] * 10 + [1] * 3)
    inputs = [[i // 2] for i in range(10)] + [
        [20],
        [0],
        [21],
    ]  # each input of class 0 twice; one of class 1 is one of these
    assert pick_examples(labels, inputs, 6) == [0, 10, 2, 12, 4, 6]
    assert pick_examples(labels, inputs, 100) == [0, 10, 2, 12, 4, 6, 8]


def test_ignored_labels_are_not_examples():
    assert pick_examples(np.array([-100, 0, 1]), [[0], [1], [2]]) == [1, 2]


def test_of_a_regression_the_first_examples_are_taken():
    assert pick_examples(np.linspace(0, 1, 100), [[i] for i in range(100)], 32) == list(range(32))


def test_random_numbers_are_as_before():
    def draw():
        return random.random(), np.random.rand(), float(torch.rand(1))

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draw()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    with pytest.raises(ZeroDivisionError), own_random_state():
        first = float(torch.rand(1))
        draw()
        raise ZeroDivisionError
    assert draw() == expected
    with own_random_state():
        assert float(torch.rand(1)) == first
