"""Recipes by name: packaged ones, `.yaml` files, parts joined by `+` (`a+b`), and recipes of a grid."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, nearest
from .compose import compose, expand, extend
from .schema import Recipe, parse_recipe


MAX_NAME = 255  # bytes that all common file systems allow in a folder's name


def recipe_dir() -> Path:
    """The folder of the packaged recipes.

    When installed, they are the package `hf_stability.recipes`. In a clone they are in `recipes/`, beside the package. The
    clone's folder wins where it shadows an installed package.
    """
    package = Path(__file__).parents[1]
    in_clone = (package.parent / "setup.cfg").is_file() and (package.parent / "recipes").is_dir()
    return (package.parent if in_clone else package) / "recipes"


def recipe_names() -> list[str]:
    """Names of the packaged recipes, sorted."""
    return sorted(path.stem for path in recipe_dir().glob("*.yaml"))


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
    lines = _text_of(_path_of(name, name)).splitlines()
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
    if not isinstance(name, str):
        raise InputError(f"--recipe {name!r}: give a recipe's name or the path of a .yaml file, as a string")
    whole, chosen = (name, "") if _is_file(name) else name.partition(",")[::2]
    words = [whole] if _is_file(whole) else whole.split("+")
    recipe = compose([_read(_path_of(word, name)) for word in words])
    recipes = expand(recipe, chosen.split(",") if chosen else [])
    too_long = max((r.name for r in recipes), key=_bytes)
    if _bytes(too_long) > MAX_NAME:
        raise InputError(
            f"--recipe {name}: {too_long} has {_bytes(too_long)} bytes; a folder's name can have {MAX_NAME}: "
            "vary fewer arguments in one grid, or shorten the files' names"
        )
    return recipes


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and Path(name).is_file()


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


def _path_of(word: str, name: str) -> Path:
    """The file of the recipe `word`, which is `name` or a part of it."""
    path = Path(word) if word.endswith((".yaml", ".yml")) else recipe_dir() / f"{word}.yaml"
    if not path.is_file():
        known = recipe_names()
        which = "" if word == name else f" {word!r}"
        raise InputError(
            f"--recipe {name}: no such recipe{which}{nearest(word, known)}. Give a .yaml file or one of {', '.join(known)}."
        )
    return path


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
    own = parse_recipe(content, path, path.resolve().parent == recipe_dir().resolve(), base)
    return own if base is None else extend(base, own)


def _extended(word: Any, chain: tuple[Path, ...]) -> Path:
    """The file that the last file of a chain extends. A path is relative to that last file."""
    path = chain[-1]
    where = f"{path}: extends: {word}"
    if not isinstance(word, str) or not word.strip():
        raise InputError(f"{path}: extends: expected the name of a recipe or a .yaml file, found {word!r}")
    found = path.parent / word if word.endswith((".yaml", ".yml")) else recipe_dir() / f"{word}.yaml"
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
