"""Tables of a benchmark's rows as CSV, written row by row: an interrupted measurement keeps what it has."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path


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
