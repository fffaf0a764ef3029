"""The record of a run, and the files in its folder. `run.json` is written last: a run that has it is whole.

| file | what |
| --- | --- |
| `config.json` | the job: every setting with its source, the random streams, versions |
| `metrics.json` | the last and the best evaluation, and all by update step, on each development set |
| `predictions.npz` | logits and labels of the last evaluation of the first development set |
| `steps.rec` | the record of every update step: see [`read_steps`][hf_stability.diagnostics.step_record.read_steps] |
| `verdict.json` | the verdict with its evidence, and the alarm if there was one |
| `gradients.png` | the layers' gradient norms over update steps |
| `events.out.tfevents.*` | for TensorBoard, with the Trainer's own events; each resume adds a file |
| `times.json` | seconds; in a file of their own, so that all other files are the same bytes in a repeated run |
| `model/` | the model after the last step, with `--keep_model` |
| `encoder/` | only of a stage: the model after the last step without its head, with the tokenizer |
| `error.txt` | the traceback of a run that crashed; such a run has no `run.json` and is run again |
| `attempts.json`, `attempt-0/` ... | with `--on_alarm restart`: the attempts so far, and the `steps.rec` of those that ended |
| `audit/` | with `--on_alarm restart`: the first attempt, trained to its end in spite of its alarm, see `--audit_alarms` |
| `look.json` | with `--restarts`: the run's record at the look |
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


SCHEMAS = "hf_stability.run/"
RUN_SCHEMA = f"{SCHEMAS}3"
WITH_ATTEMPTS = f"{SCHEMAS}4"
"""The schema of a record with `attempts`: earlier versions cannot read it. All other records have `RUN_SCHEMA`."""
LOOK = "look.json"
UNJUDGED = "unjudged"
"""Status of a run made elsewhere that has a score, but no known baseline. Whether it failed is not known."""
BEFORE_TWO_WAY = "hf_stability.run/2"
"""A record without `cell`: all runs had plain seeds."""
BEFORE_ALARMS = "hf_stability.run/1"
"""A record also without `planned_steps`, `alarm_step` and `audited`: no run was stopped then."""


@dataclass(frozen=True)
class RunRecord:
    """The record of a run that has ended.

    A run that was stopped, or stopped early, is censored: how it would have ended is unknown. It has no `last`, `best`,
    `accuracy` and `train_loss`, because these describe the end of training. `metrics` has its evaluation at the stop.

    Args:
        id: the job's id.
        recipe, seed, task: the job's. For a run made elsewhere a negative seed means: the seed is not known, see
            `known_seed`.
        status: the verdict's status: `ok`, `failed`, `diverged`, `unknown`, `stopped` (by its alarm) or `stopped early`
            (others looked better, `--restarts`). Also `crashed` for a run that raised an error, and `waiting` for a run at
            its look after another run of its recipe crashed; these two are never written to disk. And `UNJUDGED`, only
            for a run made elsewhere (see `report.elsewhere`).
        metric: key of the headline metric; larger is better.
        last, best: the headline metric at the end of training, and at the best evaluation.
        accuracy: at the end of training; None for a regression.
        baseline: the headline metric of the best constant predictor.
        train_loss: mean over the last 10% of the update steps.
        steps: update steps that were made.
        planned_steps: update steps of the whole training.
        alarm_step: update step of the alarm; None without an alarm.
        audited: its alarm would have stopped it, but `--audit_alarms` drew it to be finished. False for a run that had
            diverged by then, because it is known to have failed.
        evaluations: number of evaluations; `best` is the best of them.
        sentence: the verdict in words.
        metrics: the last evaluation, on each development set.
        cell: the job's.
        ended_at_look: `--restarts` ended it at its look: it is `stopped early`, or had diverged by then.
        attempts: with `--on_alarm restart`, its attempts as `Attempt.to_dict` gives them; the last one is the run that all
            other fields describe. None without restarts; then neither this nor the next two are on disk.
        steps_spent: update steps of all attempts together, without an audit.
        first_status: how the first attempt ended: a status of above; `stopped` if its alarm ended it and no audit tells.
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
    attempts: list[dict[str, Any]] | None = None
    steps_spent: int | None = None
    first_status: str | None = None
    schema: str = RUN_SCHEMA

    @property
    def name(self) -> str:
        """The run's folder below `runs/`, the job's name."""
        return run_name(self.recipe, self.seed, self.cell)

    @property
    def known_seed(self) -> int | None:
        """The seed; None if it is not known. Pair runs by this value only."""
        return self.seed if self.seed >= 0 else None

    @property
    def report(self) -> float | None:
        """The headline metric at the end of training on the second half (`--validation_half both`), which selects nothing;
        None without it."""
        return None if self.last is None else self.metrics.get(f"eval_{HALVES[1]}_{self.metric}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; without the fields of attempts where the run has none."""
        content = asdict(self)
        return content if self.attempts is not None else {k: v for k, v in content.items() if k not in ATTEMPT_FIELDS}


ATTEMPT_FIELDS = ("attempts", "steps_spent", "first_status")
"""The fields of a record with restarts."""


def seed_text(seed: int) -> str:
    """A seed for a table: `3`; `unknown` for a negative one."""
    return str(seed) if seed >= 0 else "unknown"


FIRST_SETS = (f"eval_{HALVES[0]}_", "eval_", "eval_validation_matched_")
"""Prefixes of the metrics of the development set that counts: the first half, the only set, MNLI's matched set."""


def counting_key(metrics: Mapping[str, Any], metric: str) -> str:
    """The key of a metric on the development set that counts, in an evaluation. Raises KeyError if there is none."""
    for prefix in FIRST_SETS:
        if f"{prefix}{metric}" in metrics:
            return f"{prefix}{metric}"
    raise KeyError(metric)


def read_run(folder: Path, name: str = "run.json") -> RunRecord | None:
    """The record of the run in a folder; None if the run is missing or not finished, or if its record is damaged.

    Args:
        folder: the run's.
        name: the file's name; `LOOK` for the record at the look.

    Raises:
        InputError: another version wrote the record.
    """
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    schema = content.get("schema")
    if schema == BEFORE_TWO_WAY:
        content["schema"] = RUN_SCHEMA
    if schema == BEFORE_ALARMS:
        content |= {"schema": RUN_SCHEMA, "planned_steps": content.get("steps", 0)}
    content.setdefault("ended_at_look", content.get("status") == "stopped early")  # records of earlier versions
    known = content.get("schema") in (RUN_SCHEMA, WITH_ATTEMPTS)
    if str(schema).startswith(SCHEMAS) and not known:
        raise InputError(
            f"{folder / name}: schema {schema!r}; this version of hf_stability reads {WITH_ATTEMPTS} and older. Update "
            f"hf_stability, or move {folder} away"
        )
    try:
        return RunRecord(**content) if known else None
    except TypeError:  # fields are missing
        return None


def delete_checkpoints(folder: Path) -> None:
    """Delete the Trainer's checkpoints of a run that will not continue."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
