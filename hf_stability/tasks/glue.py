"""The nine GLUE tasks, and their data from a folder in the official layout or from the hub.

GLUE: Wang et al. 2019, arXiv 1804.07461. The official layout is that of the benchmark's own archives (`CoLA/train.tsv`,
`MNLI/dev_matched.tsv`, ...). The hub's copy is `nyu-mll/glue`. Both give the same columns and ids.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .hub import load_from_hub
from .task import Task, TaskData


if TYPE_CHECKING:
    from datasets import Dataset


logger = logging.getLogger(__name__)

HUB_DATASET = "nyu-mll/glue"

_F1 = ("f1", "accuracy", "acc_and_f1")
_ENTAILMENT = ("entailment", "not_entailment")

# Text columns and the order of the labels follow the hub's copy. Headline metrics are GLUE's own, except for MRPC and QQP:
# GLUE ranks them by the mean of accuracy and F1, here it is F1.
GLUE_TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation", "accuracy")),
        Task("sst2", ("sentence",), ("negative", "positive"), ("accuracy",)),
        Task("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), _F1),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), _F1),
        Task("stsb", ("sentence1", "sentence2"), None, ("pearson_and_spearman", "pearson", "spearman")),
        Task("mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), ("accuracy",)),
        Task("qnli", ("question", "sentence"), _ENTAILMENT, ("accuracy",)),
        Task("rte", ("sentence1", "sentence2"), _ENTAILMENT, ("accuracy",)),
        Task("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",)),
    )
}

# Numbers of examples. MNLI has two development sets: the genres of its training data, and five others.
OFFICIAL_COUNTS: dict[str, dict[str, int]] = {
    "cola": {"train": 8551, "validation": 1043},
    "sst2": {"train": 67349, "validation": 872},
    "mrpc": {"train": 3668, "validation": 408},
    "qqp": {"train": 363846, "validation": 40430},
    "stsb": {"train": 5749, "validation": 1500},
    "mnli": {"train": 392702, "validation_matched": 9815, "validation_mismatched": 9832},
    "qnli": {"train": 104743, "validation": 5463},
    "rte": {"train": 2490, "validation": 277},
    "wnli": {"train": 635, "validation": 71},
}


@dataclass(frozen=True)
class _Layout:
    """The official files of one task.

    Args:
        folder: name of the task's folder.
        text: names of the text columns in the file, as many as `Task.text_columns`.
        label: name of the label column.
        words: the labels as the file writes them, in the order of their ids. None for a number.
        header: the columns of a file without a header line. None if the first line is the header.
        skip_broken: drop rows with another number of columns than the header. QQP's official training file has some
            (questions with a line break). The hub's copy and `OFFICIAL_COUNTS` leave them out too.
    """

    folder: str
    text: tuple[str, ...]
    label: str
    words: tuple[str, ...] | None
    header: tuple[str, ...] | None = None
    skip_broken: bool = False


_LAYOUTS: dict[str, _Layout] = {
    "cola": _Layout("CoLA", ("sentence",), "label", ("0", "1"), header=("source", "label", "mark", "sentence")),
    "sst2": _Layout("SST-2", ("sentence",), "label", ("0", "1")),
    "mrpc": _Layout("MRPC", ("#1 String", "#2 String"), "Quality", ("0", "1")),
    "qqp": _Layout("QQP", ("question1", "question2"), "is_duplicate", ("0", "1"), skip_broken=True),
    "stsb": _Layout("STS-B", ("sentence1", "sentence2"), "score", None),
    "mnli": _Layout("MNLI", ("sentence1", "sentence2"), "gold_label", ("entailment", "neutral", "contradiction")),
    "qnli": _Layout("QNLI", ("question", "sentence"), "label", _ENTAILMENT),
    "rte": _Layout("RTE", ("sentence1", "sentence2"), "label", _ENTAILMENT),
    "wnli": _Layout("WNLI", ("sentence1", "sentence2"), "label", ("0", "1")),
}


def load_glue(task_name: str, data_dir: str | os.PathLike | None = None) -> TaskData:
    """A GLUE task's training and development data.

    Args:
        task_name: a key of `GLUE_TASKS`.
        data_dir: a folder in the official layout: the one with all tasks' folders, or the task's own. Default: None, the
            hub's copy. It is read from the cache of `datasets`, or else downloaded.

    Returns:
        Columns as in `Task.text_columns`, and `label` (int64 class id; float32 in [0, 5] for STS-B). If the number of rows
        is not the official one, a warning is logged. It is no error, because people shorten these files on purpose.

    Raises:
        InputError: a folder, file or column is missing. A row has a wrong number of columns or an unknown label (the
            message names file and line). Or there is no `data_dir`, no cached copy and no network.
    """
    task = GLUE_TASKS[task_name]
    if data_dir is not None:
        splits, source = _read_folder(task, Path(data_dir)), "folder (official layout)"
    else:
        splits, source = _read_hub(task), f"{HUB_DATASET} (hub)"
    for name, official in OFFICIAL_COUNTS[task_name].items():
        if splits[name].num_rows != official:
            logger.warning("%s %s: %d examples; GLUE has %d", task_name, name, splits[name].num_rows, official)
    return TaskData(task, splits.pop("train"), splits, source)


def _to_dataset(task: Task, texts: list[list[str]], labels: list) -> Dataset:
    """Args: texts: one list per text column, each of shape (num_examples,)."""
    from datasets import Dataset, Features, Value

    columns = dict(zip(task.text_columns, texts, strict=True))
    features = {name: Value("string") for name in task.text_columns}
    features["label"] = Value("float32" if task.is_regression else "int64")
    return Dataset.from_dict({**columns, "label": labels}, features=Features(features))


# --- a folder in the official layout ---------------------------------------------------------------------------------


def _read_folder(task: Task, data_dir: Path) -> dict[str, Dataset]:
    layout = _LAYOUTS[task.name]
    folder = _find_task_folder(task.name, layout, data_dir)
    splits = {}
    for split in OFFICIAL_COUNTS[task.name]:
        path = folder / f"{split.replace('validation', 'dev')}.tsv"
        if not path.is_file():
            raise InputError(f"--data_dir {data_dir}: {path} is missing; task {task.name} needs it")
        splits[split] = _read_tsv(task, layout, path)
    return splits


def _plain(name: str) -> str:
    """`"SST-2"`, `"sst2"` and `"Sst_2"` are one name."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _find_task_folder(task_name: str, layout: _Layout, data_dir: Path) -> Path:
    if not data_dir.is_dir():
        raise InputError(
            f"--data_dir {data_dir}: no such folder; give one with {layout.folder} in GLUE's official layout"
        )
    if (data_dir / layout.folder).is_dir():
        return data_dir / layout.folder
    for folder in sorted(data_dir.iterdir()):
        if folder.is_dir() and _plain(folder.name) == task_name:
            return folder
    if any(data_dir.glob("*.tsv")):
        return data_dir
    raise InputError(
        f"--data_dir {data_dir}: no folder {layout.folder} and no .tsv files in it; task {task_name} needs GLUE's "
        "official layout"
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers (from 1) and lines. Only newlines separate: the text contains quotes and other separators."""
    blank = None
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                line = line.removesuffix("\n").removesuffix("\r")
                if not line:
                    blank = blank or number
                    continue
                if blank is not None:  # blank lines at the end are harmless; one in between means a broken file
                    raise InputError(f"--data_dir: {path}, line {blank}: a blank line, expected tab-separated columns")
                yield number, line
    except UnicodeDecodeError as error:
        raise InputError(
            f"--data_dir: {path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(f"--data_dir: {path}: cannot be read ({error.strerror})") from error


def _read_tsv(task: Task, layout: _Layout, path: Path) -> Dataset:
    lines = _lines(path)
    header = layout.header
    if header is None:
        header = tuple(next(lines, (1, ""))[1].split("\t"))
        missing = [name for name in (*layout.text, layout.label) if name not in header]
        if missing:
            raise InputError(
                f"--data_dir: {path}, line 1: no column {missing[0]!r} in the header ({', '.join(header)}); "
                f"is it the file of another task than {task.name}?"
            )
    text_at = [header.index(name) for name in layout.text]
    label_at = header.index(layout.label)
    ids = None if layout.words is None else {word: index for index, word in enumerate(layout.words)}

    texts: list[list[str]] = [[] for _ in text_at]
    labels: list = []
    broken: list[int] = []
    for number, line in lines:
        row = line.split("\t")
        if len(row) != len(header):
            if layout.skip_broken:
                broken.append(number)
                continue
            raise InputError(
                f"--data_dir: {path}, line {number}: {len(row)} columns, expected {len(header)} ({', '.join(header)})"
            )
        labels.append(_read_label(row[label_at], ids, path, number))
        for column, at in zip(texts, text_at, strict=True):
            column.append(row[at])
    if broken:
        logger.warning("%s: dropped %d broken rows, the first in line %d", path, len(broken), broken[0])
    if not labels:
        raise InputError(f"--data_dir: {path}: the file has no examples")
    return _to_dataset(task, texts, labels)


def _read_label(word: str, ids: dict[str, int] | None, path: Path, number: int) -> int | float:
    if ids is not None:
        if word not in ids:
            raise InputError(f"--data_dir: {path}, line {number}: label {word!r}, expected one of {', '.join(ids)}")
        return ids[word]
    try:
        score = float(word)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"--data_dir: {path}, line {number}: score {word!r}, expected a number")
    return score


# --- the hub ---------------------------------------------------------------------------------------------------------


def _read_hub(task: Task) -> dict[str, Dataset]:
    way_out = f"give --data_dir, a folder with {_LAYOUTS[task.name].folder} in the official GLUE layout"
    loaded = load_from_hub(HUB_DATASET, task.name, f"--task_name {task.name}", way_out, never_changes=True)
    return {split: _from_hub(task, split, loaded) for split in OFFICIAL_COUNTS[task.name]}


def _from_hub(task: Task, split: str, loaded: dict[str, Dataset]) -> Dataset:
    """The columns and labels of one split, checked against `GLUE_TASKS`."""
    where = f"--task_name {task.name}: {HUB_DATASET}"
    if split not in loaded:
        raise InputError(f"{where} has no split {split!r}, only {', '.join(loaded)}")
    rows = loaded[split]
    missing = [name for name in (*task.text_columns, "label") if name not in rows.column_names]
    if missing:
        raise InputError(f"{where}, {split}: no column {missing[0]!r}, only {', '.join(rows.column_names)}")
    names = getattr(rows.features["label"], "names", None)
    if names is not None and tuple(names) != task.label_names:
        raise InputError(f"{where}, {split}: labels {', '.join(names)}, expected {', '.join(task.label_names or ())}")
    columns = rows.select_columns([*task.text_columns, "label"])[:]
    for row, label in enumerate(columns["label"]):
        if not task.is_regression and label not in range(task.num_labels):
            raise InputError(f"{where}, {split}, row {row}: label {label}, expected 0 to {task.num_labels - 1}")
    return _to_dataset(task, [columns[name] for name in task.text_columns], columns["label"])
