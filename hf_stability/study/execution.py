"""How a study's runs are executed: where, how many at a time, and what happens to crashed ones. None of it changes a result."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..utils.text import joined
from .executors.event import Event, Listen
from .executors.in_process import execute_in_process
from .executors.joining import joined as joined_ranks
from .executors.ray_cluster import execute_on_ray
from .executors.ray_connection import connected
from .executors.workers import execute_in_workers
from .job import Job
from .records import read_run
from .stop import signals_wait


EXECUTORS = ("local", "ray")
PARALLEL = ("data", "seeds")

OUT_OF_MEMORY = ("out of memory", "t allocate memory", "MemoryError")
"""In the errors of CUDA, of torch on a CPU, of Python and NumPy."""


@dataclass(frozen=True)
class Execution:
    """How a study's runs are executed.

    Args:
        workers: number of runs at a time, each in a process of its own. 0 runs them one after the other in this process; on a
            Ray cluster, as many at a time as it has room for.
        executor: "local": on this machine. "ray": on a Ray cluster.
        ray_address: the cluster's address; None starts Ray on this machine.
        runs_per_gpu: number of runs that share a GPU.
        parallel: under a launcher with several processes: "data" trains each run with all of them, "seeds" gives each process
            its own runs.
        retry_crashed: how often a crashed run is run again.
        steal_lock: take the study's folder from another command that holds it.
        gpus: the GPUs of this machine's workers, as entries of `CUDA_VISIBLE_DEVICES`; empty for all that are visible.
    """

    workers: int = 0
    executor: str = "local"
    ray_address: str | None = None
    runs_per_gpu: int = 1
    parallel: str = "data"
    retry_crashed: int = 0
    steal_lock: bool = False
    gpus: tuple[str, ...] = ()

    def execute(self, jobs: Sequence[Job], folders: Sequence[Path], listen: Listen) -> None:
        """Run the jobs. Run crashed ones again, up to `retry_crashed` times, after all others.

        Args:
            jobs, folders: the jobs, and the folder of each.
            listen: is called with each `Event`. A crash that will be run again has the kind "again".

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM, see `signals_wait`.
        """
        waiting = list(zip(jobs, folders, strict=True))
        for retries_left in range(self.retry_crashed, -1, -1):
            crashed: list[Job] = []

            def hear(event: Event, crashed: list = crashed, retries_left: int = retries_left) -> None:
                if event.kind == "crashed":
                    event = replace(event, error=with_way_out(event.error, event.job, self))
                    if retries_left:
                        crashed.append(event.job)
                        event = replace(event, kind="again")
                listen(event)

            with signals_wait():
                self._execute([job for job, _ in waiting], [folder for _, folder in waiting], hear)
            waiting = [(job, folder) for job, folder in waiting if job in crashed]
            if not waiting:
                return

    def session(self, folders: Sequence[Path]) -> contextlib.AbstractContextManager[None]:
        """Around several calls of `execute`: they share one connection to the Ray cluster.

        Args:
            folders: of all runs. If each has its record, nothing will be executed, and there is no connection.
        """
        needed = self.executor == "ray" and any(read_run(folder) is None for folder in folders)
        return connected(self.ray_address) if needed else contextlib.nullcontext()

    def _execute(self, jobs: Sequence[Job], folders: Sequence[Path], listen: Listen) -> None:
        ranks = joined_ranks() if self.parallel == "seeds" else None
        if ranks is not None:
            ranks.execute(jobs, folders, listen)
        elif self.executor == "ray":
            if jobs:
                execute_on_ray(jobs, folders, listen, self.workers, self.ray_address, self.runs_per_gpu)
        elif self.workers and jobs:
            execute_in_workers(jobs, folders, listen, min(self.workers, len(jobs)), gpus=self.gpus)
        else:
            execute_in_process(jobs, folders, listen)


IN_PROCESS = Execution()


def with_way_out(error: str, job: Job, execution: Execution) -> str:
    """The reason of a crash, with what to do about it if memory ran out. The kernel then kills the process (SIGKILL).

    Args:
        error: the reason.
        job, execution: the run, and how it was executed. Fewer runs at a time help only if several shared the memory.
    """
    killed = "killed by SIGKILL" in error
    if not killed and not any(words in error for words in OUT_OF_MEMORY):
        return error
    fixed = job.args.get("total_train_batch_size")  # then --per_device_train_batch_size is refused
    ways = ["more --gradient_accumulation_steps" if fixed else "a smaller --per_device_train_batch_size"]
    if job.device == "cuda" and execution.runs_per_gpu > 1:
        ways.insert(0, "a smaller --runs_per_gpu")
    if execution.executor == "local" and execution.workers > (1 if killed else max(1, len(execution.gpus))):
        ways.insert(0, "fewer --workers")
    if execution.parallel == "seeds" and joined_ranks() is not None:
        ways.insert(0, "fewer processes per machine")
    ran_out = "If memory ran out" if killed else "Memory ran out"
    return f"{error.rstrip('.')}. {ran_out}: give {joined(ways, 'or')}"
