"""The verdict on a run: its own, or one made from what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..diagnostics.early_warning import find_alarm
from ..errors import InputError
from ..verdicts.constants import at_or_below
from ..verdicts.verdict import Verdict, judge
from .files import Run
from .words import DATA


def judge_run(run: Run, values: Mapping[str, Any]) -> Verdict | None:
    """The run's own verdict, else one made from what is known of the run; None if that is too little.

    Args:
        values: as in `causes`; also `dev_set`, the name of the evaluation set of `dev_labels`.
    """
    if run.verdict is not None:
        return run.verdict
    given: dict[str, Any] = {"warmup_steps": values.get("warmup_steps"), "total_steps": values.get("total_steps")}
    labels = values.get("train_labels")
    if labels is not None and len(labels) and np.min(labels) >= 0:
        given["train_label_counts"] = np.bincount(labels)
    if run.record:
        record = run.record
        known = bool(np.isfinite(record["layer_norms"]).any())
        counts = np.nansum(record["labels"], axis=0)
        given |= {
            "steps": record["step"],
            "losses": values.get("losses"),
            "layer_norms": record["layer_norms"] if known else None,
            "layers": record["layers"] if known else None,
        }
        if counts.sum() > 0:
            given["train_label_counts"] = counts
            last = record["step"] > 0.9 * (values.get("total_steps") or record["step"][-1])
            given["train_predicted_counts"] = np.nansum(record["predicted"][last], axis=0)
    else:
        logged = [(entry["step"], entry["loss"]) for entry in run.history if "loss" in entry]
        if logged:
            given["steps"], given["losses"] = (np.asarray(part) for part in zip(*logged, strict=True))
    score, dev = _last_accuracy(run.history, values.get("dev_set")), values.get("dev_labels")
    if score is not None and dev is not None and len(dev) and np.min(dev) >= 0:
        baseline = float(np.bincount(dev).max() / len(dev))
        given |= {"score": as_logged(score, baseline, len(dev)), "baseline": baseline, "metric": "accuracy"}
    try:
        verdict = judge(**given)
    except InputError:  # too little is known, or the record is damaged
        return None
    # A finite loss alone is no evidence.
    knows = verdict.status != "unknown" or {"optimisation", "gradients", "train_one_class"} & set(verdict.evidence)
    return verdict if knows else None


def _last_accuracy(history: list[dict[str, Any]], dev_set: str | None) -> float | None:
    """The last `eval_accuracy`, else that of the named set. Each evaluation set has its own baseline."""
    for key in ("eval_accuracy", f"eval_{dev_set}_accuracy"):
        scores = [entry[key] for entry in history if isinstance(entry.get(key), (int, float))]
        if scores:
            return scores[-1] / 100 if 1 < scores[-1] <= 100 else scores[-1]  # some scripts log percentages
    return None


def as_logged(score: float, baseline: float, examples: int) -> float:
    """A logged accuracy without rounding noise around the baseline.

    Returns the baseline itself if the score means as many correct examples, or agrees with it to 3 or 4 decimals.
    """
    rounded = any(score == round(score, decimals) == round(baseline, decimals) for decimals in (3, 4))
    return baseline if rounded or (score > baseline and at_or_below(score, baseline, examples)) else score


def alarm_of(run: Run, verdict: Verdict | None) -> dict[str, Any] | None:
    """The early warning's alarm, as in `Alarm.to_dict`: from the verdict, else from the record; None without an alarm."""
    if verdict is not None and "alarm" in verdict.evidence:
        return verdict.evidence["alarm"]
    info = run.record["info"] if run.record else {}
    if not {"warmup_steps", "max_steps"} <= set(info):
        return None
    alarm = find_alarm(run.record)
    return None if alarm is None else alarm.to_dict()


def status_and_sentence(run: Run, verdict: Verdict | None, values: Mapping[str, Any]) -> tuple[str | None, str]:
    """The verdict's status and sentence. An unfinished run has no status, only a sentence so far: a failed run can heal."""
    if verdict is None:
        return None, f"no verdict: too little is known of this run. Give {DATA}."
    step, total = values.get("step"), values.get("total_steps")
    if run.verdict is None and step and total and step < total:
        so_far = verdict.sentence.removeprefix("failed: ").removeprefix("ok: ")
        return None, f"so far, at step {step} of {total}: {so_far}"
    return verdict.status, verdict.sentence
