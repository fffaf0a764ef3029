"""A `StableTrainer` between two attempts: the same object, with new arguments and everything else as at the beginning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainingArguments, enable_full_determinism, set_seed
from transformers.trainer_utils import TrainOutput

from ..diagnostics.attempt_log import AttemptLog
from ..errors import InputError
from ..methods import make_methods
from .attempts import train_in_attempts
from .initial_weights import InitialWeights
from .settings import changed_arguments, fixed_arguments, recipe_model_config, restart_settings, seeds_of


def train_stable_trainer(
    trainer: Any, train_once: Callable[..., TrainOutput], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> TrainOutput:
    """Train a StableTrainer: once, or with `on_alarm="restart"` until an attempt reaches its end.

    Args:
        trainer: the trainer.
        train_once: trains one attempt, with the arguments of the Trainer's `train`.
        args: positional arguments of the Trainer's `train`: `resume_from_checkpoint`, `trial` and others.
        kwargs: its keywords.

    Returns:
        the last attempt's output.

    Raises:
        InputError: the trainer cannot begin again: a hyperparameter search, an optimizer that was passed in, DeepSpeed, FSDP,
            or a recipe that this trainer cannot change to.
    """
    if (trainer.stability.on_alarm or getattr(trainer.args, "on_alarm", "warn")) != "restart":
        trainer.stability.restarts = None
        return train_once(*args, **kwargs)
    others = dict(kwargs)
    checkpoint, *rest = args or (others.pop("resume_from_checkpoint", None),)
    attempts = Attempts(trainer, rest[0] if rest else others.get("trial"), bool(checkpoint))
    _, output = train_in_attempts(
        trainer,
        attempts.prepare,
        lambda trainer, checkpoint: train_once(checkpoint, *rest, **others),
        getattr(trainer.args, "max_restarts", 2),
        checkpoint,
    )
    attempts.close()  # after an interrupt they stay: `train` may be called again to resume
    return output


class Attempts:
    """Makes a StableTrainer ready for each attempt.

    Args:
        trainer: the trainer.
        trial: of a hyperparameter search; it is refused.
        resumes: whether a training continues. If this trainer began it, the weights are kept with which it began.
    """

    def __init__(self, trainer: Any, trial: Any = None, resumes: bool = False) -> None:
        self.trainer = trainer
        if getattr(trainer, "_changed_args", None) is trainer.args:  # a second training has the user's arguments
            self._use(trainer._first_args)
        self.first: TrainingArguments = trainer.args
        self.restart_with = getattr(self.first, "restart_with", "gentle")
        self.model_type = getattr(getattr(trainer.model, "config", None), "model_type", None)
        self._refuse(trial)
        if not resumes:
            self.close()

    def _refuse(self, trial: Any) -> None:
        trainer, settings = self.trainer, restart_settings(self.first, 1, self.restart_with, 0, self.model_type)
        if trial is not None:
            raise InputError(
                "--on_alarm restart: not in a hyperparameter search, where the search decides which trials end; give warn or stop"
            )
        if (trainer.optimizer or trainer.lr_scheduler) is not None and not trainer.state.global_step:
            raise InputError(
                "--on_alarm restart: an optimizer was passed to the Trainer, and a restart needs a new one; pass "
                "optimizer_cls_and_kwargs, or none"
            )
        fixed = fixed_arguments(settings)
        changes = changed_arguments(self.first, 0, settings)
        if trainer.model_init is None:
            on = [method for method in make_methods(self.first) if method.is_on]
            names = [type(method) for method in on]
            new = [m for m in make_methods(changes) if m.is_on and m.defines("prepare_model") and type(m) not in names]
            if new:
                raise InputError(
                    f"--restart_with {self.restart_with}: {new[0].flag()} changes the model before training; pass model_init "
                    "to the Trainer, not a ready model"
                )
        if fixed:
            raise InputError(
                f"--restart_with {self.restart_with}: the Trainer reads {', '.join(fixed)} only once; give it in the arguments, or "
                "use train_with_restarts"
            )

    def prepare(self, log: AttemptLog) -> Any:
        """Make the trainer ready for the log's current attempt. See `attempts.Prepare`."""
        trainer, total_steps = self.trainer, log.attempts[0].total_steps if log.attempts else 0
        settings = restart_settings(self.first, log.number, self.restart_with, total_steps, self.model_type)
        args: Any = changed_arguments(self.first, log.number, settings)
        log.settings, log.seeds = settings, seeds_of(args)
        if (
            trainer.model_init is None and self.initial is None and log.max_restarts
        ):  # the weights as `train` found them
            folder = Path(str(self.first.output_dir), "stability")
            trainer._initial_weights = InitialWeights(trainer.model, folder, self.first.process_index)
        if log.number:
            if hasattr(args, "recipe_model_config") and (
                wanted := recipe_model_config(self.restart_with, self.model_type)
            ):
                args.recipe, args.recipe_model_config = self.restart_with, wanted
            self._begin_again(args)
        return trainer

    def _begin_again(self, args: TrainingArguments) -> None:
        trainer = self.trainer
        self._use(args)
        trainer._first_args, trainer._changed_args = self.first, args
        trainer.model_wrapped, trainer.current_flos = trainer.model, 0
        trainer.control = TrainerControl()
        if trainer.neftune_noise_alpha is not None and hasattr(trainer, "neftune_hook_handle"):
            trainer.neftune_hook_handle.remove()
        if trainer.model_init is None:
            if self.initial is not None:
                self.initial.put_back()
            trainer.methods.begin_again()
            enable_full_determinism(args.seed) if args.full_determinism else set_seed(
                args.seed
            )  # as in the Trainer's __init__

    def _use(self, args: TrainingArguments) -> None:
        """Give the trainer other arguments, and what it has made from the old ones anew."""
        trainer = self.trainer
        if args.train_batch_size != trainer.args.train_batch_size:
            trainer._train_batch_size = args.train_batch_size
        trainer.args = args
        trainer.create_accelerator_and_postprocess()  # it has the data seed, and the gradient scaler
        trainer.optimizer = trainer.lr_scheduler = None
        trainer._created_lr_scheduler = False
        trainer.methods.follow(args)

    @property
    def initial(self) -> InitialWeights | None:
        """The weights of a ready model when its training began; None if no restart needs them. The trainer keeps them."""
        return getattr(self.trainer, "_initial_weights", None)

    def close(self) -> None:
        """Free the copy of the initial weights."""
        if self.initial is not None:
            self.initial.close()
            self.trainer._initial_weights = None
