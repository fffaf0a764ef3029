"""A task from the user's own files: csv, tsv, json or json lines, with a column `label` and one or two of text."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .task import Task, TaskData


logger = logging.getLogger(__name__)

EXTENSIONS = (".csv", ".tsv", ".json", ".jsonl")
LABEL_COLUMN = "label"
ID_COLUMNS = ("id", "idx", "index", "guid")  # never taken for text

_INTEGER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class _Table:
    """One file's rows.

    Args:
        where: `"--train_file data/train.csv"`, which opens each error message.
        columns: its columns, each a list with one value per row: str from csv and tsv, any JSON value else.
        rows: for each row where it stands: `"line 7"` or `"record 3"`.
    """

    where: str
    columns: dict[str, list]
    rows: list[str]

    def error(self, row: int, message: str) -> InputError:
        return InputError(f"{self.where}, {self.rows[row]}: {message}")


def load_files(
    train_file: str | os.PathLike,
    validation_file: str | os.PathLike,
    regression: bool | None = None,
    label_names: Sequence[str] | None = None,
) -> TaskData:
    """A task named `custom` from two files.

    Extensions: `.csv` (quoted as in RFC 4180), `.tsv` (quotes are plain text, as in GLUE), `.json` (an array of
    objects, or one a line), `.jsonl`. UTF-8, with or without a BOM; csv and tsv open with a line of column names.

    Text: the column `sentence`, or `sentence1` and `sentence2`, or else the first one or two other columns that hold
    strings (numbers, and columns named `id`, `idx`, `index` or `guid`, are passed over).

    Labels: whole numbers are class ids 0 to K-1; other numbers are the targets of a regression; words are class names,
    whose ids follow their sorted order over the training file.

    Args:
        regression: True reads whole numbers as targets too; False refuses other numbers than whole ones.
        label_names: the classes in the order of their ids: a word is looked up here, a number is an index. A class may
            then be absent from the training file.

    Returns:
        Headline metric accuracy (with F1 of class 1 and Matthews correlation where there are two classes), or the mean
        of Pearson's and Spearman's correlation for a regression.

    Raises:
        InputError: with flag, file and row, for all that is wrong with a file or a label.
    """
    train = _read(Path(train_file), "--train_file")
    validation = _read(Path(validation_file), "--validation_file")
    text_columns = _find_text_columns(train)
    for table in (train, validation):
        _check_text(table, text_columns)

    kind = _label_kind(train, regression, label_names)
    if kind == "number":
        names = None
        train_labels, validation_labels = (_numbers(table) for table in (train, validation))
    elif kind == "id":
        train_labels, validation_labels = (_ids(table) for table in (train, validation))
        names = tuple(label_names or map(str, range(len(set(train_labels)))))
        for table, labels in ((train, train_labels), (validation, validation_labels)):
            for row, label in enumerate(labels):
                if not 0 <= label < len(names):
                    raise table.error(
                        row, f"label {label}; the {len(names)} classes must be numbered 0 to {len(names) - 1}"
                    )
    else:
        names = tuple(label_names or sorted({str(label) for label in train.columns[LABEL_COLUMN]}))
        train_labels, validation_labels = (_words(table, names) for table in (train, validation))
    if names is None:
        metrics = ("pearson_and_spearman", "pearson", "spearman")
    else:
        metrics = ("accuracy", "f1", "matthews_correlation") if len(names) == 2 else ("accuracy",)
    task = Task("custom", text_columns, names, metrics)
    return TaskData(
        task,
        _to_dataset(task, train, train_labels),
        {"validation": _to_dataset(task, validation, validation_labels)},
        f"files ({Path(train_file).name}, {Path(validation_file).name})",
    )


def _to_dataset(task: Task, table: _Table, labels: list):
    from datasets import Dataset, Features, Value

    features = {name: Value("string") for name in task.text_columns}
    features[LABEL_COLUMN] = Value("float32" if task.is_regression else "int64")
    columns = {name: table.columns[name] for name in task.text_columns}
    return Dataset.from_dict({**columns, LABEL_COLUMN: labels}, features=Features(features))


# --- reading ---------------------------------------------------------------------------------------------------------


def _read(path: Path, flag: str) -> _Table:
    where = f"{flag} {path}"
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise InputError(f"{where}: extension {extension!r} is not supported, expected one of {', '.join(EXTENSIONS)}")
    if not path.is_file():
        raise InputError(f"{where}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from error
    if not text.strip():
        raise InputError(f"{where}: the file is empty")

    table = _from_json(text, where) if extension.startswith(".json") else _from_csv(text, where, extension)
    if LABEL_COLUMN not in table.columns:
        raise InputError(f"{where}: no column {LABEL_COLUMN!r}, only {', '.join(table.columns)}")
    if not table.rows:
        raise InputError(f"{where}: column names, but no rows")
    return table


def _from_csv(text: str, where: str, extension: str) -> _Table:
    file = io.StringIO(text, newline="")  # leaves line breaks to the csv module, quoted ones included
    if extension == ".tsv":
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(file, strict=True)
    rows, places = [], []
    try:
        for row in reader:
            if row:  # the csv module returns an empty list for a blank line
                rows.append(row)
                places.append(f"line {reader.line_num}")
    except csv.Error as error:
        raise InputError(f"{where}, line {reader.line_num}: {error}") from error

    header, *rows = rows
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise InputError(f"{where}, {places[0]}: two columns are named {doubled[0]!r}")
    for row, place in zip(rows, places[1:], strict=True):
        if len(row) != len(header):
            raise InputError(f"{where}, {place}: {len(row)} columns, expected {len(header)} ({', '.join(header)})")
    columns = {name: [row[at] for row in rows] for at, name in enumerate(header)}
    return _Table(where, columns, places[1:])


def _from_json(text: str, where: str) -> _Table:
    records, places = [], []
    try:
        if text.lstrip().startswith("["):
            records = json.loads(text)
            places = [f"record {number}" for number in range(1, len(records) + 1)]
        else:
            for number, line in enumerate(text.split("\n"), start=1):
                if line.strip():
                    places.append(f"line {number}")
                    records.append(json.loads(line))
    except (json.JSONDecodeError, RecursionError) as error:
        place = f", {places[-1]}" if places else ""
        raise InputError(f"{where}{place}: not JSON ({error}); expected an array of objects, or one a line") from error

    if not records:
        raise InputError(f"{where}: an empty array")
    for record, place in zip(records, places, strict=True):
        if not isinstance(record, dict):
            raise InputError(f"{where}, {place}: not an object with columns")
        if record.keys() != records[0].keys():
            raise InputError(
                f"{where}, {place}: columns {', '.join(record)}, but {', '.join(records[0])} in the first record"
            )
    return _Table(where, {name: [record[name] for record in records] for name in records[0]}, places)


# --- text ------------------------------------------------------------------------------------------------------------


def _find_text_columns(table: _Table) -> tuple[str, ...]:
    others = [name for name in table.columns if name != LABEL_COLUMN and name.lower() not in ID_COLUMNS]
    strings = [name for name in others if not all(_is_number(value) for value in table.columns[name])]
    if "sentence" in others:
        chosen = ("sentence",)
    elif "sentence1" in others and "sentence2" in others:
        chosen = ("sentence1", "sentence2")
    else:
        chosen = tuple(strings[:2])
    if not chosen:
        raise InputError(f"{table.where}: no column of text, only {', '.join(table.columns)}")
    unused = [name for name in strings if name not in chosen]
    if unused:
        logger.warning("%s: text is read from %s; not used: %s", table.where, " and ".join(chosen), ", ".join(unused))
    return chosen


def _check_text(table: _Table, text_columns: tuple[str, ...]) -> None:
    for name in text_columns:
        if name not in table.columns:
            raise InputError(
                f"{table.where}: no column {name!r} (text of the training file), only {', '.join(table.columns)}"
            )
        for row, text in enumerate(table.columns[name]):
            if not isinstance(text, str):
                raise table.error(row, f"column {name!r} is {text!r}, expected text")
            if not text.strip():
                raise table.error(row, f"no text in column {name!r}")
            if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
                raise table.error(row, f"half a surrogate pair in column {name!r}")  # JSON can spell it, UTF-8 cannot


# --- labels ----------------------------------------------------------------------------------------------------------


def _is_integer(value) -> bool:
    return isinstance(value, int) or isinstance(value, str) and _INTEGER.fullmatch(value.strip()) is not None


def _is_number(value) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _label_kind(table: _Table, regression: bool | None, label_names: Sequence[str] | None) -> str:
    """How the training file's labels are meant: `"id"`, `"number"` or `"word"`."""
    labels = table.columns[LABEL_COLUMN]
    for row, label in enumerate(labels):
        if not isinstance(label, (str, int, float)) or not str(label).strip():
            raise table.error(row, f"label {label!r}, expected a class or a number")
    if len(set(labels)) < 2:
        raise InputError(
            f"{table.where}: all rows ({len(labels)}) have the label {labels[0]!r}; training needs two at least"
        )
    if regression:
        return "number"
    if label_names is not None and all(str(label) in label_names for label in labels):
        return "word"  # names that look like numbers are names
    if all(_is_integer(label) for label in labels):
        return "id"
    if not all(_is_number(label) for label in labels):
        for row, label in enumerate(labels):
            if not isinstance(label, str):
                raise table.error(row, f"label {label!r} among labels that are words")
        return "word"
    if regression is False or label_names is not None:
        row = next(row for row, label in enumerate(labels) if not _is_integer(label))
        raise table.error(row, f"label {labels[row]!r}, expected a whole number from 0 or a class name")
    if all(float(label).is_integer() for label in labels):
        logger.warning(
            "%s: labels such as %s are read as a regression's; classes are 0, 1, ...", table.where, labels[0]
        )
    return "number"


def _numbers(table: _Table) -> list[float]:
    numbers = []
    for row, label in enumerate(table.columns[LABEL_COLUMN]):
        if not _is_number(label) or not math.isfinite(float(label)):
            raise table.error(row, f"label {label!r}, expected a number (regression)")
        numbers.append(float(label))
    return numbers


def _ids(table: _Table) -> list[int]:
    for row, label in enumerate(table.columns[LABEL_COLUMN]):
        if not _is_integer(label):
            raise table.error(row, f"label {label!r}, expected a whole number from 0")
    return [int(label) for label in table.columns[LABEL_COLUMN]]


def _words(table: _Table, names: tuple[str, ...]) -> list[int]:
    ids = {name: index for index, name in enumerate(names)}
    for row, label in enumerate(table.columns[LABEL_COLUMN]):
        if str(label) not in ids:
            raise table.error(row, f"label {label!r}, expected one of {', '.join(names)}")
    return [ids[str(label)] for label in table.columns[LABEL_COLUMN]]
