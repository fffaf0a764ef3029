"""The values in force, and where each came from.

Order of precedence: command line > grid > task preset > model type > recipe > default. A task's preset is meant for the
packaged recipes, which have values for full-size models. Values in your own recipe file override the preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

from ..errors import InputError
from .schema import CONFIG, LENGTH, Recipe, Stage


# A stage ignores these: no alarm stops it.
NOT_A_STAGES = ("on_alarm", "audit_alarms", "max_restarts", "restart_with")
# A stage ignores these on the command line: they count update steps of the target.
TARGETS_CADENCE = ("eval_strategy", "eval_steps", "eval_delay")
# If the stage sets the first, ignore an inherited second.
SAME_THING = dict([LENGTH, ("total_train_batch_size", "per_device_train_batch_size")])


@dataclass(frozen=True)
class Resolved:
    """A value and where it came from: `"--learning_rate"`, `"task preset"`, `"recipe devlin2019, roberta"`, ...

    In a file that `extends` another, the source of an inherited value is the file that sets it: `"recipe devlin2019"` in
    `mosbach2021`.
    """

    value: Any
    source: str


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
    """The training arguments that are set anywhere, with their sources. All others keep their defaults.

    Args:
        recipe: a checked recipe, or None.
        model_type: `config.model_type`. A type without a part in the recipe gets the recipe's common values.
        preset: the task's own values (bundled demo tasks have some). They override packaged recipes, but not the user's
            own recipe files.
        preset_name: the source of the preset's values.
        given: values from the command line or keywords. They override everything else.
        given_name: the source of a given value; `{}` stands for the field.
        base: defaults that replace the Trainer's.
        base_name: the source of these defaults.

    Raises:
        InputError: a given value is one that the recipe's grid varies.
    """
    given, point = given or {}, _point(recipe, "args")
    for name, resolved in point.items():
        if recipe is not None and name in given:
            raise InputError(
                f"{given_name.format(name)} {given[name]}: the {resolved.source} varies it; leave this out, or choose "
                f"from the grid: {recipe.name.partition(',')[0]},{name}=..."
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
    """The training arguments of one of a recipe's stages, with their sources.

    They are those of the recipe, its grid and the command line (see `resolve`). The stage's own `args` override all of
    these, because a flag on the command line is meant for the target task. A stage does not inherit:

    - `on_alarm`, `audit_alarms`, `max_restarts` and `restart_with`: no alarm stops it;
    - the command line's `eval_strategy`, `eval_steps` and `eval_delay`, which would evaluate a long stage very often;
    - `max_steps`, if it sets `num_train_epochs`;
    - `per_device_train_batch_size`, if it sets `total_train_batch_size`.

    Args:
        recipe: a checked recipe.
        stage: one of its stages.
        model_type: as in `resolve`.
        preset: the preset of the stage's task.
        given: as in `resolve`.
        base: as in `resolve`.
    """
    (part,) = (part for part in recipe.files if part.stages)
    given = {name: value for name, value in (given or {}).items() if name not in TARGETS_CADENCE}
    values = resolve(recipe, model_type, preset, given=given, base=base)
    left_out = {*NOT_A_STAGES, *(other for name, other in SAME_THING.items() if name in stage.args)}
    inherited = {name: r for name, r in values.items() if name not in left_out}
    own = f"stage of recipe {part.name}"
    return inherited | {name: Resolved(value, own) for name, value in stage.args.items()}


def resolve_model_config(recipe: Recipe | None, model_type: str | None = None) -> dict[str, Resolved]:
    """The values that a recipe sets in the model's config for this model type, with their sources.

    Where a packaged recipe has a part for the type, its common values for fields that such configs lack are left out: the
    part has the fields that they have instead (DistilBERT: `dropout`).
    """
    files = () if recipe is None else recipe.files
    layers = [
        layer
        for part in map(_with_known_fields, files, repeat(model_type))
        for layer in _layers(part, "model_config", model_type)
    ]
    values = {name: Resolved(value, source) for values, source in layers for name, value in values.items()}
    return values | _point(recipe, "model_config")


def _with_known_fields(part: Recipe, model_type: str | None) -> Recipe:
    if not part.is_packaged or model_type not in part.model_types or not part.model_config:
        return part
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type)
    return replace(
        part, model_config={name: value for name, value in part.model_config.items() if hasattr(config, name)}
    )


def _layers(part: Recipe, section: str, model_type: str | None) -> list[tuple[Mapping[str, Any], str]]:
    own = part.model_types.get(model_type or "", {}).get(section, {})
    return [(getattr(part, section), f"recipe {part.name}"), (own, f"recipe {part.name}, {model_type}")]


def _point(recipe: Recipe | None, section: str) -> dict[str, Resolved]:
    """The values of a recipe that come from its grid."""
    if recipe is None:
        return {}
    found = {}
    for key, value in recipe.point.items():
        if key.startswith(CONFIG) == (section == "model_config"):
            part = next(part for part in recipe.files if key in part.grid)
            found[key.removeprefix(CONFIG)] = Resolved(value, f"grid of recipe {part.name}")
    return found
