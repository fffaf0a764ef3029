"""`hf-stability COMMAND ...`: choose the subcommand, run it, return its exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module

from ..errors import FolderLost, InputError, nearest
from ..study.executors.server import early_server
from ..study.stop import signals_noted
from ..utils.recipe_files import recipe_names, recipe_parts
from .plain_parser import words_after
from .program import PROG, is_first_on_its_machine, is_first_process


COMMANDS = {
    "run": "fine-tune with one or more recipes over many seeds (the default: you can leave out the word run)",
    "recipes": "list the packaged recipes, one line each",
    "diagnose": "a run failed: find the cause and the remedy",
    "rescue": "a run failed: rerun its settings and up to three remedies, over a few seeds each",
    "plan": "before a study: how many seeds does a difference need?",
    "status": "a study that runs, or ran: how far is it?",
    "show": "one run: verdict, figures, settings",
    "report": "a finished study, or runs made elsewhere: one page to publish",
    "analyze": "a finished study: the paper's experiments, each with its figure",
    "compare": "recipes of one or several studies, on equal terms",
    "export": "its runs as csv or parquet, its table as latex or markdown",
    "card": "a model card for the hub, and its upload if you ask for it",
    "restarts": "a finished study: would restarts, or stopping bad seeds early, have been worth it?",
    "two_way": "a study with --two_way: variance from initialisation, data order and dropout",
}
"""The subcommands and their purpose. Each is a module here with a function `main(argv)`."""


HELP = {"-h", "--help", "--help_all"}
"""Flags of commands that only show help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. Without one (no words, or a flag first) it is `run`.

    Returns:
        The exit code. 0: done. 1: a run crashed, a file could not be written or read, or another command took the folder. 2:
        bad input (one line on standard error, nothing written). 130: interrupted by Ctrl-C or SIGTERM.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with signals_noted(signal.SIGTERM):  # batch systems end a job this way
            trains = _trains(argv) and not HELP & set(argv)
            if trains:  # a misspelt name is refused at once: the imports take seconds
                for name in words_after(argv, "recipe")["recipe"]:
                    recipe_parts(name)
            with early_server() if trains and "--dry_run" not in argv else nullcontext():
                return _command(argv)
    except InputError as error:
        if is_first_on_its_machine():
            print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    except FolderLost as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # as in `hf-stability status STUDY | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return 1
    except OSError as error:  # a full disk, for example
        print(f"{PROG}: error: {_in_one_line(error)}.{_kept(argv)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if is_first_process():
            print(f"\n{PROG}: interrupted.{_kept(argv)}", file=sys.stderr)
        return 130


def _kept(argv: Sequence[str]) -> str:
    goes_on = _trains(argv) or argv[0] == "analyze"
    return " Finished runs are kept. Run the same command again to continue." if goes_on else ""


def _trains(argv: Sequence[str]) -> bool:
    return not argv or argv[0].startswith("-") or argv[0] in ("run", "rescue")


def _in_one_line(error: OSError) -> str:
    if error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _command(argv: list[str]) -> int:
    if not argv or argv[0].startswith("-"):
        from .run import main as run

        return run(argv, COMMANDS)
    name, *rest = argv
    if name not in COMMANDS:
        hint = f"; recipes go after --recipe: --recipe {name}" if name in recipe_names() else nearest(name, COMMANDS)
        raise InputError(f"{name}: no such command{hint}. Commands: {', '.join(COMMANDS)}")
    return import_module(f".{name}", __package__).main(rest)
