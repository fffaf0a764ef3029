"""Sends the numbers to the Trainer's other loggers (WandbCallback, MLflowCallback ...), as the Trainer would."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl
from transformers.integrations.integration_utils import TensorBoardCallback

from .dashboard import LOG10
from .outcome import Outcome
from .sinks import Sink


logger = logging.getLogger(__name__)

NOT_LOGGERS = ("transformers.trainer_callback", "transformers.utils.notebook")  # progress bars, printing, control flow
TRAINERS_KEYS = ("loss", "learning_rate")  # under these names the Trainer sends means over its logging steps


class Loggers(Sink):
    """Sends numbers to every callback of a Trainer that takes logs (`on_log`).

    Args:
        handler: the Trainer's callback handler.
        args: the training arguments.
        state: the Trainer's state.
    """

    name = "the output to other loggers"

    def __init__(self, handler: Any, args: Any, state: Any) -> None:
        self.handler, self.args, self.state = handler, args, state
        self.loggers = loggers_of(handler)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers to each logger, as the Trainer would. A logger that raises gets no more numbers."""
        if not self.loggers or not values:
            return
        logs = {
            f"step/{key}" if key in TRAINERS_KEYS else key: value
            for key, value in values.items()
            if math.isfinite(value) and not key.startswith(LOG10)
        }
        state = copy.copy(self.state)
        state.global_step = step
        if state.epoch is not None:
            state.epoch *= step / max(1, self.state.global_step)
        for other in list(self.loggers):
            handler = copy.copy(self.handler)
            handler.callbacks = [other]
            try:
                handler.on_log(self.args, state, TrainerControl(), logs=dict(logs))
            except Exception as error:  # a logger must not end a training
                name = type(other).__name__
                logger.warning(f"{name} raised and gets no more of the diagnostics: {type(error).__name__}: {error}")
                self.loggers.remove(other)

    def end(self, outcome: Outcome) -> None:
        self.numbers(outcome.final, outcome.step)


def loggers_of(handler: Any) -> list[TrainerCallback]:
    """The loggers among a Trainer's callbacks."""
    return [callback for callback in handler.callbacks if is_logger(callback)]


def move_to_end(trainer: Any, callbacks: Iterable[TrainerCallback]) -> None:
    """Move callbacks to the end of a Trainer's list, so that they close after our callback has sent its last numbers."""
    for callback in list(callbacks):
        trainer.remove_callback(callback)
        trainer.add_callback(callback)


def is_logger(callback: TrainerCallback) -> bool:
    """Whether a callback takes logs, and is not one of the Trainer's own displays, TensorBoard's callback, or ours."""
    classes = [cls for cls in type(callback).__mro__ if "on_log" in vars(cls) and cls is not TrainerCallback]
    served = isinstance(callback, TensorBoardCallback) or getattr(callback, "sends_to_loggers", False)
    return bool(classes) and not served and not any(cls.__module__ in NOT_LOGGERS for cls in classes)
