"""The labels of a user's table: class ids, class names, or the numbers of a regression."""

from __future__ import annotations

import logging
import math
import unicodedata
from collections import Counter
from collections.abc import Sequence

from ..errors import InputError, nearest
from .columns import LABEL_COLUMN
from .table import Table
from .values import MISSING, dates_or_numbers, is_integer, is_missing, is_number


logger = logging.getLogger(__name__)


def label_kind(table: Table, regression: bool | None, label_names: Sequence[str] | None) -> str:
    """The kind of the training file's labels: `"id"`, `"number"`, `"word"`, or `"set"` for lists of labels."""
    labels = table.columns[LABEL_COLUMN]
    if isinstance(labels[0], list):
        if len(set(map(frozenset, labels))) < 2:
            raise InputError(
                f"{table.where}: all rows ({len(labels)}) have the labels {labels[0]}; training needs rows with different ones"
            )
        return "set"
    if len(set(labels)) < 2:
        raise InputError(
            f"{table.where}: all rows ({len(labels)}) have the label {labels[0]!r}; training needs at least two labels"
        )
    if regression:
        return "number"
    if label_names is not None and all(str(label) in label_names for label in labels):
        return "word"  # names that look like numbers are names
    if all(is_integer(label) for label in labels):
        return "id"
    if not all(is_number(label) for label in labels):
        for row, label in enumerate(labels):
            if not isinstance(label, str):
                raise table.error(row, f"label {label!r} among words; write it as a word, in quotes")
        return "word"
    if regression is False or label_names is not None:
        row = next(row for row, label in enumerate(labels) if not is_integer(label))
        raise table.error(row, f"label {labels[row]!r}, expected a whole number from 0 or a class name")
    if all(float(label).is_integer() for label in labels):
        logger.warning(
            "%s: labels such as %s are read as targets of a regression; for classes write 0, 1, ...",
            table.where,
            labels[0],
        )
    return "number"


def check_labels(table: Table, lists: bool) -> None:
    """Raise InputError for a missing label, and for values that are no labels.

    Args:
        table: the training or the development set.
        lists: whether each label must be a list of labels; else none may be. An empty list is no missing label: the example
            has none of the labels.
    """
    for row, label in enumerate(table.columns[LABEL_COLUMN]):
        if is_missing(label):
            raise table.error(row, f"no label ({label!r}); remove the row, or write one")
        if isinstance(label, list) != lists:
            among = "among lists; write each as a list" if lists else "among single ones; write all of them as lists"
            raise table.error(row, f"label {label!r} {among}")
        for one in label if lists else [label]:
            if not isinstance(one, (str, int) if lists else (str, int, float)) or is_missing(one):
                raise table.error(row, f"label {one!r}, expected a class{'' if lists else ' or a number'}")
        if lists and len(set(map(str, label))) < len(label):
            raise table.error(
                row,
                f"a label twice in {label}; list the names of the labels that the example has. If 0 and 1 tell it for each "
                "label, write a column per label, and --label_column_name A,B,C",
            )


def read_numbers(table: Table) -> list[float]:
    """The targets of a regression. Raises InputError for a value that is not a finite number."""
    numbers = []
    for row, label in enumerate(table.columns[LABEL_COLUMN]):
        if not is_number(label) or not math.isfinite(float(label)):
            raise table.error(row, f"label {label!r}, expected a number (regression)")
        numbers.append(float(label))
    return numbers


def read_ids(table: Table) -> list[int]:
    """Class ids. Raises InputError for a value that is not a whole number."""
    for row, label in enumerate(table.columns[LABEL_COLUMN]):
        if not is_integer(label):
            raise table.error(row, f"label {label!r}, expected a whole number from 0")
    return [int(label) for label in table.columns[LABEL_COLUMN]]


def check_ids(table: Table, labels: Sequence[int], classes: int) -> None:
    """Raise InputError unless all ids are from 0 to `classes` - 1."""
    for row, label in enumerate(labels):
        if not 0 <= label < classes:
            raise table.error(
                row,
                f"label {label}, but there are {classes} classes; number them 0 to {classes - 1}, or write words",
            )


def word_lists(table: Table) -> list[list[str]]:
    """The labels of each row as words: one, or with lists of labels any number."""
    labels = table.columns[LABEL_COLUMN]
    return [[str(one) for one in label] if isinstance(label, list) else [str(label)] for label in labels]


def sorted_names(table: Table) -> list[str]:
    """All class names of the table, sorted: as words, or as numbers if all of them are whole numbers."""
    names = {label for labels in word_lists(table) for label in labels}
    return sorted(names, key=int) if all(map(is_integer, names)) else sorted(names)


def read_words(table: Table, names: tuple[str, ...]) -> list[list[int]]:
    """The class ids of each row: the positions of its class names in `names`. Raises InputError for an unknown name."""
    ids = {name: index for index, name in enumerate(names)}
    for row, labels in enumerate(word_lists(table)):
        for label in labels:
            if label not in ids:
                known = names if len(names) <= 10 else (*names[:10], "...")
                raise table.error(
                    row,
                    f"label {label!r}, expected one of {', '.join(known)}{nearest(label, names)}; the training set needs "
                    "examples of each class",
                )
    return [[ids[label] for label in labels] for labels in word_lists(table)]


def doubt_names(table: Table) -> None:
    """Warn of class names that differ only by spaces or case, and of dates and numbers as names."""
    counts = Counter(label for labels in word_lists(table) for label in labels)
    alike: dict[str, list[str]] = {}
    for name in sorted(counts):
        alike.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    groups = [names for names in alike.values() if len(names) > 1]
    if groups:
        logger.warning(
            "%s: labels that differ only by spaces or case count as different classes: %s; spell each class in one way",
            table.where,
            "; ".join(", ".join(f"{name!r} ({counts[name]})" for name in names) for names in groups),
        )
    missing = [name for name in counts if name.strip().lower() in MISSING]
    if missing:
        logger.warning(
            "%s: %r is read as the name of a class, with %d rows; if it is a missing value, remove these rows",
            table.where,
            missing[0],
            counts[missing[0]],
        )
    if what := dates_or_numbers(list(counts)):
        logger.warning(
            "%s: the labels look like %s and are read as names of classes; to use another column, give --label_column_name%s",
            table.where,
            what,
            ". A regression needs numbers such as 1.5" if what.startswith("numbers") else "",
        )
