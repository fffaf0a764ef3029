"""The keys of a recipe file, the checks on each, and the checked result, a `Recipe`.

| key | content |
| --- | --- |
| `extends` | another recipe, as a packaged name or a `.yaml` file; this file starts from its content (see `extend`) |
| `args` | fields of `StableTrainingArguments`, Hugging Face's and ours |
| `model_config` | fields of the model's config, such as dropout |
| `model_types` | `config.model_type` (`bert`, `roberta` ...) -> `args` and `model_config` that override the two above |
| `grid` | argument or `model_config.FIELD` -> list of values; each combination is a recipe (see `expand`) |
| `replaces` | arguments set here; other parts of `a+b` lose their values for them (see `compose`) |
| `stages` | intermediate trainings before the target task (see `Stage`) |
| `methods` | your own methods, `my_module:Mine` or `file.py:Mine`; the file can then set their arguments |

Every key is optional.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
import typing
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Any

from ..errors import InputError, nearest
from ..methods import load_method
from .arguments import argument_types


SECTIONS = ("extends", "args", "model_config", "model_types", "grid", "replaces", "stages", "methods")
MODEL_TYPE_SECTIONS = ("args", "model_config")
CONFIG = "model_config."  # prefix of the config's fields in `grid` and `replaces`

# Each run sets these itself. If a recipe set them, it would not be the same for every seed.
NOT_A_RECIPES = ("output_dir", "seed", "data_seed", "init_seed", "dropout_seed", "per_device_train_batch_size")

ONE_A_STUDY = ("model_name_or_path", "task_name")

# Both set the length of training. If both are set, the Trainer silently uses the second.
LENGTH = ("num_train_epochs", "max_steps")


@dataclass(frozen=True)
class Stage:
    """An intermediate training before the target task: STILTs (Phang, Févry & Bowman 2018, arXiv 1811.01088).

    Args:
        task_name: as the flag of this name.
        data_dir: as the flag of this name. A GLUE task without it uses the command's `--data_dir`, if given.
        train_file: as the flag of this name. The path is relative to the working folder.
        validation_file: as the flag of this name. The path is relative to the working folder.
        args: training arguments that override all others in this stage (see `resolve_stage`).
        seed: seed of the stage's single run.
    """

    task_name: str | None = None
    data_dir: str | None = None
    train_file: str | None = None
    validation_file: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    seed: int = 1


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. The part for a model type is not applied yet.

    Args:
        name: `mosbach2021` for a file (its stem); `a+b` for a composed recipe;
            `mosbach2021_grid,learning_rate=2e-05,bias_correction=false` for a recipe of a grid.
        path: the file. None for a composed recipe.
        args: training argument -> value, with inherited ones. Types are corrected: YAML reads `2e-5` as text, here it is a
            float.
        model_config: field of the model's config -> value.
        model_types: model type -> its `args` and `model_config`.
        grid: argument or `model_config.FIELD` -> the list of values.
        replaces: the arguments that this recipe's values replace in the other parts of `a+b`. Names as in `grid`.
        point: this recipe's values from its grid. They override the others.
        parts: the files of a composed recipe, of one with `extends`, and of one from a grid. Each has its own values,
            without those that another file replaces. A later file's values win.
        stages: the trainings before the target task, in this order.
        methods: the user's own methods, in the form that `load_method` takes. A file beside the recipe file has its whole
            path: `/home/me/my_module.py:Mine`.
        is_packaged: whether the recipe and all its parts came with the library.
    """

    name: str
    path: Path | None
    args: dict[str, Any] = field(default_factory=dict)
    model_config: dict[str, Any] = field(default_factory=dict)
    model_types: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    replaces: tuple[str, ...] = ()
    point: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Recipe, ...] = ()
    stages: tuple[Stage, ...] = ()
    methods: tuple[str, ...] = ()
    is_packaged: bool = False

    @property
    def files(self) -> tuple[Recipe, ...]:
        """The recipe's files, each as a recipe: the parts, or this one."""
        return self.parts or (self,)


def parse_recipe(content: Any, path: Path, is_packaged: bool = False, base: Recipe | None = None) -> Recipe:
    """Check the content of a recipe file and correct the types of its values.

    The file's `methods` are imported, so that their arguments are known.

    Args:
        content: the parsed YAML.
        path: the file. Its stem is the recipe's name.
        is_packaged: whether the file came with the library.
        base: the recipe that the file extends.

    Returns:
        The values of the file itself, without inherited ones (see `extend`).

    Raises:
        InputError: all errors of the file, each with its key and the nearest valid name.
    """
    errors: list[str] = []
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: a recipe is a mapping, with the keys {', '.join(SECTIONS)}")
    methods = _checked_methods(content.get("methods"), path, errors)
    refuse(path, errors)  # the other keys can only be checked with the methods' arguments
    own_methods = dict.fromkeys((*(() if base is None else base.methods), *methods))
    types = argument_types(tuple(load_method(text) for text in own_methods))
    sections = {key: content.get(key) or {} for key in ("args", "model_config", "model_types", "grid")}
    _check_names(content, SECTIONS, "", errors)
    for key, section in sections.items():
        if not isinstance(section, Mapping):
            errors.append(f"{key}: expected a mapping, found {section!r}")
            sections[key] = {}
    args = _checked_args(sections["args"], "args", types, errors)
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
        args_part = _checked_args(part.get("args") or {}, f"{where}.args", types, errors)
        model_types[str(model_type)] = {"args": args_part, "model_config": dict(config)}
    recipe = Recipe(
        path.stem,
        path,
        args,
        dict(sections["model_config"]),
        model_types,
        methods=methods,
        is_packaged=is_packaged,
    )
    recipe = replace(recipe, grid=_checked_grid(sections["grid"], recipe, types, errors))
    recipe = replace(recipe, replaces=_checked_replaces(content.get("replaces"), recipe, base, errors))
    recipe = replace(recipe, stages=_checked_stages(content.get("stages"), types, errors))
    if base is not None and base.stages and content.get("stages") == []:
        errors.append(f"stages: an empty list does not remove those of {base.name}; extend a recipe without stages")
    refuse(path, errors)
    return recipe


def refuse(path: Path | None, errors: list[str]) -> None:
    """Raise InputError with all errors of a file, if there are any. A single error makes a single line."""
    if len(errors) == 1:
        raise InputError(f"{path}: {errors[0]}")
    if errors:
        raise InputError(f"{path} has {len(errors)} errors:\n" + "\n".join(f"  {error}" for error in errors))


def set_keys(recipe: Recipe) -> list[str]:
    """The arguments that a recipe sets for every model type. Names as in `grid`."""
    return [*recipe.args, *(CONFIG + name for name in recipe.model_config), *recipe.grid]


def _check_names(content: Mapping, known: typing.Iterable[str], where: str, errors: list[str]) -> None:
    known = list(known)
    for key in content:
        if key not in known:
            errors.append(f"{where + '.' if where else ''}{key}: no such key{nearest(key, known)}")


def _checked_methods(content: Any, path: Path, errors: list[str]) -> tuple[str, ...]:
    """A file's own methods. Each is imported once, to check that it exists."""
    if not isinstance(content, (list, type(None))):
        errors.append(f"methods: expected a list of MODULE:CLASS or FILE.py:CLASS, found {content!r}")
        return ()
    methods = []
    for text in content or []:
        if not isinstance(text, str):
            errors.append(f"methods: expected MODULE:CLASS or FILE.py:CLASS, found {text!r}")
            continue
        module, _, name = text.rpartition(":")
        file = path.parent / (module if module.endswith(".py") else f"{module}.py")
        methods.append(f"{file.resolve()}:{name}" if file.is_file() else text)
        try:
            load_method(methods[-1], path.parent)
        except InputError as error:
            errors.append(f"methods: {str(error).removeprefix('--method ')}")
    return tuple(dict.fromkeys(methods))


def _checked_args(section: Any, where: str, types: Mapping[str, Any], errors: list[str]) -> dict[str, Any]:
    if not isinstance(section, Mapping):
        errors.append(f"{where}: expected a mapping, found {section!r}")
        return {}
    _check_names(section, types, where, errors)
    values = {}
    for key, value in section.items():
        if key in NOT_A_RECIPES:
            errors.append(f"{where}.{key}: a recipe cannot set this; give it on the command line")
        elif key in types:
            try:
                values[key] = coerce(value, types[key])
            except (TypeError, ValueError) as error:
                errors.append(f"{where}.{key}: {error}")
    return values


def _checked_grid(
    section: Mapping, recipe: Recipe, types: Mapping[str, Any], errors: list[str]
) -> dict[str, list[Any]]:
    """The lists of a grid, with the types of their values corrected."""
    grid: dict[str, list[Any]] = {}
    for key, values in section.items():
        key, where = str(key), f"grid.{key}"
        problem = _not_for_a_grid(key, values, recipe, types)
        if problem:
            errors.append(f"{where}: {problem}")
            continue
        grid[key] = []
        for value in values:
            try:
                grid[key].append(value if key.startswith(CONFIG) else coerce(value, types[key]))
            except (TypeError, ValueError) as error:
                errors.append(f"{where}: {error}")
        twice = [label for label, count in Counter(map(value_label, grid[key])).items() if count > 1]
        errors += [f"{where}: {label} is there twice" for label in twice]
    return grid


def _not_for_a_grid(key: str, values: Any, recipe: Recipe, types: Mapping[str, Any]) -> str | None:
    """The reason why a grid cannot vary this argument over these values; None if it can."""
    if key in ONE_A_STUDY:
        return "all runs of a study have the same model and data; run one study for each, with its own --output_dir"
    if key in NOT_A_RECIPES:
        return "a recipe cannot set this; give it on the command line"
    if not key.startswith(CONFIG) and key not in types:
        return f"no such key{nearest(key, types)}; write a field of the model's config as {CONFIG}FIELD"
    if not isinstance(values, list):
        return f"expected a list of values, found {values!r}"
    if not values:
        return "the list is empty; give one value or more"
    section, name = ("model_config", key.removeprefix(CONFIG)) if key.startswith(CONFIG) else ("args", key)
    places = {section: getattr(recipe, section)}
    places |= {f"model_types.{kind}.{section}": part[section] for kind, part in recipe.model_types.items()}
    also = [place for place, there in places.items() if name in there]
    return f"it is also in {also[0]}; leave it out of one of them" if also else None


def _checked_replaces(names: Any, recipe: Recipe, base: Recipe | None, errors: list[str]) -> tuple[str, ...]:
    """The arguments that a recipe replaces. It must set or inherit each for every model type: else no value would be left."""
    names = [] if names is None else names
    if not isinstance(names, list):
        errors.append(f"replaces: expected a list of arguments, found {names!r}")
        return ()
    own = [*set_keys(recipe), *(() if base is None else set_keys(base))]
    for name in names:
        if name not in own:
            errors.append(
                f"replaces: {name} is not set here, in args, model_config or grid{nearest(name, own)}; write a field of "
                f"the model's config as {CONFIG}FIELD"
            )
    return tuple(map(str, names))


def _checked_stages(content: Any, types: Mapping[str, Any], errors: list[str]) -> tuple[Stage, ...]:
    """The stages of a recipe. All their errors are collected; the first stage is `stages.1`."""
    if not isinstance(content, (list, type(None))):
        errors.append(f"stages: expected a list of stages, found {content!r}")
        return ()
    own = [f.name for f in dataclasses.fields(Stage) if f.name != "args"]
    stages = []
    for number, values in enumerate(content or [], 1):
        where = f"stages.{number}"
        if not isinstance(values, Mapping):
            errors.append(f"{where}: expected a mapping with task_name, found {values!r}")
            continue
        _check_names(values, [*own, "args"], where, errors)
        for name in own:
            value = values.get(name)
            if name == "seed":
                right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32
            else:
                right = isinstance(value, str) and value.strip() != ""
            if name in values and not right:
                kind = "a whole number from 0 to 2^32 - 1" if name == "seed" else "text"
                errors.append(f"{where}.{name}: expected {kind}, found {value!r}")
        problem = _data_problem(values)
        if problem:
            errors.append(f"{where}: {problem}")
        args = _checked_args({} if values.get("args") is None else values["args"], f"{where}.args", types, errors)
        stages.append(Stage(**{name: values[name] for name in own if name in values}, args=args))
    return tuple(stages)


def _data_problem(stage: Mapping) -> str | None:
    """The error in a stage's data: something missing, or a contradiction. None if there is no error."""
    files = [name for name in ("train_file", "validation_file") if name in stage]
    if "task_name" in stage:
        return f"give either task_name or {files[0]}, not both" if files else None
    if not files:
        return "no data: give task_name, or train_file with validation_file"
    if len(files) == 1:
        return f"{files[0]} goes with {'validation_file' if files == ['train_file'] else 'train_file'}; give both"
    return "data_dir goes with a GLUE task_name, not with train_file" if "data_dir" in stage else None


def coerce(value: Any, annotation: Any) -> Any:
    """`value` converted to the type of `annotation`, as on a command line: text that reads as a number becomes a number.

    `max_grad_norm: null` is refused, because its type is float. So are `true` for a number and `1` for a switch.

    Raises:
        ValueError: the value does not have that type.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, found {value!r}")
    options = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    enums = [option for option in options if isinstance(option, type) and issubclass(option, enum.Enum)]
    if enums and isinstance(value, str):  # `SchedulerType | str` takes names of schedulers, no other text
        options = tuple(enums)
    for option in options:  # exact matches first: a `str | float` field keeps a float
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
    return typing.get_origin(annotation) in (typing.Union, UnionType)


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


def value_text(value: Any) -> str:
    """A value as a recipe file writes it: `2e-05`, `3` (also for 3.0), `false`, `null`, `linear`."""
    value = getattr(value, "value", value)  # an enum's
    if isinstance(value, str):
        return value
    text = json.dumps(value, default=str)
    return text.removesuffix(".0") if isinstance(value, float) else text


def value_label(value: Any) -> str:
    """A value as it is written in a recipe's name."""
    return re.sub(r"[^\w.+-]", "_", value_text(value))
