"""The record of a run: one row of numbers per update step, in a compact file that grows by appending.

Format, version 1. The first line is JSON, `{"schema": "hf_stability.steps/1", "columns": [...], ...}`. After its newline
come rows of little-endian float32, one value per column. A file cut short by a kill loses its last, partial row. An update
step that was lost has no row; the column `step` tells which steps are there. If layers are unfrozen or frozen during
training, their columns are NaN in the rows without them.

| column | unit |
| --- | --- |
| `step` | update step, from 1 |
| `learning_rate` | learning rate of this step; with several parameter groups, of the group with most of the encoder's weights |
| `learning_rate/<i>` | learning rate of parameter group i, if the groups have different rates |
| `loss` | training loss, mean over the step's examples (nats for a classification), unfiltered: NaN and Inf are kept |
| `logit_std` | how far the logits differ between the step's examples: their standard deviation, mean over classes |
| `grad_norm` | total gradient norm, before clipping with StableTrainer, after clipping with the callback alone |
| `clipped` | 1 if the step hit `max_grad_norm`, else 0 |
| `labels/<k>`, `predicted/<k>` | how many of the step's examples are labelled, and are predicted, as class k |
| `grad_norm/<layer>` | the layer's gradient norm, before or after clipping as `grad_norm` |

`diagnostics` add these columns. The files in `probes/` have their formulas.

| column | unit |
| --- | --- |
| `clip_factor` | factor by which clipping scales the gradient, in [0, 1] |
| `update_ratio/<layer>` | norm of the layer's update over the norm of its weights |
| `step_factor` | factor by which bias correction scales the step; times `learning_rate` it is the rate in effect |
| `pooler_saturation` | share of the pooler's tanh outputs beyond 0.99, in [0, 1] |
| `prediction_entropy` | entropy of the predicted probabilities, mean over the step's examples (nats) |
| `one_class_share` | share of the step's examples that get the most predicted class, in (0, 1] |
| `distance/<layer>` | norm of the difference between the layer's weights and its weights at the start of training |
| `cls_variance` | variance of the [CLS] states over the step's examples, mean over dimensions |

The first line also has `max_steps` and `warmup_steps`; `trained`, if weights are frozen at the start (see `trained_parts`); and
`since` and `until`: layer -> first or last update step of layers that were unfrozen or frozen later. 10,000 update steps of a model of 28 layers take 1.5 MB; with all
`diagnostics` 4 MB.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..verdicts.evidence import total_counts, trained_evidence


if TYPE_CHECKING:
    import pandas


logger = logging.getLogger(__name__)

SCHEMA = "hf_stability.steps/1"
LAYER_PREFIX = "grad_norm/"
LAST_PART = 0.1  # share of training, at its end, over which predicted classes are counted

# Where the records are: in the folder of a study's run, or in a Trainer's output folder; in the folder of a study.
IN_A_RUN = ("steps.rec", "stability/steps.rec")
IN_A_STUDY = "runs/*/*/steps.rec"
PLAIN_SEED = re.compile(r"seed-(\d+)")
TWO_WAY_SEEDS = re.compile(r"init-(\d+)_order-(\d+)_dropout-(\d+)")


class StepRecord:
    """A run's record, kept in memory and appended to a file block by block.

    A damaged file never stops a resume. Complete rows are kept; a warning names the missing steps.

    Args:
        columns: names of the columns, `step` first.
        path: the file. None keeps the record in memory only.
        last_step: the checkpoint's update step: an existing file's rows up to it are kept. 0 for a new run.
        info: more JSON for the first line, for example `max_steps` and `warmup_steps`. On a resume the values in the
            file are kept, except for the keys given here.

    Attributes:
        columns: names of the columns that `append` takes now.
        file_columns: all columns of the record: `columns`, and those that were dropped during training.
        info: the other values of the first line.

    Raises:
        InputError: a column is named twice, or the first is not `step`.
    """

    def __init__(
        self, columns: Sequence[str], path: Path | None = None, last_step: int = 0, info: dict | None = None
    ) -> None:
        _check_columns(columns)
        self.columns = list(columns)
        self.file_columns = list(columns)
        self.info = dict(info or {})
        self.path = path
        self.blocks: list[np.ndarray] = []  # in the order of `file_columns`
        if path is None:
            return
        if last_step > 0:
            self._resume(last_step)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(self.file_columns, self.blocks, self.info)

    def _resume(self, last_step: int) -> None:
        """Keep the file's rows up to update step `last_step`."""
        try:
            header, rows = read_rows(self.path)
            _check_columns(header["columns"])
        except InputError as error:
            lacking = f"lacks all {last_step} update steps before the checkpoint"
            if self.path.exists():
                aside = self.path.with_name(self.path.name + ".unreadable")
                os.replace(self.path, aside)
                lacking = f"{lacking} ({error} The file is now {aside.name}.)"
            self._warn_of_missing(lacking, last_step)
            return
        rows = rows[: _whole(rows[:, 0], last_step)]
        missing = last_step - len(rows)
        if missing:
            there = np.isin(np.arange(1, last_step + 1), rows[:, 0])
            first = int(there.argmin()) + 1
            self._warn_of_missing(
                f"lacks {missing} of the {last_step} update steps before the checkpoint, the first is {first}",
                last_step,
            )
        old = header["columns"]
        # A column that only later steps had is dropped: these steps are done again.
        known = ~np.isnan(rows).all(0)
        old = [name for name, kept in zip(old, known, strict=True) if kept or name in self.columns or name == "step"]
        rows = _arranged(rows, header["columns"], old)
        if set(old) != set(self.columns):
            differ = [
                *(f"+{c}" for c in self.columns if c not in old),
                *(f"-{c}" for c in old if c not in self.columns),
            ]
            some = ", ".join(differ[:4]) + (", ..." if len(differ) > 4 else "")
            logger.warning(
                f"{self.path}: the columns changed since the record was begun ({some}). They are NaN in the update steps "
                "without them."
            )
        self.file_columns = _union(old, self.columns)
        self.blocks = [_arranged(rows, old, self.file_columns)]
        self.info = {**_info(header), **self.info}
        if isinstance(self.info.get("since"), dict):
            self.info["since"] = {k: step for k, step in self.info["since"].items() if step <= last_step}

    def _warn_of_missing(self, lacking: str, last_step: int) -> None:
        logger.warning(
            f"{self.path}: the record {lacking}. It continues from step {last_step + 1}. Statistics over the missing steps "
            "are unknown."
        )

    def append(self, rows: np.ndarray) -> None:
        """Append rows of shape `(steps, columns)` in one write, so that a kill loses at most this block.

        Raises:
            InputError: the rows have another width.
        """
        rows = np.ascontiguousarray(rows, dtype="<f4")
        if rows.ndim != 2 or rows.shape[1] != len(self.columns):
            raise InputError(
                f"rows of shape {rows.shape}: must be (steps, {len(self.columns)}), columns {', '.join(self.columns)}."
            )
        rows = _arranged(rows, self.columns, self.file_columns)
        self.blocks.append(rows)  # in memory first, in case the file fails
        if self.path is not None:
            # Not in append mode: after a write that failed half-way (a full disk), the next one must start at a whole row.
            with open(self.path, "r+b") as file:
                file.seek(self._end)
                file.write(rows.tobytes())
            self._end += rows.nbytes

    def set_columns(self, columns: Sequence[str]) -> None:
        """Take rows of these columns from now on, in this order. For layers that are unfrozen or frozen during training.

        New columns are NaN in the rows before; dropped columns are NaN from now on. If there are new columns, the file is
        rewritten once, atomically.

        Raises:
            InputError: a column is named twice, or the first is not `step`.
        """
        _check_columns(columns)
        if not set(columns) <= set(self.file_columns):
            file_columns = _union(self.file_columns, columns)
            blocks = [_arranged(block, self.file_columns, file_columns) for block in self.blocks]
            self._write(file_columns, blocks, self.info)
            self.file_columns, self.blocks = file_columns, blocks
        self.columns = list(columns)

    def update_info(self, **values: Any) -> None:
        """Set values of the first line. The file is rewritten atomically."""
        info = {**self.info, **values}
        self._write(self.file_columns, self.blocks, info)
        self.info = info

    def _write(self, columns: list[str], blocks: list[np.ndarray], info: dict) -> None:
        """Write the whole file. The old one stays until the new one is complete."""
        if self.path is None:
            return
        first_line = json.dumps({"schema": SCHEMA, "columns": columns, **info})
        content = first_line.encode() + b"\n" + b"".join(block.tobytes() for block in blocks)
        temporary = self.path.with_name(self.path.name + ".new")
        temporary.write_bytes(content)
        os.replace(temporary, self.path)
        self._end = len(content)  # where the next block belongs

    def rows(self) -> np.ndarray:
        """All rows, `(steps, file_columns)` float32."""
        return np.concatenate(self.blocks) if self.blocks else np.zeros((0, len(self.file_columns)), "<f4")

    def to_dict(self) -> dict[str, Any]:
        """The record as `read_steps` returns it."""
        return as_dict(self.file_columns, self.rows(), self.info)


def missing_steps(path: str | os.PathLike, last_step: int) -> int:
    """How many of the update steps 1 to `last_step` a record lacks. If some are missing, a run can be begun anew.

    Args:
        path: as for `read_steps`. A file that does not exist or cannot be read lacks all of them.
        last_step: the checkpoint's update step.
    """
    try:
        _, rows = read_rows(_record_file(Path(path)))
    except InputError:
        return last_step
    return last_step - _whole(rows[:, 0], last_step)


def read_steps(path: str | os.PathLike) -> dict[str, Any]:
    """Read a run's record as arrays.

    | key | value |
    | --- | --- |
    | `step`, `learning_rate`, `loss`, `logit_std`, `grad_norm`, `clipped` | the column, `(steps,)` |
    | `clip_factor`, `step_factor`, `pooler_saturation` and so on | the column, `(steps,)`, if it was recorded |
    | `layers` | names of the layers, from input to output |
    | `layer_norms` | gradient norms, `(steps, layers)` |
    | `update_ratio`, `distance` | `(steps, layers)`; `(steps, 0)` if not recorded |
    | `labels`, `predicted` | counts, `(steps, classes)` |
    | `learning_rates` | `(steps, parameter groups)`; `(steps, 0)` if all groups have the same rate |
    | `info` | the other values of the file's first line, such as `max_steps` and `warmup_steps` |

    `steps` is the number of rows. An update step that was lost has no row.

    Args:
        path: the file, or the run's folder: a Trainer's `output_dir`, or the folder of a study's run.

    Returns:
        the record as in the table.

    Raises:
        InputError: the file does not exist, is not a record, or has another version.
    """
    header, rows = read_rows(_record_file(Path(path)))
    return as_dict(header["columns"], rows, _info(header))


def steps_frame(path: str | os.PathLike) -> pandas.DataFrame:
    """Read the record of a run, or of all runs of a study, into a `pandas.DataFrame`.

    The frame has a row for each update step. Its columns have the record's names and are float32. The index:

    | path | index |
    | --- | --- |
    | a run | `step` |
    | a study | `recipe`, `seed`, `step` |
    | a study with two-way seeds | `recipe`, `init`, `order`, `dropout`, `step` |
    | a study with both kinds of seeds | `recipe`, `run`, `step` |

    If a run lacks a column that another run has, the column is NaN in its rows. `frame.attrs` has the other values of the
    record's first line, such as `max_steps` and `warmup_steps`. For a study they are by run:
    `frame.attrs["mosbach2021/seed-001"]`.

    Args:
        path: the record's file, the run's folder as for
            [`read_steps`][hf_stability.diagnostics.step_record.read_steps], or a study's folder.

    Returns:
        the frame.

    Raises:
        InputError: the file does not exist, is not a record, or has another version.

    Example:
        ```python
        frame = steps_frame("out")  # a Trainer's output_dir
        frame["grad_norm/layer_00"].plot(logy=True)
        frame = steps_frame("rte")  # a study's folder
        frame["loss"].groupby(["recipe", "step"]).median()
        ```
    """
    import pandas

    path = Path(path)
    files, levels = _files_of_study(path)
    if not files:
        return _frame(_record_file(path))
    frames = {key: _frame(files[key]) for key in sorted(files)}
    joined = pandas.concat(frames, names=["recipe", *levels, "step"])
    joined.attrs = {
        files[key].parent.relative_to(path / "runs").as_posix(): frame.attrs for key, frame in frames.items()
    }
    return joined


def _files_of_study(path: Path) -> tuple[dict[tuple, Path], list[str]]:
    """The records of a study by recipe and run, and the names of the index levels that tell a recipe's runs apart."""
    files = [file for file in path.glob(IN_A_STUDY) if _seeds_of(file)]
    levels = {1: ["seed"], 3: ["init", "order", "dropout"]}
    numbers = {len(_seeds_of(file)) for file in files}
    if len(numbers) > 1:
        return {(file.parts[-3], file.parts[-2]): file for file in files}, ["run"]
    return {(file.parts[-3], *_seeds_of(file)): file for file in files}, levels[numbers.pop()] if files else []


def _seeds_of(file: Path) -> tuple[int, ...]:
    """The seeds in the name of a run's folder: one seed, or three for two-way seeds. Empty if it is not a run's folder."""
    name = file.parts[-2]
    found = PLAIN_SEED.fullmatch(name) or TWO_WAY_SEEDS.fullmatch(name)
    return tuple(map(int, found.groups())) if found else ()


def _frame(file: Path) -> pandas.DataFrame:
    """One record as a `pandas.DataFrame`."""
    import pandas

    header, rows = read_rows(file)
    steps = pandas.Index(rows[:, 0].astype(np.int64), name="step")
    frame = pandas.DataFrame(rows[:, 1:].astype(np.float32), index=steps, columns=header["columns"][1:])
    frame.attrs = _info(header)
    return frame


def training_evidence(record: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for `judge` from a record: `judge(eval_labels=..., eval_predictions=..., **training_evidence(record))`.

    Args:
        record: as `read_steps` returns it. `warmup_steps` and `total_steps` come from its `info`. They are None if the
            record does not have them.
    """
    info, steps = record["info"], record["step"]
    total = info.get("max_steps")
    last = steps > (1 - LAST_PART) * (total or max(steps, default=0))
    labels, losses = total_counts(record["labels"]), record.get("loss")
    if losses is not None and labels is None and not np.isfinite(losses).any():
        losses = None  # no loss was ever seen; with labels it would mean divergence
    known = bool(np.isfinite(record["layer_norms"]).any())
    return {
        "steps": steps,
        "losses": losses,
        "layer_norms": record["layer_norms"] if known else None,
        "layers": record["layers"] if known else None,
        "warmup_steps": info.get("warmup_steps"),
        "total_steps": total,
        "train_label_counts": labels,
        "train_predicted_counts": total_counts(record["predicted"][last]),
        "trained": trained_evidence(info, record["layers"]),
    }


def read_rows(path: Path) -> tuple[dict, np.ndarray]:
    """The first line and the complete rows of a record file."""
    try:
        first_line, _, data = path.read_bytes().partition(b"\n")
        header = json.loads(first_line)
        schema = header["schema"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a record of training steps.") from None
    if schema != SCHEMA:
        raise InputError(f"{path}: its schema is {schema}, but this version of hf_stability reads {SCHEMA}.")
    columns = header.get("columns")
    if not isinstance(columns, list) or columns[:1] != ["step"] or not all(isinstance(name, str) for name in columns):
        raise InputError(f"{path}: not a record of training steps: its first column is not `step`.")
    whole = len(data) // (4 * len(columns)) * len(columns)
    return header, np.frombuffer(data, "<f4", count=whole).reshape(-1, len(columns))


def as_dict(columns: list[str], rows: np.ndarray, info: dict) -> dict[str, Any]:
    """The record as `read_steps` returns it."""

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
        "learning_rates": stacked("learning_rate/"),
        "info": dict(info),
    }


def _record_file(path: Path) -> Path:
    """The record in a run's folder. A path to a file is returned as it is."""
    if not path.is_dir():
        return path
    found = [path / name for name in IN_A_RUN if (path / name).is_file()]
    if not found:
        raise InputError(f"{path}: no record of training steps in this folder (looked for {' and '.join(IN_A_RUN)}).")
    return found[0]


def _info(header: dict) -> dict[str, Any]:
    return {key: value for key, value in header.items() if key not in ("schema", "columns")}


def _whole(steps: np.ndarray, last_step: int) -> int:
    """How many rows have update steps up to `last_step`, and come before a row that is out of order (a torn file)."""
    with np.errstate(invalid="ignore"):  # a torn row may have NaN
        in_order = (steps % 1 == 0) & (np.diff(steps, prepend=0) > 0) & (steps <= last_step)
    return len(steps) if in_order.all() else int(in_order.argmin())


def _arranged(rows: np.ndarray, columns: list[str], wanted: list[str]) -> np.ndarray:
    """Rows of `columns` rearranged as rows of `wanted`. A column that was not there is NaN."""
    if columns == wanted:
        return rows
    arranged = np.full((len(rows), len(wanted)), np.nan, "<f4")
    both = [name for name in wanted if name in columns]
    arranged[:, [wanted.index(name) for name in both]] = rows[:, [columns.index(name) for name in both]]
    return arranged


def _union(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """All columns: the new ones in their order. Each other column keeps its place behind the same column as before."""
    union = list(new)
    for before, column in zip(old, old[1:], strict=False):
        if column not in union:
            union.insert(union.index(before) + 1, column)
    return union


def _check_columns(columns: Sequence[str]) -> None:
    if list(columns[:1]) != ["step"] or len(set(columns)) < len(columns):
        raise InputError(
            f"columns {', '.join(map(str, columns))}: the first must be `step`, and no name may occur twice."
        )
