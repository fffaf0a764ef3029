"""Hugging Face's TrainingArguments with our own fields and those of the methods."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import TrainingArguments

from .diagnostics.probes import make_probes
from .errors import InputError
from .methods import Method, check_methods, load_method, methods_of
from .packed.support import check_arguments
from .recipe import load_recipe
from .recipe.arguments import GENTLE, SEED, StabilityArguments, argument_types
from .recipe.resolve import resolve, resolve_model_config
from .utils.batches import derived_batch_size


logger = logging.getLogger(__name__)


@dataclass
class StableTrainingArguments(StabilityArguments, TrainingArguments):
    """Hugging Face's `TrainingArguments` with the fields that a stability recipe needs.

    With the default values of our fields, training is bit for bit that of the stock Trainer. The arguments of the methods
    (`mixout`, `r_drop`, `bias_correction` ...) are fields too; each method's documentation explains them. The help of each
    field, as in `hf-stability --help_all`, has its unit and default.

    Example:
        ```python
        args = StableTrainingArguments.from_recipe("mosbach2021", model_type="bert", output_dir="out")
        ```

    Attributes:
        recipe (str | None): Name of the recipe that these arguments were made from. Set by `from_recipe`.
        recipe_model_config (dict[str, Any]): Values that this recipe sets in the model's config. Set by `from_recipe`.

    Raises:
        InputError: `total_train_batch_size` cannot be divided, or `per_device_train_batch_size` contradicts it;
            `on_alarm`, `audit_alarms`, `max_restarts`, `restart_with`, `preflight`, `step` or `diagnostics` has a value that is
            not allowed; a method's argument is out of its range or contradicts another argument; or `step` does.
    """

    base_class: ClassVar[type[StableTrainingArguments]]
    own_methods: ClassVar[tuple[type[Method], ...]] = ()  # the user's own methods, see arguments_class
    recipe: str | None = field(default=None, init=False)
    recipe_model_config: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.total_train_batch_size is not None:
            default = type(self).__dataclass_fields__["per_device_train_batch_size"].default
            given = None if self.per_device_train_batch_size == default else self.per_device_train_batch_size
            devices = self.world_size * max(1, self.n_gpu)
            self.per_device_train_batch_size = derived_batch_size(
                self.total_train_batch_size, devices, self.gradient_accumulation_steps, given
            )
        check_methods(vars(self), methods_of(self))
        for name in ("on_alarm", "preflight"):
            choices = type(self).__dataclass_fields__[name].metadata["choices"]
            if getattr(self, name) not in choices:
                raise InputError(f"--{name} {getattr(self, name)}: give one of {', '.join(choices)}")
        if not 0 <= self.audit_alarms <= 1:
            raise InputError(f"--audit_alarms {self.audit_alarms}: give a probability from 0 to 1")
        check_restarts(self.max_restarts, self.restart_with)
        check_arguments(vars(self))
        try:
            make_probes(self.diagnostics or ())
        except InputError as error:
            raise InputError(f"--{error}") from None
        if self.seed_streams:
            streams = seed_streams(self.seed)
            self.init_seed = streams["init_seed"] if self.init_seed is None else self.init_seed
            self.data_seed = streams["data_seed"] if self.data_seed is None else self.data_seed
            self.dropout_seed = streams["dropout_seed"] if self.dropout_seed is None else self.dropout_seed

    def __reduce_ex__(self, protocol: Any) -> Any:
        if not self.own_methods:
            return super().__reduce_ex__(protocol)
        # Pickle cannot find the class by name: it was made while the program ran.
        return (_unpickled, (self.own_methods, self.base_class), self.__dict__)

    @classmethod
    def from_recipe(cls, recipe: str, model_type: str | None = None, **overrides: Any) -> StableTrainingArguments:
        """The training arguments of a recipe, for use from Python.

        The values that a recipe sets in the model's config (dropout ...) are no training arguments. They are in
        `args.recipe_model_config`: pass them to `from_pretrained(..., **args.recipe_model_config)`. Their names are those of
        the model type, if the recipe has a part for it, else those of BERT. StableTrainer warns if a model has other values or
        no such field.

        Only a study trains a recipe's `stages`. A recipe with stages gives a warning here. A recipe's own `methods` bring
        their arguments with them.

        Args:
            recipe: a packaged recipe's name, the path of a `.yaml` file, or several of these joined by `+`
                (`"mosbach2021+mixout"`).
            model_type: `model.config.model_type` (`"bert"`, `"roberta"` ...). It selects the recipe's values for that
                model type. Default: the common values.
            **overrides: training arguments that override the recipe's.

        Returns:
            The arguments. `recipe` and `recipe_model_config` are set.

        Raises:
            InputError: no such recipe, an error in a recipe file, or a value out of its range.
        """
        loaded = load_recipe(recipe)
        if loaded.stages:
            logger.warning(
                f"recipe {recipe} has stages, and these arguments are only for the target task. Train the stages in a study "
                "(hf-stability), then load the model from the encoder/ that the study saves in stages/"
            )
        values = {name: r.value for name, r in resolve(loaded, model_type, given=overrides).items()}
        args = arguments_class([load_method(name) for name in loaded.methods], cls)(**values)
        args.recipe = loaded.name
        config = resolve_model_config(loaded, model_type)
        args.recipe_model_config = {name: resolved.value for name, resolved in config.items()}
        return args


def check_restarts(max_restarts: int, restart_with: str) -> None:
    """Raises InputError if `max_restarts` is no whole number from 0 on, or `restart_with` neither `seed`, `gentle` nor a recipe."""
    if isinstance(max_restarts, bool) or not isinstance(max_restarts, int) or max_restarts < 0:
        raise InputError(f"--max_restarts {max_restarts}: give a whole number, 0 or more")
    if restart_with not in (SEED, GENTLE):
        try:
            load_recipe(restart_with)
        except InputError as error:
            raise InputError(f"--restart_with {restart_with}: give seed, gentle or a recipe ({error})") from None


def warn_of_another_config(args: TrainingArguments, model: torch.nn.Module) -> None:
    """Warn if a model's config has other values than the recipe of these arguments, or no such field."""
    config = getattr(model, "config", None)
    for name, value in getattr(args, "recipe_model_config", {}).items():
        says = (
            f"recipe {getattr(args, 'recipe', None)} sets {name} to {value} in the model's config, but this config has"
        )
        if not hasattr(config, name):
            logger.warning(f"{says} no such field; set its equivalent")
        elif getattr(config, name) != value:
            logger.warning(f"{says} {getattr(config, name)}; load the model with from_pretrained(..., {name}={value})")


def arguments_class(
    methods: Sequence[type[Method]], base: type[StableTrainingArguments] | None = None
) -> type[StableTrainingArguments]:
    """The class of training arguments that also has the arguments of a user's own methods.

    Args:
        methods: the methods. Without any, the result is `base`.
        base: the class to add to. Default: `StableTrainingArguments`.

    Raises:
        InputError: an argument of a method has a name that is taken.
    """
    base_class: Any = base or StableTrainingArguments  # for mypy a dataclass has no hash, its class too
    return _arguments_class(tuple(dict.fromkeys(methods)), base_class)


@lru_cache
def _arguments_class(
    methods: tuple[type[Method], ...], base: type[StableTrainingArguments]
) -> type[StableTrainingArguments]:
    if not methods:
        return base
    argument_types(methods)  # refuses a name that is taken
    return make_dataclass(
        base.__name__,
        [],
        bases=(*(method.Arguments for method in reversed(methods)), base),
        namespace={"__module__": __name__, "__doc__": base.__doc__, "own_methods": methods, "base_class": base},
    )


def _unpickled(methods: Sequence[type[Method]], base: type[StableTrainingArguments]) -> StableTrainingArguments:
    return object.__new__(arguments_class(methods, base))


def seed_streams(seed: int) -> dict[str, int]:
    """Seeds for three independent random streams from one seed: initialisation, data order, dropout.

    They are the children of `numpy.random.SeedSequence(seed)`, in this order. The data seed has 62 bits, because accelerate
    seeds the order of epoch `e` with `data_seed + e`: with small neighbouring seeds, epochs would share orders. The other
    two have 32 bits, the limit of numpy's `seed`.

    Args:
        seed: the run's seed, a non-negative integer.

    Returns:
        `{"init_seed": ..., "data_seed": ..., "dropout_seed": ...}`.
    """
    init, data, dropout = np.random.SeedSequence(seed).spawn(3)
    return {
        "init_seed": int(init.generate_state(1)[0]),
        "data_seed": int(data.generate_state(1, np.uint64)[0] >> np.uint64(2)),
        "dropout_seed": int(dropout.generate_state(1)[0]),
    }
