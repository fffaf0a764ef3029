"""Trainings with the packed step against the same trainings with Hugging Face's forward pass, without dropout."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments
from hf_stability.diagnostics.probes import PROBES
from tests import toy
from tests.methods.test_all import METHODS
from tests.processes import run_script


DRY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FAST = {**toy.QUIET, "learning_rate": 1e-3, "max_steps": 4, "eval_strategy": "no", "per_device_train_batch_size": 4}
NO_EFFECT = "key.bias"
"""The softmax over keys does not change with it. Its gradient is rounding error alone, which Adam makes as large as the others."""


def padded(rows):
    """A collator: examples of 2 to 10 tokens, by their first token."""
    lengths = torch.tensor([2 + row["input_ids"][0] % 9 for row in rows])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    tokens = torch.tensor([row["input_ids"] for row in rows])[:, : mask.shape[1]]
    labels = torch.tensor([row["label"] for row in rows])
    return {"input_ids": tokens * mask, "attention_mask": mask, "labels": labels}


def train(folder, architecture="bert", resume=None, **values):
    args = StableTrainingArguments(str(folder), **{**FAST, **values})
    quick = [StabilityCallback(heat_map=False, tensorboard=False)]
    return toy.train(StableTrainer, args, quick, resume, architecture, data_collator=padded)


@pytest.fixture(autouse=True)
def without_dropout(monkeypatch):
    for name in ("bert", "roberta", "albert"):
        monkeypatch.setitem(toy.CONFIGS, name, toy.config(name, **DRY))


def has_packed_part(model):
    return any("forward" in vars(module) for module in model.modules())


def distance(trainer, other):
    """The largest difference of a weight."""
    pairs = zip(trainer.model.named_parameters(), other.model.named_parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for (name, a), (_, b) in pairs if not name.endswith(NO_EFFECT))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "r_drop"])  # R-Drop needs dropout
def test_every_method_gives_the_weights_of_hugging_faces_step(name, tmp_path):
    stock, packed = (train(tmp_path / step, step=step, **METHODS[name][0]) for step in ("hf", "packed"))
    assert distance(packed, stock) < 1e-5
    assert has_packed_part(packed.model) and not has_packed_part(stock.model)


def test_r_drop_works(tmp_path, monkeypatch):
    monkeypatch.setitem(toy.CONFIGS, "bert", toy.config(hidden_dropout_prob=0.1))
    assert torch.isfinite(toy.weights(train(tmp_path, step="packed", **METHODS["r_drop"][0]))).all()


def assert_same(value, expected, name=""):
    """Numbers that agree to a thousandth, in dicts and arrays; names that are equal."""
    if isinstance(expected, dict):
        assert value.keys() == expected.keys()
        for key in expected:
            assert_same(value[key], expected[key], key)
    elif isinstance(expected, np.ndarray) and expected.dtype.kind in "fiu":
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-5, err_msg=name)
    else:
        assert np.array_equal(value, expected), name


ARCHITECTURES = ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("roberta", "albert"))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_record_and_every_diagnostic_are_the_same(architecture, tmp_path):
    values = {"diagnostics": list(PROBES), "eval_strategy": "steps", "eval_steps": 2}
    stock, packed = (train(tmp_path / step, architecture, step=step, **values) for step in ("hf", "packed"))
    assert_same(packed.stability.record, stock.stability.record)
    assert packed.stability.verdict.sentence == stock.stability.verdict.sentence


def test_a_ready_model_and_a_resumed_run(tmp_path):
    values = {"step": "packed", "save_strategy": "steps", "save_steps": 2}
    whole = train(tmp_path, **values)
    resumed = train(tmp_path, resume=str(tmp_path / "checkpoint-2"), **values)
    assert torch.equal(toy.weights(resumed), toy.weights(whole))
    args = StableTrainingArguments(str(tmp_path), **FAST, step="packed")
    ready = toy.train(StableTrainer, args, init=False, data_collator=padded)
    assert "forward" in vars(ready.model.base_model) and torch.isfinite(toy.weights(ready)).all()
    other = StableTrainer(ready.model, StableTrainingArguments(str(tmp_path), **FAST), train_dataset=toy.data(8))
    assert "forward" not in vars(other.model.base_model)  # the default again


@pytest.mark.slow
def test_two_processes_have_the_weights_of_one(tmp_path):
    done = run_script(__file__, [tmp_path], processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert first["wrapped"] and first["weights"] == second["weights"]
    alone = train(tmp_path / "alone", **ONE_BATCH)
    torch.testing.assert_close(torch.tensor(first["weights"]), toy.weights(alone), rtol=1e-4, atol=1e-6)


ONE_BATCH = {"step": "packed", "optim": "sgd", "learning_rate": 0.1, "total_train_batch_size": 16}
ONE_BATCH |= {"per_device_train_batch_size": 8}  # the default, which does not contradict the total


@pytest.mark.slow
def test_torch_compile(tmp_path):
    values = {"optim": "sgd", "max_steps": 2, "step": "packed"}
    compiled = train(tmp_path / "a", torch_compile=True, torch_compile_backend="aot_eager", **values)
    assert distance(compiled, train(tmp_path / "b", **values)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
def test_200_update_steps_in_float32(architecture, tmp_path):
    """No weight differs by more than 1e-6; the largest one, of a LayerNorm, is about 1."""
    values = {"max_steps": 200, "learning_rate": 1e-3, "weight_decay": 0.1}
    stock, packed = (train(tmp_path / step, architecture, step=step, **values) for step in ("hf", "packed"))
    assert distance(packed, stock) < 1e-6


if __name__ == "__main__":
    toy.CONFIGS["bert"] = toy.config(**DRY)
    trainer = train(Path(sys.argv[1]) / "run", ddp_find_unused_parameters=False, **ONE_BATCH)
    found = {
        "weights": toy.weights(trainer).tolist(),
        "wrapped": isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel),
    }
    (Path(sys.argv[1]) / f"rank-{trainer.args.process_index}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
