"""The values in force, and where each came from.

In the order of precedence: command line > grid > task preset > model type > recipe > default. A task's preset is meant for
the packaged recipes, which have values for full-size models. In a recipe file of your own, your values win over the preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .schema import CONFIG, LENGTH, Recipe, Stage


# A stage ignores these: no alarm stops it.
NOT_A_STAGES = ("on_alarm", "audit_alarms")
# A stage ignores these on the command line: they count update steps of the target.
TARGETS_CADENCE = ("eval_strategy", "eval_steps", "eval_delay")
# If the stage sets the first, ignore an inherited second.
SAME_THING = dict([LENGTH, ("total_train_batch_size", "per_device_train_batch_size")])


@dataclass(frozen=True)
class Resolved:
    """A value and where it came from: `"--learning_rate"`, `"task preset"`, `"recipe devlin2019, roberta"`, ...

    Of a recipe file that `extends` another, an inherited value names the file that holds it: `"recipe devlin2019"` in
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
    """The training arguments that are set anywhere, with where each came from; the rest keep their defaults.

    Args:
        recipe: a checked recipe, or None.
        model_type: `config.model_type`. A type that the recipe has no part for gets the recipe's common values.
        preset: the task's own values (the bundled demo's). They win over packaged recipe files, not over the user's own.
        given: what the user gave on the command line or as keywords. It wins over all else.
        given_name: the source of a given value, `{}` for the field.
        base, base_name: defaults that replace the Trainer's, and their source.

    Raises:
        InputError: something is given that the recipe's grid varies.
    """
    given, point = given or {}, _point(recipe, "args")
    for name, resolved in point.items():
        if recipe is not None and name in given:
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

    They are the recipe's, with its place in a grid and the command line (see [`resolve`]). The stage's own `args` win over all
    of these: a flag on the command line is meant for the target first. A stage does not inherit:

    - `on_alarm` and `audit_alarms`: no alarm stops it;
    - the command line's `eval_strategy`, `eval_steps` and `eval_delay`, which would evaluate a long stage very often;
    - `max_steps`, if it sets `num_train_epochs`;
    - `per_device_train_batch_size`, if it sets `total_train_batch_size`.

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
    if recipe is None:
        return {}
    found = {}
    for key, value in recipe.point.items():
        if key.startswith(CONFIG) == (section == "model_config"):
            part = next(part for part in recipe.files if key in part.grid)
            found[key.removeprefix(CONFIG)] = Resolved(value, f"grid of recipe {part.name}")
    return found
