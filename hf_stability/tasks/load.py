"""Load a task's data and prepare it for training: take a part of it, tokenise it, save it on disk."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import re
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from ..errors import InputError, nearest
from ..utils.processes import is_running
from .dataset import read_dataset
from .files import load_files, load_tables
from .glue import GLUE_TASKS, load_glue
from .task import Task, TaskData


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


logger = logging.getLogger(__name__)

PROGRESS_BAR_ROWS = 20_000  # fewer rows take only a second or two to tokenise
_RECORD = "task.json"
_SAVING = ".saving-"  # in the name of a folder while it is written
_SAVING_BEFORE = re.compile(r"\.[0-9a-f]{16}\.\w{8}")  # such a name in earlier versions
_HOUR_S, _DAY_S = 60 * 60.0, 24 * 60 * 60.0


def load_task_data(
    task_name: str | None = None,
    data_dir: str | os.PathLike | None = None,
    train_file: str | os.PathLike | None = None,
    validation_file: str | os.PathLike | None = None,
    text_column_names: Sequence[str] | None = None,
    label_column_name: str | None = None,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    train_split_name: str | None = None,
    validation_split_name: str | None = None,
) -> TaskData:
    """The data of a GLUE task, of a bundled demo task, of the user's own files, or of a data set that `datasets` reads.

    Args:
        task_name: a GLUE task (`"rte"`, `"RTE"`, `"SST-2"`) or a demo task. None with other data.
        data_dir: for a GLUE task, a folder in the official layout. None: the hub's copy.
        train_file, validation_file: see `files.load_files`. They go together.
        text_column_names, label_column_name: see `files.load_tables`. They go with files and with `dataset_name`.
        dataset_name, dataset_config_name, train_split_name, validation_split_name: see `dataset.read_dataset`.

    Raises:
        InputError: contradicting or missing arguments, an unknown task, or an error in the data.
    """
    files: dict[str, Any] = {"train_file": train_file, "validation_file": validation_file}
    splits = {"train_split_name": train_split_name, "validation_split_name": validation_split_name}
    asked = _first_given({"task_name": task_name, "dataset_name": dataset_name, **files})
    for given, others in ((task_name, {"dataset_name": dataset_name, **files}), (dataset_name, files)):
        if given is not None and (other := _first_given(others)):
            raise InputError(f"{asked}: give either this or {other.split()[0]}, not both")
    columns: dict[str, Any] = {"text_column_names": text_column_names, "label_column_name": label_column_name}
    if train_file is None and dataset_name is None and (name := _first_given(columns)):
        raise InputError(f"{name}: goes with --train_file and --validation_file, or with --dataset_name")
    if dataset_name is None and (name := _first_given({"dataset_config_name": dataset_config_name, **splits})):
        raise InputError(f"{name}: goes with --dataset_name")
    if task_name is None:
        if asked is None:
            raise InputError("no data: give --task_name, --train_file with --validation_file, or --dataset_name")
        if data_dir is not None:
            raise InputError(f"--data_dir {data_dir}: goes with a GLUE --task_name, not with {asked.split()[0]}")
        if dataset_name is not None:
            tables = read_dataset(dataset_name, dataset_config_name, train_split_name, validation_split_name)
            return load_tables(*tables, f"data set {dataset_name}", **columns)
        if validation_file is None:
            raise InputError(f"--train_file {train_file}: --validation_file is missing; give your development set")
        if train_file is None:
            raise InputError(f"--validation_file {validation_file}: --train_file is missing; give your training set")
        return load_files(train_file, validation_file, **columns)

    if is_glue(task_name):
        return load_glue(_glue_name(task_name), data_dir)
    name = task_name.strip().lower()

    from .demo.data import DEMO_TASKS, load_demo_data

    if name in DEMO_TASKS:
        if data_dir is not None:
            raise InputError(
                f"--data_dir {data_dir}: goes with a GLUE --task_name; {name} is bundled, so leave --data_dir out"
            )
        return load_demo_data(name)
    known = [*GLUE_TASKS, *DEMO_TASKS]
    raise InputError(f"--task_name {task_name}: no such task{nearest(name, known)}. Give one of {', '.join(known)}")


DATA_FLAGS = tuple(inspect.signature(load_task_data).parameters)
"""The flags that say which data a model is trained on."""


def _first_given(flags: Mapping[str, Any]) -> str | None:
    """The first of these flags that has a value, with it: `--train_file train.csv`; None if none has."""
    words = {
        name: value if isinstance(value, (str, os.PathLike)) else " ".join(value or ())
        for name, value in flags.items()
    }
    return next((f"--{name} {words[name]}" for name, value in flags.items() if value is not None), None)


def is_glue(task_name: str | None) -> bool:
    """Whether this is a GLUE task, in any spelling. Only GLUE tasks take `data_dir`."""
    return task_name is not None and _glue_name(task_name) in GLUE_TASKS


def _glue_name(task_name: str) -> str:
    return task_name.strip().lower().replace("-", "")  # SST-2 and STS-B are how GLUE spells them


HALVES = ("first", "second")
"""Names of the two halves of a development set. With `both` they are the evaluation sets: first selects, second reports."""


def half_of_validation(data: TaskData, half: str | None = None) -> TaskData:
    """The first or second half of each development set, in the order of its rows.

    Choose settings on one half and confirm them on the other. If the number of rows is odd, the second half has one more.

    Args:
        data: the task's data.
        half: `"first"`, `"second"`, or None for the whole set. `"both"` splits the development set that counts into two
            sets, `first` and `second`. Other sets (MNLI's mismatched one) follow unchanged.

    Raises:
        InputError: another word; or a half lacks a class of the whole set, because the rows are sorted.
    """
    if half is None:
        return data
    if half == "both":
        (name, rows), *others = data.validation.items()
        halves = {own: _half(data, name, rows, own, half) for own in HALVES}
        return replace(data, validation={**halves, **dict(others)})
    if half not in HALVES:
        raise InputError(f"--validation_half {half}: give first, second or both")
    return replace(
        data, validation={name: _half(data, name, rows, half, half) for name, rows in data.validation.items()}
    )


def _half(data: TaskData, name: str, rows: Dataset, half: str, asked: str) -> Dataset:
    middle = len(rows) // 2
    part = rows.select(range(middle) if half == "first" else range(middle, len(rows)))
    if len(part) == 0:
        raise InputError(f"--validation_half {asked}: the {name} set has {len(rows)} row; give a set of at least 2")
    classes = [set(data.task.classes_of(own["label"])) for own in (part, rows)]
    if not data.task.is_regression and classes[0] != classes[1]:
        which = "this half" if half == asked else f"the {half} half"
        raise InputError(
            f"--validation_half {asked}: {which} lacks a class of the whole {name} set; shuffle the file's rows"
        )
    return part


def subsample(data: TaskData, max_train_samples: int | None = None, max_eval_samples: int | None = None) -> TaskData:
    """The first rows of each set.

    Args:
        data: the task's data.
        max_train_samples: rows of the training set; None for all.
        max_eval_samples: rows of each development set; None for all.

    Raises:
        InputError: a number below 1.
    """
    for flag, count in (("--max_train_samples", max_train_samples), ("--max_eval_samples", max_eval_samples)):
        if count is not None and count < 1:
            raise InputError(f"{flag} {count}: give 1 or more")

    def first(rows: Dataset, count: int | None) -> Dataset:
        return rows if count is None or count >= len(rows) else rows.select(range(count))

    validation = {name: first(rows, max_eval_samples) for name, rows in data.validation.items()}
    return replace(data, train=first(data.train, max_train_samples), validation=validation)


def data_fingerprint(data: TaskData) -> str:
    """SHA-256, in hexadecimal, of the texts and labels of all splits in order.

    It depends on nothing else (library versions, file formats, column names). So records from two machines can be checked
    to be of the same data. Regression labels count as float32, the type in which they are stored and trained.
    """
    digest = hashlib.sha256()
    for rows in (data.train, *data.validation.values()):
        digest.update(struct.pack("<q", len(rows)))  # lengths first: no two different sequences share a byte string
        for batch in rows.iter(batch_size=1000):
            for *texts, label in zip(*(batch[name] for name in (*data.task.text_columns, "label")), strict=True):
                for text in texts:
                    encoded = text.encode("utf-8")
                    digest.update(struct.pack("<q", len(encoded)) + encoded)
                if data.task.multi_label:
                    digest.update(np.asarray(label, "<f4").tobytes())
                else:
                    digest.update(struct.pack("<f" if data.task.is_regression else "<q", label))
    return digest.hexdigest()


@dataclass(frozen=True)
class TokenizedData:
    """A task's data, ready for a Trainer.

    Args:
        task: the task.
        train: columns `input_ids`, `attention_mask`, `token_type_ids` (if the tokenizer gives them) and `label`.
        validation: name -> development set, with the same columns. The first is the one that counts.
        truncated_share: share of the training examples, in [0, 1], that were too long and lost tokens.
    """

    task: Task
    train: Dataset
    validation: dict[str, Dataset]
    truncated_share: float

    def save(self, folder: str | os.PathLike) -> None:
        """Write everything to `folder`, in place of an earlier save. A reader sees all of it or nothing.

        Leftovers of a killed save beside it are deleted.

        Raises:
            FileExistsError: `folder` exists and is not an earlier save.
        """
        folder = Path(folder)
        if folder.exists() and not is_saved(folder):
            raise FileExistsError(f"{folder} exists and has no tokenized data in it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        delete_leftovers(folder.parent)
        prefix = f".{folder.name}{_SAVING}{socket.gethostname()}-{os.getpid()}-"
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))  # a sibling: renaming is atomic
        try:
            new, old = temporary / "new", temporary / "old"
            rows = len(self.train) + sum(map(len, self.validation.values()))
            with _quiet_unless_large(rows):
                self.train.save_to_disk(new / "train")
                for name, split in self.validation.items():
                    split.save_to_disk(new / "validation" / name)
            record = {
                "task": asdict(self.task),
                "validation": list(self.validation),
                "truncated_share": self.truncated_share,
            }
            (new / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            if folder.exists():
                os.rename(folder, old)
            os.rename(new, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> TokenizedData:
        """Load a save, memory-mapped: processes that load the same folder share its pages.

        Raises:
            FileNotFoundError: no such folder, or `save` did not write it.
        """
        from datasets import load_from_disk

        folder = Path(folder)
        try:
            record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(f"{folder} has no tokenized data in it") from error
        fields = record["task"]
        names = fields["label_names"]
        task = Task(
            fields["name"],
            tuple(fields["text_columns"]),
            None if names is None else tuple(names),
            tuple(fields["metrics"]),
            fields.get("multi_label", False),
        )
        validation = {
            name: load_from_disk(folder / "validation" / name, keep_in_memory=False) for name in record["validation"]
        }
        return cls(task, load_from_disk(folder / "train", keep_in_memory=False), validation, record["truncated_share"])


def token_counts(examples: Dataset) -> np.ndarray:
    """Tokens of each example, `(n,)`, special tokens and padding of `--pad_to_max_length` included."""
    import pyarrow.compute

    ids = examples.select_columns("input_ids").with_format("arrow")[:]["input_ids"]
    return pyarrow.compute.list_value_length(ids).to_numpy()


def is_saved(folder: Path) -> bool:
    """Whether `TokenizedData.save` wrote this folder."""
    return (folder / _RECORD).is_file()


def delete_leftovers(parent: Path) -> None:
    """Delete what killed saves left in `parent`. Folders that another process is writing stay.

    The folder's name has the machine and the process. On this machine, a folder without a running process is deleted. For
    another machine, or an earlier version, a folder is deleted if it has not changed for a day.
    """
    for folder in parent.glob(".*.*"):
        name = folder.name
        if not folder.is_dir() or not (_SAVING in name or _SAVING_BEFORE.fullmatch(name)):
            continue
        machine, pid = ["", "", *name.rpartition(_SAVING)[2].rsplit("-", 2)][-3:-1]
        try:
            changed = folder.stat().st_mtime
            here = machine == socket.gethostname() and pid.isdigit()
            stale = not _runs_since(int(pid), changed) if here else time.time() - changed > _DAY_S
        except OSError:  # deleted or renamed meanwhile
            continue
        if stale:
            shutil.rmtree(folder, ignore_errors=True)


def _runs_since(pid: int, then: float) -> bool:
    """Whether a process with this number is running and had started by this time (numbers are used again).

    An hour is added, because a file server's clock may differ.
    """
    try:
        return is_running(pid) and psutil.Process(pid).create_time() <= then + _HOUR_S
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it exists, but we may not read its start
        return True


def tokenize(
    data: TaskData, tokenizer: PreTrainedTokenizerBase, max_seq_length: int = 128, pad_to_max_length: bool = False
) -> TokenizedData:
    """Convert texts to token ids.

    Args:
        data: the task's data.
        tokenizer: the tokenizer.
        max_seq_length: tokens per example, with special tokens. Longer examples are truncated (in a pair, the longer text
            first). A number above the tokenizer's own limit is lowered to it, with a warning.
        pad_to_max_length: pad all examples to `max_seq_length` here. Default: False, and the collator pads each batch.

    Raises:
        InputError: `max_seq_length` leaves no room for text.
    """
    is_pair = len(data.task.text_columns) == 2
    special = tokenizer.num_special_tokens_to_add(pair=is_pair)
    if max_seq_length < special + len(data.task.text_columns):
        raise InputError(
            f"--max_seq_length {max_seq_length}: no room for text beside {special} special tokens; give more"
        )
    asked, max_seq_length = max_seq_length, min(max_seq_length, tokenizer.model_max_length)

    def encode(batch: dict[str, list]) -> dict[str, list]:
        texts = [batch[name] for name in data.task.text_columns]
        encoded = tokenizer(
            *texts,
            truncation=True,
            max_length=max_seq_length,
            padding="max_length" if pad_to_max_length else False,
            return_attention_mask=True,
        )
        # Only an example that fills the whole length can have been longer. Tokenise those again, in full.
        truncated = [False] * len(texts[0])
        full = [row for row, mask in enumerate(encoded["attention_mask"]) if sum(mask) >= max_seq_length]
        if full:
            whole = tokenizer(*([column[row] for row in full] for column in texts), truncation=False, verbose=False)
            for row, ids in zip(full, whole["input_ids"], strict=True):
                truncated[row] = len(ids) > max_seq_length
        return {**encoded, "truncated": truncated}

    def encode_split(rows: Dataset) -> tuple[Dataset, float]:
        unused = [name for name in rows.column_names if name != "label"]
        # In memory, without the cache of datasets: its key is a pickle of the tokenizer, which changes with use.
        encoded = rows.map(
            encode,
            batched=True,
            remove_columns=unused,
            keep_in_memory=True,
            load_from_cache_file=False,
            new_fingerprint=os.urandom(8).hex(),
            desc="tokenizing",
        )
        share = float(encoded.with_format("numpy")["truncated"][:].mean())
        return encoded.remove_columns("truncated"), share

    with _quiet_unless_large(len(data.train) + sum(map(len, data.validation.values()))):
        train, truncated_share = encode_split(data.train)
        validation = {name: encode_split(rows)[0] for name, rows in data.validation.items()}
    if asked > max_seq_length and truncated_share > 0:
        logger.warning(
            "--max_seq_length %d: lowered to %d, the tokenizer's limit; longer examples were truncated",
            asked,
            max_seq_length,
        )
    return TokenizedData(data.task, train, validation, truncated_share)


@contextmanager
def _quiet_unless_large(num_rows: int) -> Iterator[None]:
    """Inside, `datasets` shows no progress bars, unless the work takes a while."""
    import datasets

    if num_rows > PROGRESS_BAR_ROWS or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
