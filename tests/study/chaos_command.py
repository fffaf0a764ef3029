"""`hf-stability` for ckpt-chaos: a fresh process for each command, forked from a server that has the imports.

ckpt-chaos starts a command hundreds of times. Each would import for many seconds. So it starts this file, which imports nothing:
`python -I -S chaos_command.py ADDRESS ARGUMENTS...`. The file passes the arguments on to `serve`, in the test's process, and
ends as the command does.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path


def serve(listener: Listener) -> None:
    """Answer each command line and environment with the exit code and the output, until the listener is closed."""
    while True:
        try:
            connection = listener.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: Connection) -> None:
    argv, environment, log = connection.recv()
    process = multiprocessing.get_context("forkserver").Process(target=command, args=(argv, environment, log))
    process.start()
    process.join()
    code = process.exitcode or 0
    connection.send((code if code >= 0 else 128 - code, Path(log).read_text(errors="replace")))


def command(argv: list[str], environment: dict[str, str], log: str) -> None:
    """The command in a process of its own, with ckpt-chaos's injector as its environment asks for."""
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    from ckpt_chaos.targets.common import arm_from_env

    from hf_stability.cli import main

    arm_from_env(0)
    sys.exit(main(argv))


if __name__ == "__main__":
    _, address, log, *arguments = sys.argv
    asked = {name: value for name, value in os.environ.items() if name.startswith("CKPT_CHAOS_")}
    with Client(address) as connection:
        connection.send((arguments, asked, log))
        code, output = connection.recv()
    print(output)
    sys.exit(code)
