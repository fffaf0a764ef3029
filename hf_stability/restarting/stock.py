"""`train_with_restarts`: runs of the stock Trainer that begin again."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import Trainer, TrainingArguments

from ..diagnostics.attempt_log import AttemptLog
from ..errors import InputError
from ..training_args import check_restarts
from .attempts import Checkpoint, callback_of, train_in_attempts
from .settings import changed_arguments, restart_seed, restart_settings, seeds_of


@dataclass
class Start:
    """The start of an attempt, which `train_with_restarts` gives to your factory.

    Args:
        number: 0 for the first attempt.
        restart_with: what changes at a restart.
        total_steps: update steps of the first attempt; 0 before it has begun.
        model_type: of the model's config; selects a recipe's values. None before the first attempt.
    """

    number: int = 0
    restart_with: str = "gentle"
    total_steps: int = 0
    model_type: str | None = None
    _settings: dict[str, Any] | None = field(default=None, repr=False)
    _seed: int | None = field(default=None, repr=False)

    def arguments(self, args: TrainingArguments) -> TrainingArguments:
        """A copy of your training arguments with this attempt's changes and seeds. The first attempt changes nothing.

        Args:
            args: your arguments, the same ones for every attempt.

        Raises:
            InputError: a recipe sets arguments that these do not have.
        """
        if not self.number:  # what a restart cannot change is refused before any training
            restart_settings(args, 1, self.restart_with)
        self._settings = restart_settings(args, self.number, self.restart_with, self.total_steps, self.model_type)
        self._seed = restart_seed(args, self.number)
        return changed_arguments(args, self.number, self._settings)


def train_with_restarts(
    trainer_factory: Callable[[Start], Trainer],
    max_restarts: int = 2,
    restart_with: str = "gentle",
    resume_from_checkpoint: Checkpoint = None,
    **train_arguments: Any,
) -> Trainer:
    """Train with the stock Trainer, or your subclass of it; begin again after an alarm, NaN or Inf.

    `StableTrainer` needs no factory: its argument `on_alarm="restart"` does the same.

    Example:
        ```python
        def make_trainer(start):
            args = start.arguments(TrainingArguments("out", learning_rate=2e-5, eval_strategy="epoch"))
            set_seed(args.seed)  # the new head
            model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")
            return Trainer(model, args, train_dataset=train, eval_dataset=dev)

        trainer = train_with_restarts(make_trainer)
        print(trainer.stability.attempts)
        ```

    Args:
        trainer_factory: makes the trainer of an attempt, with a new model. It gets a `Start`, and must give its training
            arguments through `start.arguments(args)`. A `StabilityCallback` is added if the trainer has none; one of yours
            needs `on_alarm="restart"`, or none at all.
        max_restarts: how often the run may begin again. The last attempt is trained to its end.
        restart_with: what changes besides the seeds. `seed`: nothing. `gentle`: a third of the learning rate at each restart,
            and warmup over at least 10% of the update steps. Or a recipe's name: its values.
        resume_from_checkpoint: as the Trainer's. A killed run continues in the attempt in which it was.
        **train_arguments: other arguments of the Trainer's `train`.

    Returns:
        the trainer of the last attempt. Its new attribute `stability` is its callback, with the verdict and the `attempts`.

    Raises:
        InputError: a value is not allowed; or the factory returned no Trainer, a StableTrainer, one that does not use
            `start.arguments`, or the model of the attempt before.
    """
    check_restarts(max_restarts, restart_with)
    if isinstance(trainer_factory, Trainer):
        raise InputError("train_with_restarts: give a function that makes the trainer, not a Trainer")

    def make(number: int, total_steps: int, model_type: str | None) -> tuple[Trainer, Start]:
        start = Start(number, restart_with, total_steps, model_type)
        trainer = trainer_factory(start)
        if not isinstance(trainer, Trainer):
            raise InputError(f"train_with_restarts: the factory must return a Trainer, not {type(trainer).__name__}")
        if hasattr(trainer, "stability"):
            raise InputError(
                'train_with_restarts: the factory returned a StableTrainer, which restarts by itself; give its arguments on_alarm="restart"'
            )
        if start._settings is None or trainer.args.seed != start._seed:
            raise InputError(
                "train_with_restarts: the factory must give the Trainer start.arguments(args); otherwise each attempt is the same"
            )
        callback = callback_of(trainer, "restart")
        if callback.on_alarm is None:
            callback.on_alarm = "restart"
        if callback.on_alarm != "restart":
            raise InputError(
                f"train_with_restarts: the StabilityCallback has on_alarm={callback.on_alarm!r}; give 'restart', or leave it out"
            )
        callback.share_tensorboard(trainer)
        return trainer, start

    def prepare(log: AttemptLog) -> Trainer:
        if log.number:
            model_type = getattr(getattr(current[0][0].model, "config", None), "model_type", None)
            before = weakref.ref(current.pop()[0].model)  # a new model may need its memory
            current.append(make(log.number, log.attempts[0].total_steps, model_type))
            if before() is current[0][0].model:
                raise InputError(
                    "train_with_restarts: the factory must make a new model for each attempt; this one has been trained already"
                )
        trainer, start = current[0]
        log.settings, log.seeds = dict(start._settings or {}), seeds_of(trainer.args)
        return trainer

    def train(trainer: Trainer, checkpoint: Checkpoint) -> Any:
        try:
            return trainer.train(resume_from_checkpoint=checkpoint, **train_arguments)
        finally:
            callback_of(trainer).release()

    current = [make(0, 0, None)]
    last, _ = train_in_attempts(current[0][0], prepare, train, max_restarts, resume_from_checkpoint)
    last.stability = callback_of(last)  # as a StableTrainer's
    return last
