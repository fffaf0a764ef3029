"""The finished points of a loss surface in a file, so that a killed command goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..utils.files import write_text


class PointsFile:
    """The finished points of a surface in a file, one line per point, and the finished paths of runs.

    A file of other settings is begun anew. A last line that was cut is dropped.

    Args:
        path: the file. Its first line has the settings. Its folder is made if it does not exist.
        settings: everything that the numbers depend on, as values for JSON.

    Attributes:
        points: `(i, j) -> (loss, norm)`.
        paths: name of a run -> its path, as a list of dicts.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path = path
        self.points: dict[tuple[int, int], tuple[float, float]] = {}
        self.paths: dict[str, list[dict[str, Any]]] = {}
        head = json.loads(json.dumps(settings))
        lines = list(self._lines())
        lines = lines if lines and lines[0] == head else [head]
        for line in lines[1:]:
            if "path" in line:
                self.paths[line["run"]] = line["path"]
            else:
                self.points[line["i"], line["j"]] = (line["loss"], line["norm"])
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written again, because the next line would be appended to a line that was cut.
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                return

    def add(self, i: int, j: int, loss: float, norm: float) -> None:
        """Add a finished point."""
        self._append({"i": i, "j": j, "loss": loss, "norm": norm})

    def add_path(self, run: str, path: list[dict[str, Any]]) -> None:
        """Add the finished path of a run."""
        self.paths[run] = path
        self._append({"run": run, "path": path})

    def _append(self, line: Mapping[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
