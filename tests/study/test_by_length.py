"""Evaluation by length: its order, and what it leaves as it was."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers.trainer_utils import EvalPrediction

from hf_stability.study import run as module
from hf_stability.study.by_length import LengthTrainer, longest_first
from hf_stability.study.run import make_trainer, run_job, training_arguments
from hf_stability.tasks.load import token_counts
from hf_stability.trainer import StableTrainer


def test_all_but_last_bits_of_an_evaluation_are_those_of_the_stock_order(
    tiny_jobs, no_heat_maps, tmp_path, monkeypatch
):
    """Record and weights are the same bytes, labels and scores are equal. Logits and the evaluation's loss are close."""
    found = {}
    for name, trainer in (("ours", LengthTrainer), ("stock", StableTrainer)):
        monkeypatch.setattr(module, "LengthTrainer", trainer)
        given = {"learning_rate": 5e-3, "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 3}
        (job,) = tiny_jobs(tmp_path / name, seeds=(1,), keep_model="last", **given)
        folder = tmp_path / name / "run"
        run_job(job, folder)
        same = [(folder / file).read_bytes() for file in ("steps.rec", "model/model.safetensors")]
        metrics = json.loads((folder / "metrics.json").read_text())
        losses = [
            evaluation.pop("eval_loss") for evaluation in (*metrics["evaluations"], metrics["last"], metrics["best"])
        ]
        with np.load(folder / "predictions.npz") as file:
            found[name] = (*same, metrics, file["labels"].tolist()), np.array(losses), file["logits"]
    assert found["ours"][0] == found["stock"][0]
    assert len(found["ours"][1]) == 6 and len(np.unique(found["ours"][2])) > 2
    for ours, stock in zip(found["ours"][1:], found["stock"][1:], strict=True):
        np.testing.assert_allclose(ours, stock, rtol=1e-5, atol=1e-6)


def test_batches_have_examples_of_similar_length_and_metrics_see_the_order_of_the_set(tiny_jobs, tmp_path):
    (job,) = tiny_jobs(tmp_path, seeds=(1,), per_device_eval_batch_size=4)
    trainer = make_trainer(job, training_arguments(job, tmp_path / "run"))
    data, seen, widths, score = trainer.eval_dataset, [], [], trainer.compute_metrics
    lengths = [len(ids) for ids in data["input_ids"]]
    assert token_counts(data).tolist() == lengths and len(set(lengths)) > 2
    assert [lengths[i] for i in longest_first(data)] == sorted(lengths, reverse=True)
    trainer.compute_metrics = lambda prediction: seen.append(prediction) or score(prediction)
    trainer.model.register_forward_pre_hook(
        lambda model, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    output = trainer.predict(data)
    assert widths == sorted(lengths, reverse=True)[::4]
    for found in (seen[0], output):
        assert found.label_ids.tolist() == data["label"]
    trainer.model.eval()
    alone = [trainer.model(input_ids=torch.tensor([ids])).logits[0].tolist() for ids in data["input_ids"]]
    np.testing.assert_allclose(output.predictions, alone, rtol=1e-5, atol=1e-6)
    assert seen[0].predictions.tobytes() == output.predictions.tobytes()


def test_an_error_of_the_metric_leaves_the_trainer_as_it_was(tiny_jobs, tmp_path):
    (job,) = tiny_jobs(tmp_path, seeds=(1,))
    trainer = make_trainer(job, training_arguments(job, tmp_path / "run"))

    def fails(prediction: EvalPrediction) -> dict[str, float]:
        raise ValueError("no such metric")

    trainer.compute_metrics = fails
    with pytest.raises(ValueError, match="no such metric"):
        trainer.evaluate()
    assert trainer.compute_metrics is fails
