"""Runs in one process, one after the other: each leaves nothing behind for the next."""

from __future__ import annotations

import gc
import threading

import psutil

from hf_stability.study.executors.in_process import execute_in_process
from hf_stability.trainer import StableTrainer


def test_a_run_leaves_nothing_behind(tiny_jobs, tmp_path):
    """At the end of each run only its own Trainer is alive. The first run opens files and threads for good, later ones do not."""
    jobs = tiny_jobs(tmp_path, seeds=(1, 2, 3), max_steps=1)
    alive, opened = [], []

    def count(event):
        if event.kind == "finished":
            alive.append(sum(isinstance(thing, StableTrainer) for thing in gc.get_objects()))
            process = psutil.Process()
            descriptors = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
            opened.append((descriptors, threading.active_count(), process.num_threads()))

    gc.collect()
    execute_in_process(jobs, [tmp_path / "runs" / job.name for job in jobs], count)
    assert len(alive) == 3 and max(alive) <= 1
    assert opened[1] == opened[2]
