"""The record of a run: one row of numbers an update step, in a compact file that grows by appending.

Format, version 1. The first line is JSON, `{"schema": "hf_stability.steps/1", "columns": [...], ...}`; after its newline
come rows of little-endian float32, one value a column. A file cut short by a kill loses its last, partial row.

| column | unit |
| --- | --- |
| `step` | update step, from 1 |
| `learning_rate` | the rate of this step |
| `loss` | training loss, mean over the step's examples (nats for a classification), unfiltered: NaN and Inf are there |
| `logit_std` | how far the logits differ between the step's examples: their standard deviation, mean over classes |
| `grad_norm` | total gradient norm, before clipping where StableTrainer records, after it where the callback does |
| `clipped` | 1 where the step hit `max_grad_norm` |
| `labels/<k>`, `predicted/<k>` | number of the step's examples of class k, and predicted as class k |
| `grad_norm/<layer>` | the layer's norm, as `grad_norm` |
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError


SCHEMA = "hf_stability.steps/1"
LAYER_PREFIX = "grad_norm/"


class StepRecord:
    """A run's record, held in memory and appended to a file block by block.

    Args:
        columns: names of the columns, `step` first.
        path: the file, or None to keep it in memory only.
        last_step: rows of an existing file up to this update step are kept (a resumed run), 0 for a new run.
        info: more JSON for the first line: whether norms are before or after clipping, warmup steps ...

    Raises:
        InputError: the run is resumed, and the file has other columns (another model).
    """

    def __init__(self, columns: list[str], path: Path | None = None, last_step: int = 0, info: dict | None = None):
        self.columns = list(columns)
        self.info = dict(info or {})
        self.path = path
        self.blocks: list[np.ndarray] = []
        if path is None:
            return
        if last_step > 0 and path.is_file():
            header, rows = read_rows(path)
            if header["columns"] != self.columns:
                raise InputError(f"{path}: the record of the run to be resumed has other columns; move it away")
            self.blocks.append(rows[rows[:, 0] <= last_step])
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".new")
        first_line = json.dumps({"schema": SCHEMA, "columns": self.columns, **self.info})
        temporary.write_bytes(first_line.encode() + b"\n" + b"".join(block.tobytes() for block in self.blocks))
        os.replace(temporary, path)

    def append(self, rows: np.ndarray) -> None:
        """Append rows of shape `(steps, columns)`; one write, so that a kill loses at most this block."""
        rows = np.ascontiguousarray(rows, dtype="<f4")
        self.blocks.append(rows)
        if self.path is not None:
            with open(self.path, "ab") as file:
                file.write(rows.tobytes())

    def rows(self) -> np.ndarray:
        """All rows, `(steps, columns)` float32."""
        return np.concatenate(self.blocks) if self.blocks else np.zeros((0, len(self.columns)), "<f4")

    def to_dict(self) -> dict[str, Any]:
        """The record as in [`read_steps`]."""
        return as_dict(self.columns, self.rows(), self.info)


def read_steps(path: str | os.PathLike) -> dict[str, Any]:
    """Read a run's record.

    Returns:
        each column as an array of shape `(steps,)`, and `layers`: names, `layer_norms`: `(steps, layers)`,
        `labels` and `predicted`: counts, `(steps, classes)`, `info`: what else the first line says.

    Raises:
        InputError: no such file, not a record, or one of a newer version.
    """
    header, rows = read_rows(Path(path))
    info = {key: value for key, value in header.items() if key not in ("schema", "columns")}
    return as_dict(header["columns"], rows, info)


def read_rows(path: Path) -> tuple[dict, np.ndarray]:
    """The first line and the whole rows of a record file."""
    try:
        first_line, _, data = path.read_bytes().partition(b"\n")
        header = json.loads(first_line)
        schema = header["schema"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a record of training steps") from None
    if schema != SCHEMA:
        raise InputError(f"{path}: schema {schema}, this version reads {SCHEMA}")
    width = 4 * len(header["columns"])
    whole = len(data) // width * width
    return header, np.frombuffer(data[:whole], "<f4").reshape(-1, len(header["columns"]))


def as_dict(columns: list[str], rows: np.ndarray, info: dict) -> dict[str, Any]:
    """See [`read_steps`]."""

    def stacked(prefix: str) -> np.ndarray:
        return rows[:, [i for i, column in enumerate(columns) if column.startswith(prefix)]]

    return {
        **{column: rows[:, i] for i, column in enumerate(columns) if "/" not in column},
        "layers": [c.removeprefix(LAYER_PREFIX) for c in columns if c.startswith(LAYER_PREFIX)],
        "layer_norms": stacked(LAYER_PREFIX),
        "labels": stacked("labels/"),
        "predicted": stacked("predicted/"),
        "info": dict(info),
    }
