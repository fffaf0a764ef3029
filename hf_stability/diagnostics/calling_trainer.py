"""The Trainer behind a callback, read off the call stack.

A callback's events get the model and the state, but neither the Trainer nor the outputs of an evaluation. Both are local
variables of the functions that call the event. Reading them there costs no second forward pass and no copy, and it gives
what the Trainer itself has: gathered over processes, after `preprocess_logits_for_metrics`, without padding.

Where nothing is found (a loop of one's own that calls the events), the functions say so with None.
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
"""Functions of a Trainer that evaluate for the training itself: the stock Trainer's, and StableTrainer's last one."""

EVENT = "call_event"
"""The CallbackHandler's function; code above an event is the user's."""

LOOPS = ("_inner_training_loop", "_run_epoch", *OWN_EVALUATIONS)
"""Functions of a Trainer that subclasses write anew."""


@dataclass(frozen=True)
class TrainingLoop:
    """A training that is going on.

    Args:
        trainer: the Trainer.
        code: its function that began the training.
        trial: of a hyperparameter search, else None.
    """

    trainer: Any
    code: CodeType
    trial: Any = None

    def is_running(self) -> bool:
        """Whether this is called from within the training, in the same thread."""
        return any(
            frame.f_code is self.code and _local(frame, "self") is self.trainer for frame in _frames(sys._getframe(1))
        )

    def call_when_abandoned(self, function: Callable[[TrainingLoop], None]) -> None:
        """Call a method once an epoch's loop is gone without the training going on: interrupted, or an exception.

        To be called within each epoch. No event tells a callback of an exception; what ends then is the iterator over the
        epoch's batches. Best effort: it is late where somebody keeps the exception's traceback.

        Args:
            function: a bound method, which is not kept alive by this; it is given this training.
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
    """An evaluation that the Trainer makes for its training.

    Args:
        output: the evaluation loop's: predictions, label_ids, metrics; None where there is none to be seen.
        prefix: of its metrics, `eval`, or `eval_NAME` with several evaluation sets.
        dataset: what it was on: a data set, or the name of one of several; None where that is not to be seen.
        ignore_keys: outputs of the model that the Trainer left out of the predictions; None for the config's.
    """

    output: Any
    prefix: str | None
    dataset: Any
    ignore_keys: list[str] | None


def training_loop(callback: Any) -> TrainingLoop | None:
    """The training from which this event of a callback was called."""
    for frame in filter(_is_trainers, _frames(sys._getframe(1))):
        owner = _local(frame, "self")
        if owner is not callback and _has_callback(owner, callback):
            return TrainingLoop(owner, frame.f_code, _local(frame, "trial"))
    return None


def calling_evaluation(trainer: Any) -> CallingEvaluation | None:
    """The evaluation from which an `on_evaluate` was called; None where user's code made it, in an event or elsewhere."""
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
    """Whether a function is a Trainer's: no other frame is read, because that would change what `locals()` gave its code."""
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
    """Values of a function's local variables, or of one, None where it has none yet."""
    if not frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # a module or a class body
        return [None]
    variables = frame.f_locals
    values = list(variables.values()) if name is None else [variables.get(name)]
    if isinstance(variables, dict):  # until Python 3.12 a snapshot, which the frame would keep alive: batches and all
        variables.clear()
    return values
