"""The record of a run: one row of numbers an update step, in a compact file that grows by appending.

Format, version 1. The first line is JSON, `{"schema": "hf_stability.steps/1", "columns": [...], ...}`; after its newline
come rows of little-endian float32, one value a column. A file cut short by a kill loses its last, partial row. Update
steps that were lost have no row: the column `step` tells which rows are there. A column that came or went in
mid-training (layers that were unfrozen or frozen) is NaN in the rows without it.

| column | unit |
| --- | --- |
| `step` | update step, from 1 |
| `learning_rate` | the rate of this step; of several parameter groups, of the one with most of the encoder's weights |
| `learning_rate/<i>` | the rate of parameter group i, where the groups have different rates |
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
| `pooler_saturation` | share of the pooler's tanh outputs beyond 0.99, in [0, 1] |
| `prediction_entropy` | entropy of the predicted probabilities, mean over the step's examples (nats) |
| `one_class_share` | share of the step's examples that are predicted as the most predicted class, in (0, 1] |
| `distance/<layer>` | norm of the layer's weights minus those that training began with |
| `cls_variance` | variance of the [CLS] states over the step's examples, mean over dimensions |

10,000 update steps of a model of 28 layers take 1.5 MB, with all `diagnostics` 4 MB.

The first line also says `max_steps`, `warmup_steps`, and `since`: layer -> first update step in which it was trained, for
layers that were unfrozen in mid-training.
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


if TYPE_CHECKING:  # imported where it is used
    from pandas import DataFrame


logger = logging.getLogger(__name__)

SCHEMA = "hf_stability.steps/1"
LAYER_PREFIX = "grad_norm/"
LAST_PART = 0.1  # share of training over which "predicts one class" is counted

# Where a folder has its records: a run of a study, the output folder of a Trainer with the callback; a study.
IN_A_RUN = ("steps.rec", "stability/steps.rec")
IN_A_STUDY = "runs/*/*/steps.rec"
PLAIN_SEED = re.compile(r"seed-(\d+)")
TWO_WAY_SEEDS = re.compile(r"init-(\d+)_order-(\d+)_dropout-(\d+)")


class StepRecord:
    """A run's record, held in memory and appended to a file block by block.

    A resume never fails for the file that it finds: what is whole is kept, what is missing is warned about.

    Args:
        columns: names of the columns, `step` first.
        path: the file, or None to keep it in memory only.
        last_step: rows of an existing file up to this update step are kept (a resumed run), 0 for a new run.
        info: more JSON for the first line: whether norms are before or after clipping, warmup steps ... On a resume what
            the file says is kept where this does not say it anew.

    Attributes:
        columns: names of the columns that [`append`] takes, as set last.
        file_columns: all columns of the record: these, and those that went in mid-training.
        info: what else the first line says.

    Raises:
        InputError: a column is named twice, or the first is not `step`.
    """

    def __init__(self, columns: Sequence[str], path: Path | None = None, last_step: int = 0, info: dict | None = None):
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
        """Take over what the file has of the update steps up to `last_step`."""
        try:
            header, rows = read_rows(self.path)
            _check_columns(header["columns"])
        except InputError as error:
            lacking = f"lacks all {last_step} update steps before the checkpoint"
            if self.path.exists():
                aside = self.path.with_name(self.path.name + ".unreadable")
                os.replace(self.path, aside)
                lacking = f"{lacking} ({error}; the file is now {aside.name})"
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
        # Columns that are new to the rows kept (of steps that are done again) are as if they had never been there.
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
                f"{self.path}: this training has other columns than the record that it resumes ({some}); they are NaN in "
                "the update steps without them"
            )
        self.file_columns = _union(old, self.columns)
        self.blocks = [_arranged(rows, old, self.file_columns)]
        self.info = {**_info(header), **self.info}
        if isinstance(self.info.get("since"), dict):
            self.info["since"] = {k: step for k, step in self.info["since"].items() if step <= last_step}

    def _warn_of_missing(self, lacking: str, last_step: int) -> None:
        logger.warning(
            f"{self.path}: the record {lacking}. It goes on from step {last_step + 1}; statistics over the missing steps "
            "are unknown"
        )

    def append(self, rows: np.ndarray) -> None:
        """Append rows of shape `(steps, columns)`, in the order of `columns`; one write, so that a kill loses at most
        this block.

        Raises:
            InputError: rows of another width.
        """
        rows = np.ascontiguousarray(rows, dtype="<f4")
        if rows.ndim != 2 or rows.shape[1] != len(self.columns):
            raise InputError(
                f"rows of shape {rows.shape}: the record takes (steps, {len(self.columns)}), columns {', '.join(self.columns)}"
            )
        rows = _arranged(rows, self.columns, self.file_columns)
        self.blocks.append(rows)  # it is in memory, whatever becomes of the file
        if self.path is not None:
            # Not in append mode: after a write that failed half-way (a full disk) the next one must not stand askew.
            with open(self.path, "r+b") as file:
                file.seek(self._end)
                file.write(rows.tobytes())
            self._end += rows.nbytes

    def set_columns(self, columns: Sequence[str]) -> None:
        """From now on take rows of these columns, in this order (layers were unfrozen or frozen in mid-training).

        New columns are NaN in the rows before, columns that go are NaN from now on. Where there are new ones, the file is
        rewritten, once and atomically.

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
        """Set values of the first line; the file is rewritten atomically."""
        info = {**self.info, **values}
        self._write(self.file_columns, self.blocks, info)
        self.info = info

    def _write(self, columns: list[str], blocks: list[np.ndarray], info: dict) -> None:
        """Write the whole file: the old one stays until the new one is complete."""
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
        """The record as in [`read_steps`]."""
        return as_dict(self.file_columns, self.rows(), self.info)


def missing_steps(path: str | os.PathLike, last_step: int) -> int:
    """How many of the update steps 1 to `last_step` a record lacks, for who would rather begin a run anew than resume it.

    Args:
        path: as for [`read_steps`]; a file that is not there or cannot be read lacks all of them.
        last_step: the checkpoint's update step.
    """
    try:
        _, rows = read_rows(_record_file(Path(path)))
    except InputError:
        return last_step
    return last_step - _whole(rows[:, 0], last_step)


def read_steps(path: str | os.PathLike) -> dict[str, Any]:
    """Read a run's record.

    Args:
        path: the file, or the run's folder (a Trainer's `output_dir`, a run of a study).

    Returns:
        each column as an array of shape `(steps,)`, and `layers`: names, `layer_norms`: `(steps, layers)`,
        `update_ratio` and `distance`: the same, `(steps, 0)` where they were not recorded, `labels` and `predicted`:
        counts, `(steps, classes)`, `learning_rates`: `(steps, parameter groups)`, `info`: what else the first line says.
        `steps` is the number of rows: an update step that was lost has none.

    Raises:
        InputError: no such file, not a record, or one of another version.
    """
    header, rows = read_rows(_record_file(Path(path)))
    return as_dict(header["columns"], rows, _info(header))


def steps_frame(path: str | os.PathLike) -> DataFrame:
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
        `seed`, `step`, of two-way seeds `recipe`, `init`, `order`, `dropout`, `step`, of both in one folder `recipe`,
        `run`, `step`. A column that a run does not have is NaN in its rows. `frame.attrs` has what else the first line
        says (`max_steps`, `warmup_steps` ...); of a study by run: `frame.attrs["mosbach2021/seed-001"]`.

    Raises:
        InputError: no such file, not a record, or one of another version.
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
    """The records of a study by recipe and run, and what tells the runs of a recipe apart."""
    files = [file for file in path.glob(IN_A_STUDY) if _seeds_of(file)]
    levels = {1: ["seed"], 3: ["init", "order", "dropout"]}
    numbers = {len(_seeds_of(file)) for file in files}
    if len(numbers) > 1:
        return {(file.parts[-3], file.parts[-2]): file for file in files}, ["run"]
    return {(file.parts[-3], *_seeds_of(file)): file for file in files}, levels[numbers.pop()] if files else []


def _seeds_of(file: Path) -> tuple[int, ...]:
    """The seeds in the name of a run's folder: one, or those of two-way seeds; none where it is no run's."""
    name = file.parts[-2]
    found = PLAIN_SEED.fullmatch(name) or TWO_WAY_SEEDS.fullmatch(name)
    return tuple(map(int, found.groups())) if found else ()


def _frame(file: Path) -> DataFrame:
    """One record as a `pandas.DataFrame`."""
    import pandas

    header, rows = read_rows(file)
    steps = pandas.Index(rows[:, 0].astype(np.int64), name="step")
    frame = pandas.DataFrame(rows[:, 1:].astype(np.float32), index=steps, columns=header["columns"][1:])
    frame.attrs = _info(header)
    return frame


def training_evidence(record: Mapping[str, Any]) -> dict[str, Any]:
    """What [`judge`][hf_stability.verdicts.verdict.judge] takes of a record, by keyword; for a loop of one's own.

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
    columns = header.get("columns")
    if not isinstance(columns, list) or columns[:1] != ["step"] or not all(isinstance(name, str) for name in columns):
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
        "learning_rates": stacked("learning_rate/"),
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


def _whole(steps: np.ndarray, last_step: int) -> int:
    """How many rows are of update steps up to `last_step`, up to the first one that is out of order (a torn file)."""
    with np.errstate(invalid="ignore"):  # of what is no number at all
        in_order = (steps % 1 == 0) & (np.diff(steps, prepend=0) > 0) & (steps <= last_step)
    return len(steps) if in_order.all() else int(in_order.argmin())


def _arranged(rows: np.ndarray, columns: list[str], wanted: list[str]) -> np.ndarray:
    """Rows of `columns` as rows of `wanted`, NaN where there is no such column."""
    if columns == wanted:
        return rows
    arranged = np.full((len(rows), len(wanted)), np.nan, "<f4")
    both = [name for name in wanted if name in columns]
    arranged[:, [wanted.index(name) for name in both]] = rows[:, [columns.index(name) for name in both]]
    return arranged


def _union(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """All columns: the new ones in their order, each of the others behind what it was behind before."""
    union = list(new)
    for before, column in zip(old, old[1:], strict=False):
        if column not in union:
            union.insert(union.index(before) + 1, column)
    return union


def _check_columns(columns: Sequence[str]) -> None:
    if list(columns[:1]) != ["step"] or len(set(columns)) < len(columns):
        raise InputError(
            f"columns {', '.join(map(str, columns))}: the first is to be `step`, and each to be there once"
        )
