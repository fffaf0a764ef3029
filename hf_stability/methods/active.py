"""The methods of one trainer: which of them are on, and the calls of their hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..utils.optimizers import inner_optimizer
from .base import ComputeLoss, LiveSettings, Method
from .packaged import make_methods


class ActiveMethods:
    """The methods that a trainer uses on one model.

    Args:
        trainer: the trainer.
        passed: methods that were passed to it, in addition to those of its training arguments.

    Raises:
        InputError: a passed object is not a method, has a value out of range, or contradicts another method.
    """

    def __init__(self, trainer: Any, passed: Sequence[Method] = ()):
        for method in passed:
            if not isinstance(method, Method):
                raise InputError(
                    f"methods={method!r}: not an object of a subclass of Method. Give objects: methods=[Mine()]."
                )
        self.trainer = trainer
        self.passed = list(passed)
        self.methods = [*make_methods(trainer.args), *self.passed]
        self._check_passed()
        self._begun: set[int] = set()
        self._step_hooks: list[Any] = []
        self._own_optimizer: torch.optim.Optimizer | None = None

    def _check_passed(self) -> None:
        """Check the methods that were passed. Those of the training arguments were checked with the arguments."""
        values = dict(vars(self.trainer.args))
        for method in self.passed:
            method.check_values()
            values |= vars(method.settings)
        for method in self.methods if self.passed else ():
            if method.is_on:
                method.check(values)

    def having(self, *hooks: str) -> list[Method]:
        """The methods that are on at present and define one of these hooks."""
        return [method for method in self.methods if method.is_on and any(map(method.defines, hooks))]

    def prepare_model(self, model: nn.Module, seed: int | None) -> nn.Module:
        """The model as methods changed or wrapped it. Random numbers come from the seed; None: torch's global stream."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        for method in self.having("prepare_model"):
            model = method.prepare_model(model, self.trainer, generator) or model
        return model

    def begin_training(self, model: nn.Module) -> None:
        """Call `begin_training`, once per model and method."""
        for method in self.having("begin_training"):
            if id(method) not in self._begun:
                method.begin_training(model, self.trainer)
                self._begun.add(id(method))

    def follow(self, args: Any) -> None:
        """Follow other training arguments."""
        for method in self.methods:
            if method not in self.passed:
                method.settings = LiveSettings(method.Arguments, args)

    def begin_again(self) -> None:
        """Call `begin_training` again at the next training: the same model has its first weights again."""
        self._begun.clear()

    # ---- optimizer and schedule ------------------------------------------------------------------------------------------

    def make_optimizer(self) -> None:
        """Give the trainer an optimizer, if a method wants its own parameter groups or a passed one wants another class."""
        trainer, grouping = self.trainer, self.having("parameter_groups")
        changing = [method for method in self.having("change_optimizer") if method in self.passed]
        if not grouping and not changing:
            return
        flag = (grouping or changing)[0].flag()
        if trainer.optimizer is not None:
            if inner_optimizer(trainer.optimizer) is self._own_optimizer:
                return  # a second training
            raise InputError(
                f"{flag}: an optimizer was passed to the Trainer, so this cannot change it. Pass none, or leave out {flag}."
            )
        cls, kwargs = trainer.optimizer_cls_and_kwargs or trainer.get_optimizer_cls_and_kwargs(
            trainer.args, trainer.model
        )
        for method in changing:
            cls, kwargs = method.change_optimizer(cls, kwargs, trainer.args)
        if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)) or "params" in kwargs:
            raise InputError(
                f"{flag}: --optim {trainer.args.optim} does not take parameter groups. Give --optim adamw_torch."
            )
        groups = self._groups_of(grouping, kwargs.get("lr", trainer.args.learning_rate))
        trainer.optimizer = self._own_optimizer = cls(groups or self._usual_groups(), **kwargs)

    def _groups_of(self, methods: Sequence[Method], learning_rate: float) -> list[dict[str, Any]] | None:
        """The parameter groups of the one method that gives some; None if none does."""
        made = [(method.flag(), method.parameter_groups(self.trainer, learning_rate)) for method in methods]
        made = [(flag, groups) for flag, groups in made if groups]
        if len(made) > 1:
            flags = " and ".join(flag for flag, _ in made)
            raise InputError(f"{flags}: each makes the optimizer's parameter groups. Use only one of them.")
        return made[0][1] if made else None

    def _usual_groups(self) -> list[dict[str, Any]]:
        """The Trainer's groups: parameters with weight decay, then those without."""
        trainer = self.trainer
        decayed = set(trainer.get_decay_parameter_names(trainer.model))
        named = [(name, p) for name, p in trainer.model.named_parameters() if p.requires_grad]
        return [
            {"params": [p for name, p in named if name in decayed], "weight_decay": trainer.args.weight_decay},
            {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0},
        ]

    def attach_to_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Call `before_step` and `after_step` in the optimizer's steps, and let methods check the optimizer."""
        for handle in self._step_hooks:  # of an earlier training with this optimizer
            handle.remove()
        hooked = self.having("before_step", "after_step")
        self._step_hooks = [method.attach(optimizer, lambda: self.trainer.state.global_step) for method in hooked]
        for method in self.having("check_optimizer"):
            method.check_optimizer(optimizer)

    def change_scheduler(self, scheduler: Any, passed_in: bool) -> Any:
        """The schedule, as methods changed it."""
        for method in self.having("change_scheduler"):
            scheduler = method.change_scheduler(scheduler, self.trainer, passed_in)
        return scheduler

    # ---- each batch, each update step --------------------------------------------------------------------------------------

    @property
    def change_loss(self) -> bool:
        """Whether a method that is on changes the loss."""
        return bool(self.having("loss"))

    def inform(self, callback: Any) -> None:
        """Tell a `StabilityCallback` what the methods do to its diagnostics."""
        callback.adds_loss_terms = self.change_loss
        callback.quiet_share = max((method.quiet_share for method in self.methods if method.is_on), default=0.0)

    def loss(self, compute_loss: ComputeLoss, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """The loss with the terms of the methods, that of the first one innermost. See `Method.loss`."""
        for method in self.having("loss"):
            compute_loss = partial(method.loss, compute_loss, trainer=self.trainer)
        return compute_loss(inputs)

    def add_gradients(self) -> None:
        """See `Method.add_gradients`."""
        for method in self.having("add_gradients"):
            method.add_gradients()

    def clip(self, gradients: Callable[[], Sequence[Tensor]], norms: Tensor, total: Tensor) -> Tensor:
        """See `Method.clip`. Returns the total norm afterwards."""
        for method in self.having("clip"):
            norms = method.clip(gradients(), norms)
            total = torch.linalg.vector_norm(norms)
        return total

    def refuse_parts_of_gradients(self) -> None:
        """Refuse methods that would change nothing, or only a part, where a process does not have whole gradients."""
        used = [method for method in self.methods if method.needs_whole_gradients and method.is_on]
        if used:
            raise InputError(
                f"{used[0].flag()}: needs whole gradients of one type and device in each process. It does not work with "
                "DeepSpeed, FSDP or a model on several devices."
            )
