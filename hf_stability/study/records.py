"""What is kept of a run, in its folder; `run.json` is written last, so that a run that has one is whole.

| file | what |
| --- | --- |
| `config.json` | the job: everything that was set, where it came from, the random streams, versions |
| `metrics.json` | the last and the best evaluation, and all by update step, on each development set; a stopped run's until its stop |
| `predictions.npz` | logits and labels of the last evaluation of the first development set |
| `steps.rec` | the record of every update step: see [`read_steps`][hf_stability.diagnostics.step_record.read_steps] |
| `verdict.json` | the verdict with its evidence, and the alarm where there was one |
| `gradients.png` | the layers' gradient norms over update steps |
| `events.out.tfevents.*` | TensorBoard's, the Trainer's own included; one file, and one more for each resume |
| `times.json` | seconds; apart, so that everything else is the same bytes when it is run again |
| `model/` | the model after the last step, where it is kept |
| `encoder/` | of a stage: the model after the last step without its head, with the tokenizer |
| `error.txt` | the traceback of a run that crashed; it has no `run.json` and is run again |
| `look.json` | with `--restarts`: the run's record at the look, as it is if it is not finished; its checkpoint is kept till then |
| `run.json` | the run's record |
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..tasks.load import HALVES
from .job import run_name


RUN_SCHEMA = "hf_stability.run/3"
LOOK = "look.json"
BEFORE_TWO_WAY = "hf_stability.run/2"
"""Without `cell`: all runs were of plain seeds."""
BEFORE_ALARMS = "hf_stability.run/1"
"""Without `planned_steps`, `alarm_step` and `audited` too: no run was stopped then."""


@dataclass(frozen=True)
class RunRecord:
    """The record of a finished run, or of one that its alarm stopped.

    A run that was stopped, or stopped early, is censored: nobody knows how it would have ended. It has no `last`, `best`,
    `accuracy` and `train_loss`, which are of the end of training; its evaluation at the stop is in `metrics`.

    Args:
        id: the job's id.
        recipe, seed, task: the job's.
        status: the verdict's: `ok`, `failed`, `diverged`, `stopped` (by its alarm), `stopped early` (others looked better,
            `--restarts`); `crashed` for one that raised, `waiting` for one at its look while another one of its recipe
            crashed (neither is ever written to disk).
        metric: key of the headline metric; greater is better.
        last, best: the headline metric at the end of training, and at the best evaluation.
        accuracy: at the end of training; None for a regression.
        baseline: the headline metric of the best constant predictor.
        train_loss: mean over the last 10% of the update steps.
        steps: update steps that were made.
        planned_steps: update steps of the whole training.
        alarm_step: update step of the alarm; None where there was none.
        audited: the alarm was to stop it, and it was finished anyway, by the draw of `--audit_alarms`. Not a run that
            had diverged by then: it is known to have failed, stopped or not.
        evaluations: how many evaluations `best` is the best of.
        sentence: the verdict in words.
        metrics: of the last evaluation, on each development set.
        cell: the job's.
        ended_at_look: `--restarts` ended it there: those that are `stopped early`, and those that had diverged by then.
    """

    id: str
    recipe: str
    seed: int
    task: str
    status: str
    metric: str
    last: float | None = None
    best: float | None = None
    accuracy: float | None = None
    baseline: float | None = None
    train_loss: float | None = None
    steps: int = 0
    planned_steps: int = 0
    alarm_step: int | None = None
    audited: bool = False
    evaluations: int = 0
    sentence: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    cell: dict[str, int] | None = None
    ended_at_look: bool = False
    schema: str = RUN_SCHEMA

    @property
    def name(self) -> str:
        """The run's folder below `runs/`, the job's name."""
        return run_name(self.recipe, self.seed, self.cell)

    @property
    def report(self) -> float | None:
        """The headline metric at the end of training on the half that selects nothing (`--validation_half both`); None
        where there is none."""
        return None if self.last is None else self.metrics.get(f"eval_{HALVES[1]}_{self.metric}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


FIRST_SETS = (f"eval_{HALVES[0]}_", "eval_", "eval_validation_matched_")
"""Prefixes of the metrics of the development set that counts: of two halves, of a single set, of MNLI's."""


def counting_key(metrics: Mapping[str, Any], metric: str) -> str:
    """The key of a metric on the development set that counts, in an evaluation; KeyError where there is none."""
    for prefix in FIRST_SETS:
        if f"{prefix}{metric}" in metrics:
            return f"{prefix}{metric}"
    raise KeyError(metric)


def read_run(folder: Path, name: str = "run.json") -> RunRecord | None:
    """The record of the run in a folder; None where the run is missing or was not finished.

    Args:
        folder: the run's.
        name: of the file; `LOOK` for the record at the look.

    Raises:
        InputError: it is another version's.
    """
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if content.get("schema") == BEFORE_TWO_WAY:
        content["schema"] = RUN_SCHEMA
    if content.get("schema") == BEFORE_ALARMS:
        content |= {"schema": RUN_SCHEMA, "planned_steps": content.get("steps", 0)}
    content.setdefault("ended_at_look", content.get("status") == "stopped early")  # of before it was there
    if content.get("schema") != RUN_SCHEMA:
        raise InputError(
            f"{folder / name}: schema {content.get('schema')!r}; this version of hf_stability reads {RUN_SCHEMA} and older"
        )
    return RunRecord(**content)


def delete_checkpoints(folder: Path) -> None:
    """Delete the Trainer's checkpoints of a run that will not go on."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
