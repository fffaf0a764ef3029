"""The look at a run of `--restarts`: when it comes, and the callback that evaluates, saves and may end the training there."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..callback import StabilityCallback
from ..errors import InputError


def look_step(fraction: float, max_steps: int) -> int:
    """The update step at which a run is looked at, after a fraction of all: at least 1, and before the last.

    Raises:
        InputError: there is one update step only.
    """
    if max_steps < 2:
        raise InputError(
            f"--look_at {fraction}: a training of {max_steps} update step has no look before its end; train longer"
        )
    return min(max(1, round(fraction * max_steps)), max_steps - 1)


class LookCallback(TrainerCallback):
    """Evaluates and saves at the look, and ends the training there if it is to.

    It ends it once the checkpoint is written, which then says nothing of an end.

    Args:
        fraction: of the update steps.
        stability: is told of the end, for its verdict.
        stop: whether to end there.
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
        if self._is_look(state):  # done at the step, and it may be no end of an epoch
            control.should_evaluate = control.should_save = False
