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

With `diagnostics` also those that were asked for; [`probes`][hf_stability.diagnostics.probes] has their formulas:

| column | unit |
| --- | --- |
| `clip_factor` | what clipping multiplies the gradient by, in [0, 1]: norms after clipping are those before it times this |
| `update_ratio/<layer>` | norm of the step over the norm of the layer's weights |
| `step_factor` | what bias correction multiplies the step by; `learning_rate` times this is the rate in effect |
| `pooler_saturation` | share of the pooler's tanh outputs beyond .99, in [0, 1] |
| `prediction_entropy` | entropy of the predicted probabilities, mean over the step's examples (nats) |
| `one_class_share` | share of the step's examples that are predicted as the most predicted class, in (0, 1] |
| `distance/<layer>` | norm of the layer's weights minus those that training began with |
| `cls_variance` | variance of the [CLS] states over the step's examples, mean over dimensions |

10,000 update steps of a model of 28 layers take 1.5 MB, with all `diagnostics` 4 MB.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError


SCHEMA = "hf_stability.steps/1"
LAYER_PREFIX = "grad_norm/"
LAST_PART = 0.1  # share of training over which "predicts one class" is counted

# Where a folder has its records: a run of a study, the output folder of a Trainer with the callback; a study.
IN_A_RUN = ("steps.rec", "stability/steps.rec")
IN_A_STUDY = "runs/*/seed-[0-9]*/steps.rec"


class StepRecord:
    """A run's record, held in memory and appended to a file block by block.

    Args:
        columns: names of the columns, `step` first.
        path: the file, or None to keep it in memory only.
        last_step: rows of an existing file up to this update step are kept (a resumed run), 0 for a new run.
        info: more JSON for the first line: whether norms are before or after clipping, warmup steps ...

    Raises:
        InputError: the run is resumed, and the file has other columns (another model, other `diagnostics`).
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
            _check_columns(path, header["columns"], self.columns)
            self.blocks.append(rows[rows[:, 0] <= last_step])
        path.parent.mkdir(parents=True, exist_ok=True)
        first_line = json.dumps({"schema": SCHEMA, "columns": self.columns, **self.info})
        content = first_line.encode() + b"\n" + b"".join(block.tobytes() for block in self.blocks)
        temporary = path.with_name(path.name + ".new")
        temporary.write_bytes(content)
        os.replace(temporary, path)
        self._end = len(content)  # where the next block belongs

    def append(self, rows: np.ndarray) -> None:
        """Append rows of shape `(steps, columns)`; one write, so that a kill loses at most this block.

        Raises:
            InputError: rows of another width.
        """
        rows = np.ascontiguousarray(rows, dtype="<f4")
        if rows.ndim != 2 or rows.shape[1] != len(self.columns):
            raise InputError(
                f"rows of shape {rows.shape}: the record takes (steps, {len(self.columns)}), columns {', '.join(self.columns)}"
            )
        if self.path is not None:
            # Not in append mode: after a write that failed half-way (a full disk) the next one must not stand askew.
            with open(self.path, "r+b") as file:
                file.seek(self._end)
                file.write(rows.tobytes())
            self._end += rows.nbytes
        self.blocks.append(rows)

    def rows(self) -> np.ndarray:
        """All rows, `(steps, columns)` float32."""
        return np.concatenate(self.blocks) if self.blocks else np.zeros((0, len(self.columns)), "<f4")

    def to_dict(self) -> dict[str, Any]:
        """The record as in [`read_steps`]."""
        return as_dict(self.columns, self.rows(), self.info)


def read_steps(path: str | os.PathLike) -> dict[str, Any]:
    """Read a run's record.

    Args:
        path: the file, or the run's folder (a Trainer's `output_dir`, a run of a study).

    Returns:
        each column as an array of shape `(steps,)`, and `layers`: names, `layer_norms`: `(steps, layers)`,
        `update_ratio` and `distance`: the same, `(steps, 0)` where they were not recorded, `labels` and `predicted`:
        counts, `(steps, classes)`, `info`: what else the first line says.

    Raises:
        InputError: no such file, not a record, or one of another version.
    """
    header, rows = read_rows(_record_file(Path(path)))
    return as_dict(header["columns"], rows, _info(header))


def steps_frame(path: str | os.PathLike):
    """Read the record of a run, or of all runs of a study, into a `pandas.DataFrame`.

    ```python
    frame = steps_frame("out")  # a Trainer's output_dir
    frame["grad_norm/layer_00"].plot(logy=True)
    frame = steps_frame("rte")  # a study's folder
    frame["loss"].groupby(["recipe", "step"]).median()
    ```

    Args:
        path: the file, or the run's folder as for [`read_steps`], or a study's folder.

    Returns:
        a row for each update step, the columns named as in the record, float32. Index: `step`; of a study `recipe`,
        `seed`, `step`, where a column that a run does not have is NaN in its rows. `frame.attrs` has what else the first
        line says (`max_steps`, `warmup_steps` ...); of a study by run: `frame.attrs["mosbach2021/seed-001"]`.

    Raises:
        InputError: no such file, not a record, or one of another version.
    """
    import pandas

    path = Path(path)
    files = {(file.parts[-3], int(file.parts[-2].removeprefix("seed-"))): file for file in path.glob(IN_A_STUDY)}
    if not files:
        return _frame(_record_file(path))
    frames = {key: _frame(files[key]) for key in sorted(files)}
    joined = pandas.concat(frames, names=["recipe", "seed", "step"])
    joined.attrs = {
        files[key].parent.relative_to(path / "runs").as_posix(): frame.attrs for key, frame in frames.items()
    }
    return joined


def _frame(file: Path):
    """One record as a `pandas.DataFrame`."""
    import pandas

    header, rows = read_rows(file)
    steps = pandas.Index(rows[:, 0].astype(np.int64), name="step")
    frame = pandas.DataFrame(rows[:, 1:].astype(np.float32), index=steps, columns=header["columns"][1:])
    frame.attrs = _info(header)
    return frame


def training_evidence(record: Mapping[str, Any]) -> dict[str, Any]:
    """What [`judge`][hf_stability.diagnostics.failures.judge] takes of a record, by keyword; for a loop of one's own.

    ```python
    verdict = judge(eval_labels=labels, eval_predictions=logits, **training_evidence(read_steps("out")))
    ```

    Args:
        record: as [`read_steps`] gives it; `warmup_steps` and `max_steps` from its `info`, None where they are not there.
    """
    info, steps = record["info"], record["step"]
    total = info.get("max_steps")
    last = steps > (1 - LAST_PART) * (total or max(steps, default=0))
    labels, losses = _total(record["labels"]), record.get("loss")
    if losses is not None and labels is None and not np.isfinite(losses).any():
        losses = None  # with labels it would be divergence; without, nobody showed a loss
    known = bool(np.isfinite(record["layer_norms"]).any())
    return {
        "steps": steps,
        "losses": losses,
        "layer_norms": record["layer_norms"] if known else None,
        "layers": record["layers"] if known else None,
        "warmup_steps": info.get("warmup_steps"),
        "total_steps": total,
        "train_label_counts": labels,
        "train_predicted_counts": _total(record["predicted"][last]),
    }


def _total(counts: np.ndarray) -> np.ndarray | None:
    """Sum over steps `(steps, classes) -> (classes,)`; None where nothing was counted."""
    total = np.nansum(counts, axis=0)
    return total if total.size and total.sum() > 0 else None


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
    columns = header.get("columns") or []
    if columns[:1] != ["step"]:
        raise InputError(f"{path}: not a record of training steps: its first column is not `step`")
    whole = len(data) // (4 * len(columns)) * len(columns)
    return header, np.frombuffer(data, "<f4", count=whole).reshape(-1, len(columns))


def as_dict(columns: list[str], rows: np.ndarray, info: dict) -> dict[str, Any]:
    """See [`read_steps`]."""

    def stacked(prefix: str) -> np.ndarray:
        return rows[:, [i for i, column in enumerate(columns) if column.startswith(prefix)]]

    return {
        **{column: rows[:, i] for i, column in enumerate(columns) if "/" not in column},
        "layers": [c.removeprefix(LAYER_PREFIX) for c in columns if c.startswith(LAYER_PREFIX)],
        "layer_norms": stacked(LAYER_PREFIX),
        "update_ratio": stacked("update_ratio/"),
        "distance": stacked("distance/"),
        "labels": stacked("labels/"),
        "predicted": stacked("predicted/"),
        "info": dict(info),
    }


def _record_file(path: Path) -> Path:
    """The record in a run's folder; a file is itself."""
    if not path.is_dir():
        return path
    found = [path / name for name in IN_A_RUN if (path / name).is_file()]
    if not found:
        raise InputError(f"{path}: no record of training steps in this folder; looked for {' and '.join(IN_A_RUN)}")
    return found[0]


def _info(header: dict) -> dict[str, Any]:
    return {key: value for key, value in header.items() if key not in ("schema", "columns")}


def _check_columns(path: Path, there: list[str], wanted: list[str]) -> None:
    if there == wanted:
        return
    differ = [*(f"+{c}" for c in wanted if c not in there), *(f"-{c}" for c in there if c not in wanted)]
    some = ", ".join(differ[:4]) + (", ..." if len(differ) > 4 else "") or "their order"
    raise InputError(
        f"{path}: the record of the run to be resumed has other columns ({some}): resume with the model and the "
        "`diagnostics` that the run began with, or move the file away"
    )
