"""`verdict.json`: the verdict on a run, in the run's folder."""

from __future__ import annotations

from pathlib import Path

from ..utils.files import write_json
from .outcome import Outcome
from .sinks import Sink


VERDICT = "verdict.json"


class VerdictFile(Sink):
    """Writes the verdict.

    Args:
        folder: the run's folder.
    """

    name = "the file of the verdict"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def end(self, outcome: Outcome) -> None:
        write_json(self.folder / VERDICT, outcome.verdict.to_dict())
