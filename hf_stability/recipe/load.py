"""A recipe: a YAML file whose values become defaults of the arguments.

A recipe file has these keys, each optional:

| key | what |
| --- | --- |
| `args` | fields of [`StableTrainingArguments`], Hugging Face's and ours |
| `model_config` | fields of the model's config: dropout ... |
| `model_types` | by `config.model_type` (`bert`, `roberta`, `albert` ...): `args` and `model_config` that go over the above |
| `grid` | lists of values, by argument or `model_config.FIELD`: a recipe for each combination (see [`expand`]) |
| `replaces` | arguments, of those set here, whose values in the other parts of `a+b` do not count (see [`compose`]) |
| `stages` | a list of intermediate trainings before the target task (see [`Stage`]) |

What a value in force came from is kept beside it (see [`Resolved`]), in the order of precedence: command line > grid >
task preset > model type > recipe > default. A task's preset is for the packaged recipes, whose values are full-size
models': in a recipe file of your own, what you wrote goes over it. What a grid varies cannot be given on the command line
as well, which would make all its recipes the same.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import json
import math
import re
import types
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, nearest
from .arguments import argument_types


SECTIONS = ("args", "model_config", "model_types", "grid", "replaces", "stages")
MODEL_TYPE_SECTIONS = ("args", "model_config")
CONFIG = "model_config."  # what a field of the model's config begins with where arguments stand too

# What a run sets for itself: a recipe that sets these would not be the same recipe over seeds.
NOT_A_RECIPES = ("output_dir", "seed", "data_seed", "init_seed", "dropout_seed", "per_device_train_batch_size")

ONE_A_STUDY = ("model_name_or_path", "task_name")

# Both say how long training is; the second goes over the first without a word.
LENGTH = ("num_train_epochs", "max_steps")

# What a stage does not take from its recipe and the command line: it is never stopped early, ...
NOT_A_STAGES = ("on_alarm", "audit_alarms")
# ... nor is its evaluation's cadence on the command line, which is in update steps of the target, ...
TARGETS_CADENCE = ("eval_strategy", "eval_steps", "eval_delay")
# ... and where it sets the first of these itself, the second from elsewhere would say something else of the same thing.
SAME_THING = dict([LENGTH, ("total_train_batch_size", "per_device_train_batch_size")])

MAX_GRID = 1000  # recipes; more is a mistake
MAX_NAME = 255  # bytes of a folder's name, on all common file systems


@dataclass(frozen=True)
class Stage:
    """An intermediate training before the target task: STILTs (Phang, Févry & Bowman 2018, arXiv 1811.01088).

    Args:
        task_name, data_dir, train_file, validation_file: its data, as the command's flags of the same names, files as seen
            from the working folder. A GLUE task without `data_dir` is looked for in the command's own, if that has one.
        args: training arguments that go over all others in this stage (see [`resolve_stage`]).
        seed: of its run, of which there is one; default 1.
    """

    task_name: str | None = None
    data_dir: str | None = None
    train_file: str | None = None
    validation_file: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    seed: int = 1


@dataclass(frozen=True)
class Recipe:
    """A checked recipe, its model type's part not yet applied.

    Args:
        name: the file's stem, `mosbach2021`; of a composed recipe `a+b`; in a grid followed by its place in it,
            `mosbach2021_grid,learning_rate=2e-05,bias_correction=false`.
        path: the file; None for a composed recipe.
        args: values of training arguments, with their types put right (`2e-5`, which YAML reads as text, is a float).
        model_config: values for the model's config.
        model_types: the parts by model type, each with `args` and `model_config`.
        grid: the values of what is varied, by argument or `model_config.FIELD`.
        replaces: what this recipe's values replace when it is composed with others, named as in `grid`.
        point: of `grid`, this recipe's values; they go over the others.
        parts: of a composed recipe, and of one of a grid, the files it is made of, without what another one replaces.
        stages: what is trained on before the target task, in this order.
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

    @property
    def files(self) -> tuple[Recipe, ...]:
        """The recipes that are files: the parts, or this one."""
        return self.parts or (self,)

    @property
    def is_packaged(self) -> bool:
        """Whether it came with the library, all parts of it, and not from a user's own file."""
        return all(part.path.resolve().parent == recipe_dir().resolve() for part in self.files)


@dataclass(frozen=True)
class Resolved:
    """A value and where it came from: `"--learning_rate"`, `"task preset"`, `"recipe mosbach2021, roberta"`, ..."""

    value: Any
    source: str


def recipe_dir() -> Path:
    """The folder of the packaged recipes.

    Installed, they are the package `hf_stability.recipes`, below this folder; in a clone they stand beside it, also where
    the clone's folder shadows an installed package.
    """
    package = Path(__file__).parents[1]
    in_clone = (package.parent / "setup.cfg").is_file() and (package.parent / "recipes").is_dir()
    return (package.parent if in_clone else package) / "recipes"


def recipe_names() -> list[str]:
    """Names of the packaged recipes, sorted."""
    return sorted(path.stem for path in recipe_dir().glob("*.yaml"))


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
    recipe = compose([_read(word, name) for word in words])
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

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.YAMLError(f"the key {key.value!r} stands twice,{key.start_mark}")
        return super().construct_mapping(node, deep)


def _read(word: str, name: str) -> Recipe:
    """The recipe of one file, which is `name` or a part of it."""
    path = Path(word) if word.endswith((".yaml", ".yml")) else recipe_dir() / f"{word}.yaml"
    if not path.is_file():
        known = recipe_names()
        which = "" if word == name else f" {word!r}"
        raise InputError(
            f"--recipe {name}: no such recipe{which}{nearest(word, known)}. Known: {', '.join(known)}, or a .yaml file."
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    return parse_recipe(content, path)


def parse_recipe(content: Any, path: Path) -> Recipe:
    """Check the content of a recipe file and put its values' types right. Errors as in [`load_recipes`]."""
    errors: list[str] = []
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: a recipe is a mapping with the keys {', '.join(SECTIONS)}")
    sections = {key: content.get(key) or {} for key in SECTIONS if key not in ("replaces", "stages")}
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
    recipe = Recipe(path.stem, path, args, dict(sections["model_config"]), model_types)
    recipe = replace(recipe, grid=_checked_grid(sections["grid"], recipe, errors))
    recipe = replace(recipe, replaces=_checked_replaces(content.get("replaces"), recipe, errors))
    recipe = replace(recipe, stages=_checked_stages(content.get("stages"), errors))
    if len(errors) == 1:
        raise InputError(f"{path}: {errors[0]}")
    if errors:
        raise InputError(f"{path} has {len(errors)} errors:\n" + "\n".join(f"  {error}" for error in errors))
    return recipe


# ---- a+b, and grids -------------------------------------------------------------------------------------------------


def compose(parts: Sequence[Recipe]) -> Recipe:
    """One recipe that sets what any of its parts sets: a base and what is added to it.

    No part is stronger than another: where two set the same argument to different values, for whatever model type, they
    are refused, unless one of them lists it under `replaces`. Its value is then meant to go over the others'. Epochs in one
    and `max_steps` in another are the length of training twice: refused, or replaced, as one argument.

    Args:
        parts: one recipe or more, as read from their files.

    Raises:
        InputError: parts that contradict each other (all contradictions at once), one that is there twice, or two that
            have stages.
    """
    if len(parts) == 1:
        return parts[0]
    name = "+".join(part.name for part in parts)
    twice = [part for part, count in Counter(part.name for part in parts).items() if count > 1]
    if twice:
        raise InputError(f"--recipe {name}: {twice[0]} is there twice; give each part once")
    staged = [part.name for part in parts if part.stages]
    if len(staged) > 1:
        raise InputError(
            f"--recipe {name}: {' and '.join(staged)} have stages; put all of them, in their order, into one part"
        )
    replaced = [{key for other in parts if other is not part for key in _replaced(other)} for part in parts]
    parts = tuple(_without(part, keys.difference(part.replaces)) for part, keys in zip(parts, replaced, strict=True))
    _refuse_contradictions(name, parts)
    types = dict.fromkeys(model_type for part in parts for model_type in part.model_types)
    return Recipe(
        name,
        None,
        _union(part.args for part in parts),
        _union(part.model_config for part in parts),
        {
            model_type: {
                section: _union(part.model_types.get(model_type, {}).get(section, {}) for part in parts)
                for section in MODEL_TYPE_SECTIONS
            }
            for model_type in types
        },
        _union(part.grid for part in parts),
        parts=parts,
        stages=next((part.stages for part in parts if part.stages), ()),
    )


def expand(recipe: Recipe, chosen: Sequence[str] = ()) -> list[Recipe]:
    """The recipes of a grid, one for each combination, the last argument's values next to each other.

    Each has its place in its name, arguments of one value too: a grid can be given more values, and its runs keep their
    folders. Names have no character that a shell, a file system or a table would take for something else.

    Args:
        recipe: a checked recipe. Without a grid it is the only one.
        chosen: `learning_rate=2e-05` ...: only the recipes that have these in their names.

    Raises:
        InputError: none has, or there are more than `MAX_GRID`.
    """
    if not recipe.grid and not chosen:
        return [recipe]
    size = math.prod(len(values) for values in recipe.grid.values())
    if size > MAX_GRID:
        raise InputError(f"--recipe {recipe.name}: a grid of {size} recipes, more than {MAX_GRID}; take fewer values")
    recipes = []
    for values in itertools.product(*recipe.grid.values()):
        point = dict(zip(recipe.grid, values, strict=True))
        place = [f"{key}={_label(value)}" for key, value in point.items()]
        if set(chosen) <= set(place):
            recipes.append(replace(recipe, name=",".join([recipe.name, *place]), point=point, parts=recipe.files))
    if not recipes:
        there = "; ".join(f"{key}={'|'.join(map(_label, values))}" for key, values in recipe.grid.items())
        raise InputError(
            f"--recipe {','.join([recipe.name, *chosen])}: not in the grid, which has {there or 'nothing'}"
        )
    return recipes


def _replaced(part: Recipe) -> set[str]:
    """What a part replaces; of the two that say how long training is both."""
    return {*part.replaces, *(LENGTH if set(LENGTH) & set(part.replaces) else ())}


def _without(part: Recipe, keys: typing.Collection[str]) -> Recipe:
    def kept(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        return {name: value for name, value in values.items() if prefix + name not in keys}

    return replace(
        part,
        args=kept(part.args),
        model_config=kept(part.model_config, CONFIG),
        model_types={
            model_type: {"args": kept(own["args"]), "model_config": kept(own["model_config"], CONFIG)}
            for model_type, own in part.model_types.items()
        },
        grid=kept(part.grid),
    )


def _union(mappings: typing.Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for mapping in mappings for name, value in mapping.items()}


def _in_words(part: Recipe, model_type: str | None) -> dict[str, str]:
    """What a part sets for a model type, in words; a part's common value may meet another's for one model type."""
    own = part.model_types.get(model_type or "", {})
    args = {**part.args, **own.get("args", {})}
    config = {**part.model_config, **own.get("model_config", {})}
    values = {**args, **{CONFIG + name: value for name, value in config.items()}}
    words = {name: _text(value) for name, value in values.items()}
    return words | {name: f"a grid ({', '.join(map(_text, values))})" for name, values in part.grid.items()}


def _refuse_contradictions(name: str, parts: Sequence[Recipe]) -> None:
    found: dict[tuple[str, str], str] = {}
    for model_type in (None, *dict.fromkeys(model_type for part in parts for model_type in part.model_types)):
        words = [_in_words(part, model_type) for part in parts]
        for (first, a), (second, b) in itertools.combinations(zip(parts, words, strict=True), 2):
            for key in a:
                if key in b and (a[key] != b[key] or key in first.grid):
                    line = f"{a[key]} in {first.name}, {b[key]} in {second.name}"
                    found.setdefault((key, line), "" if model_type is None else f" ({model_type})")
            for epochs, steps in (LENGTH, LENGTH[::-1]):
                if epochs in a and steps in b:
                    line = f"{epochs} {a[epochs]} in {first.name}, {steps} {b[steps]} in {second.name}"
                    found.setdefault((steps, line), "" if model_type is None else f" ({model_type})")
    if not found:
        return
    lines = [f"{key}{model_type}: {line}" for (key, line), model_type in found.items()]
    which = dict.fromkeys(key for key, _ in found)
    way_out = (
        "leave out one of the two, or, in a file of your own whose value is meant to count, write "
        f"replaces: [{', '.join(which)}]; to compare recipes, put a space between them"
    )
    if len(lines) == 1:
        raise InputError(f"--recipe {name}: {lines[0]}: the parts contradict each other; {way_out}")
    text = "\n".join(f"  {line}" for line in lines)
    raise InputError(f"--recipe {name}: the parts contradict each other {len(lines)} times; {way_out}:\n{text}")


def _text(value: Any) -> str:
    """A value as a recipe has it: `2e-05`, `3` (for 3.0 too), `false`, `null`, `linear`."""
    value = getattr(value, "value", value)  # an enum's
    if isinstance(value, str):
        return value
    text = json.dumps(value, default=str)
    return text.removesuffix(".0") if isinstance(value, float) else text


def _label(value: Any) -> str:
    """A value in a name."""
    return re.sub(r"[^\w.+-]", "_", _text(value))


# ---- values and where they come from ----------------------------------------------------------------------------------


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
        preset: the task's own values (the bundled demo's); over packaged recipes, under a user's own files.
        given: what the user gave on the command line or as keywords; wins.
        given_name: how a given value's source is called, `{}` being the field.
        base, base_name: values that everything else goes over, instead of the Trainer's defaults.

    Raises:
        InputError: something is given that the recipe's grid varies.
    """
    given, point = given or {}, _point(recipe, "args")
    for name, resolved in point.items():
        if name in given:
            raise InputError(
                f"{given_name.format(name)} {given[name]}: the {resolved.source} varies it; leave one of them out, or "
                f"choose from the grid: {recipe.name.partition(',')[0]},{name}=..."
            )
    files = () if recipe is None else recipe.files
    layers = [
        (base or {}, base_name),
        *(layer for part in files if part.is_packaged for layer in _layers(part, "args", model_type)),
        (preset or {}, preset_name),
        *(layer for part in files if not part.is_packaged for layer in _layers(part, "args", model_type)),
    ]
    values = {name: Resolved(value, source) for values, source in layers for name, value in values.items()}
    return values | point | {name: Resolved(value, given_name.format(name)) for name, value in given.items()}


def resolve_stage(
    recipe: Recipe,
    stage: Stage,
    model_type: str | None = None,
    preset: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
) -> dict[str, Resolved]:
    """The training arguments of one of a recipe's stages, with where each came from.

    They are the recipe's (see [`resolve`]: its place in a grid and the command line included), and over all of these the
    stage's own `args`: a flag on the command line is meant for the target first. Not taken over: alarms that would stop it;
    the command line's `eval_strategy`, `eval_steps` and `eval_delay`, which would evaluate a long stage very often;
    `max_steps` where the stage sets `num_train_epochs`; `per_device_train_batch_size` where it sets
    `total_train_batch_size`.

    Args:
        recipe, stage: a checked recipe, and one of its stages.
        model_type, given, base: as in [`resolve`].
        preset: that of the stage's task.
    """
    (part,) = (part for part in recipe.files if part.stages)
    given = {name: value for name, value in (given or {}).items() if name not in TARGETS_CADENCE}
    values = resolve(recipe, model_type, preset, given=given, base=base)
    left_out = {*NOT_A_STAGES, *(other for name, other in SAME_THING.items() if name in stage.args)}
    inherited = {name: r for name, r in values.items() if name not in left_out}
    own = f"stage of recipe {part.name}"
    return inherited | {name: Resolved(value, own) for name, value in stage.args.items()}


def resolve_model_config(recipe: Recipe | None, model_type: str | None = None) -> dict[str, Resolved]:
    """The model config's values that a recipe sets for this model type, with where each came from."""
    files = () if recipe is None else recipe.files
    layers = [layer for part in files for layer in _layers(part, "model_config", model_type)]
    values = {name: Resolved(value, source) for values, source in layers for name, value in values.items()}
    return values | _point(recipe, "model_config")


def _layers(part: Recipe, section: str, model_type: str | None) -> list[tuple[Mapping[str, Any], str]]:
    own = part.model_types.get(model_type or "", {}).get(section, {})
    return [(getattr(part, section), f"recipe {part.name}"), (own, f"recipe {part.name}, {model_type}")]


def _point(recipe: Recipe | None, section: str) -> dict[str, Resolved]:
    """A recipe's place in its grid."""
    found = {}
    for key, value in ({} if recipe is None else recipe.point).items():
        if key.startswith(CONFIG) == (section == "model_config"):
            part = next(part for part in recipe.files if key in part.grid)
            found[key.removeprefix(CONFIG)] = Resolved(value, f"grid of recipe {part.name}")
    return found


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


def _checked_grid(section: Mapping, recipe: Recipe, errors: list[str]) -> dict[str, list[Any]]:
    """The lists of a grid, their values' types put right."""
    grid = {}
    for key, values in section.items():
        key, where = str(key), f"grid.{key}"
        problem = _not_for_a_grid(key, values, recipe)
        if problem:
            errors.append(f"{where}: {problem}")
            continue
        grid[key] = []
        for value in values:
            try:
                grid[key].append(value if key.startswith(CONFIG) else coerce(value, argument_types()[key]))
            except (TypeError, ValueError) as error:
                errors.append(f"{where}: {error}")
        twice = [label for label, count in Counter(map(_label, grid[key])).items() if count > 1]
        errors += [f"{where}: {label} is there twice" for label in twice]
    return grid


def _not_for_a_grid(key: str, values: Any, recipe: Recipe) -> str | None:
    if key in ONE_A_STUDY:
        return "all runs of a study are of one model and data; run a study for each, with an --output_dir of its own"
    if key in NOT_A_RECIPES:
        return "a recipe cannot set this; give it on the command line"
    if not key.startswith(CONFIG) and key not in argument_types():
        return f"no such key{nearest(key, argument_types())}; a field of the model's config is {CONFIG}FIELD"
    if not isinstance(values, list):
        return f"expected a list of values, found {values!r}"
    if not values:
        return "the list is empty; give one value or more"
    section, name = ("model_config", key.removeprefix(CONFIG)) if key.startswith(CONFIG) else ("args", key)
    places = {section: getattr(recipe, section)}
    places |= {f"model_types.{kind}.{section}": part[section] for kind, part in recipe.model_types.items()}
    also = [place for place, there in places.items() if name in there]
    return f"it is in {also[0]}, too; leave it out of one of them" if also else None


def _checked_replaces(names: Any, recipe: Recipe, errors: list[str]) -> tuple[str, ...]:
    """What a recipe replaces must be what it sets whatever the model type: otherwise nothing would be in its place."""
    names = [] if names is None else names
    if not isinstance(names, list):
        errors.append(f"replaces: expected a list of arguments, found {names!r}")
        return ()
    own = [*recipe.args, *(CONFIG + name for name in recipe.model_config), *recipe.grid]
    for name in names:
        if name not in own:
            errors.append(
                f"replaces: {name} is not set here, in args, model_config or grid{nearest(name, own)}; a field of the "
                f"model's config is {CONFIG}FIELD"
            )
    return tuple(map(str, names))


def _checked_stages(content: Any, errors: list[str]) -> tuple[Stage, ...]:
    """The stages of a recipe, all that is wrong with any of them told; the first is `stages.1`."""
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
        args = _checked_args({} if values.get("args") is None else values["args"], f"{where}.args", errors)
        stages.append(Stage(**{name: values[name] for name in own if name in values}, args=args))
    return tuple(stages)


def _data_problem(stage: Mapping) -> str | None:
    """What is missing or contradictory in where a stage's data are."""
    files = [name for name in ("train_file", "validation_file") if name in stage]
    if "task_name" in stage:
        return f"give either task_name or {files[0]}, not both" if files else None
    if not files:
        return "no data: give task_name, or train_file with validation_file"
    if len(files) == 1:
        return f"{files[0]} goes with {'validation_file' if files == ['train_file'] else 'train_file'}; give both"
    return "data_dir goes with a GLUE task_name, not with train_file" if "data_dir" in stage else None


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
