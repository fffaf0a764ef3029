"""Which columns of a user's table are the text and the labels, and whether the text is text.

A choice that may be wrong is warned of; what cannot be text raises.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from ..errors import InputError
from .table import Table, find_column, only
from .values import MISSING, dates_or_numbers, is_blank, is_number


logger = logging.getLogger(__name__)

LABEL_COLUMN = "label"
ID_COLUMNS = ("id", "idx", "index", "guid")  # never taken for text
TEXT_COLUMNS = (("sentence",), ("sentence1", "sentence2"))  # taken by their names
PAIRS = (("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2"), ("question", "passage"))
"""Columns that are evidently a pair: taken by position like others, without a warning."""


def find_label_column(table: Table, asked: str | None) -> str:
    """The labels' column.

    Args:
        table: the training file's.
        asked: the name that the user gave; None for `label`.

    Raises:
        InputError: there is no such column.
    """
    found = find_column(table, LABEL_COLUMN if asked is None else asked)
    if found is not None:
        return found
    if asked is not None:
        raise InputError(f"--label_column_name {asked}: {table.where} has no such column, {only(table)}")
    header = " (the first line must name the columns)" if table.where.lower().endswith((".csv", ".tsv")) else ""
    raise InputError(
        f"{table.where}: no column {LABEL_COLUMN!r}, {only(table)}{header}; --label_column_name chooses another"
    )


def find_text_columns(table: Table, asked: Sequence[str] | None, label_column: str) -> tuple[str, ...]:
    """The columns of text, one or two; a guess is warned of.

    Args:
        table: the training file's.
        asked: the names that the user gave; None to find them.
        label_column: the labels' column, which is none of them.

    Raises:
        InputError: there is no column of text, or not those that were asked for.
    """
    if asked is not None:
        return _asked_text_columns(table, asked, label_column)
    others = [name for name in table.columns if name != label_column]
    others = [name for name in others if name.strip().lower() not in (*ID_COLUMNS, LABEL_COLUMN)]
    strings = [name for name in others if not all(is_number(v) or is_blank(v) for v in table.columns[name])]
    named = [[find_column(table, name) for name in names] for names in TEXT_COLUMNS]
    chosen = next((tuple(names) for names in named if all(name in others for name in names)), None)
    by_position = chosen is None
    if by_position:
        chosen = tuple(strings[:2])
    if not chosen:
        raise InputError(f"{table.where}: no column of text, {only(table)}; --text_column_names chooses one or two")
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


def _asked_text_columns(table: Table, asked: Sequence[str], label_column: str) -> tuple[str, ...]:
    flag = f"--text_column_names {' '.join(asked)}"
    if not 1 <= len(asked) <= 2:
        raise InputError(f"{flag}: {len(asked)} columns; give one, or two for a pair of texts")
    found = [find_column(table, name) for name in asked]
    if None in found:
        name = asked[found.index(None)]
        raise InputError(f"{flag}: {table.where} has no column {name!r}, {only(table)}")
    if label_column in found:
        raise InputError(f"{flag}: {label_column} is the column of the labels; --label_column_name chooses another")
    if len(set(found)) < len(found):
        raise InputError(f"{flag}: the same column twice")
    if LABEL_COLUMN in found:  # the labels are called so from here on
        raise InputError(f"{flag}: rename this column in both files; a column of text cannot be called {LABEL_COLUMN}")
    return tuple(found)


def choose_columns(table: Table, text_columns: tuple[str, ...], label_column: str) -> Table:
    """The columns that are used, named as in the training file, that of the labels `label`."""
    columns = {}
    for name, new in (*zip(text_columns, text_columns, strict=True), (label_column, LABEL_COLUMN)):
        found = find_column(table, name)
        if found is None:
            what = "the labels" if new == LABEL_COLUMN else "text"
            raise InputError(f"{table.where}: no column {name!r} ({what} of the training file), {only(table)}")
        columns[new] = table.columns[found]
    return replace(table, columns=columns)


def check_text(table: Table, text_columns: tuple[str, ...]) -> None:
    """Raise InputError for a value that is no text."""
    for name in text_columns:
        for row, text in enumerate(table.columns[name]):
            if not isinstance(text, str):
                raise table.error(row, f"column {name!r} is {text!r}, expected text")
            if not text.strip():
                raise table.error(row, f"no text in column {name!r}; leave the row out, or write a text")
            if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
                raise table.error(row, f"half a surrogate pair in column {name!r}")  # JSON can spell it, UTF-8 cannot


def doubt_columns(table: Table, text_columns: tuple[str, ...]) -> None:
    """Warn of columns of text that hold dates or numbers."""
    for name in text_columns:
        if what := dates_or_numbers(table.columns[name]):
            logger.warning(
                "%s: the text in column %s looks like %s; --text_column_names chooses another", table.where, name, what
            )


def doubt_text(table: Table, text_columns: tuple[str, ...]) -> None:
    """Warn of single texts that are hardly texts."""
    labels = set(map(str, table.columns[LABEL_COLUMN]))
    for name in text_columns:
        texts = table.columns[name]
        missing = [row for row, text in enumerate(texts) if text.strip().lower() in MISSING]
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
