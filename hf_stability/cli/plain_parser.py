"""Parsers for commands that take no model. Importing this file is light, so that such a command starts at once."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError, nearest
from ..utils.recipe_files import recipe_names
from .program import PROG


WIDTH = 119


@dataclass(frozen=True)
class Texts:
    """The texts of `--help` around the list of flags.

    Args:
        usage: the first line; it begins with `hf-stability COMMAND`.
        description: the text before the flags.
        examples: the text after the flags.
    """

    usage: str
    description: str
    examples: str


class Help(argparse.RawDescriptionHelpFormatter):
    """Shows a flag once: `--max_steps X`, without its second spelling `--max-steps X`."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.dest == "help":
            return super()._format_action_invocation(action)
        values = "" if action.nargs == 0 else " " + self._format_args(action, action.dest.upper())
        return action.option_strings[0] + values

    def add_lines(self, text: str) -> None:
        """Add text without the empty line that `add_text` puts after it."""
        self._add_item(lambda: textwrap.indent(text, " " * self._current_indent) + "\n", [])


class PlainParser(argparse.ArgumentParser):
    """A parser of a command that takes no model. It raises InputError too.

    Args:
        command: the subcommand.
        texts: the texts of `--help`.
    """

    def __init__(self, command: str, texts: Texts):
        super().__init__(
            prog=f"{PROG} {command}",
            usage=texts.usage,
            description=texts.description,
            epilog=texts.examples,
            formatter_class=Help,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def folder_parser(command: str, texts: Texts) -> PlainParser:
    """The parser of a command that reads a study's folder."""
    built = PlainParser(command, texts)
    built.add_argument("study_folder", nargs="?", help="The study's folder, given to it as --output_dir.")
    built.add_argument(
        "--recipe", nargs="+", help="Only these recipes, in this order. Default: all recipes of the study."
    )
    return built


def study_folder(command: str, given: Mapping[str, Any]) -> Path:
    """The folder that such a command was given. Raises InputError without one."""
    if given.get("study_folder") is None:
        raise InputError(
            f"{command}: give the study's folder first, its --output_dir; see hf-stability {command} --help"
        )
    return Path(given["study_folder"])


def parse(known: argparse.ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """The flags that were given: field name -> value.

    Raises:
        InputError: an unknown flag (the message names the nearest one), a value of the wrong type, or a stray word.
    """
    for action in known._actions:
        action.default = argparse.SUPPRESS
    namespace, unknown = known.parse_known_args(argv)
    if unknown:
        flags = [option for action in known._actions for option in action.option_strings]
        name = unknown[0].split("=")[0]
        if name.startswith("-"):
            hint = nearest(name, flags)
        elif "--recipe" in flags and name in recipe_names():
            hint = f"; recipes go after --recipe: --recipe {name}"
        else:
            hint = "; a flag begins with --"
        raise InputError(
            f"{name}: no such argument{hint}. {'--help_all' if '--help_all' in flags else '--help'} lists the flags."
        )
    return vars(namespace)


def words_after(argv: Sequence[str], *names: str) -> dict[str, list[str]]:
    """The words after these flags: field name -> words. It reads no other flags, and refuses none."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in names:
        first.add_argument(f"--{name}", nargs="*", default=[])
    return vars(first.parse_known_args(argv)[0])
