"""How many runs of a planned study train at a time on this machine: its GPUs or cores, and its memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from ..tasks.load import TokenizedData
from . import devices
from .executors.ranks import joined
from .job import Job
from .memory import Memory, largest_memory, longest_example
from .stages import StagePlan


def plan_workers(
    jobs: Sequence[Job],
    stages: StagePlan,
    config: Any,
    tokens: TokenizedData,
    workers: int | None = None,
    runs_per_gpu: int = 1,
    executor: str = "local",
) -> tuple[int, list[str]]:
    """The number of runs at a time, and sentences to tell the user. 0: this process runs one after the other.

    Args:
        jobs, stages: the study's runs, at least one, and its stages.
        config, tokens: the model's config, and the data of the runs.
        workers, runs_per_gpu, executor: as given; None if not given.

    Raises:
        InputError: a run cannot fit into memory, or `runs_per_gpu` is impossible.
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
        return 0, []
    if executor != "local":  # cores, GPUs and memory are other machines'; 0: as many runs as they have room for
        return workers or 0, []
    gpus = devices.visible_gpus() if job.device == "cuda" else []
    if ranks is not None:
        workers = ranks.sharing
    workers, said = devices.choose_workers(
        job.device,
        job.threads,
        study_memory(jobs, stages, config, tokens),
        workers,
        runs_per_gpu,
        gpus,
        devices.available_memory() if job.device == "cpu" else None,
        devices.mps_is_running() if gpus else False,
    )
    return (workers if ranks is None else 0), said


def study_memory(jobs: Sequence[Job], stages: StagePlan, config: Any, tokens: TokenizedData) -> Memory | None:
    """The memory of the largest run or stage; None if the model's size is unknown."""
    found = [largest_memory(jobs, config, longest_example(tokens))]
    for stage in stages.jobs:
        _, own = stages.data[stage.data_folder]
        found.append(largest_memory([stage], config, longest_example(own)))
    return max((memory for memory in found if memory is not None), key=lambda memory: memory.estimate, default=None)
