"""The evaluation that decides the verdict: the last one that the Trainer itself made of its (first) evaluation set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .calling_trainer import TrainingLoop, calling_evaluation
from .evaluation import Evaluation, slim


class TrainersEvaluation:
    """Keeps the last evaluation that counts. Evaluations by the user's own code do not count.

    Args:
        loop: the training. If it is None (not known), each evaluation counts, without its outputs.
        state: the Trainer's.
        model: without the wrappers of distributed training.
        whole: whether to keep all outputs, instead of the part that a verdict needs.

    Attributes:
        last: the `Evaluation`. It is empty before the first one.
    """

    def __init__(self, loop: TrainingLoop | None = None, state: Any = None, model: Any = None, whole: bool = False):
        self.loop, self.state, self.model, self.whole = loop, state, model, whole
        self.last = Evaluation()

    def read_log(self) -> None:
        """After a resume: read the scores of the last evaluation before the checkpoint from the log. It has no outputs."""
        name = self._first_set()
        prefix = _prefix(name)
        logged = [entry for entry in self.state.log_history if any(key.startswith(f"{prefix}_") for key in entry)]
        if self.state.global_step and logged:
            step = logged[-1].get("step")
            self.last = Evaluation(_without_set(logged[-1], f"{prefix}_", "eval_"), step=step)

    def observe(self, metrics: Mapping[str, Any], step: int, output_names: Sequence[str] = ()) -> None:
        """Look at an evaluation, in `on_evaluate`.

        Args:
            metrics: the Trainer's.
            step: the update step.
            output_names: names of the model's outputs, in order, without the loss.
        """
        if self.loop is None:  # the user's own training loop
            self.last = Evaluation(dict(metrics), step=step)
            return
        found = calling_evaluation(self.loop.trainer)
        if found is None or step == 0:  # before the first update step: it does not show this run
            return
        name, sets = self._first_set(), self.loop.trainer.eval_dataset
        prefix = _prefix(name)
        if found.prefix not in (None, prefix):
            return
        known = [sets] if name is None else [name, sets[name]]
        is_its_own = any(found.dataset is one for one in known)
        if self.last.step == step and (self.last.is_trainers_set or not is_its_own):
            return  # keep the first of several in this step
        ignored = found.ignore_keys
        if ignored is None:
            ignored = getattr(getattr(self.model, "config", None), "keys_to_ignore_at_inference", None) or []
        names = [name for name in output_names if name not in ignored]
        outputs, labels = getattr(found.output, "predictions", None), getattr(found.output, "label_ids", None)
        if not self.state.is_world_process_zero:  # only the main process judges
            outputs, labels = None, None
        elif not self.whole:
            outputs = slim(outputs, names, writes_texts(self.model))
        self.last = Evaluation(_without_set(metrics, prefix, "eval"), outputs, labels, step, names, is_its_own)

    def release(self) -> None:
        """At the end of training, drop the references to the model and the Trainer. `last` stays."""
        self.loop, self.state, self.model = None, None, None

    def _first_set(self) -> str | None:
        """Name of the first of several evaluation sets; None for a single set."""
        sets = getattr(self.loop.trainer, "eval_dataset", None) if self.loop is not None else None
        return next(iter(sets), None) if isinstance(sets, dict) else None


def writes_texts(model: Any) -> bool:
    """Whether a model may generate texts (an encoder-decoder). Their positions are not those of the labels."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _prefix(name: str | None) -> str:
    return "eval" if name is None else f"eval_{name}"


def _without_set(metrics: Mapping[str, Any], prefix: str, new: str) -> dict[str, Any]:
    """The metrics of one evaluation set, with keys `eval_...` without the name of the set."""
    return {new + key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
