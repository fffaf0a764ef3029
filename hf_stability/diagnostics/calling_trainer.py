"""Finds the Trainer behind a callback by reading the call stack.

A callback's events get the model and the state, but not the Trainer or the outputs of an evaluation. Both are local
variables of the functions that call the event. Reading them there needs no second forward pass and no copy. It gives the
Trainer's own outputs: gathered over processes, after `preprocess_logits_for_metrics`, without padding.

The functions return None if they find nothing, for example if your own loop calls the events.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FrameType, GeneratorType
from typing import Any


OWN_EVALUATIONS = ("_evaluate", "_evaluate_last")
"""Functions of a Trainer that evaluate as a part of training: the stock Trainer's, and StableTrainer's at the last step."""

EVENT = "call_event"
"""The CallbackHandler's function. Code that an event calls belongs to the user."""

LOOPS = ("_inner_training_loop", "_run_epoch", *OWN_EVALUATIONS)
"""Functions of a Trainer that subclasses override."""


@dataclass(frozen=True)
class TrainingLoop:
    """A training that is running.

    Args:
        trainer: the Trainer.
        code: the Trainer's function that runs the training.
        trial: the trial of a hyperparameter search, else None.
    """

    trainer: Any
    code: CodeType
    trial: Any = None

    def is_running(self) -> bool:
        """Whether the caller is inside this training, in the same thread."""
        return any(
            frame.f_code is self.code and _local(frame, "self") is self.trainer for frame in _frames(sys._getframe(1))
        )

    def call_when_abandoned(self, function: Callable[[TrainingLoop], None]) -> None:
        """Call a method when the training was interrupted or raised an exception.

        Use this within each epoch. No event tells a callback about an exception. But the iterator over the epoch's batches
        is then deleted, and its deletion makes the call. The call comes late if somebody keeps the exception's traceback.

        Args:
            function: a bound method, which gets this training as its argument. It is not kept alive.
        """
        method = weakref.WeakMethod(function)

        def ended() -> None:
            if (call := method()) is not None and not self.is_running():
                call(self)

        for frame in _frames(sys._getframe(1)):
            for value in _values(frame) if _is_trainers(frame) and _local(frame, "self") is self.trainer else ():
                if isinstance(value, GeneratorType):
                    weakref.finalize(value, ended).atexit = False
            if frame.f_code is self.code:
                break


@dataclass(frozen=True)
class CallingEvaluation:
    """An evaluation that the Trainer makes as a part of training.

    Args:
        output: the evaluation loop's output: predictions, label_ids, metrics. None if it is not visible.
        prefix: prefix of its metrics: `eval`, or `eval_NAME` with several evaluation sets.
        dataset: the evaluation set, or its name if there are several. None if it is not visible.
        ignore_keys: outputs of the model that the Trainer left out of the predictions. None for those in the config.
    """

    output: Any
    prefix: str | None
    dataset: Any
    ignore_keys: list[str] | None


def training_loop(callback: Any) -> TrainingLoop | None:
    """The training that called this event of a callback. None if there is none."""
    for frame in filter(_is_trainers, _frames(sys._getframe(1))):
        owner = _local(frame, "self")
        if owner is not callback and _has_callback(owner, callback):
            return TrainingLoop(owner, frame.f_code, _local(frame, "trial"))
    return None


def calling_evaluation(trainer: Any) -> CallingEvaluation | None:
    """The evaluation that called `on_evaluate`. None if the user's code made it, in an event or elsewhere."""
    found = None
    for frame in _frames(sys._getframe(1)):
        if found is not None and frame.f_code.co_name == EVENT:
            return None
        if not _is_trainers(frame) or _local(frame, "self") is not trainer:
            continue
        if frame.f_code.co_name in OWN_EVALUATIONS:
            return found
        if found is None:
            output = next((value for value in _values(frame) if _is_output(value)), None)
            names = ("metric_key_prefix", "eval_dataset", "ignore_keys")
            found = CallingEvaluation(output, *(_local(frame, name) for name in names))
    return None


def _is_trainers(frame: FrameType) -> bool:
    """Whether a frame belongs to a Trainer. Other frames are not read: that would change a dict that `locals()` returned."""
    code = frame.f_code
    evaluates = code.co_name == "evaluate" and "metric_key_prefix" in code.co_varnames
    return evaluates or code.co_name in LOOPS or frame.f_globals.get("__name__", "").startswith("transformers.")


def _has_callback(owner: Any, callback: Any) -> bool:
    handler = getattr(owner, "__dict__", {}).get("callback_handler")
    return handler is not None and any(other is callback for other in handler.callbacks)


def _is_output(value: Any) -> bool:
    return all(hasattr(type(value), name) for name in ("predictions", "label_ids", "metrics"))


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _local(frame: FrameType, name: str) -> Any:
    return _values(frame, name)[0] if name in frame.f_code.co_varnames else None


def _values(frame: FrameType, name: str | None = None) -> list[Any]:
    """Values of a frame's local variables, or of one variable. None for a variable without a value yet."""
    if not frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # a module or a class body
        return [None]
    variables = frame.f_locals
    values = list(variables.values()) if name is None else [variables.get(name)]
    if isinstance(variables, dict):  # until Python 3.12 a snapshot, which would keep batches alive
        variables.clear()
    return values
