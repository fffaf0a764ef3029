"""Connects the processes of a launcher for `--parallel seeds`, each on its own GPU."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

from ...errors import InputError
from ...utils.launcher import hide, place
from ...utils.text import error_line
from ..devices import count_gpus, gpu_of_slot, visible_ids
from .ranks import Ranks


STORE_TIMEOUT = timedelta(minutes=10)  # for all processes to start

_joined: Ranks | None = None


def joined() -> Ranks | None:
    """The ranks that this process has joined; None without `--parallel seeds` or without a launcher."""
    return _joined


def join(parallel: str) -> None:
    """With `parallel="seeds"` under a launcher, connect the ranks. From then on each of them is a single process, on its own GPU.

    Call it before anything asks accelerate for its state. Every rank must call it.

    Raises:
        InputError: accelerate has joined the processes already, DeepSpeed or FSDP is on, or the ranks cannot be connected.
    """
    global _joined
    if _joined is not None and parallel != "seeds":
        raise InputError(
            f"--parallel {parallel}: an earlier study of this process had --parallel seeds; start another process"
        )
    here = place()
    if _joined is not None or parallel != "seeds" or here.size == 1:
        return
    from accelerate.state import PartialState
    from torch.distributed import rendezvous

    if PartialState._shared_state:
        raise InputError(
            "--parallel seeds: this process has asked accelerate for its state already; call plan_study before"
        )
    for name, what in (("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_FSDP", "FSDP")):
        if os.environ.get(name, "false").lower() == "true":
            raise InputError(
                f"--parallel seeds: not with {what}, which trains a run on several GPUs; launch without it"
            )
    try:
        store, _, _ = next(iter(rendezvous("env://", timeout=STORE_TIMEOUT)))
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(
            f"--parallel seeds: the processes cannot be connected: {error_line(error, first=True)}"
        ) from None
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ  # accelerate launch uses torchrun
    hide()
    gpus = visible_ids(os.environ.get("CUDA_VISIBLE_DEVICES"), count_gpus)
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu_of_slot(here.local_rank, gpus)
        if (count := count_gpus()) != 1:
            raise InputError(_no_gpu_of_its_own(os.environ["CUDA_VISIBLE_DEVICES"], count))
    own = len(gpus) == 1 and not by_torchrun  # as Slurm's srun gives each of its processes a GPU
    _joined = Ranks(store, here, here.local_size if own else len(gpus))


def _no_gpu_of_its_own(gpu: str, count: int) -> str:
    if count == 0:
        return f"--parallel seeds: PyTorch does not find GPU {gpu} on {socket.gethostname()}; see CUDA_VISIBLE_DEVICES there"
    return (
        "--parallel seeds: a process cannot choose its GPU, because CUDA was started already; call plan_study before"
    )
