"""How many runs of a planned study train at a time on this machine: its GPUs or cores, and its memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError
from ..tasks.load import TokenizedData
from . import devices
from .executors.joining import joined
from .job import Job
from .memory import Memory, largest_memory, longest_example
from .stages import StagePlan


@dataclass(frozen=True)
class Capacity:
    """How many runs train at a time, and where.

    Args:
        workers: runs at a time. 0: this process runs one after the other; on a Ray cluster, as many as it has room for.
        gpus: the GPUs of the workers, as entries of `CUDA_VISIBLE_DEVICES`. Empty without workers on GPUs.
        said: sentences to tell the user.
        refusal: why no run can be started; empty if runs can. A dry run may only tell it.
    """

    workers: int
    gpus: tuple[str, ...] = ()
    said: list[str] = field(default_factory=list)
    refusal: str = ""


def plan_workers(
    jobs: Sequence[Job],
    finished: Collection[str],
    stages: StagePlan,
    config: Any,
    tokens: TokenizedData,
    workers: int | None = None,
    runs_per_gpu: int = 1,
    executor: str = "local",
) -> Capacity:
    """How many runs of a study train at a time. Memory matters only if runs are missing.

    Args:
        jobs, stages: the study's runs, at least one, and its stages.
        finished: names of the runs that the study's folder has.
        config, tokens: the model's config, and the data of the runs.
        workers: `--workers`; None if it was not given.
        runs_per_gpu, executor: the flags' values, or their defaults.

    Raises:
        InputError: `runs_per_gpu` or `executor` is impossible here.
    """
    job = jobs[0]
    ranks = joined()
    if ranks is not None and (executor != "local" or runs_per_gpu > 1):
        flag = f"--runs_per_gpu {runs_per_gpu}" if executor == "local" else f"--executor {executor}"
        raise InputError(
            f"{flag}: not with --parallel seeds under a launcher, where each process trains one run at a time"
        )
    devices.check_runs_per_gpu(runs_per_gpu, job.device, executor)
    if job.processes > 1:  # these processes train every run together
        return Capacity(0)
    if executor != "local":  # cores, GPUs and memory are other machines'
        return Capacity(workers or 0)
    if ranks is not None and not ranks.is_main:  # other ranks may have filled the memory already
        return Capacity(0)
    gpus = devices.visible_gpus() if job.device == "cuda" else []
    missing = [job for job in jobs if job.name not in finished]
    memory = study_memory(missing, stages, config, tokens) if missing else None
    said: list[str] = []
    if workers == 0 or ranks is not None:  # this process trains, on the first GPU
        gpus = gpus[:1]
    else:
        gpus, said = devices.gpus_with_room(memory, gpus)
    refusal = ""
    try:
        workers, more = devices.choose_workers(
            job.device,
            job.threads,
            memory,
            workers if ranks is None else ranks.sharing,
            runs_per_gpu,
            gpus,
            devices.available_memory() if job.device == "cpu" else None,
            devices.mps_is_running() if gpus else False,
        )
        said += more
    except InputError as error:
        workers, refusal = 1, str(error)
    if ranks is not None:
        workers = 0
    return Capacity(workers, tuple(gpu.id for gpu in gpus) if workers else (), said if missing else [], refusal)


def study_memory(jobs: Sequence[Job], stages: StagePlan, config: Any, tokens: TokenizedData) -> Memory | None:
    """The memory of the largest run or stage; None if the model's size is unknown."""
    found = [largest_memory(jobs, config, longest_example(tokens))]
    for stage in stages.jobs:
        _, own = stages.data[stage.data_folder]
        found.append(largest_memory([stage], config, longest_example(own)))
    return max((memory for memory in found if memory is not None), key=lambda memory: memory.estimate, default=None)
