"""The base class of methods. A method's file has the equation as a plain function, a dataclass of arguments, and a subclass."""

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
    """The numbers that an argument may have.

    Attributes:
        low: lower bound. The number may equal it, unless `takes_high`.
        high: upper bound. The number must be below it; with `takes_high` it may equal it.
        takes_high: whether `high` is allowed and `low` is not.
    """

    low: float = 0
    high: float = math.inf
    takes_high: bool = False

    def check(self, name: str, value: float) -> None:
        """Raise InputError if the value is outside."""
        if self.takes_high and not self.low < value <= self.high:
            raise InputError(f"--{name} {value}: must be above {self.low:g}, and at most {self.high:g}.")
        if not self.takes_high and not self.low <= value < self.high:
            bound = "" if self.high == math.inf else f", and below {self.high:g}"
            raise InputError(f"--{name} {value}: must be {self.low:g} or more{bound}.")


@dataclass
class NoArguments:
    """The arguments of a method without arguments."""


class LiveSettings:
    """A method's settings, read from training arguments each time. Missing ones have their defaults.

    Args:
        arguments: the method's dataclass of arguments.
        args: the training arguments.
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


@dataclass(frozen=True)
class StepHooks:
    """Hooks of an optimizer's step."""

    handles: tuple[RemovableHandle, ...]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()


class Method:
    """A change to training that arguments switch on: of the model, the optimizer, the loss, the gradients or the step.

    A subclass gives its `Arguments` and the hooks that it needs. Its arguments become training arguments and flags. A
    `StableTrainer` makes an object of each method for each model that it trains. It calls the hooks of the methods that are
    on: first the packaged ones, in the order of `METHODS`, then your own.

    | hook | when it is called |
    | --- | --- |
    | `check` | when the training arguments are made |
    | `check_model`, `describe` | by a study, before any run |
    | `prepare_model` | on a model with its pretrained weights, before training |
    | `begin_training` | when `train()` begins, once per model |
    | `change_optimizer`, `parameter_groups`, `check_optimizer` | when the optimizer is made |
    | `change_scheduler` | when the scheduler is made |
    | `loss` | for each micro-batch of training |
    | `add_gradients` | in each update step, before gradient norms are measured |
    | `clip` | in each update step, after they are measured, before `max_grad_norm` clips all gradients together |
    | `before_step` | in each update step, directly before the optimizer's own step |
    | `after_step` | in each update step, directly after it; the gradients are still there |

    Attributes:
        Arguments: a dataclass. Its fields are the method's training arguments and flags, with `help` (and `choices`) in their
            metadata. The first field is the switch: at its default value the method is off. A method without arguments is
            always on.
        ranges: argument -> the `Range` of its numbers.
        is_common: whether `--help` explains the arguments. `--help_all` explains those of all methods.
        needs_whole_gradients: whether each process must have whole gradients. If so, DeepSpeed and FSDP are refused.
        trains_encoder: whether the encoder's own weights are trained. If not, its learning rate is not compared with the paper's.
        settings: this object's values of `Arguments`. An object that a trainer made follows the training arguments, which may
            still change before and during training.
    """

    Arguments: ClassVar[type] = NoArguments
    ranges: ClassVar[Mapping[str, Range]] = {}
    is_common: ClassVar[bool] = False
    needs_whole_gradients: ClassVar[bool] = False
    trains_encoder: ClassVar[bool] = True

    def __init__(self, **values: Any) -> None:
        self.settings = self.Arguments(**values)

    @classmethod
    def from_arguments(cls, args: Any) -> Method:
        """Make the method with the values of training arguments. Missing ones have their defaults.

        Args:
            args: a mapping, or an object. The method follows later changes of an object's attributes.
        """
        if isinstance(args, Mapping):
            return cls(**{name: args[name] for name in defaults_of(cls.Arguments) if name in args})
        method = cls()
        method.settings = LiveSettings(cls.Arguments, args)
        return method

    @classmethod
    def flag(cls) -> str:
        """The name in messages: the flag that switches it on (`--mixout`), or the class's name if it has no arguments."""
        switch = next(iter(defaults_of(cls.Arguments)), None)
        return cls.__name__ if switch is None else f"--{switch}"

    @property
    def is_on(self) -> bool:
        """Whether the switch differs from its default."""
        switch, default = next(iter(defaults_of(self.Arguments).items()), (None, None))
        return switch is None or getattr(self.settings, switch) != default

    @property
    def quiet_share(self) -> float:
        """Share of training, from its start, in which layers are frozen. The early warning does not look there."""
        return 0.0

    def defines(self, hook: str) -> bool:
        """Whether this class overrides the hook."""
        return getattr(type(self), hook) is not getattr(Method, hook)

    def check_values(self) -> None:
        """Raise InputError if a value is not one of its choices, or is out of its range."""
        for field in dataclasses.fields(self.Arguments):
            value, choices = getattr(self.settings, field.name), field.metadata.get("choices")
            if choices and value not in choices:
                raise InputError(f"--{field.name} {value}: must be one of {', '.join(map(str, choices))}.")
            if field.name in self.ranges:
                self.ranges[field.name].check(field.name, value)

    def attach(self, optimizer: torch.optim.Optimizer, steps_done: Callable[[], int] = lambda: 0) -> StepHooks:
        """Call `before_step` and `after_step` in every `optimizer.step()`. The result's `remove()` ends that.

        Args:
            optimizer: any of torch's.
            steps_done: returns the number of finished update steps, without the one that is being made.
        """
        before = optimizer.register_step_pre_hook(lambda *_: self.before_step(optimizer, steps_done()))
        after = optimizer.register_step_post_hook(lambda *_: self.after_step(optimizer, steps_done()))
        return StepHooks((before, after))

    # ---- the hooks -----------------------------------------------------------------------------------------------------

    def check(self, args: Mapping[str, Any]) -> None:
        """Refuse training arguments that this method does not work with.

        Args:
            args: all training arguments by name. Missing ones have their defaults.

        Raises:
            InputError: names the flags, and what to do.
        """

    def check_model(self, config: Any, task: Any) -> None:
        """Refuse a model or a task that this method does not work with, before any run of a study.

        Args:
            config: the model's config, with the recipe's values and the task's labels.
            task: has `name`, `is_regression` and `multi_label`.
        """

    def describe(self, config: Any, args: Mapping[str, Any]) -> list[str]:
        """Lines for `--dry_run`: what the settings mean for this model.

        Args:
            config: as in `check_model`.
            args: as in `check`.
        """
        return []

    def prepare_model(
        self, model: nn.Module, trainer: Any, generator: torch.Generator | None = None
    ) -> nn.Module | None:
        """Change a model that has its pretrained weights and its new head. Return another model to train that in its place.

        Args:
            model: the model, not wrapped, perhaps still on the CPU.
            trainer: the trainer. Do not use its data loaders yet.
            generator: on the CPU, for random numbers drawn here. None is torch's global one.
        """
        return None

    def begin_training(self, model: nn.Module, trainer: Any) -> None:
        """Do what needs the training set. Called once per model, when training begins."""

    def change_optimizer(self, optimizer_cls: Any, kwargs: dict[str, Any], args: Any) -> tuple[Any, dict[str, Any]]:
        """Return another class of optimizer, or other keywords for it.

        Args:
            optimizer_cls: the class that the Trainer would use.
            kwargs: its keywords.
            args: the training arguments.
        """
        return optimizer_cls, kwargs

    def parameter_groups(self, trainer: Any, learning_rate: float) -> list[dict[str, Any]] | None:
        """Return the optimizer's parameter groups, each with `params`, `lr` and `weight_decay`. None: the Trainer's two groups.

        Only one method may return groups: two are refused.

        Args:
            trainer: with the model that is trained as `trainer.model`.
            learning_rate: of the training arguments.
        """
        return None

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse an optimizer that does not do what the settings say; the user may have passed it to the Trainer."""

    def change_scheduler(self, scheduler: Any, trainer: Any, passed_in: bool) -> Any:
        """Return another schedule of the learning rate.

        Args:
            scheduler: the one that the Trainer would use.
            trainer: the trainer.
            passed_in: whether the user passed this scheduler to the Trainer.
        """
        return scheduler

    def loss(self, compute_loss: ComputeLoss, inputs: Mapping[str, Any], trainer: Any) -> tuple[Tensor, Any]:
        """Return the loss of a micro-batch (0-d), and the model's outputs.

        Args:
            compute_loss: inputs -> mean loss over the examples (0-d), and the outputs.
            inputs: name -> tensor, examples first, as the Trainer gives them to the model.
            trainer: the trainer.
        """
        return compute_loss(dict(inputs))

    def add_gradients(self) -> None:
        """Add the gradient of a further loss term to `.grad`, in place. Gradients are already unscaled (fp16)."""

    def clip(self, gradients: Sequence[Tensor], norms: Tensor) -> Tensor:
        """Scale gradients, in place.

        Args:
            gradients: one per trained parameter.
            norms: `(len(gradients),)`, the gradients' norms.

        Returns:
            `(len(gradients),)`: the norms afterwards.
        """
        return norms

    def before_step(self, optimizer: torch.optim.Optimizer, steps_done: int) -> None:
        """Change gradients or weights directly before the optimizer's own step, after clipping.

        Args:
            optimizer: the optimizer, unwrapped.
            steps_done: number of update steps before this one.
        """

    def after_step(self, optimizer: torch.optim.Optimizer, steps_done: int) -> None:
        """Change weights directly after the optimizer's own step.

        Args:
            optimizer: the optimizer, unwrapped.
            steps_done: number of update steps before this one.
        """
