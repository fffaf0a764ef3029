"""Runs a situation's script three times, and compares: the stock Trainer, the same with StabilityCallback, StableTrainer."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import logging
import pickle
import random
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import Trainer, TrainingArguments, set_seed

from hf_stability import StabilityCallback, StabilityMixin, StableTrainer, StableTrainingArguments

from .parts import DEV, TRAIN, accuracy, bert, collapse, dev, sentences


KINDS = ("callback", "stable")
QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_strategy": "no"}
EVERYDAY = {"eval_strategy": "epoch", "per_device_train_batch_size": 16, "per_device_eval_batch_size": 20, "seed": 3}
LEARNS = {"learning_rate": 5e-3, "num_train_epochs": 4}
STUCK = {"learning_rate": 1e-6, "num_train_epochs": 2}
TIMES = ("runtime", "per_second", "model_preparation_time")
OF_OURS = r"\w*(Error|Exception|Interrupt)\b"  # in a warning: our code raised


@dataclass
class Script:
    """A user's script: its parts, and the way it is run.

    Args:
        model, train, dev, metric: arguments of the Trainer.
        arguments: values of the TrainingArguments.
        trainer, arguments_class: the user's classes.
        given: other arguments of the Trainer.
        callbacks: the user's callbacks.
        first: whether our callback comes before the user's.
        callback: arguments of our callback. With None StableTrainer makes its own, and a stock Trainer gets
            `StabilityCallback()`.
        number: number of our callbacks.
        play: runs the script: makes Trainers and trains.
        proof: `(key, at least if it learns, at most if it is stuck)`. The last evaluation must meet this, to show that the
            run is of the kind it should be. None for no such check.
        check: a further check of a run with our code. It returns a list of faults.
        verdicts: the statuses to check, if they are not the status of the last callback.
    """

    model: Any = None
    train: Any = None
    dev: Any = None
    metric: Callable | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    trainer: type[Trainer] = Trainer
    arguments_class: type[TrainingArguments] = TrainingArguments
    given: dict[str, Any] = field(default_factory=dict)
    callbacks: list[Any] = field(default_factory=list)
    first: bool = True
    callback: dict[str, Any] | None = field(default_factory=dict)
    number: int = 1
    play: Callable[[Bench], None] = lambda bench: bench.trainer().train()
    proof: tuple[str, float, float] | None = ("eval_accuracy", 0.95, 0.58)
    check: Callable[[Bench], list[str]] = lambda bench: []
    verdicts: Callable[[Bench], list[str]] | None = None


def script(learns: bool, **changes) -> Script:
    """An everyday script that learns, or is stuck at the majority class. `arguments` are added to the usual ones."""
    values: dict[str, Any] = {"train": sentences(TRAIN), "dev": dev(DEV), "metric": accuracy}
    arguments = {**EVERYDAY, **(LEARNS if learns else STUCK), **changes.pop("arguments", {})}
    if "model" not in changes:
        changes["model"] = bert() if learns else collapse(bert())
    return Script(**{**values, **changes, "arguments": arguments})


class Bench:
    """Where a script is played: makes its trainers, with ours or without, and keeps what they did.

    Attributes:
        trainers, callbacks: all that were made; the callbacks are ours only.
        calls: a digest of each call of the user's metric.
        weights: digests that the script keeps of weights in mid-training.
    """

    def __init__(self, kind: str, script: Script, folder: Path):
        self.kind, self.script, self.folder = kind, script, folder
        self.trainers: list[Trainer] = []
        self.callbacks: list[StabilityCallback] = []
        self.calls: list[str] = []
        self.weights: list[str] = []
        self.metric = None if script.metric is None else Recorded(script.metric, self.calls)

    def trainer(self, arguments: dict | None = None, ours: list | None = None, **changes) -> Trainer:
        """A Trainer of the script, with these values changed. `ours`: our callbacks, if they are used again."""
        script = self.script
        stable = self.kind == "stable"
        values = {"output_dir": str(self.folder / "out"), **QUIET, **script.arguments, **(arguments or {})}
        args = _arguments_class(script.arguments_class, stable)(**values)
        given = {"train_dataset": script.train, "eval_dataset": script.dev, "compute_metrics": self.metric}
        given = {"model": script.model, **given, **script.given, **changes}
        theirs = given.pop("callbacks", script.callbacks)
        ours = [] if self.kind == "stock" else self._ours() if ours is None else ours
        given["callbacks"] = [*ours, *theirs] if script.first else [*theirs, *ours]
        trainer = _trainer_class(script.trainer, stable)(args=args, **given)
        trainer.remove_callback(transformers.PrinterCallback)
        for callback in theirs:
            callback.trainer = trainer  # for callbacks that evaluate in their events
        self.trainers.append(trainer)
        self.callbacks += [c for c in trainer.callback_handler.callbacks if isinstance(c, StabilityCallback)]
        return trainer

    def _ours(self) -> list[StabilityCallback]:
        settings = self.script.callback
        if settings is None:
            return [] if self.kind == "stable" else [StabilityCallback()]
        # Drawing takes longer than most of these runs, so only the situation `plain` draws.
        cheap = {"heat_map": False, "tensorboard": False, "compute_metrics": self.metric}
        return [StabilityCallback(**{**cheap, **settings}) for _ in range(self.script.number)]


def _arguments_class(base: type, stable: bool) -> type:
    if not stable:
        return base
    if base is TrainingArguments:
        return StableTrainingArguments
    return dataclass(type("StableArguments", (StableTrainingArguments, base), {}))


def _trainer_class(base: type, stable: bool) -> type:
    if not stable:
        return base
    return StableTrainer if base is Trainer else type("Stable" + base.__name__, (StabilityMixin, base), {})


class Recorded:
    """A user's metric, with a digest of the arguments of each call."""

    def __init__(self, metric: Callable, calls: list[str]):
        self.metric, self.calls = metric, calls
        self.__signature__ = inspect.signature(metric)  # the Trainer looks for `compute_result`

    def __call__(self, prediction, **kwargs):
        seen = (
            prediction.predictions,
            prediction.label_ids,
            prediction.inputs,
            prediction.losses,
            sorted(kwargs.items()),
        )
        self.calls.append(digest(seen))
        return self.metric(prediction, **kwargs)

    def __deepcopy__(self, memo):
        return Recorded(copy.deepcopy(self.metric, memo), self.calls)


# ---- traces of a run -------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """The traces of a script that was run."""

    error: str | None
    where: str
    weights: str
    history: list[str]
    calls: list[str]
    hooks: int
    random: str
    best: tuple
    checkpoints: list[str]
    steps: int
    last: dict[str, float]
    statuses: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def play(make: Callable[[bool], Script], learns: bool, kind: str, folder: Path) -> Outcome:
    """Make a situation's script and run it, as one kind."""
    set_seed(0)
    torch.use_deterministic_algorithms(False)
    script = make(learns)
    bench = Bench(kind, script, folder)
    error, where, handler = None, "", Kept()
    logger = logging.getLogger("hf_stability")
    logger.addHandler(handler)
    try:
        script.play(bench)
    except BaseException as raised:  # an interrupt is one of the situations
        if not isinstance(raised, (Exception, KeyboardInterrupt)) or not bench.trainers:
            raise
        error = f"{type(raised).__name__}: {raised}"
        place = traceback.extract_tb(raised.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
    finally:
        logger.removeHandler(handler)
    trainer = bench.trainers[-1]
    state = trainer.state
    outcome = Outcome(
        error=error,
        where=where,
        weights=digest([*bench.weights, *(trainer.model.state_dict().values() if trainer.model else ())]),
        history=[json.dumps(entry) for entry in map(_without_times, state.log_history) if entry],
        calls=bench.calls,
        hooks=_hooks(trainer.model),
        random=digest([torch.get_rng_state(), np.random.get_state()[1], repr(random.getstate())]),
        best=(repr(state.best_metric), Path(state.best_model_checkpoint or "").name, state.best_global_step),
        checkpoints=sorted(str(p.relative_to(folder)) for p in folder.rglob("checkpoint-*")),
        steps=state.global_step,
        last=_last_evaluation(state.log_history),
        warnings=handler.messages,
    )
    if kind != "stock":
        if script.verdicts is not None:
            outcome.statuses = script.verdicts(bench)
        else:
            ours = bench.callbacks[-script.number :]
            outcome.statuses = [str(getattr(c.verdict, "status", None)) for c in ours]
            outcome.sentences = [str(getattr(c.verdict, "sentence", "")) for c in ours]
        outcome.alarms = [c.alarm.sentence for c in bench.callbacks if c.alarm is not None]
        outcome.problems += script.check(bench) if error is None else []
    return outcome


def digest(value: Any) -> str:
    """Digest of arrays, tensors, lists, dicts and plain values, bit for bit."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().contiguous()
            found.update(f"{value.dtype} {tuple(value.shape)}".encode())
            found.update(value.flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, np.ndarray):
            found.update(f"{value.dtype} {value.shape}".encode())
            found.update(pickle.dumps(value.tolist()) if value.dtype == object else value.tobytes())
        elif isinstance(value, dict):
            for key in value:
                found.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            found.update(f"{type(value).__name__} {len(value)}".encode())
            for item in value:
                add(item)
        else:
            found.update(repr(value).encode())

    add(value)
    return found.hexdigest()


class Kept(logging.Handler):
    """Collects our warnings."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def _without_times(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if not any(time in key for time in TIMES)}


def _last_evaluation(history: list[dict]) -> dict[str, float]:
    return next((entry for entry in reversed(history) if any(key.startswith("eval_") for key in entry)), {})


def _hooks(model) -> int:
    if model is None:
        return 0
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


# ---- the comparison --------------------------------------------------------------------------------------------------


def problems_of(situation, learns: bool, kind: str, stock: Outcome, ours: Outcome) -> Iterator[str]:
    """The faults of a run with our code, compared with the stock Trainer's run."""
    if ours.error != stock.error:
        yield f"raised {ours.error}, the stock Trainer {stock.error or 'nothing'} (at {ours.where})"
        return
    if ours.weights != stock.weights:
        yield "other weights than the stock Trainer's"
    # The Trainer tells a callback nothing after an exception, so its hook goes at the next training.
    if ours.hooks != stock.hooks and not (stock.error and kind == "callback"):
        yield f"{ours.hooks - stock.hooks} hooks are left on the model"
    if ours.steps != stock.steps:
        yield f"ended at step {ours.steps}, the stock Trainer at {stock.steps}"
    added = _added(stock.history, ours.history)
    if added is None:
        yield f"the log is another: {_first_difference(stock.history, ours.history)}"
    elif added and kind == "callback":
        yield f"the log has more entries: {added[0]}"
    elif any(json.loads(entry).get("step") != ours.steps or "eval_" not in entry for entry in added):
        yield f"the log has more than a last evaluation more: {added}"
    calls = _added(stock.calls, ours.calls)
    if calls is None or (calls and not added):
        yield f"the metric was called {len(ours.calls)} times, by the stock Trainer {len(stock.calls)} times, or with other predictions"
    if ours.random != stock.random and not added:
        yield "the random state after it is another"
    if not added:
        if ours.best != stock.best:
            yield f"best model {ours.best}, the stock Trainer's {stock.best}"
        if ours.checkpoints != stock.checkpoints:
            yield f"checkpoints {ours.checkpoints}, the stock Trainer's {stock.checkpoints}"
    yield from ours.problems
    yield from _verdict_problems(situation, learns, kind, ours)


def _verdict_problems(situation, learns: bool, kind: str, ours: Outcome) -> Iterator[str]:
    allowed = situation.allowed(learns, kind)
    sentence = ours.sentences[-1] if ours.sentences else ""
    if len(ours.statuses) != len(allowed):
        yield f"verdicts {ours.statuses}, expected {allowed}"
    for status, one in zip(ours.statuses, allowed, strict=False):
        if status not in one.split(" or "):
            yield f"verdict {status}, expected {one} | {sentence}"
    if allowed[0] == "ok" and ours.alarms:
        yield f"an alarm: {ours.alarms[0]}"
    if situation.sentence and not re.search(situation.sentence, sentence):
        yield f"the verdict's sentence has no {situation.sentence!r} | {sentence}"
    verdicts = (*ours.sentences, *ours.alarms)
    warnings = [message for message in ours.warnings if message not in verdicts]
    for pattern in situation.warns:
        number = sum(bool(re.search(pattern, message)) for message in warnings)
        if number != 1:
            yield f"{number} warnings with {pattern!r} | {warnings}"
    others = [message for message in warnings if not any(re.search(p, message) for p in situation.warns)]
    for message in others:
        if re.search(OF_OURS, message):
            yield f"a warning that something raised | {message}"
    if situation.quiet and others:
        yield f"a warning | {others[0]}"
    if len(set(others)) < len(others) and len(ours.statuses) == 1:
        yield f"the same warning more than once | {max(others, key=others.count)}"


def _added(before: list[str], after: list[str]) -> list[str] | None:
    """The elements that `after` has in addition to `before`, in order. None if `after` lacks elements of `before`."""
    added, waiting = [], list(before)
    for entry in after:
        if waiting and entry == waiting[0]:
            waiting.pop(0)
        else:
            added.append(entry)
    return None if waiting else added


def _first_difference(before: list[str], after: list[str]) -> str:
    for i, entry in enumerate(before):
        if i >= len(after) or after[i] != entry:
            return f"{after[i] if i < len(after) else 'nothing'} instead of {entry}"
    return "entries at the end"


def proof_of(script: Script, learns: bool, stock: Outcome) -> str | None:
    """Why the stock Trainer's run is not what the situation is about, or None."""
    if script.proof is None or stock.error is not None:
        return None
    key, least, most = script.proof
    value = stock.last.get(key)
    if value is None:
        return f"the stock Trainer has no {key}: {stock.last}"
    if (value < least) if learns else not (value <= most or value != value):
        return f"the stock Trainer's {key} is {value}: this run is not {'sound' if learns else 'stuck'}"
    return None
