"""The files of recipes, by name. It imports nothing heavy, so that a command refuses a wrong name at once."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError, nearest


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


def is_packaged(path: Path) -> bool:
    """Whether a recipe's file is one of the package."""
    return path.resolve().parent == recipe_dir().resolve()


def recipe_file(name: str, folder: Path | None = None) -> Path:
    """The file of one recipe, which may not exist.

    Args:
        name: a packaged recipe's name, or the path of a `.yaml` file.
        folder: what a path is relative to. Default: the working folder.
    """
    return (folder or Path()) / name if name.endswith((".yaml", ".yml")) else recipe_dir() / f"{name}.yaml"


def recipe_parts(name: str) -> tuple[list[Path], list[str]]:
    """The files of a recipe's parts, and the values chosen from its grid.

    Args:
        name: see `load_recipes`.

    Raises:
        InputError: no such recipe, or the name is no string.
    """
    if not isinstance(name, str):
        raise InputError(f"--recipe {name!r}: give a recipe's name or the path of a .yaml file, as a string")
    whole, chosen = (name, "") if _is_file(name) else name.partition(",")[::2]
    words = [whole] if _is_file(whole) else whole.split("+")
    return [existing_file(word, name) for word in words], chosen.split(",") if chosen else []


def existing_file(word: str, name: str) -> Path:
    """The file of the recipe `word`, which is `name` or a part of it.

    Raises:
        InputError: no such recipe.
    """
    path = recipe_file(word)
    if not path.is_file():
        known = recipe_names()
        which = "" if word == name else f" {word!r}"
        raise InputError(
            f"--recipe {name}: no such recipe{which}{nearest(word, known)}. Give a .yaml file or one of {', '.join(known)}."
        )
    return path


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) and Path(name).is_file()
