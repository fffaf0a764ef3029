"""Recipes made from recipes: `a+b`, a file that `extends` another, and the combinations of a grid."""

from __future__ import annotations

import itertools
import math
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from .schema import CONFIG, LENGTH, MODEL_TYPE_SECTIONS, Recipe, refuse, set_keys, value_label, value_text


MAX_GRID = 1000  # recipes; more is probably a mistake


def compose(parts: Sequence[Recipe]) -> Recipe:
    """One recipe with the values of all parts: a base and what is added to it.

    No part is stronger than another. If two parts set the same argument to different values, for any model type, they are
    refused. The exception: one of them lists the argument under `replaces`; then its value counts. `num_train_epochs` in one
    part and `max_steps` in another count as the same argument, since both set the length of training.

    Args:
        parts: one recipe or more, as read from their files.

    Raises:
        InputError: parts contradict each other (the message lists all contradictions), a part comes twice, or two parts
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
            f"--recipe {name}: {' and '.join(staged)} have stages; only one part may have them: write all stages into one file"
        )
    replaced = [
        {key for other in parts if other is not part for key in _with_length(other.replaces)} for part in parts
    ]
    parts = tuple(_without(part, keys.difference(part.replaces)) for part, keys in zip(parts, replaced, strict=True))
    _refuse_contradictions(name, parts)
    return _made_of(name, None, tuple(file for part in parts for file in part.files))


def extend(base: Recipe, own: Recipe) -> Recipe:
    """The recipe of a file that extends another one. It starts from the other's content; its own values win.

    All keys are inherited: `args`, `model_config`, `model_types`, `grid`, `replaces`, `stages` and `methods`. In detail:

    - A value in `args`, `model_config` or `grid` replaces the inherited one in any of these keys and under `model_types`.
      So it counts for every model type.
    - A value under `model_types` replaces the inherited ones for that model type.
    - `num_train_epochs` and `max_steps` both set the length of training, so either replaces both. The exception is
      `max_steps: -1` (no limit): it replaces only inherited `max_steps`.
    - `stages` replace all inherited stages. `replaces` and `methods` are added to the inherited ones.

    The name is not inherited, nor is the precedence against a task's preset. As in `a+b`, the preset overrides an inherited
    value of a packaged recipe, and a value in a user's own file overrides the preset.

    Args:
        base: the recipe that the file extends.
        own: the values in the file itself.

    Raises:
        InputError: the file sets a value for a model type that an inherited grid, or inherited `max_steps`, would hide.
    """
    keys = set_keys(own)
    no_limit = own.args.get("max_steps", 1) <= 0
    inherited = _without(base, keys if no_limit else _with_length(keys))
    refuse(own.path, _hidden(inherited, own))
    if own.stages:
        inherited = _changed(inherited, lambda part: replace(part, stages=()))
    types = dict.fromkeys([*inherited.model_types, *own.model_types])
    nothing: dict[str, dict[str, Any]] = {section: {} for section in MODEL_TYPE_SECTIONS}
    files = [
        replace(part, model_types={model_type: part.model_types.get(model_type, nothing) for model_type in types})
        for part in (*inherited.files, own)
    ]
    recipe = _made_of(own.name, own.path, tuple(files))
    other = dict([LENGTH, LENGTH[::-1]])
    there = set_keys(recipe)
    names = (name if name in there else other[name] for name in (*base.replaces, *own.replaces))
    return replace(recipe, replaces=tuple(dict.fromkeys(names)))


def expand(recipe: Recipe, chosen: Sequence[str] = ()) -> list[Recipe]:
    """The recipes of a grid, one per combination; the last argument varies fastest.

    A recipe's name states its values for all arguments of the grid, even for those with a single value. So runs keep their
    folders when the grid gets more values later. Names are safe in a shell, a file system and a table.

    Args:
        recipe: a checked recipe. Without a grid it is returned alone.
        chosen: parts of names such as `learning_rate=2e-05`. Only recipes with all of them are returned.

    Raises:
        InputError: no recipe of the grid has them, or the grid has more than `MAX_GRID` recipes.
    """
    if not recipe.grid and not chosen:
        return [recipe]
    size = math.prod(len(values) for values in recipe.grid.values())
    if size > MAX_GRID:
        raise InputError(f"--recipe {recipe.name}: a grid of {size} recipes, more than {MAX_GRID}; list fewer values")
    recipes = []
    for values in itertools.product(*recipe.grid.values()):
        point = dict(zip(recipe.grid, values, strict=True))
        place = [f"{key}={value_label(value)}" for key, value in point.items()]
        if set(chosen) <= set(place):
            recipes.append(replace(recipe, name=",".join([recipe.name, *place]), point=point, parts=recipe.files))
    if not recipes:
        there = "; ".join(f"{key}={'|'.join(map(value_label, values))}" for key, values in recipe.grid.items())
        what = (
            f"not in the grid, which has {there}"
            if there
            else f"{recipe.name} has no grid; leave out what follows it, or join recipes with +"
        )
        raise InputError(f"--recipe {','.join([recipe.name, *chosen])}: {what}")
    return recipes


def _made_of(name: str, path: Path | None, files: tuple[Recipe, ...]) -> Recipe:
    """The recipe with the values of all these files; a later file's values win."""
    types = dict.fromkeys(model_type for part in files for model_type in part.model_types)
    return Recipe(
        name,
        path,
        _union(part.args for part in files),
        _union(part.model_config for part in files),
        {
            model_type: {
                section: _union(part.model_types.get(model_type, {}).get(section, {}) for part in files)
                for section in MODEL_TYPE_SECTIONS
            }
            for model_type in types
        },
        _union(part.grid for part in files),
        parts=files,
        stages=next((part.stages for part in files if part.stages), ()),
        methods=tuple(dict.fromkeys(method for part in files for method in part.methods)),
        is_packaged=all(part.is_packaged for part in files),
    )


def _with_length(keys: typing.Collection[str]) -> set[str]:
    """These keys. If one of the two that set the length of training is among them, both."""
    return {*keys, *(LENGTH if set(LENGTH) & set(keys) else ())}


def _changed(recipe: Recipe, change: typing.Callable[[Recipe], Recipe]) -> Recipe:
    """The recipe with a change made to it and to each of its files."""
    return replace(change(recipe), parts=tuple(map(change, recipe.parts)))


def _without(recipe: Recipe, keys: typing.Collection[str]) -> Recipe:
    """The recipe without these keys, in none of its files."""

    def kept(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        return {name: value for name, value in values.items() if prefix + name not in keys}

    def without(part: Recipe) -> Recipe:
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

    return _changed(recipe, without)


def _hidden(inherited: Recipe, own: Recipe) -> list[str]:
    """Errors: values that a file sets for a model type in vain, because an inherited value would win."""
    errors = []
    epochs, steps = LENGTH
    for model_type, part in own.model_types.items():
        for key in [*part["args"], *(CONFIG + name for name in part["model_config"])]:
            section, name = ("model_config", key.removeprefix(CONFIG)) if key.startswith(CONFIG) else ("args", key)
            where = f"model_types.{model_type}.{section}.{name}"
            grid = next((varied for varied in inherited.grid if key in _with_length([varied])), None)
            if grid:
                errors.append(
                    f"{where}: the inherited grid varies {grid}; to end that, set {grid} in args or in a grid of this file"
                )
        common = {**inherited.args, **inherited.model_types.get(model_type, {}).get("args", {})}
        if epochs in part["args"] and steps not in part["args"] and common.get(steps, 0) > 0:
            errors.append(
                f"model_types.{model_type}.args.{epochs}: the inherited {steps} {common[steps]} would override it; add "
                f"{steps}: -1 beside it"
            )
    return errors


def _union(mappings: typing.Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for mapping in mappings for name, value in mapping.items()}


def _in_words(part: Recipe, model_type: str | None) -> dict[str, str]:
    """The values of a part for a model type, as text. Common values count too: they may contradict another part's."""
    own = part.model_types.get(model_type or "", {})
    args = {**part.args, **own.get("args", {})}
    config = {**part.model_config, **own.get("model_config", {})}
    values = {**args, **{CONFIG + name: value for name, value in config.items()}}
    words = {name: value_text(value) for name, value in values.items()}
    return words | {name: f"a grid ({', '.join(map(value_text, values))})" for name, values in part.grid.items()}


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
        "leave out one of them, or let your own file win: write "
        f"replaces: [{', '.join(which)}] in it. To compare recipes, put a space between them instead of +"
    )
    if len(lines) == 1:
        raise InputError(f"--recipe {name}: {lines[0]}: the parts contradict each other; {way_out}")
    text = "\n".join(f"  {line}" for line in lines)
    raise InputError(f"--recipe {name}: the parts contradict each other {len(lines)} times; {way_out}:\n{text}")
