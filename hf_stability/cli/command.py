"""`hf-stability COMMAND ...`: which subcommand is meant, and its exit code."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from ..errors import InputError, nearest
from .program import PROG, is_first_process


COMMANDS = {
    "run": "fine-tune over many seeds, with one recipe or more; flags alone, without a command, mean this",
    "recipes": "list the packaged recipes",
    "diagnose": "one run failed: what went wrong, and what to do",
    "rescue": "one run failed: try four remedies, over a few seeds each",
    "restarts": "a finished study: what restarts and stopping bad seeds early would have been worth",
    "two_way": "a study with --two_way: how much variance comes from initialisation, data order, dropout",
}
"""The subcommands, each a module here with a function `main(argv)`, and what each is for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; `run` where the first word is a flag, or there is none.

    Returns:
        the exit code: 0; 1 where a run crashed; 2 for bad input (one line on standard error, nothing written);
        130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    in_main_thread = threading.current_thread() is threading.main_thread()  # no other may set this
    before = signal.signal(signal.SIGTERM, _interrupt) if in_main_thread else None  # a batch system's kill: as Ctrl-C
    try:
        return _command(argv)
    except InputError as error:
        if is_first_process():
            print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"\n{PROG}: interrupted. Finished runs are kept; the same command goes on with what is missing.",
            file=sys.stderr,
        )
        return 130
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def _interrupt(signum: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def _command(argv: list[str]) -> int:
    if not argv or argv[0].startswith("-"):
        from .run import main as run

        return run(argv, COMMANDS)
    name, *rest = argv
    if name not in COMMANDS:
        raise InputError(f"{name}: no such command{nearest(name, COMMANDS)}; there is: {', '.join(COMMANDS)}")
    return import_module(f".{name}", __package__).main(rest)
