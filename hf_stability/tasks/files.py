"""A task from the user's own files: csv, tsv, json or json lines, with a column of labels and one or two of text.

A file that has one meaning is read; one that may be meant otherwise is read with a warning; the rest is refused. Doubts
about the data themselves, once they are read (one class, leakage), are in overview.py.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InputError, nearest
from .task import Task, TaskData


logger = logging.getLogger(__name__)

EXTENSIONS = (".csv", ".tsv", ".json", ".jsonl")
LABEL_COLUMN = "label"
ID_COLUMNS = ("id", "idx", "index", "guid")  # never taken for text
TEXT_COLUMNS = (("sentence",), ("sentence1", "sentence2"))  # taken by their names
PAIRS = (("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2"), ("question", "passage"))
"""Columns that are evidently a pair: taken by position like others, without a warning."""

_INTEGER = re.compile(r"[+-]?\d+")
_DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([ T].*)?")
_NUMBER_IN_WORDS = re.compile(r"[-+]?[$€£]?\s?\d[\d.,']*\s?[%$€£]?")  # 1,5 or 50% or $3
_MISSING = ("nan", "none", "null", "n/a", "na", "<na>")  # what libraries write for a missing value
_LOOKED_AT = 1000  # values of a column are enough to see what it holds
_SHOWN = 40  # characters of a column's name in a message


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
    text_column_names: Sequence[str] | None = None,
    label_column_name: str | None = None,
) -> TaskData:
    """A task named `custom` from two files.

    Extensions: `.csv` (quoted as in RFC 4180), `.tsv` (quotes are plain text, as in GLUE), `.json` (an array of
    objects, or one a line), `.jsonl`. UTF-8, with or without a BOM; csv and tsv open with a line of column names.

    Text: the column `sentence`, or `sentence1` and `sentence2`, or else the first one or two other columns that hold
    strings (numbers, and columns named `id`, `idx`, `index` or `guid`, are passed over).

    Columns that differ from these names by case or spaces at the ends only (`Label`) are found too.

    Labels: whole numbers are class ids 0 to K-1; other numbers are the targets of a regression; words are class names,
    whose ids follow their sorted order over the training file.

    Args:
        regression: True reads whole numbers as targets too; False refuses other numbers than whole ones.
        label_names: the classes in the order of their ids: a word is looked up here, a number is an index. A class may
            then be absent from the training file.
        text_column_names: one or two columns to read the text from, instead of those above.
        label_column_name: the labels' column, instead of `label`.

    Returns:
        Headline metric accuracy (with F1 of class 1 and Matthews correlation where there are two classes), or the mean
        of Pearson's and Spearman's correlation for a regression.

    Raises:
        InputError: with flag, file and row, for all that is wrong with a file or a label.
    """
    train = _read(Path(train_file), "--train_file")
    validation = _read(Path(validation_file), "--validation_file")
    label_column = _find_label_column(train, label_column_name)
    text_columns = _find_text_columns(train, text_column_names, label_column)
    train, validation = (_chosen(table, text_columns, label_column) for table in (train, validation))
    for table in (train, validation):
        _check_text(table, text_columns)
        _doubt_text(table, text_columns)
    _doubt_columns(train, text_columns)

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
                        row,
                        f"label {label}; the {len(names)} classes must be numbered 0 to {len(names) - 1}: number them "
                        "so, or write words",
                    )
    else:
        names = tuple(label_names or sorted({str(label) for label in train.columns[LABEL_COLUMN]}))
        train_labels, validation_labels = (_words(table, names) for table in (train, validation))
        if label_names is None:
            _doubt_names(train)
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
        label_column,
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
        raise InputError(
            f"{where}: not UTF-8 ({error.reason} at byte {error.start}); save it in the encoding UTF-8"
        ) from error
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from error
    if not text.strip():
        raise InputError(f"{where}: the file is empty")

    table = _from_json(text, where) if extension.startswith(".json") else _from_csv(text, where, extension)
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
    _check_separator(header, where, extension)
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise InputError(f"{where}, {places[0]}: two columns are named {doubled[0]!r}")
    for row, place in zip(rows, places[1:], strict=True):
        if len(row) != len(header):
            raise InputError(f"{where}, {place}: {len(row)} columns, expected {len(header)} ({', '.join(header)})")
    columns = {name: [row[at] for row in rows] for at, name in enumerate(header)}
    return _Table(where, columns, places[1:])


def _check_separator(header: list[str], where: str, extension: str) -> None:
    """Refuse a file with another separator than its extension says: it seems to have one column."""
    if len(header) > 1:
        return
    for separator, name, way_out in (
        ("\t", "tabs", "name the file .tsv"),
        (";", "semicolons", "save it with commas"),
        (",", "commas", "name the file .csv"),
    ):
        if separator in header[0] and not (separator == "," and extension == ".csv"):
            raise InputError(f"{where}, line 1: columns separated by {name} in a {extension} file; {way_out}")


def _from_json(text: str, where: str) -> _Table:
    records, places = [], []
    try:
        if text.lstrip().startswith("["):
            records = json.loads(text, object_pairs_hook=_record)
            places = [f"record {number}" for number in range(1, len(records) + 1)]
        else:
            for number, line in enumerate(text.split("\n"), start=1):
                if line.strip():
                    places.append(f"line {number}")
                    records.append(json.loads(line, object_pairs_hook=_record))
    except _TwiceError as error:
        place = f", {places[-1]}" if places else ""
        raise InputError(f"{where}{place}: a record has two columns named {error.args[0]!r}") from None
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
                f"{where}, {place}: columns {', '.join(record)}, but {', '.join(records[0])} in the first record; give "
                "every record the same"
            )
    return _Table(where, {name: [record[name] for record in records] for name in records[0]}, places)


class _TwiceError(ValueError):
    """An object has a key twice."""


def _record(pairs: list[tuple[str, object]]) -> dict:
    record = dict(pairs)
    if len(record) < len(pairs):  # json itself would keep the last
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return record


# --- columns ---------------------------------------------------------------------------------------------------------


def _column(table: _Table, name: str) -> str | None:
    """The column of this name; or else the only one that differs from it by case and spaces at the ends alone."""
    if name in table.columns:
        return name
    found = [column for column in table.columns if column.strip().lower() == name.strip().lower()]
    return found[0] if len(found) == 1 else None


def _only(table: _Table) -> str:
    names = [name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..." for name in table.columns]
    return f"only {', '.join(' '.join(name.split()) for name in names)}"


def _find_label_column(table: _Table, asked: str | None) -> str:
    """Raises InputError where there is none."""
    found = _column(table, LABEL_COLUMN if asked is None else asked)
    if found is not None:
        return found
    if asked is not None:
        raise InputError(f"--label_column_name {asked}: {table.where} has no such column, {_only(table)}")
    header = " (the first line must name the columns)" if table.where.lower().endswith((".csv", ".tsv")) else ""
    raise InputError(
        f"{table.where}: no column {LABEL_COLUMN!r}, {_only(table)}{header}; --label_column_name chooses another"
    )


def _chosen(table: _Table, text_columns: tuple[str, ...], label_column: str) -> _Table:
    """The columns that are used, named as in the training file, that of the labels `label`."""
    columns = {}
    for name, new in (*zip(text_columns, text_columns, strict=True), (label_column, LABEL_COLUMN)):
        found = _column(table, name)
        if found is None:
            what = "the labels" if new == LABEL_COLUMN else "text"
            raise InputError(f"{table.where}: no column {name!r} ({what} of the training file), {_only(table)}")
        columns[new] = table.columns[found]
    return replace(table, columns=columns)


# --- text ------------------------------------------------------------------------------------------------------------


def _find_text_columns(table: _Table, asked: Sequence[str] | None, label_column: str) -> tuple[str, ...]:
    if asked is not None:
        return _asked_text_columns(table, asked, label_column)
    others = [name for name in table.columns if name != label_column]
    others = [name for name in others if name.strip().lower() not in (*ID_COLUMNS, LABEL_COLUMN)]
    strings = [name for name in others if not all(_is_number(v) or _is_blank(v) for v in table.columns[name])]
    named = [[_column(table, name) for name in names] for names in TEXT_COLUMNS]
    chosen = next((tuple(names) for names in named if all(name in others for name in names)), None)
    by_position = chosen is None
    if by_position:
        chosen = tuple(strings[:2])
    if not chosen:
        raise InputError(f"{table.where}: no column of text, {_only(table)}; --text_column_names chooses one or two")
    unused = [name for name in strings if name not in chosen]
    guessed = by_position and len(chosen) == 2 and tuple(name.strip().lower() for name in chosen) not in PAIRS
    if unused or guessed:
        logger.warning(
            "%s: text is read from %s%s%s; --text_column_names chooses others",
            table.where,
            " and ".join(chosen),
            ", the first two columns of text, as a pair" if guessed else "",
            f"; not used: {', '.join(unused)}" if unused else "",
        )
    return chosen


def _asked_text_columns(table: _Table, asked: Sequence[str], label_column: str) -> tuple[str, ...]:
    flag = f"--text_column_names {' '.join(asked)}"
    if not 1 <= len(asked) <= 2:
        raise InputError(f"{flag}: {len(asked)} columns; give one, or two for a pair of texts")
    found = [_column(table, name) for name in asked]
    if None in found:
        name = asked[found.index(None)]
        raise InputError(f"{flag}: {table.where} has no column {name!r}, {_only(table)}")
    if label_column in found:
        raise InputError(f"{flag}: {label_column} is the column of the labels; --label_column_name chooses another")
    if len(set(found)) < len(found):
        raise InputError(f"{flag}: the same column twice")
    if LABEL_COLUMN in found:  # the labels are called so from here on
        raise InputError(f"{flag}: rename this column in both files; a column of text cannot be called {LABEL_COLUMN}")
    return tuple(found)


def _check_text(table: _Table, text_columns: tuple[str, ...]) -> None:
    for name in text_columns:
        for row, text in enumerate(table.columns[name]):
            if not isinstance(text, str):
                raise table.error(row, f"column {name!r} is {text!r}, expected text")
            if not text.strip():
                raise table.error(row, f"no text in column {name!r}; leave the row out, or write a text")
            if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
                raise table.error(row, f"half a surrogate pair in column {name!r}")  # JSON can spell it, UTF-8 cannot


def _doubt_columns(table: _Table, text_columns: tuple[str, ...]) -> None:
    """Warn of columns of text that hold dates or numbers."""
    for name in text_columns:
        if what := _dates_or_numbers(table.columns[name]):
            logger.warning(
                "%s: the text in column %s looks like %s; --text_column_names chooses another", table.where, name, what
            )


def _doubt_text(table: _Table, text_columns: tuple[str, ...]) -> None:
    """Warn of single texts that are hardly texts."""
    labels = set(map(str, table.columns[LABEL_COLUMN]))
    for name in text_columns:
        texts = table.columns[name]
        missing = [row for row, text in enumerate(texts) if text.strip().lower() in _MISSING]
        if missing:
            first = missing[0]
            logger.warning(
                "%s, %s: the text in column %s is %r, as in %d row(s); if this is a missing value, leave the row out",
                table.where,
                table.rows[first],
                name,
                texts[first],
                len(missing),
            )
        joined = [row for row, text in enumerate(texts) if not labels.isdisjoint(_line_ends(text))]
        if joined and table.where.lower().endswith(".csv"):
            logger.warning(
                '%s, %s: the text in column %s holds a line break after a label, as in %d row(s); a lone " may have joined '
                "two rows: double it",
                table.where,
                table.rows[joined[0]],
                name,
                len(joined),
            )
        quoted = sum(len(text) > 1 and text[0] == text[-1] == '"' for text in texts)
        if table.where.lower().endswith(".tsv") and 2 * quoted > len(texts):
            logger.warning(
                '%s: %d of %d texts in column %s begin and end with ". A .tsv is read without quoting; save the file as .csv',
                table.where,
                quoted,
                len(texts),
                name,
            )


def _line_ends(text: str) -> list[str]:
    """The text after the last comma, of each line but the last."""
    return [line.rpartition(",")[2] for line in text.splitlines()[:-1] if "," in line]


def _dates_or_numbers(values: Sequence[str]) -> str:
    """`"dates ('2021-01-05')"` or `"numbers ('1,5')"`, where more than half of these strings are; else nothing."""
    values = [value.strip() for value in values[:_LOOKED_AT]]
    dates = [value for value in values if _DATE.fullmatch(value)]
    numbers = [value for value in values if _is_number(value) or _NUMBER_IN_WORDS.fullmatch(value)]
    numbers = [value for value in numbers if value.lower() not in _MISSING]
    for kind, found in (("dates", dates), ("numbers", numbers)):
        if 2 * len(found) > len(values):
            return f"{kind} ({found[0]!r})"
    return ""


# --- labels ----------------------------------------------------------------------------------------------------------


def _is_integer(value) -> bool:
    return isinstance(value, int) or isinstance(value, str) and _INTEGER.fullmatch(value.strip()) is not None


def _is_blank(value) -> bool:
    return value is None or isinstance(value, str) and not value.strip()


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
            known = names if len(names) <= 10 else (*names[:10], "...")
            near = nearest(str(label), names)
            raise table.error(
                row,
                f"label {label!r}, expected one of {', '.join(known)}{near}; training needs examples of each class",
            )
    return [ids[str(label)] for label in table.columns[LABEL_COLUMN]]


def _doubt_names(table: _Table) -> None:
    """Warn of class names that differ by spaces or case only, and of dates and numbers as names."""
    counts = Counter(map(str, table.columns[LABEL_COLUMN]))
    alike: dict[str, list[str]] = {}
    for name in sorted(counts):
        alike.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    groups = [names for names in alike.values() if len(names) > 1]
    if groups:
        logger.warning(
            "%s: labels that differ by spaces or case only are different classes: %s; write each class in one way",
            table.where,
            "; ".join(", ".join(f"{name!r} ({counts[name]})" for name in names) for names in groups),
        )
    missing = [name for name in counts if name.strip().lower() in _MISSING]
    if missing:
        logger.warning(
            "%s: %r is read as the name of a class, with %d rows; if it is a missing value, leave them out",
            table.where,
            missing[0],
            counts[missing[0]],
        )
    if what := _dates_or_numbers(list(counts)):
        logger.warning(
            "%s: the labels look like %s and are read as names of classes; --label_column_name chooses another column%s",
            table.where,
            what,
            ", and a regression needs numbers such as 1.5" if what.startswith("numbers") else "",
        )
