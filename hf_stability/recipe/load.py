"""Recipes by name: packaged ones, `.yaml` files, parts joined by `+` (`a+b`), and recipes of a grid."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, nearest
from ..utils.recipe_files import existing_file, is_packaged, recipe_file, recipe_names, recipe_parts
from .compose import compose, expand, extend
from .schema import Recipe, parse_recipe


MAX_NAME = 255  # bytes that all common file systems allow in a folder's name


def describe_recipe(name: str) -> str:
    """A recipe in one sentence: the first sentence of its file's opening comment.

    Args:
        name: a packaged recipe's name, or the path of a `.yaml` file.

    Returns:
        The sentence, in one line; "" if the file has no opening comment.

    Raises:
        InputError: no such recipe.
    """
    return re.split(r"(?<=[.!?])\s", _opening_comment(name), maxsplit=1)[0].strip()


def is_add_on(name: str) -> bool:
    """Whether a recipe is meant to be added to another one with `+`: its opening comment says `An add-on:`.

    Args:
        name: a packaged recipe's name, or the path of a `.yaml` file.

    Raises:
        InputError: no such recipe.
    """
    return "An add-on:" in _opening_comment(name)


def _opening_comment(name: str) -> str:
    lines = _text_of(existing_file(name, name)).splitlines()
    return " ".join(line.strip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines))


def load_recipe(name: str) -> Recipe:
    """Read and check one recipe.

    Args:
        name: a packaged recipe's name (`"mosbach2021"`), the path of a `.yaml` file, or several of these joined by `+`
            (`"mosbach2021+mine.yaml"`). For a recipe of a grid, its whole name (`"rates.yaml,learning_rate=2e-05"`).

    Returns:
        The checked recipe. `StableTrainingArguments.from_recipe(name)` makes training arguments from it.

    Raises:
        InputError: no such recipe; errors in a file (all at once, each with file, key and the nearest valid name); parts
            that contradict each other; or a grid of several recipes.
    """
    recipes = load_recipes(name)
    if len(recipes) > 1:
        raise InputError(
            f"--recipe {name}: a grid of {len(recipes)} recipes; name one of them: {recipes[0].name} ... {recipes[-1].name}"
        )
    return recipes[0]


def load_recipes(name: str) -> list[Recipe]:
    """Read and check a recipe. If it has a grid, return all recipes of the grid.

    Args:
        name: a packaged recipe's name (`"mosbach2021"`), the path of a `.yaml` file, or several of these joined by `+`
            (`"mosbach2021+mine.yaml"`). To choose from a grid, add values as they are written in its recipes' names
            (`"mosbach2021_grid,num_train_epochs=3"`).

    Raises:
        InputError: no such recipe; errors in a file (all at once, each with file, key and the nearest valid name); parts
            that contradict each other; or no such recipe in the grid.
    """
    files, chosen = recipe_parts(name)
    recipes = expand(compose([_read(path) for path in files]), chosen)
    too_long = max((r.name for r in recipes), key=_bytes)
    if _bytes(too_long) > MAX_NAME:
        raise InputError(
            f"--recipe {name}: {too_long} has {_bytes(too_long)} bytes; a folder's name can have {MAX_NAME}: "
            "vary fewer arguments in one grid, or shorten the files' names"
        )
    return recipes


def _bytes(name: str) -> int:
    return len(name.encode())


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that comes twice in a mapping. YAML's own loader would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.YAMLError(f"the key {key.value!r} comes twice,{key.start_mark}")
        return super().construct_mapping(node, deep)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None


def _read(path: Path, below: tuple[Path, ...] = ()) -> Recipe:
    """The recipe of one file. The files `below` extend it, the last one directly."""
    try:
        content = yaml.load(_text_of(path), _UniqueKeys) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    base = None
    if isinstance(content, Mapping) and "extends" in content:
        base = _read(_extended(content["extends"], (*below, path)), (*below, path))
    own = parse_recipe(content, path, is_packaged(path), base)
    return own if base is None else extend(base, own)


def _extended(word: Any, chain: tuple[Path, ...]) -> Path:
    """The file that the last file of a chain extends. A path is relative to that last file."""
    path = chain[-1]
    where = f"{path}: extends: {word}"
    if not isinstance(word, str) or not word.strip():
        raise InputError(f"{path}: extends: expected the name of a recipe or a .yaml file, found {word!r}")
    found = recipe_file(word, path.parent)
    if not found.is_file():
        if "+" in word or "," in word:
            raise InputError(
                f"{where}: a file can extend only one recipe; give a+b, or a choice from a grid, to --recipe"
            )
        beside = [file.name for file in sorted(path.parent.glob("*.y*ml")) if file not in chain]
        hint = f" (did you mean {word}.yaml?)" if f"{word}.yaml" in beside else nearest(word, recipe_names() + beside)
        raise InputError(
            f"{where}: no such recipe{hint}. Give a .yaml file, relative to this one, or one of {', '.join(recipe_names())}"
        )
    if found.resolve() in [file.resolve() for file in chain]:
        raise InputError(
            f"{where}: these files extend each other: {' extends '.join(file.name for file in (*chain, found))}; remove one `extends`"
        )
    if found.stem in [file.stem for file in chain]:
        raise InputError(f"{where}: it has the same name as a file that extends it; rename that file")
    return found
