"""The GPUs and cores of this machine, and how a study's runs are spread over them.

The functions take plain values, and none of them starts CUDA in this process: a context would take memory on a GPU. Memory
figures come from `nvidia-smi`. Where it is missing they are unknown (None).
"""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..utils.processes import is_running
from .memory import Memory, size


MIB = 2**20  # bytes; nvidia-smi counts in MiB
SMI_TIMEOUT_S = 20.0
SMI = (
    "nvidia-smi",
    "--query-gpu=uuid,name,memory.total,memory.free,mig.mode.current",
    "--format=csv,noheader,nounits",
)
MPS_DIRECTORY = "/tmp/nvidia-mps"  # the daemon's default


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use.

    Args:
        id: its entry for `CUDA_VISIBLE_DEVICES`: an index, a UUID, or the name of a MIG device.
        total, free: bytes; None if unknown.
    """

    id: str
    total: int | None = None
    free: int | None = None


# ---- which GPUs there are ----------------------------------------------------------------------------------------------


def visible_gpus(
    environment: Mapping[str, str] | None = None,
    count: Callable[[], int] | None = None,
    query: Callable[[], str] | None = None,
) -> list[Gpu]:
    """The GPUs that this process may use, with their memory.

    Args:
        environment: has `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER`, or not. Default: this process's.
        count: the number of GPUs that CUDA shows. Default: torch's, which asks NVML.
        query: the output of `SMI`. Default: call it.
    """
    environment = os.environ if environment is None else environment
    ids = visible_ids(environment.get("CUDA_VISIBLE_DEVICES"), count or count_gpus)
    if not ids:
        return []
    return with_memory(ids, (query or _smi)(), environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID")


def visible_ids(visible: str | None, count: Callable[[], int]) -> list[str]:
    """The entries of `CUDA_VISIBLE_DEVICES`, or "0", "1" ... if it is not set.

    As in CUDA, an entry below 0 or without a GPU, and all entries after it, are left out. An empty text hides all GPUs.

    Args:
        visible: the variable; None if it is not set.
        count: the number of GPUs that CUDA shows with this variable.
    """
    if visible is None:
        return [str(number) for number in range(count())]
    ids: list[str] = []
    for entry in (part.strip() for part in visible.split(",")):
        if not entry or entry.startswith("-"):
            break
        ids.append(entry)
    if not ids or any(id.startswith("MIG-") for id in ids):  # a process sees one MIG device, however many are named
        return ids
    return ids[: count()]


def with_memory(ids: Sequence[str], table: str, by_bus: bool = False) -> list[Gpu]:
    """The GPUs of these ids with the memory that `nvidia-smi` shows.

    CUDA may number different GPUs in another order than `nvidia-smi` (the fastest first). So an index of a machine with
    different GPUs gets the smallest figures of them all. The memory of MIG devices is unknown. An index may mean one of them as
    soon as a GPU of the machine is split.

    Args:
        ids: from `visible_ids`. A UUID may be shortened, as CUDA allows.
        table: the output of `SMI`; may be empty.
        by_bus: whether CUDA numbers the GPUs as `nvidia-smi` does.
    """
    rows, split = [], False
    for line in table.splitlines():
        try:
            uuid, name, total, free, mig = (part.strip() for part in line.split(","))
            if mig == "Enabled":
                split = True
            else:
                rows.append((uuid, name, int(total) * MIB, int(free) * MIB))
        except ValueError:  # "[N/A]": a machine where CPU and GPU share their memory
            return [Gpu(id) for id in ids]
    same_order = by_bus or len({name for _, name, _, _ in rows}) == 1
    least = (min(total for *_, total, _ in rows), min(free for *_, free in rows)) if rows else (None, None)

    def memory(id: str) -> tuple[int | None, int | None]:
        if id.isdigit():
            if split or not int(id) < len(rows):
                return None, None
            return rows[int(id)][2:] if same_order else least
        return next(((total, free) for uuid, _, total, free in rows if uuid.startswith(id)), (None, None))

    return [Gpu(id, *memory(id)) for id in ids]


def count_gpus() -> int:
    """The number of GPUs that torch finds, where possible without starting CUDA."""
    import torch

    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    return torch.cuda.device_count()


def _smi() -> str:
    """The output of `SMI`; empty if it does not work."""
    try:
        return subprocess.run(SMI, capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


# ---- how runs are spread -----------------------------------------------------------------------------------------------


def gpu_of_slot(slot: int, ids: Sequence[str]) -> str:
    """The GPU of a worker. Slots take turns, so that each GPU has the same number of workers, or one more.

    Args:
        slot: the worker's number, from 0 on.
        ids: the GPUs, at least one.
    """
    return ids[slot % len(ids)]


def check_runs_per_gpu(runs_per_gpu: int, device: str, executor: str = "local") -> None:
    """Refuse an impossible number of runs per GPU.

    Args:
        runs_per_gpu: as given.
        device: the runs' device on this machine: "cpu", "cuda" ...
        executor: with "ray", the GPUs may be on other machines.

    Raises:
        InputError: below 1, or above 1 although no run is on a GPU.
    """
    if runs_per_gpu < 1:
        raise InputError(f"--runs_per_gpu {runs_per_gpu}: give 1 or more")
    if runs_per_gpu > 1 and device != "cuda" and executor == "local":
        raise InputError(
            f"--runs_per_gpu {runs_per_gpu}: these runs train on the device {device}, not on a CUDA GPU; leave it out, and give --workers"
        )


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(device: str, threads: int, gpus: int, runs_per_gpu: int = 1) -> int:
    """Runs at a time: per GPU `runs_per_gpu`; on a CPU one per core, divided by a run's threads; elsewhere one.

    Args:
        device: "cpu", "cuda" ...
        threads: CPU threads of a run.
        gpus: number of visible GPUs.
        runs_per_gpu: runs that share a GPU.
    """
    if device == "cuda":
        return max(1, gpus * runs_per_gpu)
    return max(1, cores() // threads) if device == "cpu" else 1


# ---- NVIDIA's Multi-Process Service ------------------------------------------------------------------------------------


def mps_is_running(directory: str | os.PathLike | None = None) -> bool:
    """Whether NVIDIA's Multi-Process Service runs: its control daemon lets kernels of several processes run side by side.

    The daemon leaves its process id in its pipe directory, and deletes that file when it ends.

    Args:
        directory: the pipe directory. Default: `CUDA_MPS_PIPE_DIRECTORY`, or /tmp/nvidia-mps.
    """
    place = directory or os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or MPS_DIRECTORY
    try:
        pid = int(Path(place, "nvidia-cuda-mps-control.pid").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return is_running(pid)


def mps_sentence(running: bool) -> str:
    """A sentence about several runs on one GPU, with the service or without it."""
    if running:
        return "NVIDIA MPS is running: runs on one GPU compute side by side."
    return (
        "NVIDIA MPS is not running, so runs on one GPU take turns. To let them compute side by side, start it with "
        "nvidia-cuda-mps-control -d"
    )


# ---- memory of the machine ---------------------------------------------------------------------------------------------


def available_memory(limits: Mapping[str, str] | None = None) -> int | None:
    """Memory that new processes can have without swapping, in bytes: the machine's, or less in a container.

    Args:
        limits: contents of `memory.max`, `memory.current` and `memory.stat` of the container's control group. Default: read
            them (version 2 only).
    """
    try:
        import psutil

        free: int | None = psutil.virtual_memory().available
    except (ImportError, OSError):
        free = None
    limits = _container_limits() if limits is None else limits
    try:
        caches = dict(line.split() for line in limits.get("memory.stat", "").splitlines())
        used = int(limits["memory.current"]) - int(caches.get("inactive_file", 0))  # the kernel gives these back
        left = max(0, int(limits["memory.max"]) - used)  # "max" is no limit, and no number
    except (KeyError, ValueError):
        return free
    return left if free is None else min(free, left)


def _container_limits() -> dict[str, str]:
    found = {}
    for name in ("memory.max", "memory.current", "memory.stat"):
        try:
            found[name] = Path("/sys/fs/cgroup", name).read_text(encoding="utf-8")
        except OSError:
            return {}
    return found


# ---- how many runs at a time -------------------------------------------------------------------------------------------


def gpus_with_room(memory: Memory | None, gpus: Sequence[Gpu]) -> tuple[list[Gpu], list[str]]:
    """The GPUs that can have a run, and a sentence about each of the others. All GPUs if none can have one.

    Args:
        memory: the largest run's; None if unknown.
        gpus: from `visible_gpus`. A GPU of unknown memory can have a run.
    """
    full = [gpu for gpu in gpus if memory is not None and gpu.free is not None and gpu.free < memory.least]
    if memory is None or len(full) == len(gpus):
        return list(gpus), []
    return [gpu for gpu in gpus if gpu not in full], [
        f"GPU {gpu.id} is left out: weights, gradients and the optimizer's state alone need {size(memory.least)}, and "
        f"{size(gpu.free or 0)} are free."
        for gpu in full
    ]


def choose_workers(
    device: str,
    threads: int,
    memory: Memory | None,
    workers: int | None = None,
    runs_per_gpu: int = 1,
    gpus: Sequence[Gpu] = (),
    available: int | None = None,
    mps: bool = False,
) -> tuple[int, list[str]]:
    """The number of runs at a time, and sentences that tell what was changed and what may go wrong.

    Without `workers`, runs that do not fit into memory together are not started together. A number that the user gave stays,
    with a warning, on a CPU and on GPUs.

    Args:
        device: the runs' device: "cpu", "cuda" ...
        threads: CPU threads of a run.
        memory: the largest run's; None if unknown.
        workers: `--workers`; None if it was not given.
        runs_per_gpu: `--runs_per_gpu`.
        gpus: the GPUs that the runs may use, see `gpus_with_room`.
        available: memory of the machine for a study on the CPU, in bytes; None if unknown.
        mps: whether NVIDIA's Multi-Process Service runs.

    Raises:
        InputError: `workers` is None, and weights, gradients and moments of one run alone do not fit.
    """
    if device == "cuda" and gpus:
        return _workers_on_gpus(memory, workers, runs_per_gpu, gpus, mps)
    wanted = default_workers(device, threads, len(gpus), runs_per_gpu) if workers is None else workers
    if device != "cpu" or memory is None or available is None or wanted == 0:
        return wanted, []
    if memory.least > available and workers is None:
        raise InputError(
            f"A run does not fit into memory: weights, gradients and the optimizer's state alone need {size(memory.least)}, and "
            f"{size(available)} are available. Free memory, take a smaller model, or give --workers 1 to try it anyway"
        )
    fitting = available // memory.estimate
    if fitting >= wanted:
        return wanted, []
    needs = f"a run needs about {size(memory.estimate)}, and {size(available)} of memory are available"
    if workers is None and wanted > 1:
        return max(1, fitting), [
            f"{max(1, fitting)} run(s) at a time, not {wanted}: {needs}. --workers sets another number."
        ]
    return wanted, [f"{wanted} run(s) at a time may need more memory than there is: {needs}. {LESS_MEMORY}"]


LESS_MEMORY = (
    "Less memory: a smaller --per_device_train_batch_size with more --gradient_accumulation_steps, --bf16, or "
    "--gradient_checkpointing."
)


def _workers_on_gpus(
    memory: Memory | None, workers: int | None, runs_per_gpu: int, gpus: Sequence[Gpu], mps: bool
) -> tuple[int, list[str]]:
    """See `choose_workers`."""
    said = []
    shared = runs_per_gpu if workers is None else max(1, math.ceil(workers / len(gpus)))
    if workers is not None and runs_per_gpu not in (1, shared):
        said.append(
            f"--workers {workers}: this number counts, not --runs_per_gpu {runs_per_gpu}. At most {shared} run(s) share a GPU."
        )
    free = [gpu for gpu in gpus if gpu.free is not None]
    if memory is not None and len(free) == len(gpus):
        tightest = min(free, key=lambda gpu: gpu.free or 0)
        shared, more = _fitting(memory, workers, shared, tightest)
        said += more
    elif shared > 1:
        said.append(
            f"It is unknown whether {shared} runs fit on a GPU together: nvidia-smi does not show its free memory."
        )
    if shared > 1:
        said.append(mps_sentence(mps))
    return (len(gpus) * shared if workers is None else workers), said


def _fitting(memory: Memory, workers: int | None, shared: int, gpu: Gpu) -> tuple[int, list[str]]:
    """How many runs share the GPU with the least free memory."""
    free = gpu.free or 0
    if memory.least > free and workers is None:
        raise InputError(
            f"A run does not fit on GPU {gpu.id}: weights, gradients and the optimizer's state alone need {size(memory.least)}, "
            f"and {size(free)} are free. Free the GPU, take a smaller model or --optim adafactor, or give --workers 1 to try it anyway"
        )
    fitting = free // memory.estimate
    if fitting >= shared:
        return shared, []
    needs = f"a run needs about {size(memory.estimate)}, and GPU {gpu.id} has {size(free)} free"
    if shared == 1:
        return 1, [f"A run may not fit into memory: {needs}. {LESS_MEMORY}"]
    if workers is not None:
        return shared, [f"{shared} runs on a GPU may not fit into memory together: {needs}. {LESS_MEMORY}"]
    return max(1, fitting), [f"--runs_per_gpu {shared}: {max(1, fitting)} run(s) share a GPU, because {needs}."]
