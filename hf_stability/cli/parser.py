"""Parsers of our flags and all of the Trainer's: `--help` shows the most used ones in groups, `--help_all` all."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

from ..errors import InputError, nearest
from ..methods import METHODS, argument_names, load_method
from ..recipe import load_recipes, recipe_names
from ..training_args import StableTrainingArguments, arguments_class
from .flags import DIAGNOSTICS, DataArguments, ModelArguments, method_flags, names_of
from .program import PROG


WIDTH = 119

LONG_CHOICES = 20
"""Characters; a flag with longer choices is shown as `--flag X`."""

SHORT_HELPS = {
    "output_dir": "The folder to write to.",
    "on_alarm": "What the early warning does to a run that looks like one that will fail.",
    "diagnostics": "More to record at each update step; --help_all lists what there is.",
}
"""Help of flags that are not ours to word, for `--help`."""


@dataclass(frozen=True)
class Texts:
    """What `--help` says beside the flags.

    Args:
        usage: begins with `hf-stability COMMAND`.
        description: what the command does.
        examples: come last.
    """

    usage: str
    description: str
    examples: str


class Help(argparse.RawDescriptionHelpFormatter):
    """Shows `--max_steps X` once, not beside `--max-steps X` too."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.dest == "help":
            return super()._format_action_invocation(action)
        values = "" if action.nargs == 0 else " " + self._format_args(action, action.dest.upper())
        return action.option_strings[0] + values

    def add_lines(self, text: str) -> None:
        """Text right above the next lines, without the empty line of `add_text`."""
        self._add_item(lambda: textwrap.indent(text, " " * self._current_indent) + "\n", [])


class FirstHelp(Help):
    """Shows the first sentence of a flag's help, and the default; of a switch only the flag itself, not its `--no_` twin."""

    def _expand_help(self, action: argparse.Action) -> str:
        first, *more = re.split(r"(?<=\.)\s+(?=[A-Z0-9])", super()._expand_help(action))
        return " ".join([first, *(sentence for sentence in more if sentence.startswith("Default"))])


class Parser(HfArgumentParser):
    """A parser of dataclasses that raises InputError and shows its flags in groups.

    Args:
        classes: dataclasses.
        texts: of `--help`.
        groups: flags by the group's title, without dashes; a flag of no group is shown under `training`.
        shown: the flags that `--help` shows; the others of the group `methods` it only names.
        all_help: show every flag, and the whole of its help.
    """

    def __init__(
        self,
        classes: Any,
        texts: Texts,
        groups: Mapping[str, Sequence[str]],
        shown: Sequence[str],
        all_help: bool,
    ):
        self.groups, self.shown, self.all_help = groups, shown, all_help
        super().__init__(
            classes,
            prog=PROG,
            usage=texts.usage,
            description=texts.description,
            epilog=texts.examples,
            formatter_class=Help if all_help else FirstHelp,
            allow_abbrev=False,
        )
        for action in self._actions:
            if action.nargs != 0 and (action.choices is None or len("".join(map(str, action.choices))) > LONG_CHOICES):
                action.metavar = "X"
        self.add_argument("--help_all", action="help", help="show every flag, the Trainer's too, and all of its help")

    def error(self, message: str) -> NoReturn:
        raise InputError(message)

    def format_help(self) -> str:
        formatter: Any = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        formatter.add_text(self.description)
        grouped = {name for names in self.groups.values() for name in names}
        for title, names in self.groups.items():
            own = [action for action in self._actions if action.dest in names]
            if title == "training":
                own += [
                    a for a in self._actions if a.dest not in grouped and a.option_strings and a.dest[:4] != "help"
                ]
            shown = [action for action in own if self.all_help or self._is_shown(action)]
            formatter.start_section(title)
            if title == "methods" and not self.all_help:
                formatter.add_lines(_names([action for action in own if action not in shown]))
            formatter.add_arguments(shown)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _is_shown(self, action: argparse.Action) -> bool:
        return action.dest in self.shown and not action.option_strings[0].startswith("--no_")


def _names(actions: Sequence[argparse.Action]) -> str:
    """Flags by name only, without switches' `--no_` twins."""
    flags = [action.option_strings[0] for action in actions if action.help != argparse.SUPPRESS]
    names = ", ".join(flag for flag in flags if not flag.startswith("--no_"))
    return textwrap.fill(f"{names} (--help_all explains them)", WIDTH - 4)


def study_parser(
    argv: Sequence[str],
    own: Mapping[str, Sequence[type]],
    texts: Texts,
    shown: Sequence[str],
    helps: Mapping[str, str] | None = None,
) -> Parser:
    """The parser of a command that takes a model, data and training arguments.

    Args:
        argv: what was given; `--help_all` among it shows everything.
        own: the command's own dataclasses, by the title of their group.
        texts, shown: see [`Parser`]; the arguments of common methods, and of the user's own, are shown too.
        helps: help by flag, instead of the dataclasses'.

    Raises:
        InputError: a method or a recipe file that is named cannot be read.
    """
    training = _training_class(argv)
    named = {title: names_of(*classes) for title, classes in own.items()}
    groups = {"model": names_of(ModelArguments), "data": names_of(DataArguments), **named, "training": ()}
    if "study" in named:
        named["study"].append("output_dir")
        groups |= {"methods": method_flags(training), "diagnostics": DIAGNOSTICS}
    classes = (ModelArguments, DataArguments, *(cls for classes in own.values() for cls in classes), training)
    common = [argument_names([method])[0] for method in METHODS if method.is_common]
    shown = (*shown, *common, *argument_names(training.own_methods))
    try:
        built = Parser(classes, texts, groups, shown, "--help_all" in argv)
    except argparse.ArgumentError as error:  # a method's argument is called like a flag of ours
        raise InputError(f"--method: {error}; give its argument another name") from None
    helps = {**({} if built.all_help else SHORT_HELPS), **(helps or {})}
    for action in built._actions:
        action.help = helps.get(action.dest, action.help)
    return built


def _training_class(argv: Sequence[str]) -> type[StableTrainingArguments]:
    """The training arguments, with those of the user's own methods that the command or its recipe files name."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--method", nargs="*", default=[])
    first.add_argument("--recipe", nargs="*", default=[])
    named, _ = first.parse_known_args(argv)
    files = [recipe for name in named.recipe if ".y" in name for recipe in load_recipes(name)]
    names = dict.fromkeys([*named.method, *(name for recipe in files for name in recipe.methods)])
    return arguments_class([load_method(name) for name in names])


class PlainParser(argparse.ArgumentParser):
    """A parser of a command that takes no model: it raises InputError, too.

    Args:
        command: the subcommand.
        texts: of `--help`.
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
    built.add_argument("study_folder", nargs="?", help="The study's folder, its --output_dir.")
    built.add_argument("--recipe", nargs="+", help="Only these, in this order. Default: all of the study.")
    return built


def study_folder(command: str, given: Mapping[str, Any]) -> Path:
    """The folder of such a command. Raises InputError where none was given."""
    if given.get("study_folder") is None:
        raise InputError(f"{command}: give the study's folder first; see --help")
    return Path(given["study_folder"])


def parse(known: argparse.ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, by field name.

    Raises:
        InputError: an unknown flag (with the nearest one), a value of the wrong type, or a stray word.
    """
    for action in known._actions:
        action.default = argparse.SUPPRESS
    namespace, unknown = known.parse_known_args(argv)
    if unknown:
        flags = [option for action in known._actions for option in action.option_strings]
        name = unknown[0].split("=")[0]
        hint = nearest(name, flags) if name.startswith("-") else "; a flag begins with --"
        raise InputError(
            f"{name}: no such argument{hint}. --help shows what there is; recipes: {', '.join(recipe_names())}"
        )
    return vars(namespace)


def take(given: dict[str, Any], cls: type) -> Any:
    """Move the flags of this dataclass out of `given`, into an object of it."""
    return cls(**{name: given.pop(name) for name in names_of(cls) if name in given})
