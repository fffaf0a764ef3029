"""Runs on a real Ray cluster of two nodes on this machine, with real kills."""

from __future__ import annotations

import functools
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from hf_stability.errors import InputError
from hf_stability.study.execution import Execution
from hf_stability.study.executors import ray_cluster
from hf_stability.study.executors.claim import claim_path
from hf_stability.study.executors.in_process import execute_in_process
from hf_stability.study.executors.ray_cluster import execute_on_ray
from hf_stability.study.executors.ray_connection import check_room, look_at_cluster
from hf_stability.study.study import run_jobs
from tests.study.executors.test_workers import Command, arguments, linux, processes_of, wait_for
from tests.study.tools import results


SMALL = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
SAVING = {"max_steps": 60, "save_strategy": "steps", "save_steps": 10, "eval_strategy": "no"}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **SMALL})
    made.add_node(num_cpus=1, object_store_memory=SMALL["object_store_memory"])
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def joined(cluster):
    """This process is in the cluster, so that all tests share the same workers."""
    import ray

    with ray_cluster.connected(cluster.address):
        yield ray


class Heard(list):
    """A listener that keeps the events; `act` is called with each, and with all before it."""

    def __init__(self, act=lambda event, heard: None):
        super().__init__()
        self.act = act

    def __call__(self, event):
        self.act(event, self)
        self.append(event)

    def ends(self):
        return sorted((event.job.seed, event.kind) for event in self if event.kind != "progress")


def folders(jobs, folder):
    return [folder / "runs" / job.name for job in jobs]


@pytest.fixture
def both(tiny_jobs, tmp_path):
    """A function of seeds and arguments: the same jobs in two folders, the first of which was executed in this process."""

    def make(seeds=(1, 2), **given):
        jobs = [tiny_jobs(tmp_path / name, seeds=seeds, **given) for name in ("here", "ray")]
        execute_in_process(jobs[0], folders(jobs[0], tmp_path / "here"), lambda event: None)
        return jobs[1], tmp_path / "ray", results(tmp_path / "here")

    return make


def workers_of(node=None) -> list[psutil.Process]:
    """The processes that train now, of a node or of this machine."""
    parents = [psutil.Process()] if node is None else [psutil.Process(node.all_processes["raylet"][0].process.pid)]
    found = [child for parent in parents for child in parent.children(recursive=True)]
    return [child for child in found if "train_on_node" in " ".join(child.cmdline())]


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [False, True], ids=["shared", "fetched"])
def test_the_same_bytes_as_in_this_process(both, joined, hidden):
    jobs, folder, expected = both(seeds=(1, 2, 3))
    heard = Heard()
    execute_on_ray(jobs, folders(jobs, folder), heard, hidden=hidden)
    assert heard.ends() == [(1, "finished"), (2, "finished"), (3, "finished")]
    assert results(folder) == expected
    assert {event.steps for event in heard if event.kind == "progress"} - {0}
