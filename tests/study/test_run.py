"""A run: which ones are audited, and the device that each trains on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import binom, binomtest

from hf_stability.diagnostics.step_record import read_steps
from hf_stability.study.run import AUDIT_STREAM, audits, run_job, training_arguments
from hf_stability.training_args import seed_streams


def test_audits_are_drawn_from_the_seed_alone():
    shares = (0.0, 0.1, 0.2, 0.5, 1.0)
    drawn = np.array([[audits(seed, share) for share in shares] for seed in range(2000)])
    assert (np.diff(drawn.astype(int)) >= 0).all()  # audited at one share, audited at every greater one
    for share, count in zip(shares, drawn.sum(0), strict=True):
        low, high = binom.interval(0.999, 2000, share) if 0 < share < 1 else (2000 * share, 2000 * share)
        assert low <= count <= high
    assert [seed for seed in range(1, 21) if audits(seed, 0.2)] == [4, 5, 10]  # the same in every process and version
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    audits(3, 0.2)
    assert (np.random.get_state()[1] == state[0]).all() and torch.equal(torch.get_rng_state(), state[1])


def test_an_audit_says_nothing_of_the_streams_of_training():
    seeds = range(500)
    drawn = [audits(seed, 0.5) for seed in seeds]
    for stream in seed_streams(1):
        parity = [seed_streams(seed)[stream] % 2 == 1 for seed in seeds]
        agree = sum(a == b for a, b in zip(drawn, parity, strict=True))
        assert binomtest(agree, len(drawn)).pvalue > 0.001
    keys = [child.spawn_key for child in np.random.SeedSequence(1).spawn(3)]
    assert (AUDIT_STREAM,) not in keys


def test_a_run_for_a_gpu_is_not_trained_on_a_cpu_in_silence(tiny_jobs, tmp_path, monkeypatch):
    """As in a worker that gets a GPU which is not there."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    (job,) = tiny_jobs(tmp_path, seeds=(1,))
    with pytest.raises(
        RuntimeError, match="was planned for a GPU, but PyTorch finds none on .*CUDA_VISIBLE_DEVICES=7"
    ):
        run_job(replace(job, device="cuda"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("batch", [{"total_train_batch_size": 8}, {"per_device_train_batch_size": 8}])
def test_a_run_in_a_process_that_sees_three_gpus_trains_on_one(tiny_jobs, tmp_path, monkeypatch, batch):
    """The batch of 8 cannot be divided by three. The GPUs are fake."""
    (job,) = tiny_jobs(tmp_path, seeds=(1,))
    settings = {name: value for name, value in job.args.items() if not name.endswith("train_batch_size")}
    settings["use_cpu"] = False  # otherwise the Trainer does not count
    job = replace(job, args={**settings, **batch})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    args = training_arguments(job, tmp_path / "run")
    assert (args.n_gpu, args.train_batch_size, args.per_device_train_batch_size) == (1, 8, 8)
    assert args.total_train_batch_size == batch.get("total_train_batch_size")


def test_a_run_in_bf16_on_a_cpu_has_other_losses_and_weights_in_float32(tiny_jobs, no_heat_maps, tmp_path):
    found = {}
    for name, given in (("float32", {}), ("bf16", {"bf16": True})):
        (job,) = tiny_jobs(tmp_path / name, seeds=(1,), keep_model="last", **given)
        assert job.mixed_precision == ("bf16" if given else "no")
        run_job(job, tmp_path / name / "run")
        weights = load_file(tmp_path / name / "run" / "model" / "model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
        found[name] = job.id, read_steps(tmp_path / name / "run")["loss"]
    assert found["float32"][0] != found["bf16"][0]
    assert (found["float32"][1] != found["bf16"][1]).any()
    np.testing.assert_allclose(found["float32"][1], found["bf16"][1], rtol=0.05)
