"""`progress.json` in a study's folder: how far the study is. A running study writes it every two seconds.

It is no result: it changes with time, and a study does not need it. `hf-stability status` reads it.

| key | content |
| --- | --- |
| `state` | `running`; `ended`; `interrupted` by Ctrl-C, SIGTERM or an error |
| `kind` | `run`, or `stage` while a recipe's stages are trained |
| `host`, `process`, `since` | where the study runs: host, process id, start in UTC |
| `written`, `beat` | when the file was written, in the host's UTC; how often |
| `planned` | names of all planned runs, with those kept from an earlier call |
| `running` | the runs that train: recipe, seed, steps, total, loss and risk of each; `attempt` only with `--on_alarm restart` |
| `finished`, `failed` | number of finished runs, and how many of them failed |
| `again` | number of crashed runs that will be run again |
| `crashed` | name of each crashed run -> its error in one line |
| `share` | done share of this call's work, in [0, 1] |
| `seconds_left` | estimated; null where unknown |
| `decided` | why the study ended before all its seeds, `decided after 10 of 20 seeds`; only with `--until` |
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..utils.files import finite, write_text


PROGRESS = "progress.json"
WRITE_EVERY = 2.0
"""Seconds between two versions of the file."""
PROGRESS_SCHEMA = "hf_stability.progress/1"


@dataclass(frozen=True)
class RunningRun:
    """A run that trains.

    Args:
        name: the job's name.
        recipe: the recipe's name.
        seed: the seed, or the cell of two-way seeds, as text.
        steps, total: update steps done, and of the whole training.
        loss: train loss of the last recorded update step, in nats; None before the first.
        risk: the last risk of the early warning, in [0, 1]; None before the first.
        attempt: `attempt 2 of 3` of a run that restarts; else empty.
    """

    name: str
    recipe: str
    seed: str
    steps: int
    total: int
    loss: float | None = None
    risk: float | None = None
    attempt: str = ""


@dataclass(frozen=True)
class Snapshot:
    """How far a study is at one moment. The module's table explains the fields."""

    state: str = "running"
    kind: str = "run"
    host: str = ""
    process: int = 0
    since: str = ""
    written: str = ""
    beat: int = 0
    planned: tuple[str, ...] = ()
    running: tuple[RunningRun, ...] = ()
    finished: int = 0
    failed: int = 0
    again: int = 0
    crashed: dict[str, str] = field(default_factory=dict)
    share: float = 0.0
    seconds_left: float | None = None
    decided: str = ""
    schema: str = PROGRESS_SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. A loss that is not finite becomes None."""
        content = {key: value for key, value in asdict(self).items() if key != "decided" or value}
        content["running"] = [{k: v for k, v in run.items() if k != "attempt" or v} for run in content["running"]]
        return finite(content)


def write_progress(folder: Path, snapshot: Snapshot) -> None:
    """Write the file atomically. Raises OSError if that is not possible, or if the folder has gone."""
    write_text(folder / PROGRESS, json.dumps(snapshot.to_dict()) + "\n")


def read_progress(folder: Path) -> Snapshot | None:
    """The study's last snapshot. None if there is no file, if it is damaged, or if another version wrote it."""
    try:
        content = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        return _snapshot(content) if content["schema"] == PROGRESS_SCHEMA else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _snapshot(content: Mapping[str, Any]) -> Snapshot:
    """Raises ValueError, KeyError or TypeError for values of the wrong kind."""
    numbers: dict[str, Any] = {name: int(content[name]) for name in ("process", "beat", "finished", "failed", "again")}
    words: dict[str, Any] = {name: str(content[name]) for name in ("state", "kind", "host", "since", "written")}
    return Snapshot(
        **numbers,
        **words,
        planned=tuple(map(str, content["planned"])),
        running=tuple(_running(**run) for run in content["running"]),
        crashed={str(name): str(error) for name, error in dict(content["crashed"]).items()},
        share=float(content["share"]),
        seconds_left=_number(content["seconds_left"]),
        decided=str(content.get("decided", "")),
    )


def _running(
    name: Any, recipe: Any, seed: Any, steps: Any, total: Any, loss: Any, risk: Any, attempt: Any = ""
) -> RunningRun:
    words = str(name), str(recipe), str(seed)
    return RunningRun(*words, int(steps), int(total), _number(loss), _number(risk), str(attempt))


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if not math.isfinite(value):
        raise ValueError(value)
    return float(value)
