"""The early warning in words: what the alarm says, and what a verdict says of an alarm."""

from __future__ import annotations


REMEDY = (
    "a third of the learning rate, bias correction on, 10% warmup, more epochs (recipe mosbach2021); or another seed"
)


def alarm_sentence(
    step: int, total_steps: int, risk: float, layer: str, to_top: float, to_peak: float, spread: float, loss: float
) -> str:
    """For a run that looks like one that will fail.

    Args:
        step, total_steps: update step of the check, and of the whole training.
        risk: in [0, 1].
        layer: the one that has fallen furthest from its own highest level.
        to_top, to_peak: the lower layers' gradient norm, as a fraction of the classifier's and of its own highest level.
        spread: how far the logits differ between examples, nats.
        loss: train loss, as a fraction of the label entropy.
    """
    return (
        f"step {step} of {total_steps}: this run looks like one that fails (risk {risk:.2f}). The lower layers' gradients "
        f"are {to_top:.2g} of the classifier's and {to_peak:.2g} of their own highest level ({layer} fell furthest), the "
        f"logits differ by {spread:.2g} nats between examples, the train loss is {loss:.2f} of the label entropy. "
        f"What to change: {REMEDY}."
    )


def diverged_sentence(step: int, total_steps: int) -> str:
    """For a run that diverged."""
    return f"step {step} of {total_steps}: the training loss is not finite. What to change: {REMEDY}."


def verdict_after_alarm(sentence: str, what: str, step: int, total_steps: int, risk: float) -> str:
    """A verdict's sentence, and the alarm that the run raised: `what` is "an alarm" or "a false alarm"."""
    return f"{sentence[:-1]}; {what} at {_where(step, total_steps, risk)}."


def stopped_by_alarm(sentence: str, step: int, total_steps: int, risk: float) -> str:
    """For a run that its alarm ended; `sentence` is that of its verdict until then."""
    return f"stopped by the alarm at {_where(step, total_steps, risk)}: censored, not failed; until then {sentence}"


def _where(step: int, total_steps: int, risk: float) -> str:
    return f"step {step} of {total_steps} (risk {risk:.2f})"
