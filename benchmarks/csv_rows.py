"""A benchmark's rows as CSV: tables written row by row, which an interrupted measurement keeps, and records of a dataclass."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar


Record = TypeVar("Record")

KINDS: dict[str, Callable[[str], Any]] = {"str": str, "float": float, "int": int, "bool": lambda text: text == "1"}
"""Type of a record's field -> how its text is read."""


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    """Write rows with these columns."""
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(row)
            file.flush()


def read_rows(path: Path, share: str) -> tuple[dict, ...]:
    """The rows of a table, all text but `n` (int) and the column `share` (float)."""
    with open(path, newline="", encoding="utf-8") as file:
        return tuple({**row, share: float(row[share]), "n": int(row["n"])} for row in csv.DictReader(file))


def records_csv(kind: type, rows: Iterable[Mapping[str, Any]]) -> str:
    """The text of a CSV with a column for each field of a dataclass."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [f.name for f in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """The rows of a CSV as objects of a dataclass, with fields of the types in `KINDS`; none without the file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [
            kind(**{f.name: KINDS[str(f.type)](row[f.name]) for f in fields(kind)}) for row in csv.DictReader(file)
        ]
