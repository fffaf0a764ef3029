"""The look at a run of `--restarts`: when it comes, and the callback that evaluates, saves and may end the training there."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..callback import StabilityCallback
from ..errors import InputError


def look_step(fraction: float, max_steps: int) -> int:
    """The update step of the look, after a fraction of all update steps; at least 1, and before the last.

    Raises:
        InputError: the training has only one update step.
    """
    if max_steps < 2:
        raise InputError(
            f"--look_at {fraction}: a training of {max_steps} update step has no look before its end; train longer"
        )
    return min(max(1, round(fraction * max_steps)), max_steps - 1)


class LookCallback(TrainerCallback):
    """Evaluates and saves at the look, and ends the training there if asked to.

    The training ends after the checkpoint was written, so that the checkpoint can be continued.

    Args:
        fraction: of the update steps.
        stability: learns of the end, for its verdict.
        stop: whether to end the training.
    """

    def __init__(self, fraction: float, stability: StabilityCallback, stop: bool):
        self.fraction, self.stability, self.stop = fraction, stability, stop

    def _is_look(self, state: TrainerState) -> bool:
        return state.global_step == look_step(self.fraction, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._is_look(state):
            control.should_evaluate = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.stop and self._is_look(state):
            control.should_training_stop = self.stability.stopped_early = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._is_look(state):  # both were done at the step
            control.should_evaluate = control.should_save = False
