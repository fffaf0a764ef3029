"""Runs written by hand, as a study leaves them: for analyses with a known answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hf_stability.diagnostics.step_record import StepRecord
from hf_stability.study.records import RunRecord
from hf_stability.utils.files import write_json


LAYERS = ["embeddings", "layer_00", "layer_01", "layer_02", "layer_03", "classifier"]


def leave_run(
    folder: Path,
    recipe: str,
    seed: int,
    status: str = "ok",
    norms: np.ndarray | None = None,
    logits: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    warmup: int = 0,
    rate: float = 2e-5,
    metric: str = "accuracy",
    **values: Any,
) -> RunRecord:
    """A run in its folder.

    Args:
        folder: the study's.
        norms: (T, layers) of `LAYERS`; None: without a step record.
        logits, labels: None: without predictions.
        warmup: update steps.
        rate: learning rate.
        values: of the record.
    """
    steps = 0 if norms is None else len(norms)
    run = RunRecord("id", recipe, seed, "made", status, metric, **{"steps": steps, "planned_steps": steps, **values})
    path = folder / "runs" / run.name
    path.mkdir(parents=True)
    write_json(path / "run.json", run.to_dict())
    write_json(path / "config.json", {"job": {"args": {"learning_rate": rate}}})
    if norms is not None:
        columns = ["step", "loss", *(f"grad_norm/{layer}" for layer in LAYERS)]
        record = StepRecord(columns, path / "steps.rec", info={"max_steps": steps, "warmup_steps": warmup})
        record.append(np.column_stack([np.arange(1, steps + 1), np.ones(steps), norms]))
    if logits is not None:
        np.savez_compressed(path / "predictions.npz", logits=np.asarray(logits, np.float32), labels=labels)
    return run
