"""`--parallel seeds`: how the processes of a launcher are connected."""

from __future__ import annotations

import os

import pytest
import torch.distributed

from hf_stability.errors import InputError
from hf_stability.study.executors import joining
from hf_stability.study.executors.joining import join
from hf_stability.utils import launcher


@pytest.fixture
def launched(monkeypatch):
    """The last of eight processes, four on each machine. The store and the GPUs are fake."""
    from accelerate.state import PartialState

    def count():
        return sum(gpu in "0123456" for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(","))

    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.setattr(joining, "_joined", None)
    monkeypatch.setattr(launcher, "_kept", None)
    store = torch.distributed.HashStore()
    monkeypatch.setattr("torch.distributed.rendezvous", lambda *a, **k: iter([(store, 7, 8)]))
    monkeypatch.setattr(joining, "count_gpus", count)
    for name, value in {"RANK": "7", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)


def test_each_rank_takes_a_gpu_of_its_machine(launched, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    join("seeds")
    group = joining.joined()
    group.leave()
    assert (group.rank, group.size, group.sharing, group.is_main) == (7, 8, 2, False)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5" and "WORLD_SIZE" not in os.environ
    with pytest.raises(InputError, match="--parallel data: an earlier study of this process had --parallel seeds"):
        join("data")


@pytest.mark.parametrize(("torchrun", "sharing"), [(False, 1), (True, 4)])
def test_a_launcher_may_give_each_rank_its_own_gpu(launched, monkeypatch, torchrun, sharing):
    """As Slurm does. torchrun shows all GPUs of the machine to each process."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    if torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "some")
    join("seeds")
    joining.joined().leave()
    assert joining.joined().sharing == sharing


@pytest.mark.parametrize(
    ("count", "message"), [(0, "PyTorch does not find GPU 5 on"), (2, "CUDA was started already")]
)
def test_a_rank_without_a_gpu_of_its_own_is_refused(launched, monkeypatch, count, message):
    counts = iter([2, count])
    monkeypatch.setattr(joining, "count_gpus", lambda: next(counts))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(InputError, match=f"--parallel seeds: .*{message}"):
        join("seeds")
    assert joining.joined() is None


def test_without_a_launcher_nothing_is_joined(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    join("seeds")
    assert joining.joined() is None


@pytest.mark.parametrize(
    ("variable", "name"), [("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_FSDP", "FSDP")]
)
def test_ranks_that_would_share_a_run_are_refused(monkeypatch, variable, name):
    from accelerate.state import PartialState

    monkeypatch.setattr(PartialState, "_shared_state", {})
    for key, value in (("WORLD_SIZE", "2"), ("RANK", "0"), (variable, "true")):
        monkeypatch.setenv(key, value)
    with pytest.raises(InputError, match=f"--parallel seeds: not with {name}"):
        join("seeds")
