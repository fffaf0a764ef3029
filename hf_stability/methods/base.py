"""What a method is: one idea that a recipe can switch on, in a file of its own.

The file has the equation as a plain function first, then a dataclass of arguments, then a subclass of [`Method`]. Nobody else
names the method: its arguments become training arguments and flags, and the trainer calls its hooks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import InputError


ComputeLoss = Callable[[dict[str, Any]], tuple[Tensor, Any]]


@dataclass(frozen=True)
class Range:
    """The numbers that an argument takes: `low` or more and below `high`; or, with `takes_high`, above `low` and up to `high`."""

    low: float = 0
    high: float = math.inf
    takes_high: bool = False

    def check(self, name: str, value: float) -> None:
        """Raises InputError where the value is outside."""
        if self.takes_high and not self.low < value <= self.high:
            raise InputError(f"--{name} {value}: give more than {self.low:g}, up to {self.high:g}")
        if not self.takes_high and not self.low <= value < self.high:
            bound = "" if self.high == math.inf else f", below {self.high:g}"
            raise InputError(f"--{name} {value}: give {self.low:g} or more{bound}")


@dataclass
class NoArguments:
    """The arguments of a method that has none."""


class LiveSettings:
    """A method's settings as training arguments have them at any time; missing ones have their defaults.

    Args:
        arguments: the method's dataclass of arguments.
        args: training arguments.
    """

    def __init__(self, arguments: type, args: Any):
        self._defaults, self._args = defaults_of(arguments), args

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._defaults:
            raise AttributeError(name)
        return getattr(self._args, name, self._defaults[name])


@lru_cache
def defaults_of(arguments: type) -> dict[str, Any]:
    """The defaults of a dataclass of arguments, by name."""
    missing = dataclasses.MISSING
    return {
        field.name: field.default if field.default_factory is missing else field.default_factory()
        for field in dataclasses.fields(arguments)
    }


class Method:
    """One idea of how to train: what it does to the model, the optimizer, the loss or the gradients.

    A [`StableTrainer`][hf_stability.trainer.StableTrainer] makes an object of each method for each model that it trains, and
    calls the hooks of those that are on, in the order of [`METHODS`][hf_stability.methods.METHODS], then the user's own. Each
    hook is optional.

    | hook | when it is called |
    | --- | --- |
    | `check` | when the training arguments are made |
    | `check_model`, `describe` | by a study, before any run |
    | `prepare_model` | on a model with its pretrained weights, before training |
    | `begin_training` | when `train()` begins, with the data at hand |
    | `change_optimizer`, `parameter_groups`, `check_optimizer`, `change_scheduler` | when these are made |
    | `loss` | for each micro-batch of training |
    | `add_gradients` | each update step, before gradient norms are measured |
    | `clip` | each update step, after that, before `max_grad_norm` clips all gradients together |
    | `before_step` | each update step, right before the optimizer's |

    Attributes:
        Arguments: a dataclass; its fields are the method's training arguments and flags, with `help` (and `choices`) in their
            metadata. The first is the switch: with its default the method is off. A method without arguments is always on.
        ranges: what the numbers among them may be, by name.
        is_common: whether `--help` explains its arguments, not only `--help_all`.
        needs_whole_gradients: whether it works only where each process has whole gradients (not DeepSpeed, not FSDP).
        settings: the values of `Arguments` of this object. A trainer's own follow its training arguments, which somebody may
            change until, or while, it trains.
    """

    Arguments: ClassVar[type] = NoArguments
    ranges: ClassVar[Mapping[str, Range]] = {}
    is_common: ClassVar[bool] = False
    needs_whole_gradients: ClassVar[bool] = False

    def __init__(self, **values: Any):
        self.settings = self.Arguments(**values)

    @classmethod
    def from_arguments(cls, args: Any) -> Method:
        """The method with the values of training arguments; missing ones have their defaults.

        Args:
            args: a mapping, or an object, whose values it follows.
        """
        if isinstance(args, Mapping):
            return cls(**{name: args[name] for name in defaults_of(cls.Arguments) if name in args})
        method = cls()
        method.settings = LiveSettings(cls.Arguments, args)
        return method

    @classmethod
    def flag(cls) -> str:
        """What messages call it: the flag that switches it on, `--mixout`; without arguments the class's name."""
        switch = next(iter(defaults_of(cls.Arguments)), None)
        return cls.__name__ if switch is None else f"--{switch}"

    @property
    def is_on(self) -> bool:
        """Whether it changes the training."""
        switch, default = next(iter(defaults_of(self.Arguments).items()), (None, None))
        return switch is None or getattr(self.settings, switch) != default

    def defines(self, hook: str) -> bool:
        """Whether this class has the hook."""
        return getattr(type(self), hook) is not getattr(Method, hook)

    def check_values(self) -> None:
        """Raises InputError where a value is not among its choices, or outside of its range."""
        for field in dataclasses.fields(self.Arguments):
            value, choices = getattr(self.settings, field.name), field.metadata.get("choices")
            if choices and value not in choices:
                raise InputError(f"--{field.name} {value}: give {', '.join(map(str, choices))}")
            if field.name in self.ranges:
                self.ranges[field.name].check(field.name, value)

    def attach(self, optimizer: torch.optim.Optimizer, steps_done: Callable[[], int] = lambda: 0) -> RemovableHandle:
        """Call [`before_step`] in every `optimizer.step()`; the handle's `remove()` ends it.

        Args:
            steps_done: says how many update steps lie behind.
        """
        return optimizer.register_step_pre_hook(lambda *_: self.before_step(optimizer, steps_done()))

    # ---- the hooks -----------------------------------------------------------------------------------------------------

    def check(self, args: Mapping[str, Any]) -> None:
        """Refuse what cannot go together.

        Args:
            args: all training arguments by name; what is missing has its default.

        Raises:
            InputError: names the flags and the way out.
        """

    def check_model(self, config: Any, task: Any) -> None:
        """Refuse, before any run, a model or a task that this method does not work on.

        Args:
            config: the model's, with the recipe's values and the task's labels.
            task: has `name` and `is_regression`.
        """

    def describe(self, config: Any, args: Mapping[str, Any]) -> list[str]:
        """Lines for a dry run: what follows from the settings for this model.

        Args:
            config, args: see [`check_model`] and [`check`].
        """
        return []

    def prepare_model(self, model: nn.Module, trainer: Any, generator: torch.Generator | None = None) -> None:
        """Change a model that has its pretrained weights and its new head.

        Args:
            trainer: the trainer; its data loaders are not to be used yet.
            generator: of the CPU, for what is drawn here; None is torch's global one.
        """

    def begin_training(self, model: nn.Module, trainer: Any) -> None:
        """Whatever needs the training set: called once per model, when training begins."""

    def change_optimizer(self, optimizer_cls: Any, kwargs: dict[str, Any], args: Any) -> tuple[Any, dict[str, Any]]:
        """Another class of optimizer, or other keywords for it.

        Args:
            args: the training arguments.
        """
        return optimizer_cls, kwargs

    def parameter_groups(self, trainer: Any, learning_rate: float) -> list[dict[str, Any]] | None:
        """Parameter groups of the model to be trained, each with its `lr` and `weight_decay`; None: the Trainer's two."""
        return None

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse an optimizer, perhaps passed to the Trainer, that does not do as the settings say."""

    def change_scheduler(self, scheduler: Any, trainer: Any, passed_in: bool) -> Any:
        """Another schedule of the learning rate.

        Args:
            passed_in: whether the user passed this one to the Trainer.
        """
        return scheduler

    def loss(self, compute_loss: ComputeLoss, inputs: Mapping[str, Any], trainer: Any) -> tuple[Tensor, Any]:
        """The loss of a micro-batch, and the model's outputs.

        Args:
            compute_loss: inputs -> mean loss over its examples (0-d), and the outputs.
            inputs: name -> tensor, examples first, as the Trainer gives them to the model.
        """
        return compute_loss(dict(inputs))

    def add_gradients(self) -> None:
        """Add to `.grad`, in place: the gradient of a term of the objective. They are unscaled by then."""

    def clip(self, gradients: Sequence[Tensor], norms: Tensor) -> Tensor:
        """Scale gradients, in place.

        Args:
            gradients: one per trained parameter.
            norms: `(len(gradients),)`, their norms.

        Returns:
            `(len(gradients),)`: the norms afterwards.
        """
        return norms

    def before_step(self, optimizer: torch.optim.Optimizer, steps_done: int) -> None:
        """Change gradients or weights right before the optimizer's own step; clipping lies behind.

        Args:
            steps_done: update steps before this one.
        """
