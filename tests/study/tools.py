"""What several tests of studies look at: a run's files, a study's results, a kill."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path


RUN_FILES = [
    "config.json", "gradients.png", "metrics.json", "predictions.npz", "run.json", "steps.rec", "times.json",
    "verdict.json",
]  # fmt: skip
SUMMARIES = ["summary.csv", "summary.json", "summary.md"]


def results(folder: Path) -> dict[str, bytes]:
    """Every file of a study that must be the same bytes each time."""
    names = {*RUN_FILES, *SUMMARIES} - {"config.json", "times.json"}  # paths, versions; seconds
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.name in names}


def names_in(folder: Path) -> list[str]:
    """What is in a run's folder, without TensorBoard's event files, whose names have the time."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("events.out.tfevents."))


class Killed(BaseException):
    """As abrupt as a kill: nothing of ours catches it."""


def files_named(folder: Path, pattern: str) -> list[Path]:
    """The files below a folder in which processes write. Unlike `Path.rglob`, it passes over folders that vanish meanwhile."""
    return [Path(place, name) for place, _, names in os.walk(folder) for name in fnmatch.filter(names, pattern)]
