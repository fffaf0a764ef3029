"""The connection to a Ray cluster: is it there, has it room for the runs, join it and leave it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import InputError
from ..devices import cores, count_gpus
from ..job import Job


ANSWER_S = 60
"""Seconds in which a cluster must answer. On a busy machine Ray's import alone takes several."""

STORE_BYTES = 100 * 2**20
"""Ray's memory for shared objects, where it is started on this machine: runs here share files."""

TELL_NODES = """
import json, sys, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps([node["Resources"] for node in ray.nodes() if node["Alive"]]))
"""

Node = Mapping[str, float]
"""A node's resources, for example `{"CPU": 8.0, "GPU": 1.0}`."""


def look_at_cluster(executor: str, address: str | None, workers: int | None = None) -> list[Node]:
    """The nodes of the cluster on which a study will run. Nothing is started, and this process does not join.

    Args:
        executor, address, workers: the flags `--executor`, `--ray_address`, `--workers`.

    Returns:
        the nodes' resources; empty without Ray.

    Raises:
        InputError: the flags do not go together, Ray is not installed, or there is no cluster at the address.
    """
    if executor != "ray":
        if address is not None:
            raise InputError(f"--ray_address {address}: needs --executor ray")
        return []
    if importlib.util.find_spec("ray") is None:
        raise InputError('--executor ray: Ray is not installed; pip install "hf_stability[ray]"')
    check_tasks(executor, workers)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise InputError(
            f"--executor ray in {processes} processes of a launcher: start the command once, without accelerate launch"
        )
    if address is None:
        return [_this_machine()]
    _knock(address)
    try:
        done = subprocess.run(
            [sys.executable, "-c", TELL_NODES, address],
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            env=_environment(),
            cwd=os.path.abspath(
                os.sep
            ),  # Python looks for modules there: a user's `json.py` must not hide the library
        )
    except subprocess.TimeoutExpired:
        raise InputError(_no_cluster(address, f"no answer in {ANSWER_S} s")) from None
    if done.returncode:
        raise InputError(_no_cluster(address, (done.stderr.strip().splitlines() or ["no reason given"])[-1]))
    return json.loads(done.stdout.strip().splitlines()[-1])


def check_tasks(executor: str, workers: int | None) -> None:
    """Refuse `--workers 0` with `--executor ray`."""
    if executor == "ray" and workers == 0:
        raise InputError(
            "--workers 0 with --executor ray: Ray runs each job in a process; leave it out, or give 1 or more"
        )


def check_room(jobs: Sequence[Job], runs_per_gpu: int, nodes: Sequence[Node]) -> None:
    """Refuse jobs for which no node is large enough: Ray would wait for such a node for ever.

    Raises:
        InputError: names what is missing, and the flag.
    """
    for threads, device in sorted({(job.threads, job.device) for job in jobs}):
        need = resources(threads, device, runs_per_gpu)
        with_gpu = [node for node in nodes if node.get("GPU", 0) >= need["num_gpus"]]
        if not with_gpu:
            raise InputError(
                "--executor ray: the runs train on a GPU, but no node of the cluster has one; give --use_cpu, or add a node "
                "with a GPU"
            )
        most = max(node.get("CPU", 0) for node in with_gpu)
        if most < threads:
            which = "no node with a GPU" if need["num_gpus"] else "no node"
            raise InputError(
                f"--threads_per_run {threads}: {which} of the Ray cluster has as many CPUs (at most {most:g}); give a smaller "
                "number, or add a node"
            )


def resources(threads: int, device: str, runs_per_gpu: int) -> dict[str, float]:
    """The resources that a run asks Ray for: a CPU per thread, and its share of a GPU if it trains on one."""
    return {"num_cpus": threads, "num_gpus": 1 / runs_per_gpu if device == "cuda" else 0}


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Join the cluster, and leave it at the end. Without an address, start Ray here, and end it.

    Nothing happens if this process is in a cluster already: the user's own script has joined one, or an outer call has.

    Raises:
        InputError: there is no cluster at the address.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    if address is not None:
        _knock(address)
    own: dict[str, Any] = {
        "num_cpus": int(_this_machine()["CPU"]),
        "object_store_memory": STORE_BYTES,
        "include_dashboard": False,
    }
    os.environ.update(_environment())
    try:
        with _our_signals(), _root_folder():
            ray.init(
                "local" if address is None else address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(own if address is None else {}),
            )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        raise InputError(_no_cluster(address or "local", str(error))) from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise InputError if nothing listens at the address: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return  # "auto"; Ray refuses anything else by itself
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S / 6).close()
    except OSError as error:
        raise InputError(_no_cluster(address, error.strerror or str(error))) from None


def _no_cluster(address: str, why: str) -> str:
    return (
        f"--ray_address {address}: no Ray cluster answers there ({' '.join(why.split())}); start one with `ray start --head`, "
        "or leave out --ray_address"
    )


def _environment() -> dict[str, str]:
    return {"RAY_USAGE_STATS_ENABLED": "0", **os.environ}


def _this_machine() -> Node:
    return {"CPU": cores(), "GPU": count_gpus()}


@contextlib.contextmanager
def _our_signals() -> Iterator[None]:
    """Keep our handler of SIGTERM: Ray sets its own, which ends this process without our clean end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _root_folder() -> Iterator[None]:
    """Join from the root folder: Ray puts the working folder first on the path of its workers, where a user's `datasets.py`
    would hide the library."""
    before = os.getcwd()
    os.chdir(os.path.abspath(os.sep))
    try:
        yield
    finally:
        os.chdir(before)
