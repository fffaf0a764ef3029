"""Scripts in processes of their own, forked from a server that has the imports: a start takes 0.1 s instead of 6.

The server is the one of the study's workers. It has trained nothing, so a script finds a fresh process.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path

import torch

from hf_stability.study.executors.server import PRELOAD


GRACE = 5  # seconds that the others have to end by themselves once one has failed


def run_script(
    script: str | Path,
    arguments: Sequence[str | Path] = (),
    processes: int = 1,
    cwd: str | Path | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess:
    """Run a Python script. Several processes get the environment that `torchrun` gives on one machine.

    As with `torchrun`, one process that fails ends the others. Their outputs come in one text.

    Args:
        timeout: seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    argv = [str(script), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        streams = [os.path.join(folder, name) for name in ("out", "err")]
        environments = _torchrun(processes) if processes > 1 else [{}]
        started = [context.Process(target=_run, args=(argv, env, cwd, streams)) for env in environments]
        for process in started:
            process.start()
        waiting = {process.sentinel: process for process in started}
        failed = False
        while waiting and not failed:
            ended = wait(list(waiting), timeout)
            failed = not ended or any(_exit_code(waiting.pop(sentinel)) for sentinel in ended)
        for process in waiting.values():
            process.join(GRACE)
            process.kill()
            process.join()
        out, err = (Path(path).read_text() if os.path.exists(path) else "" for path in streams)
    return subprocess.CompletedProcess(argv, max(abs(process.exitcode) for process in started), out, err)


def _exit_code(process: multiprocessing.Process) -> int:
    process.join()
    return process.exitcode


def _torchrun(processes: int) -> list[dict[str, str]]:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _run(argv: list[str], environment: dict[str, str], cwd, streams: list[str]) -> None:
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.update(environment)
    os.chdir(cwd or os.getcwd())
    torch.set_num_threads(1)
    gc.freeze()  # see small_heap in conftest.py
    sys.argv = argv
    sys.path.insert(0, os.path.dirname(os.path.abspath(argv[0])))  # as `python SCRIPT` does
    runpy.run_path(argv[0], run_name="__main__")
