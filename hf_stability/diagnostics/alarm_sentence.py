"""The early warning in words: the alarm itself, and the clause about it in a verdict."""

from __future__ import annotations

import math

from ..verdicts.sentence import NOT_COUNTED
from .alarm_odds import share_of_right_alarms


REMEDY = "Try a third of the learning rate, bias correction, 10% warmup and more epochs (recipe mosbach2021), or another seed."


def alarm_sentence(
    step: int, total_steps: int, risk: float, layer: str, to_top: float, to_peak: float, spread: float, loss: float
) -> str:
    """The alarm of a run that looks like one that fails.

    Args:
        step, total_steps: update step of the check, and of the whole training.
        risk: in [0, 1].
        layer: name of the layer with the largest fall from its own highest level.
        to_top, to_peak: gradient norm of the lower layers, as a fraction of the classifier's and of its own highest level.
        spread: how far the logits differ between examples, nats.
        loss: train loss, as a fraction of the label entropy.
    """
    return (
        f"step {step} of {total_steps}: this run looks like one that fails (risk {risk:.2f}). "
        f"The gradients of the lower layers are {to_top:.2g} times the classifier's and {to_peak:.2g} times their own highest "
        f"level ({layer} fell furthest). The logits differ by {spread:.2g} nats between examples. "
        f"The train loss is {loss:.2f} times the label entropy. {_how_often_right(step / total_steps)} {REMEDY}"
    )


def _how_often_right(progress: float) -> str:
    """How many of ten such alarms are right, rounded down. `progress` is the share of training."""
    few, half = (math.floor(10 * share_of_right_alarms(progress, failing)) for failing in (0.1, 0.5))
    return (
        f"In our runs of the bundled models, with balanced classes, {few} of 10 such alarms are right where one run in ten fails, "
        f"and {half} of 10 where half of the runs fail."
    )


def diverged_sentence(step: int, total_steps: int) -> str:
    """The alarm of a run that diverged."""
    return f"step {step} of {total_steps}: the train loss is NaN or Inf. {REMEDY}"


def verdict_after_alarm(sentence: str, what: str, step: int, total_steps: int, risk: float) -> str:
    """A verdict's sentence with a clause about the alarm. `what` is "an alarm" or "a false alarm"."""
    return f"{sentence[:-1]}; the early warning raised {what} at {_where(step, total_steps, risk)}."


def stopped_by_alarm(sentence: str, step: int, total_steps: int, risk: float) -> str:
    """For a run that its alarm ended. `sentence` is the sentence of its verdict so far."""
    return f"stopped by the alarm at {_where(step, total_steps, risk)}: {NOT_COUNTED}; verdict until then: {sentence}"


def _where(step: int, total_steps: int, risk: float) -> str:
    return f"step {step} of {total_steps} (risk {risk:.2f})"
