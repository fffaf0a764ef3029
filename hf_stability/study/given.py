"""Checks of what a study is given from Python: seeds and policy, numbers, paths, training arguments."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import InputError, nearest
from ..methods import Method
from ..recipe.arguments import argument_types
from ..recipe.schema import coerce
from ..utils.text import joined
from .policies.early_stopping import EarlyStopping, check_policy
from .policies.policy import Policy
from .policies.two_way import TwoWay, check_sizes
from .policies.until import DECIDES, Until, looks_text
from .prepare import parse_seeds


SEEDS = 5
"""Default number of seeds per recipe."""


def policy_of(
    two_way: Sequence[int] | None,
    restarts: int | None,
    look_at: float | None,
    finish: int | None,
    until: str | None = None,
    until_looks: Sequence[int] | None = None,
) -> Policy:
    """The study's policy; the plain `Policy` runs every seed of each recipe to its end."""
    if until is not None or until_looks is not None:
        others = {"--restarts": restarts, "--look_at": look_at, "--finish": finish, "--two_way": two_way}
        other = next((flag for flag, value in others.items() if value is not None), None)
        if until is None:
            raise InputError(
                f"--until_looks {looks_text(until_looks)}: also give --until {' or --until '.join(DECIDES)}"
            )
        if other is not None:
            raise InputError(f"--until {until} with {other}: give only one of them")
        return Until(until, until_looks)
    if any(value is not None for value in (restarts, look_at, finish)):
        check_policy(restarts, look_at, finish)
        if two_way is not None:
            raise InputError(f"--restarts {restarts} with --two_way: give only one of them")
        return EarlyStopping(restarts, look_at, finish)
    if two_way is None:
        return Policy()
    if isinstance(two_way, (str, bytes)) or not isinstance(two_way, Iterable) or not all(map(_is_whole, two_way)):
        raise InputError(f"--two_way {two_way!r}: give whole numbers, I J [R], such as [5, 5, 2]")
    return TwoWay(*check_sizes(list(two_way)))


def seeds_of(seeds: int | str | Iterable[int | str] | None, policy: Policy) -> list[int]:
    """The seeds to plan.

    Raises:
        InputError: these are no seeds, or their number is not that of `--restarts`.
    """
    own = policy.planned_seeds()
    if seeds is None:
        return parse_seeds([str(SEEDS)]) if own is None else own
    words = _seed_words(seeds)
    found = parse_seeds(words)
    if own is not None and len(found) != len(own):
        raise InputError(
            f"--restarts {len(own)}: --seeds {' '.join(words)} makes {len(found)}; give {len(own)} seeds, or leave out --seeds"
        )
    return found


def _seed_words(seeds: int | str | Iterable[int | str]) -> list[str]:
    """Seeds in the command's words: a number is a count, a list of one number is that seed (`7-7`)."""
    if isinstance(seeds, str):
        return seeds.split()
    if isinstance(seeds, bytes) or not isinstance(seeds, Iterable):
        return [str(seeds)]
    seeds = list(seeds)
    one = len(seeds) == 1 and not isinstance(seeds[0], str)
    return [f"{seeds[0]}-{seeds[0]}"] if one else [str(seed) for seed in seeds]


def names_of(given: Any, what: str) -> list[Any]:
    """One or several names as a list; empty for None."""
    if given is None:
        return []
    if isinstance(given, (str, os.PathLike, type)) or not isinstance(given, Iterable):
        given = [given]
    for name in given:
        if not isinstance(name, (str, os.PathLike)) and not (isinstance(name, type) and issubclass(name, Method)):
            raise InputError(f"{what}: give names, not {name!r}")
    return [name if isinstance(name, type) else os.fspath(name) for name in given]


def training_arguments(
    given: Mapping[str, Any], methods: tuple[type[Method], ...], keywords: Iterable[str]
) -> dict[str, Any]:
    """Training arguments with their types corrected, as in a recipe.

    Args:
        given: name -> value.
        methods: the user's own methods, which have arguments too.
        keywords: other known names, for the hint in an error.

    Raises:
        InputError: a name is unknown, a value has another type, or a method's argument has the name of a keyword.
    """
    types = argument_types(methods)
    for method in methods:
        if twice := set(keywords) & set(argument_types((method,))) - set(argument_types()):
            raise InputError(
                f"method {method.__name__}: its argument {min(twice)} has the name of a study's flag; rename the argument"
            )
    values = {}
    for name, value in given.items():
        if name not in types:
            raise InputError(f"{name}: no such argument{nearest(name, [*types, *keywords])}")
        if name == "diagnostics" and isinstance(value, str):
            value = [value]
        finite = not isinstance(value, float) or math.isfinite(value)  # infinite values are checked later
        try:
            values[name] = coerce(value, types[name]) if finite else value
        except (TypeError, ValueError) as error:
            raise InputError(f"--{name}: {error}") from None
    return values


def check_whole(**numbers: int | None) -> None:
    """Refuse values that are no whole numbers; None means that nothing was given."""
    for name, number in numbers.items():
        if number is not None and not _is_whole(number):
            raise InputError(f"--{name} {number!r}: give a whole number")


def check_workers(workers: int) -> int:
    """Refuse an impossible number of workers."""
    check_whole(workers=workers)
    if workers < 0:
        raise InputError(f"--workers {workers}: give 0 (in this process) or more")
    return workers


def check_main_guard() -> None:
    """Refuse to plan a study in a worker process that only imports the user's script. Each worker would start the study again."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InputError(
            'a worker process imported this script and came to the study again; put the study below `if __name__ == "__main__":`, or '
            "give workers=0"
        )


def check_retries(retry_crashed: int, processes: int = 1) -> None:
    """Refuse an impossible number of retries.

    Args:
        retry_crashed: as given.
        processes: number of processes that train each run together.
    """
    if retry_crashed < 0:
        raise InputError(f"--retry_crashed {retry_crashed}: give 0 or more")
    if retry_crashed and processes > 1:
        raise InputError(
            f"--retry_crashed {retry_crashed}: not where several processes train each run together; a crash ends them all. Rerun the "
            "command instead, or add --parallel seeds"
        )


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is not among the choices."""
    if value not in choices:
        raise InputError(f"--{name} {value}: give {joined(choices, 'or')}")


def path_of(given: str | os.PathLike | None) -> str | None:
    """A path as text."""
    return None if given is None else os.fspath(given)


def _is_whole(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
