"""Writes the results of a run into its folder: metrics, predictions, times, and its record (see `records.py`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..callback import StabilityCallback
from ..diagnostics.named_output import named_output
from ..diagnostics.recorder import FILE
from ..diagnostics.step_record import LAST_PART
from ..diagnostics.verdict_file import VerdictFile
from ..trainer import StableTrainer
from ..utils.files import finite, write_json
from .attempts import attempt_fields, attempts_of, restarts
from .job import Job
from .records import LOOK, RunRecord, delete_checkpoints


TIMES = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def write_results(job: Job, folder: Path, trainer: StableTrainer, seconds: float, is_whole: bool = True) -> RunRecord:
    """Write a trained run's files, its record last. For a job with `until_look` the record is `look.json`.

    Args:
        job, folder: the run and its folder.
        trainer: after its training.
        seconds: since the start of the run.
        is_whole: False: leave the record and the checkpoints to `audited_run`.

    Raises:
        OSError: a file could not be written, during training or now. The run has no record then, and is run again.
    """
    unwritten = {FILE, VerdictFile.name} & trainer.stability.guard.off
    if unwritten:  # the callback lets a training go on without them; a finished run must have them
        raise OSError(f"{' and '.join(sorted(unwritten))} could not be written; is the disk full?")
    evaluations = trainer.evaluations
    last, best = trainer.last_metrics, trainer.best_metrics
    times = {
        "wall": seconds,
        "train": _times(trainer.state.log_history[-1]),
        "evaluations": [_times(e) for e in evaluations],
    }
    evaluations, last, best = [_without_times(e) for e in evaluations], _without_times(last), _without_times(best)
    metric = trainer.stability.metric
    sets = trainer.eval_dataset
    prefix = f"eval_{next(iter(sets))}_" if isinstance(sets, dict) else "eval_"  # MNLI: the first set counts
    evaluation = trainer.stability.evaluation
    if evaluation.predictions is not None:
        logits = named_output(evaluation.predictions, evaluation.output_names)
        np.savez_compressed(folder / "predictions.npz", logits=logits, labels=evaluation.labels)
    write_json(
        folder / "metrics.json", finite({"metric": metric, "last": last, "best": best, "evaluations": evaluations})
    )
    write_json(folder / "times.json", times)
    if not job.until_look and is_whole:
        delete_checkpoints(folder)
    stability = trainer.stability
    record, verdict, constant, alarm = stability.record, stability.verdict, stability.constant, stability.alarm
    final = record["loss"][record["step"] > (1 - LAST_PART) * trainer.state.max_steps]
    run = RunRecord(
        id=job.id,
        recipe=job.recipe,
        seed=job.seed,
        task=job.task,
        status=verdict.status,
        metric=metric,
        last=last.get(f"{prefix}{metric}"),
        best=best.get(f"{prefix}{metric}"),
        accuracy=last.get(f"{prefix}accuracy"),
        baseline=constant["score"] if constant else None,
        train_loss=float(np.mean(final, dtype=np.float64)) if len(final) else None,
        steps=trainer.state.global_step,
        planned_steps=trainer.state.max_steps,
        alarm_step=alarm.step if alarm else None,
        audited=was_audited(stability),
        evaluations=len(evaluations),
        sentence=verdict.sentence,
        metrics={k: v for k, v in last.items() if k.startswith("eval_")},
        cell=job.cell,
    )
    if stability.stopped or stability.stopped_early:  # these describe the end of training
        run = replace(run, last=None, best=None, accuracy=None, train_loss=None)
    if restarts(job.args):
        run = replace(run, **attempt_fields(stability.attempts, verdict.status))
    run = RunRecord(**finite(run.to_dict()))  # the same values as read from the file
    if not is_whole:
        return run
    write_json(folder / (LOOK if job.until_look else "run.json"), run.to_dict())
    return run


def audited_run(folder: Path, run: RunRecord, status: str) -> RunRecord:
    """Write the record of a run after the audit of its first attempt.

    Args:
        folder: the run's.
        run: its record without the audit.
        status: how the first attempt ended.
    """
    run = replace(run, **attempt_fields(attempts_of(run), run.status, status))
    write_json(folder / "run.json", run.to_dict())
    delete_checkpoints(folder)
    return run


def was_audited(stability: StabilityCallback) -> bool:
    """Whether a run's alarm would have stopped it, and it was finished to see how it ends.

    False if it had diverged by then. Stopped there it would count as diverged, not as censored. So such a run tells nothing
    about the stopped runs.
    """
    if not stability.audited or stability.alarm is None:
        return False
    verdict = stability.verdict
    first = verdict.evidence.get("first_nonfinite_step") if verdict.status == "diverged" else None
    return first is None or first > stability.alarm.step


def _times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if key == "step" or key.endswith(TIMES)}


def _without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    # Sorted, as in a resumed run, which reads them from its checkpoint.
    return {key: metrics[key] for key in sorted(metrics) if not key.endswith(TIMES)}
