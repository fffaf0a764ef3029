"""Parsers for our flags and the Trainer's. `--help` shows the flags used most, in groups; `--help_all` shows all."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from transformers import HfArgumentParser

from ..errors import InputError
from ..methods import METHODS, argument_names, load_method
from ..recipe import load_recipes
from ..training_args import StableTrainingArguments, arguments_class
from .flags import DIAGNOSTICS, DataArguments, ModelArguments, method_flags, names_of
from .plain_parser import WIDTH, Help, Texts, words_after
from .program import PROG


LONG_CHOICES = 16
"""Characters. If its choices are longer, a flag is shown as `--flag X`."""

HELPS = {
    "output_dir": "Folder for all results. Default: results/TASK.",
    "save_strategy": "When an unfinished run saves a checkpoint, from which the same command continues it: no, steps, epoch or "
    "best. Default: after each tenth of a long training, if saving takes less than 1%% of the time.",
    "save_steps": "Update steps between two checkpoints; below 1, a fraction of all steps. It implies --save_strategy steps.",
    "save_total_limit": "Number of complete checkpoints that an unfinished run keeps; 0 keeps all. Default: 1.",
}
"""Help that replaces the Trainer's own, which is not true here."""

SHORT_HELPS = {
    "learning_rate": "Learning rate after warmup. Default: the recipe's.",
    "num_train_epochs": "Training epochs. Default: the recipe's.",
    "warmup_steps": "Update steps of warmup; below 1, a fraction of all steps. Default: the recipe's.",
    "total_train_batch_size": "Examples per update step, over all devices. Default: the recipe's.",
    "diagnostics": "More to record at each update step; --help_all lists the choices.",
}
"""Shorter help for `--help`, for flags with a long help."""


class FirstHelp(Help):
    """Shows the first sentence of a flag's help, and each sentence that begins with `Default`."""

    def _expand_help(self, action: argparse.Action) -> str:
        first, *more = re.split(r"(?<=\.)\s+(?=[A-Z0-9])", super()._expand_help(action))
        return " ".join([first, *(sentence for sentence in more if sentence.startswith("Default"))])


class Parser(HfArgumentParser):
    """A parser of dataclasses that raises InputError and shows its flags in groups.

    Args:
        classes: dataclasses with the flags.
        texts: the other texts of `--help`.
        groups: title of a group -> its flags, without dashes. A flag in no group is shown under `training`.
        shown: the flags that `--help` explains. It only names the others of the group `methods`.
        all_help: show every flag with its whole help.
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
        self.add_argument(
            "--help_all", action="help", help="show every flag, those of the Trainer too, each with its whole help"
        )

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
    """Flags by name only, without the `--no_` forms of switches."""
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
        argv: the words of the command line. With `--help_all` the help shows everything.
        own: title of a group -> the command's own dataclasses in it.
        texts, shown: see `Parser`. The arguments of common methods, and of the user's own, are shown too.
        helps: flag -> help that replaces the dataclass's.

    Raises:
        InputError: a method or recipe file on the command line cannot be read.
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
    except argparse.ArgumentError as error:  # a method's argument has the name of one of our flags
        raise InputError(f"--method: {error}; rename this argument in your method") from None
    helps = {**HELPS, **({} if built.all_help else SHORT_HELPS), **(helps or {})}
    for action in built._actions:
        action.help = helps.get(action.dest, action.help)
    return built


def _training_class(argv: Sequence[str]) -> type[StableTrainingArguments]:
    """The class of the training arguments, with those of the user's own methods in `--method` or in recipe files."""
    given = words_after(argv, "method", "recipe")
    files = [recipe for name in given["recipe"] if ".y" in name for recipe in load_recipes(name)]
    names = dict.fromkeys([*given["method"], *(name for recipe in files for name in recipe.methods)])
    return arguments_class([load_method(name) for name in names])


def take(given: dict[str, Any], cls: type) -> Any:
    """Move the flags of this dataclass out of `given`, into an object of it."""
    return cls(**{name: given.pop(name) for name in names_of(cls) if name in given})
