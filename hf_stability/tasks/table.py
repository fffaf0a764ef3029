"""Read a user's file as a table: csv, tsv, json, json lines or parquet. Errors name the flag, the file and the line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..utils.text import error_line


if TYPE_CHECKING:
    from datasets import Dataset


EXTENSIONS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
_SHOWN = 40  # characters of a column's name in a message


@dataclass(frozen=True)
class Table:
    """The rows of one file, or of one split of a data set.

    Args:
        where: `"--train_file data/train.csv"`. Each error message begins with it.
        columns: name -> one value per row: str from csv and tsv, any JSON value from json; what Arrow has from others.
        rows: the place of each row in the file: `"line 7"` or `"record 3"`; in a data set `"row 2 (from 0)"`.
        class_names: column -> names of its classes in the order of their ids, if the data set has them (`ClassLabel`).
    """

    where: str
    columns: dict[str, list]
    rows: Sequence[str]
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def error(self, row: int, message: str) -> InputError:
        """An error that names the file and the row, counted from 0."""
        return InputError(f"{self.where}, {self.rows[row]}: {message}")


def read_table(path: Path, flag: str) -> Table:
    """Read a file.

    Args:
        path: the file. Its extension, one of `EXTENSIONS`, decides how it is read.
        flag: the flag that named the file, for error messages.

    Raises:
        InputError: the file cannot be read or has no rows.
    """
    where = f"{flag} {path}"
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise InputError(
            f"{where}: extension {extension!r} is not supported; give a file with one of {', '.join(EXTENSIONS)}"
        )
    if not path.is_file():
        raise InputError(f"{where}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    if extension == ".parquet":
        return _from_parquet(path, where)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from error
    if not text.strip():
        raise InputError(f"{where}: the file is empty; give one with examples")

    table = _from_json(text, where) if extension.startswith(".json") else _from_csv(text, where, extension)
    if not table.rows:
        raise InputError(f"{where}: column names, but no rows; add examples")
    return table


def _from_parquet(path: Path, where: str) -> Table:
    from datasets import Dataset
    from pyarrow import parquet

    try:
        rows = Dataset(parquet.read_table(path))
    except Exception as error:  # Arrow's errors, and those of features that another version of datasets wrote
        raise InputError(f"{where}: not a parquet file ({error_line(error, first=True)})") from error
    return table_of(rows, where)


def table_of(rows: Dataset, where: str) -> Table:
    """A data set as a table. Class ids become the names of the classes, if the data set has names; id -1 means no label.

    Columns that are neither text, numbers, classes, nor lists of these (images, audio ...) are left out.

    Raises:
        InputError: there are no rows.
    """
    from datasets import ClassLabel, Value

    if not len(rows):
        raise InputError(f"{where}: no rows; add examples")
    columns: dict[str, list] = {}
    class_names: dict[str, tuple[str, ...]] = {}
    for name, feature in rows.features.items():
        inner = _inner(feature)
        if not isinstance(inner, (Value, ClassLabel)):
            continue
        values = rows.with_format("arrow").select_columns([name])[:][name].to_pylist()
        if names := getattr(inner, "names", None):
            class_names[name] = tuple(names)
            values = [_named(value, names) for value in values]
        columns[name] = values
    return Table(where, columns, [f"row {row} (from 0)" for row in range(len(rows))], class_names)


def _inner(feature: Any) -> Any:
    """The feature of a list's elements, and any other feature itself. A list is a one-element list in older versions."""
    if isinstance(feature, list):
        return feature[0]
    return feature.feature if type(feature).__name__ in ("Sequence", "List", "LargeList") else feature


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return None if value is None or value < 0 else names[value]


def _from_csv(text: str, where: str, extension: str) -> Table:
    file = io.StringIO(text, newline="")  # the csv module handles line breaks, also quoted ones
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
        raise InputError(f"{where}, {places[0]}: two columns are named {doubled[0]!r}; rename one")
    for row, place in zip(rows, places[1:], strict=True):
        if len(row) != len(header):
            raise InputError(f"{where}, {place}: {len(row)} columns, expected {len(header)} ({', '.join(header)})")
    columns = {name: [row[at] for row in rows] for at, name in enumerate(header)}
    return Table(where, columns, places[1:])


def _check_separator(header: list[str], where: str, extension: str) -> None:
    """Refuse a separator that does not fit the extension: the file would seem to have one column."""
    if len(header) > 1:
        return
    for separator, name, way_out in (
        ("\t", "tabs", "name the file .tsv"),
        (";", "semicolons", "save it with commas"),
        (",", "commas", "name the file .csv"),
    ):
        if separator in header[0] and not (separator == "," and extension == ".csv"):
            raise InputError(f"{where}, line 1: columns separated by {name} in a {extension} file; {way_out}")


def _from_json(text: str, where: str) -> Table:
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
        raise InputError(f"{where}{place}: a record has two columns named {error.args[0]!r}; rename one") from None
    except (json.JSONDecodeError, RecursionError) as error:
        place = f", {places[-1]}" if places else ""
        raise InputError(
            f"{where}{place}: not JSON ({error}); give an array of objects, or one object per line"
        ) from error

    if not records:
        raise InputError(f"{where}: an empty array; give one with examples")
    for record, place in zip(records, places, strict=True):
        if not isinstance(record, dict):
            raise InputError(
                f'{where}, {place}: not an object with columns; write each example as {{"sentence": ..., "label": ...}}'
            )
        if record.keys() != records[0].keys():
            raise InputError(
                f"{where}, {place}: columns {', '.join(record)}, but {', '.join(records[0])} in the first record; give "
                "all records the same columns"
            )
    return Table(where, {name: [record[name] for record in records] for name in records[0]}, places)


class _TwiceError(ValueError):
    """An object has the same key twice."""


def _record(pairs: list[tuple[str, object]]) -> dict:
    record = dict(pairs)
    if len(record) < len(pairs):  # json itself would keep the last value
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return record


def find_column(table: Table, name: str) -> str | None:
    """The column of this name, or else the only one that differs from it just by case or by spaces at the ends."""
    if name in table.columns:
        return name
    found = [column for column in table.columns if column.strip().lower() == name.strip().lower()]
    return found[0] if len(found) == 1 else None


def only(table: Table) -> str:
    """`only idx, text`: the columns of the table, for error messages."""
    names = [name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..." for name in table.columns]
    return f"only {', '.join(' '.join(name.split()) for name in names)}"
