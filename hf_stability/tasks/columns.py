"""Find the columns of text and labels in a user's table, and check the text.

A choice that may be wrong gives a warning. A value that cannot be text is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from ..errors import InputError
from .table import Table, find_column, only
from .values import MISSING, dates_or_numbers, is_blank, is_missing, is_number


logger = logging.getLogger(__name__)

LABEL_COLUMN = "label"
ID_COLUMNS = ("id", "idx", "index", "guid")  # never used as text
TEXT_COLUMNS = (("sentence",), ("sentence1", "sentence2"))  # used because of their names
SWITCH = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""Values of a column that tells for one label whether an example has it."""
PAIRS = (("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2"), ("question", "passage"))
"""Columns that are clearly a pair. They are found by position like others, but without a warning."""


def find_label_column(table: Table, asked: str | None) -> str:
    """The column of the labels.

    Args:
        table: the training file.
        asked: the name that the user gave; None means `label`.

    Raises:
        InputError: no such column.
    """
    found = find_column(table, LABEL_COLUMN if asked is None else asked)
    if found is not None:
        return found
    if asked is not None:
        raise InputError(
            f"--label_column_name {asked}: {table.where} has no such column, {only(table)}; give one of these"
        )
    header = " (the first line must name the columns)" if table.where.lower().endswith((".csv", ".tsv")) else ""
    raise InputError(
        f"{table.where}: no column {LABEL_COLUMN!r}, {only(table)}{header}; give another with --label_column_name"
    )


def find_text_columns(table: Table, asked: str | Sequence[str] | None, label_column: str) -> tuple[str, ...]:
    """The columns of text, one or two. A guess gives a warning.

    Args:
        table: the training file.
        asked: the names that the user gave, as a list or joined by commas; None to find the columns.
        label_column: the column of the labels, which cannot be text.

    Raises:
        InputError: no column of text, or no column with a name that the user gave.
    """
    if asked is not None:
        names = [asked] if isinstance(asked, str) else list(asked)
        if len(names) == 1 and find_column(table, names[0]) is None:  # a,b: as run_classification.py takes them
            names = names[0].split(",")
        return _asked_text_columns(table, names, label_column)
    others = [name for name in table.columns if name != label_column]
    others = [name for name in others if name.strip().lower() not in (*ID_COLUMNS, LABEL_COLUMN)]
    strings = [name for name in others if not all(is_number(v) or is_blank(v) for v in table.columns[name])]
    named = [[find_column(table, name) for name in names] for names in TEXT_COLUMNS]
    chosen = next((tuple(names) for names in named if all(name in others for name in names)), None)
    by_position = chosen is None
    if by_position:
        chosen = tuple(strings[:2])
    if not chosen:
        raise InputError(f"{table.where}: no column of text, {only(table)}; name one or two with --text_column_names")
    unused = [name for name in strings if name not in chosen]
    guessed = by_position and len(chosen) == 2 and tuple(name.strip().lower() for name in chosen) not in PAIRS
    if unused or guessed:
        logger.warning(
            "%s: text is read from %s%s%s; to use others, give --text_column_names",
            table.where,
            " and ".join(chosen),
            ", the first two columns of text, as a pair" if guessed else "",
            f"; not used: {', '.join(unused)}" if unused else "",
        )
    return chosen


def _asked_text_columns(table: Table, asked: Sequence[str], label_column: str) -> tuple[str, ...]:
    flag = f"--text_column_names {' '.join(asked)}"
    if not 1 <= len(asked) <= 2:
        raise InputError(f"{flag}: {len(asked)} columns; give one, or two for pairs of texts")
    found = [find_column(table, name) for name in asked]
    if None in found:
        name = asked[found.index(None)]
        raise InputError(f"{flag}: {table.where} has no column {name!r}, {only(table)}; give one or two of these")
    if label_column in found:
        raise InputError(f"{flag}: {label_column} is the column of the labels; give another with --label_column_name")
    if len(set(found)) < len(found):
        raise InputError(f"{flag}: the same column twice; give two different ones, or one")
    if LABEL_COLUMN in found:  # from here on, this is the name of the labels' column
        raise InputError(f"{flag}: a column of text cannot be called {LABEL_COLUMN}; rename it in both files")
    return tuple(found)


def join_label_columns(table: Table, names: Sequence[str], joined: str) -> Table:
    """The table with one column of labels in place of one column of 0 and 1 per label.

    Args:
        table: the training or the development set.
        names: columns of the training set; also the names of the labels.
        joined: name of the new column. Its values are lists of labels.

    Raises:
        InputError: a column is missing, or has another value than 0 and 1.
    """
    found = [find_column(table, name) for name in names]
    if None in found:
        name = names[found.index(None)]
        raise InputError(f"--label_column_name {joined}: {table.where} has no column {name!r}, {only(table)}")
    labels: list[list[str]] = [[] for _ in table.rows]
    for name, column in zip(names, found, strict=True):
        for row, value in enumerate(table.columns[column]):
            word = str(value).strip().lower()
            if word not in SWITCH:
                raise table.error(row, f"{value!r} in the label's column {name!r}, expected 0 or 1")
            if SWITCH[word]:
                labels[row].append(name)
    columns = {name: values for name, values in table.columns.items() if name not in found}
    return replace(table, columns={**columns, joined: labels})


def choose_columns(table: Table, text_columns: tuple[str, ...], label_column: str) -> Table:
    """The table with the used columns only. They get the names of the training file; the labels get the name `label`."""
    columns = {}
    for name, new in (*zip(text_columns, text_columns, strict=True), (label_column, LABEL_COLUMN)):
        found = find_column(table, name)
        if found is None:
            what = "the labels" if new == LABEL_COLUMN else "text"
            raise InputError(
                f"{table.where}: no column {name!r} ({what} of the training file), {only(table)}; rename one"
            )
        columns[new] = table.columns[found]
    return replace(table, columns=columns)


def check_text(table: Table, text_columns: tuple[str, ...]) -> None:
    """Raise InputError for a value that is not text."""
    for name in text_columns:
        for row, text in enumerate(table.columns[name]):
            if is_missing(text):
                raise table.error(row, f"no text in column {name!r}; remove the row, or write a text")
            if not isinstance(text, str):
                raise table.error(row, f"column {name!r} is {text!r}, expected text in quotes")
            if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
                # JSON can spell it, UTF-8 cannot.
                raise table.error(
                    row, f"half a surrogate pair in column {name!r}; remove it, or write the whole character"
                )


def doubt_columns(table: Table, text_columns: tuple[str, ...]) -> None:
    """Warn of columns of text with dates or numbers in them."""
    for name in text_columns:
        if what := dates_or_numbers(table.columns[name]):
            logger.warning(
                "%s: the text in column %s looks like %s; to use another, give --text_column_names",
                table.where,
                name,
                what,
            )


def doubt_text(table: Table, text_columns: tuple[str, ...]) -> None:
    """Warn of single texts that are probably not meant as text."""
    labels = set(map(str, table.columns[LABEL_COLUMN]))
    for name in text_columns:
        texts = table.columns[name]
        missing = [row for row, text in enumerate(texts) if text.strip().lower() in MISSING]
        if missing:
            first = missing[0]
            logger.warning(
                "%s, %s: the text in column %s is %r, as in %d row(s); if this is a missing value, remove the row",
                table.where,
                table.rows[first],
                name,
                texts[first],
                len(missing),
            )
        joined = [row for row, text in enumerate(texts) if not labels.isdisjoint(_line_ends(text))]
        if joined and table.where.lower().endswith(".csv"):
            logger.warning(
                '%s, %s: the text in column %s has a line break after a label, as in %d row(s). An unpaired " may have joined '
                'two rows; if so, write it as ""',
                table.where,
                table.rows[joined[0]],
                name,
                len(joined),
            )
        quoted = sum(len(text) > 1 and text[0] == text[-1] == '"' for text in texts)
        if table.where.lower().endswith(".tsv") and 2 * quoted > len(texts):
            logger.warning(
                '%s: %d of %d texts in column %s begin and end with ". Quotes in a .tsv count as text; save the file as .csv',
                table.where,
                quoted,
                len(texts),
                name,
            )


def _line_ends(text: str) -> list[str]:
    """The text after the last comma, for each line except the last."""
    return [line.rpartition(",")[2] for line in text.splitlines()[:-1] if "," in line]
