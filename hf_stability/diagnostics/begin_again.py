"""When a run begins again: after an alarm, or after the first loss or gradient norm that is not finite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..verdicts.verdict import Verdict
from .attempt import ALARM, NON_FINITE_GRADIENTS, NON_FINITE_LOSS


HOW: dict[str | None, str] = {
    ALARM: "an alarm",
    NON_FINITE_LOSS: "a loss that is NaN or Inf",
    NON_FINITE_GRADIENTS: "gradients that are NaN or Inf",
}
"""The reasons in words."""


class RunAbandoned(Exception):
    """Ends an attempt at once: nothing is evaluated, saved or judged. The trainer catches it and begins again.

    Args:
        reason: one of `attempt.REASONS`.
        step: update step after which it was noticed.
        total_steps: update steps of the whole attempt.
    """

    def __init__(self, reason: str, step: int, total_steps: int) -> None:
        super().__init__(f"step {step} of {total_steps}: {reason}")
        self.reason, self.step, self.total_steps = reason, step, total_steps


class FiniteCheck:
    """Looks for losses and gradient norms that are not finite, in rows that are on the host already.

    A batch without labels has a loss that is not finite, and finite gradients: that is no fault. A model that returns no
    loss has none in any step. Where gradient norms cannot be read, they are NaN in all steps; then the loss decides.

    Args:
        scales_loss: whether a gradient scaler is used (fp16). It tries scales and skips the steps that overflow, so
            infinite gradients alone are no fault.
    """

    def __init__(self, scales_loss: bool = False) -> None:
        self.scales_loss = scales_loss
        self.saw_norm = False  # a gradient norm that is finite
        self.last_step = 0

    def look(self, steps: np.ndarray, losses: np.ndarray, norms: np.ndarray, saw_loss: bool = True) -> str | None:
        """Look at the rows that are new since the last call.

        Args:
            steps: `(T,)` update steps.
            losses: `(T,)`.
            norms: `(T,)` total gradient norms.
            saw_loss: whether the model returns a loss.

        Returns:
            the first fault, one of `attempt.REASONS`; None without one.
        """
        new = np.asarray(steps) > self.last_step
        self.last_step = max([self.last_step, *np.asarray(steps)[new]])
        for loss_is_finite, norm_is_finite in zip(np.isfinite(losses[new]), np.isfinite(norms[new]), strict=True):
            if not norm_is_finite and not loss_is_finite and saw_loss:
                return NON_FINITE_LOSS
            if not norm_is_finite and self.saw_norm and not self.scales_loss:
                return NON_FINITE_GRADIENTS
            self.saw_norm |= bool(norm_is_finite)
        return None


def stopped_instead(reason: str, step: int, total_steps: int) -> str:
    """The message of a callback that cannot begin again, because its trainer is a stock Trainer."""
    return (
        f"step {step} of {total_steps}: stopped because of {HOW[reason]}. A callback alone cannot restart a run: train with "
        "hf_stability.train_with_restarts(trainer_factory), or with StableTrainer."
    )


def begins_again(reason: str, step: int, total_steps: int, number: int, max_restarts: int) -> str:
    """The message of a run that begins again. `number` is that of the attempt that begins."""
    return f"step {step} of {total_steps}: {HOW[reason]}. The run begins again at update step 0 (restart {number} of {max_restarts})."


def with_restarts(verdict: Verdict, number: int, steps: int) -> Verdict:
    """The verdict of a run that began again, with a clause about it: it is that of the last attempt.

    Args:
        verdict: of the last attempt.
        number: how often the run began again.
        steps: update steps of all attempts.
    """
    restarts = "1 restart" if number == 1 else f"{number} restarts"
    sentence = f"{verdict.sentence[:-1]}; after {restarts}, {steps} update steps in all."
    return replace(verdict, sentence=sentence, evidence={**verdict.evidence, "restarts": number, "steps_spent": steps})
