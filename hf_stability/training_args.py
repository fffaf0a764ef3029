"""Hugging Face's TrainingArguments, plus ours."""

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
from .recipe import load_recipe
from .recipe.arguments import StabilityArguments, argument_types
from .recipe.resolve import resolve, resolve_model_config
from .utils.batches import derived_batch_size


logger = logging.getLogger(__name__)


@dataclass
class StableTrainingArguments(StabilityArguments, TrainingArguments):
    """Hugging Face's [`~transformers.TrainingArguments`] with the fields a stability recipe needs.

    With the defaults of our fields, training is the stock Trainer's, bit for bit.

    Raises:
        InputError: `total_train_batch_size` cannot be divided, `per_device_train_batch_size` contradicts it,
            `bias_correction` is off with an optimizer that is not torch's AdamW, `lr_bias_correction` is on with it,
            `on_alarm` is not one of its choices, `audit_alarms` is no share, `diagnostics` has an unknown name, or a
            method's value is out of its range, or contradicts another's (see [`check_methods`]).
    """

    own_methods: ClassVar[tuple[type[Method], ...]] = ()  # the user's, see arguments_class
    base_class: ClassVar[type[StableTrainingArguments]]
    # The recipe these were made from, and what it sets in the model's config; set by from_recipe.
    recipe: str | None = field(default=None, init=False)
    recipe_model_config: dict = field(default_factory=dict, init=False)

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
        choices = type(self).__dataclass_fields__["on_alarm"].metadata["choices"]
        if self.on_alarm not in choices:
            raise InputError(f"--on_alarm {self.on_alarm}: give {', '.join(choices)}")
        if not 0 <= self.audit_alarms <= 1:
            raise InputError(f"--audit_alarms {self.audit_alarms}: give a share of the alarmed runs, from 0 to 1")
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
        return (
            _unpickled,
            (self.own_methods, self.base_class),
            self.__dict__,
        )  # the class itself was made while the program ran

    @classmethod
    def from_recipe(cls, recipe: str, model_type: str | None = None, **overrides: Any) -> StableTrainingArguments:
        """The arguments of a recipe, for use from Python.

        Args:
            recipe: a packaged recipe's name, the path of a `.yaml` file, or several of these (`mosbach2021+mixout`).
            model_type: `model.config.model_type`; picks the recipe's part for that model type.
            overrides: training arguments that go over the recipe's.

        The recipe's `model_config` (dropout ...) is not among the training arguments: it is in
        `args.recipe_model_config`, for `from_pretrained(..., **args.recipe_model_config)`, whose names are BERT's, RoBERTa's
        and ALBERT's (DistilBERT has others). StableTrainer warns of a model that has other values, or none. Its `stages` are
        trained by a study only: it is said where a recipe has some. A recipe's own `methods` bring their arguments with them.
        """
        loaded = load_recipe(recipe)
        if loaded.stages:
            logger.warning(
                f"recipe {recipe}: its stages are not in these arguments, which are the target's; train them in a study "
                "(hf-stability), and load the model from the encoder that it leaves in stages/"
            )
        values = {name: r.value for name, r in resolve(loaded, model_type, given=overrides).items()}
        args = arguments_class([load_method(name) for name in loaded.methods], cls)(**values)
        args.recipe = loaded.name
        config = resolve_model_config(loaded, model_type)
        args.recipe_model_config = {name: resolved.value for name, resolved in config.items()}
        return args


def warn_of_another_config(args: TrainingArguments, model: torch.nn.Module) -> None:
    """Warn where a model's config has other values than the recipe of these arguments has, or no such field."""
    config = getattr(model, "config", None)
    for name, value in getattr(args, "recipe_model_config", {}).items():
        says = f"recipe {getattr(args, 'recipe', None)} has {name} {value}, the model's config"
        if not hasattr(config, name):
            logger.warning(f"{says} no such field: set what it calls this")
        elif getattr(config, name) != value:
            logger.warning(f"{says} {getattr(config, name)}: from_pretrained(..., {name}={value})")


def arguments_class(
    methods: Sequence[type[Method]], base: type[StableTrainingArguments] | None = None
) -> type[StableTrainingArguments]:
    """Training arguments with those of a user's own methods, too.

    Args:
        methods: the methods; without any, the class is `base`.
        base: default: [`StableTrainingArguments`].

    Raises:
        InputError: an argument of one of them is there already.
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
    """Three independent random streams from one seed: initialisation, data order, dropout.

    They are the children of `numpy.random.SeedSequence(seed)`, in this order. The data seed has 62 bits, because
    accelerate seeds epoch `e`'s order with `data_seed + e`: small neighbouring seeds would share epochs' orders. The
    other two have 32 bits, as many as numpy's `seed` takes.

    Args:
        seed: the run's seed, a non-negative integer.

    Returns:
        `{"init_seed": ..., "data_seed": ..., "dropout_seed": ...}`
    """
    init, data, dropout = np.random.SeedSequence(seed).spawn(3)
    return {
        "init_seed": int(init.generate_state(1)[0]),
        "data_seed": int(data.generate_state(1, np.uint64)[0] >> np.uint64(2)),
        "dropout_seed": int(dropout.generate_state(1)[0]),
    }
