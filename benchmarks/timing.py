"""Timing by comparison: the contestants take turns in one run, and the result is their ratio with an interval.

    times = interleaved({"ours": step, "torch": peer_step}, blocks=30, steps=5)
    median, low, high = ratio_interval(times, "ours", "torch")

On a shared machine the speed drifts by more than the differences of interest. A block takes about a second, and all contestants
see the same machine in it. So the ratio within a block is steadier than any time. The blocks are the sample.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from tqdm import tqdm


def interleaved(
    functions: dict[str, Callable[[], Any]],
    blocks: int,
    steps: int,
    warmup: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, list[float]]:
    """Seconds per call of each function, block by block.

    A block calls each function `steps` times in a row, one function after the other. Each block has a new random order, so that
    no function always runs first or after the same neighbour.

    Args:
        functions: name -> a function of no arguments. Its work must be done when it returns. If it starts work on an
            accelerator, it must wait for it.
        blocks: number of blocks, at least 1.
        steps: calls of each function per block, at least 1. Take enough for a turn of about 50 ms or more: at the first call
            of a turn the caches hold the data of another function.
        warmup: untimed calls of each function before the first block.
        seed: seed of the orders.
        progress: whether to show a bar on stderr.

    Returns:
        name -> list of `blocks` floats, unit: seconds per call. Entry i of each list is from the same block.

    Raises:
        ValueError: no function, or `blocks` or `steps` below 1.
    """
    if not functions:
        raise ValueError("functions is empty: give at least one function to time.")
    if blocks < 1 or steps < 1:
        raise ValueError(f"blocks and steps must be at least 1, got {blocks} and {steps}.")
    rng = np.random.default_rng(seed)
    names = list(functions)
    for function in functions.values():
        for _ in range(warmup):
            function()
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in tqdm(range(blocks), desc="blocks", unit="block", disable=not progress):
        for i in rng.permutation(len(names)):
            function = functions[names[i]]
            start = perf_counter()
            for _ in range(steps):
                function()
            times[names[i]].append((perf_counter() - start) / steps)
    return times


def ratio_interval(
    times: dict[str, list[float]], name: str, peer: str, n_boot: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """The time of `name` relative to `peer`: the median of the block ratios, with its 95% bootstrap interval.

    The interval is from the percentile bootstrap. The blocks are drawn with replacement `n_boot` times, and the ends are the 2.5th
    and 97.5th percentile of the medians. It describes this run on this machine. It leaves out changes between runs, for example
    in the placement of memory.

    Args:
        times: as `interleaved` returns them.
        name, peer: keys of `times`.
        n_boot: number of bootstrap samples.
        seed: seed of the bootstrap.

    Returns:
        (median, low, high), without a unit: 1.05 means 5% slower than the peer.

    Raises:
        ValueError: an unknown name, or lists of unequal length.
    """
    for key in (name, peer):
        if key not in times:
            raise ValueError(f"no times of {key!r}; give one of {sorted(times)}.")
    if len(times[name]) != len(times[peer]):
        raise ValueError(
            f"{name!r} has {len(times[name])} blocks, {peer!r} has {len(times[peer])}; time both in one run."
        )
    ratios = np.asarray(times[name]) / np.asarray(times[peer])
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(ratios, size=(n_boot, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def machine() -> dict[str, Any]:
    """The machine of a measurement: processor, CPUs, threads and versions, as plain JSON values.

    `cpus` is the number that this process may use. In a container it can be smaller than the machine's.
    """
    # Linux has both, macOS and Windows have neither.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = models[0] if models else processor
    return {
        "processor": processor,
        "cpus": cpus,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }
