"""The methods of one trainer: which are on, and their hooks, called where the trainer comes by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..utils.optimizers import inner_optimizer
from .base import ComputeLoss, Method
from .packaged import make_methods


class ActiveMethods:
    """Methods that a trainer uses on one model.

    Args:
        trainer: the trainer.
        passed: those that were passed to it, beside those of its training arguments.

    Raises:
        InputError: a passed one that is none, or has values that cannot be, or contradicts another.
    """

    def __init__(self, trainer: Any, passed: Sequence[Method] = ()):
        for method in passed:
            if not isinstance(method, Method):
                raise InputError(f"methods={method!r}: give objects, such as methods=[Mine()]")
        self.trainer = trainer
        self.passed = list(passed)
        self.methods = [*make_methods(trainer.args), *self.passed]
        self._check_passed()
        self._begun: set[int] = set()
        self._step_hooks: list[Any] = []
        self._own_optimizer: torch.optim.Optimizer | None = None

    def _check_passed(self) -> None:
        """Those of the arguments were checked with these."""
        values = dict(vars(self.trainer.args))
        for method in self.passed:
            method.check_values()
            values |= vars(method.settings)
        for method in self.methods if self.passed else ():
            if method.is_on:
                method.check(values)

    def having(self, hook: str) -> list[Method]:
        """The methods that define a hook and are on by now."""
        return [method for method in self.methods if method.defines(hook) and method.is_on]

    def prepare_model(self, model: nn.Module, seed: int | None) -> None:
        """Change a model that has its pretrained weights; what is drawn comes from the seed, or torch's global stream."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        for method in self.having("prepare_model"):
            method.prepare_model(model, self.trainer, generator)

    def begin_training(self, model: nn.Module) -> None:
        """Once per model and method."""
        for method in self.having("begin_training"):
            if id(method) not in self._begun:
                method.begin_training(model, self.trainer)
                self._begun.add(id(method))

    # ---- optimizer and schedule ------------------------------------------------------------------------------------------

    def make_optimizer(self) -> None:
        """Give the trainer an optimizer with a method's parameter groups, or of a passed method's class, where one wants that."""
        trainer, grouping = self.trainer, self.having("parameter_groups")
        changing = [method for method in self.having("change_optimizer") if method in self.passed]
        if not grouping and not changing:
            return
        flag = (grouping or changing)[0].flag()
        if trainer.optimizer is not None:
            if inner_optimizer(trainer.optimizer) is self._own_optimizer:
                return  # a second training
            raise InputError(f"{flag}: an optimizer was passed to the Trainer, which has its rates already")
        cls, kwargs = trainer.optimizer_cls_and_kwargs or trainer.get_optimizer_cls_and_kwargs(
            trainer.args, trainer.model
        )
        for method in changing:
            cls, kwargs = method.change_optimizer(cls, kwargs, trainer.args)
        if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)) or "params" in kwargs:
            raise InputError(f"{flag}: --optim {trainer.args.optim} makes parameter groups of its own")
        groups = None
        for method in grouping:
            groups = method.parameter_groups(trainer, kwargs.get("lr", trainer.args.learning_rate))
        trainer.optimizer = self._own_optimizer = cls(groups or self._usual_groups(), **kwargs)

    def _usual_groups(self) -> list[dict[str, Any]]:
        """The Trainer's: parameters with weight decay, then those without."""
        trainer = self.trainer
        decayed = set(trainer.get_decay_parameter_names(trainer.model))
        named = [(name, p) for name, p in trainer.model.named_parameters() if p.requires_grad]
        return [
            {"params": [p for name, p in named if name in decayed], "weight_decay": trainer.args.weight_decay},
            {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0},
        ]

    def attach_to_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Make `before_step` part of its steps, and have it looked at."""
        for handle in self._step_hooks:  # of an earlier training with this optimizer
            handle.remove()
        hooks = self.having("before_step")
        self._step_hooks = [method.attach(optimizer, lambda: self.trainer.state.global_step) for method in hooks]
        for method in self.having("check_optimizer"):
            method.check_optimizer(optimizer)

    def change_scheduler(self, scheduler: Any, passed_in: bool) -> Any:
        """The schedule as the methods want it."""
        for method in self.having("change_scheduler"):
            scheduler = method.change_scheduler(scheduler, self.trainer, passed_in)
        return scheduler

    # ---- each batch, each update step --------------------------------------------------------------------------------------

    @property
    def change_loss(self) -> bool:
        """Whether any of them has a loss."""
        return bool(self.having("loss"))

    def loss(self, compute_loss: ComputeLoss, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """The loss with their terms, the first method's innermost; see [`Method.loss`]."""
        for method in self.having("loss"):
            compute_loss = partial(method.loss, compute_loss, trainer=self.trainer)
        return compute_loss(inputs)

    def add_gradients(self) -> None:
        """See [`Method.add_gradients`]."""
        for method in self.having("add_gradients"):
            method.add_gradients()

    def clip(self, gradients: Callable[[], Sequence[Tensor]], norms: Tensor, total: Tensor) -> Tensor:
        """See [`Method.clip`]; the total norm afterwards."""
        for method in self.having("clip"):
            norms = method.clip(gradients(), norms)
            total = torch.linalg.vector_norm(norms)
        return total

    def refuse_parts_of_gradients(self) -> None:
        """Where gradients are sharded, hidden, or of several kinds, some methods would change nothing, or a part only."""
        used = [method for method in self.methods if method.needs_whole_gradients and method.is_on]
        if used:
            raise InputError(
                f"{used[0].flag()}: needs whole gradients of one kind in each process, not DeepSpeed, FSDP or mixed devices"
            )
