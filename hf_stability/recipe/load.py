"""Recipes by name: the packaged ones, `.yaml` files, parts composed (`a+b`), and places in a grid."""

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


MAX_NAME = 255  # bytes of a folder's name, on all common file systems


def recipe_dir() -> Path:
    """The folder of the packaged recipes.

    Installed, they are the package `hf_stability.recipes`. In a clone they are in `recipes/` beside the package, also if the
    clone's folder shadows an installed package.
    """
    package = Path(__file__).parents[1]
    in_clone = (package.parent / "setup.cfg").is_file() and (package.parent / "recipes").is_dir()
    return (package.parent if in_clone else package) / "recipes"


def recipe_names() -> list[str]:
    """Names of the packaged recipes, sorted."""
    return sorted(path.stem for path in recipe_dir().glob("*.yaml"))


def describe_recipe(name: str) -> str:
    """What a recipe is, in one sentence: the first of the comment that its file opens with.

    Args:
        name: a packaged recipe's name, or the path of a `.yaml` file.

    Returns:
        The sentence, in one line; "" if the file opens with no comment.

    Raises:
        InputError: no such recipe.
    """
    lines = _text_of(_path_of(name, name)).splitlines()
    comment = " ".join(line.strip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines))
    return re.split(r"(?<=[.!?])\s", comment, maxsplit=1)[0].strip()


def load_recipe(name: str) -> Recipe:
    """Read and check one recipe.

    Args:
        name: as in [`load_recipes`].

    Raises:
        InputError: as there, or it is a grid of several recipes.
    """
    recipes = load_recipes(name)
    if len(recipes) > 1:
        raise InputError(
            f"--recipe {name}: a grid of {len(recipes)} recipes; name one of them: {recipes[0].name} ... {recipes[-1].name}"
        )
    return recipes[0]


def load_recipes(name: str) -> list[Recipe]:
    """Read and check a recipe: all recipes of its grid, where it has one.

    Args:
        name: a packaged recipe's name (`"mosbach2021"`), the path of a `.yaml` file, several of these composed
            (`"mosbach2021+mine.yaml"`), and of a grid, if not all of it is wanted, what to choose from it
            (`"mosbach2021_grid,num_train_epochs=3"`), written as in its recipes' names.

    Raises:
        InputError: no such recipe, something is wrong in a file (all errors of it at once, each with file, key and the
            nearest valid name), parts that contradict each other, or no such place in the grid.
    """
    whole, chosen = (name, "") if _is_file(name) else name.partition(",")[::2]
    words = [whole] if _is_file(whole) else whole.split("+")
    recipe = compose([_read(_path_of(word, name)) for word in words])
    recipes = expand(recipe, chosen.split(",") if chosen else [])
    too_long = max((r.name for r in recipes), key=_bytes)
    if _bytes(too_long) > MAX_NAME:
        raise InputError(
            f"--recipe {name}: {too_long} has {_bytes(too_long)} bytes, and the name of a folder at most {MAX_NAME}; "
            "vary fewer arguments in one grid, or shorten the files' names"
        )
    return recipes


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and Path(name).is_file()


def _bytes(name: str) -> int:
    return len(name.encode())


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML's own loader keeps the last without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.YAMLError(f"the key {key.value!r} stands twice,{key.start_mark}")
        return super().construct_mapping(node, deep)


def _path_of(word: str, name: str) -> Path:
    """The file of a recipe that is `name` or a part of it."""
    path = Path(word) if word.endswith((".yaml", ".yml")) else recipe_dir() / f"{word}.yaml"
    if not path.is_file():
        known = recipe_names()
        which = "" if word == name else f" {word!r}"
        raise InputError(
            f"--recipe {name}: no such recipe{which}{nearest(word, known)}. Known: {', '.join(known)}, or a .yaml file."
        )
    return path


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None


def _read(path: Path, below: tuple[Path, ...] = ()) -> Recipe:
    """The recipe of one file, which the files `below` extend, the last one directly."""
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
    """The file that the last file of a chain extends; a path is relative to that file."""
    path = chain[-1]
    where = f"{path}: extends: {word}"
    if not isinstance(word, str) or not word.strip():
        raise InputError(f"{path}: extends: expected the name of a recipe or a .yaml file, found {word!r}")
    found = path.parent / word if word.endswith((".yaml", ".yml")) else recipe_dir() / f"{word}.yaml"
    if not found.is_file():
        if "+" in word or "," in word:
            raise InputError(f"{where}: a file extends one recipe; write a+b, or a place in a grid, after --recipe")
        beside = [file.name for file in sorted(path.parent.glob("*.y*ml")) if file not in chain]
        hint = f" (did you mean {word}.yaml?)" if f"{word}.yaml" in beside else nearest(word, recipe_names() + beside)
        raise InputError(
            f"{where}: no such recipe{hint}. Known: {', '.join(recipe_names())}, or a .yaml file, relative to this one"
        )
    if found.resolve() in [file.resolve() for file in chain]:
        raise InputError(f"{where}: a circle: {' extends '.join(file.name for file in (*chain, found))}")
    if found.stem in [file.stem for file in chain]:
        raise InputError(f"{where}: it has the name of the file that extends it; give that file another name")
    return found
