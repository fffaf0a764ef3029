"""A recipe: a YAML file whose values become defaults of the arguments.

A recipe file has these keys, each optional:

| key | what |
| --- | --- |
| `args` | fields of [`StableTrainingArguments`], Hugging Face's and ours |
| `model_config` | fields of the model's config: dropout ... |
| `model_types` | by `config.model_type` (`bert`, `roberta`, `albert` ...): `args` and `model_config` that go over the above |

What a value in force came from is kept beside it (see [`Resolved`]), in the order of precedence: command line > task
preset > model type > recipe > default. A task's preset is for the packaged recipes, whose values are full-size models':
in a recipe file of your own, what you wrote goes over it.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from .errors import InputError, nearest


SECTIONS = ("args", "model_config", "model_types")
MODEL_TYPE_SECTIONS = ("args", "model_config")

# What a run sets for itself: a recipe that sets these would not be the same recipe over seeds.
NOT_A_RECIPES = ("output_dir", "seed", "data_seed", "init_seed", "dropout_seed", "per_device_train_batch_size")


@dataclass(frozen=True)
class Recipe:
    """A checked recipe, its model type's part not yet applied.

    Args:
        name: the file's stem, `mosbach2021`.
        path: the file.
        args: values of training arguments, with their types put right (`2e-5`, which YAML reads as text, is a float).
        model_config: values for the model's config.
        model_types: the parts by model type, each with `args` and `model_config`.
    """

    name: str
    path: Path
    args: dict[str, Any] = field(default_factory=dict)
    model_config: dict[str, Any] = field(default_factory=dict)
    model_types: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    @property
    def is_packaged(self) -> bool:
        """Whether it came with the library, and not from a user's own file."""
        return self.path.resolve().parent == recipe_dir().resolve()


@dataclass(frozen=True)
class Resolved:
    """A value and where it came from: `"--learning_rate"`, `"task preset demo_pair"`, `"mosbach2021 (roberta)"`, ..."""

    value: Any
    source: str


def recipe_dir() -> Path:
    """The folder of the packaged recipes.

    Installed, they are the package `hf_stability.recipes`, below this folder; in a clone they stand beside it, also where
    the clone's folder shadows an installed package.
    """
    clone = Path(__file__).parents[1]
    in_clone = (clone / "setup.cfg").is_file() and (clone / "recipes").is_dir()
    return clone / "recipes" if in_clone else Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the packaged recipes, sorted."""
    return sorted(path.stem for path in recipe_dir().glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """Read and check a recipe.

    Args:
        name: a packaged recipe's name (`"mosbach2021"`), or the path of a `.yaml` file.

    Raises:
        InputError: no such recipe, or something is wrong in it: all errors at once, each with file, key and the
            nearest valid name.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else recipe_dir() / f"{name}.yaml"
    if not path.is_file():
        known = recipe_names()
        raise InputError(
            f"--recipe {name}: no such recipe{nearest(name, known)}. Known: {', '.join(known)}, or a .yaml file."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    return parse_recipe(content, path)


def parse_recipe(content: Any, path: Path) -> Recipe:
    """Check the content of a recipe file and put its values' types right. Errors as in [`load_recipe`]."""
    errors: list[str] = []
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: a recipe is a mapping with the keys {', '.join(SECTIONS)}")
    sections = {key: content.get(key) or {} for key in SECTIONS}
    _check_names(content, SECTIONS, "", errors)
    for key, section in sections.items():
        if not isinstance(section, Mapping):
            errors.append(f"{key}: expected a mapping, found {section!r}")
            sections[key] = {}
    args = _checked_args(sections["args"], "args", errors)
    model_types = {}
    for model_type, part in sections["model_types"].items():
        part, where = part or {}, f"model_types.{model_type}"
        if not isinstance(part, Mapping):
            errors.append(f"{where}: expected a mapping, found {part!r}")
            continue
        _check_names(part, MODEL_TYPE_SECTIONS, where, errors)
        config = part.get("model_config") or {}
        if not isinstance(config, Mapping):
            errors.append(f"{where}.model_config: expected a mapping, found {config!r}")
            config = {}
        args_part = _checked_args(part.get("args") or {}, f"{where}.args", errors)
        model_types[str(model_type)] = {"args": args_part, "model_config": dict(config)}
    if len(errors) == 1:
        raise InputError(f"{path}: {errors[0]}")
    if errors:
        raise InputError(f"{path} has {len(errors)} errors:\n" + "\n".join(f"  {error}" for error in errors))
    return Recipe(path.stem, path, args, dict(sections["model_config"]), model_types)


def resolve(
    recipe: Recipe | None,
    model_type: str | None = None,
    preset: Mapping[str, Any] | None = None,
    preset_name: str = "task preset",
    given: Mapping[str, Any] | None = None,
    given_name: str = "--{}",
    base: Mapping[str, Any] | None = None,
    base_name: str = "study default",
) -> dict[str, Resolved]:
    """The training arguments that are set anywhere, with where each came from; the rest keep their defaults.

    Args:
        recipe: a checked recipe, or None.
        model_type: `config.model_type`; a model type that the recipe has no part for takes the recipe's common values.
        preset: the task's own values (the bundled demo's); over a packaged recipe, under a user's own file.
        given: what the user gave on the command line or as keywords; wins.
        given_name: how a given value's source is called, `{}` being the field.
        base, base_name: values that everything else goes over, instead of the Trainer's defaults.
    """
    of_recipe: list[tuple[Mapping[str, Any], str]] = []
    if recipe is not None:
        of_recipe.append((recipe.args, f"recipe {recipe.name}"))
        if model_type in recipe.model_types:
            of_recipe.append((recipe.model_types[model_type]["args"], f"recipe {recipe.name}, {model_type}"))
    of_task = [(preset or {}, preset_name)]
    middle = of_recipe + of_task if recipe is None or recipe.is_packaged else of_task + of_recipe
    layers = [(base or {}, base_name), *middle, (given or {}, given_name)]
    return {
        name: Resolved(value, source.format(name) if "{}" in source else source)
        for values, source in layers
        for name, value in values.items()
    }


def resolve_model_config(recipe: Recipe | None, model_type: str | None = None) -> dict[str, Resolved]:
    """The model config's values that a recipe sets for this model type, with where each came from."""
    if recipe is None:
        return {}
    values = {name: Resolved(value, f"recipe {recipe.name}") for name, value in recipe.model_config.items()}
    part = recipe.model_types.get(model_type or "", {}).get("model_config", {})
    values.update({name: Resolved(value, f"recipe {recipe.name}, {model_type}") for name, value in part.items()})
    return values


# ---- names and types ------------------------------------------------------------------------------------------------


def _check_names(content: Mapping, known: typing.Iterable[str], where: str, errors: list[str]) -> None:
    known = list(known)
    for key in content:
        if key not in known:
            errors.append(f"{where + '.' if where else ''}{key}: no such key{nearest(key, known)}")


def _checked_args(section: Any, where: str, errors: list[str]) -> dict[str, Any]:
    if not isinstance(section, Mapping):
        errors.append(f"{where}: expected a mapping, found {section!r}")
        return {}
    fields = argument_types()
    _check_names(section, fields, where, errors)
    values = {}
    for key, value in section.items():
        if key in NOT_A_RECIPES:
            errors.append(f"{where}.{key}: a recipe cannot set this; give it on the command line")
        elif key in fields:
            try:
                values[key] = coerce(value, fields[key])
            except (TypeError, ValueError) as error:
                errors.append(f"{where}.{key}: {error}")
    return values


@lru_cache(maxsize=1)
def argument_types() -> dict[str, Any]:
    """Every field of [`StableTrainingArguments`] that can be set, with its type."""
    from .training_args import StableTrainingArguments

    hints = typing.get_type_hints(StableTrainingArguments)
    return {f.name: hints[f.name] for f in dataclasses.fields(StableTrainingArguments) if f.init}


def coerce(value: Any, annotation: Any) -> Any:
    """`value` as `annotation` wants it, by the rules of a command line: text that reads as a number is one.

    `max_grad_norm: null` is refused (its type is float), and so is `true` for a number or `1` for a switch.

    Raises:
        ValueError: it is not of that type.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, found {value!r}")
    options = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    enums = [option for option in options if isinstance(option, type) and issubclass(option, enum.Enum)]
    if enums and isinstance(value, str):  # `SchedulerType | str` takes the names of schedulers, and no other text
        options = enums
    for option in options:  # exact matches first: a str | float field keeps the float it was given
        if option is type(None) and value is None:
            return None
        if isinstance(option, type) and type(value) is option:
            return value
    for option in options:
        converted = _convert(value, option)
        if converted is not _NO:
            return converted
    raise ValueError(f"expected {_describe(annotation)}, found {value!r}")


_NO = object()


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _convert(value: Any, option: Any) -> Any:
    option = typing.get_origin(option) or option
    if option is typing.Any:
        return value
    if not isinstance(option, type) or option is type(None) or value is None:
        return _NO
    if option in (dict, list):
        return value if isinstance(value, option) else _NO
    if option is bool or isinstance(value, bool):
        return value if isinstance(value, bool) and option is bool else _NO
    if issubclass(option, enum.Enum):
        return value if value in [member.value for member in option] else _NO
    if option is float and isinstance(value, (int, float, str)):
        try:
            number = float(value)
        except ValueError:
            return _NO
        return number if math.isfinite(number) else _NO
    if option is int and isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return _NO
    return value if isinstance(value, option) else _NO


def _describe(annotation: Any) -> str:
    if _is_union(annotation):
        return " or ".join(_describe(option) for option in typing.get_args(annotation))
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in annotation)
    return getattr(annotation, "__name__", str(annotation))
