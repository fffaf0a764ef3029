"""The settings of a study's runs, each with its source, from the runs' `config.json`; also versions, and runs that crashed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from ...errors import InputError
from ...utils.trainer_files import read_object
from ..records import RunRecord


FACTS = ("task", "model", "dtype", "device", "mixed_precision", "processes", "threads")
"""Fields of a job that are settings of the study, not arguments of the Trainer."""


@dataclass(frozen=True)
class StudySettings:
    """Settings of a study's recipes.

    Args:
        recipes: recipe -> rows of argument, value and source, as text.
        versions: library versions, with the number of runs that were made with them.
        examples: number of development examples of a verdict; None if unknown.
        left_out: recipe, kind (`crashed` or `unfinished`) and number of runs that have no record.
    """

    recipes: dict[str, list[list[str]]] = field(default_factory=dict)
    versions: list[dict[str, Any]] = field(default_factory=list)
    examples: int | None = None
    left_out: list[tuple[str, str, int]] = field(default_factory=list)

    def differing(self) -> list[list[str]]:
        """Rows of an argument and its value in each recipe, of arguments that differ between recipes; `-` if it is not set."""
        values = {name: {row[0]: row[1] for row in rows} for name, rows in self.recipes.items()}
        arguments = dict.fromkeys(row[0] for rows in self.recipes.values() for row in rows)
        rows = [[argument, *(own.get(argument, "-") for own in values.values())] for argument in arguments]
        return [row for row in rows if len(set(row[1:])) > 1]


def read_json(path: Path) -> dict[str, Any]:
    """As `read_object`; empty if the file is missing, damaged, or has no object."""
    try:
        return read_object(path)
    except InputError:
        return {}


def settings_rows(config: Mapping[str, Any]) -> list[list[str]]:
    """Rows of argument, value and source, from the content of a run's `config.json`.

    Every argument that is not listed keeps the Trainer's default. A local folder is given by its name only.
    """
    job = config.get("job") or {}
    sources = job.get("sources") or {}
    values = {name: job[name] for name in FACTS if job.get(name) not in (None, "")}
    if PurePath(str(values.get("model", ""))).is_absolute():
        values["model"] = PurePath(values["model"]).name
    values |= job.get("args") or {}
    values |= {f"model_config.{name}": value for name, value in (job.get("model_config") or {}).items()}
    return [[name, str(value), str(sources.get(name, ""))] for name, value in values.items()]


def read_settings(folder: Path, runs: Sequence[RunRecord]) -> StudySettings:
    """The settings of the runs' recipes, from a study's folder. Runs without a `config.json` are passed over.

    Args:
        folder: the study's folder.
        runs: the finished runs.
    """
    recipes: dict[str, list[list[str]]] = {}
    versions: Counter[str] = Counter()
    examples = None
    for run in runs:
        own = folder / "runs" / run.name
        config = read_json(own / "config.json")
        if not config:
            continue
        recipes.setdefault(run.recipe, settings_rows(config))
        versions[json.dumps(config.get("versions") or {})] += 1
        if examples is None:
            examples = (read_json(own / "verdict.json").get("evidence") or {}).get("examples")
    return StudySettings(
        recipes=recipes,
        versions=[{"versions": json.loads(text), "n": n} for text, n in versions.items() if text != "{}"],
        examples=examples if isinstance(examples, int) else None,
        left_out=_without_record(folder),
    )


def _without_record(folder: Path) -> list[tuple[str, str, int]]:
    """Runs that have begun and have no `run.json`."""
    counts: Counter[tuple[str, str]] = Counter()
    for path in sorted(folder.glob("runs/*/*/config.json")):
        own = path.parent
        if not (own / "run.json").is_file():
            counts[own.parent.name, "crashed" if (own / "error.txt").is_file() else "unfinished"] += 1
    return [(recipe, kind, n) for (recipe, kind), n in counts.items()]
