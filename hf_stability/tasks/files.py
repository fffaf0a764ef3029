"""A task from the user's own files: csv, tsv, json or json lines, with a column of labels and one or two of text.

A file with one meaning is read. A file that may have another meaning is read with a warning. All others are refused.
table.py reads a file, columns.py chooses its columns, labels.py reads its labels. overview.py has the doubts about data
that were read (one class, leakage).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .columns import (
    LABEL_COLUMN,
    check_text,
    choose_columns,
    doubt_columns,
    doubt_text,
    find_label_column,
    find_text_columns,
)
from .labels import check_ids, doubt_names, label_kind, read_ids, read_numbers, read_words
from .table import Table, read_table
from .task import Task, TaskData


def load_files(
    train_file: str | os.PathLike,
    validation_file: str | os.PathLike,
    regression: bool | None = None,
    label_names: Sequence[str] | None = None,
    text_column_names: Sequence[str] | None = None,
    label_column_name: str | None = None,
) -> TaskData:
    """A task named `custom` from two files.

    Files: `.csv` (quoted as in RFC 4180), `.tsv` (quotes count as text, as in GLUE), `.json` (an array of objects, or one
    object per line), `.jsonl`. Encoding: UTF-8, with or without a BOM. The first line of csv and tsv names the columns.

    Text: the column `sentence`, or `sentence1` and `sentence2`. Without these, the first one or two other columns of
    strings; columns of numbers, and columns named `id`, `idx`, `index` or `guid`, are skipped.

    A column is also found if its name differs only by case or by spaces at the ends (`Label`).

    Labels: whole numbers are class ids 0 to K-1. Other numbers are the targets of a regression. Words are class names; their
    ids follow their sorted order in the training file.

    Args:
        train_file: the training set.
        validation_file: the development set, with the same columns.
        regression: True reads whole numbers as targets too. False refuses numbers that are not whole. Default: None, as
            above.
        label_names: the classes in the order of their ids. A word is looked up here; a number is an index. A class may then
            be absent from the training file.
        text_column_names: one or two columns to read the text from, instead of those above.
        label_column_name: the column of labels, instead of `label`.

    Returns:
        The data. The headline metric is accuracy (two classes also get F1 of class 1 and Matthews correlation), or for a
        regression the mean of Pearson's and Spearman's correlation.

    Raises:
        InputError: an error in a file or a label, with flag, file and row.
    """
    train = read_table(Path(train_file), "--train_file")
    validation = read_table(Path(validation_file), "--validation_file")
    label_column = find_label_column(train, label_column_name)
    text_columns = find_text_columns(train, text_column_names, label_column)
    train, validation = (choose_columns(table, text_columns, label_column) for table in (train, validation))
    for table in (train, validation):
        check_text(table, text_columns)
        doubt_text(table, text_columns)
    doubt_columns(train, text_columns)

    kind = label_kind(train, regression, label_names)
    names: tuple[str, ...] | None
    train_labels: list[Any]
    validation_labels: list[Any]
    metrics: tuple[str, ...]
    if kind == "number":
        names = None
        train_labels, validation_labels = (read_numbers(table) for table in (train, validation))
    elif kind == "id":
        train_labels, validation_labels = (read_ids(table) for table in (train, validation))
        names = tuple(label_names or map(str, range(len(set(train_labels)))))
        for table, labels in ((train, train_labels), (validation, validation_labels)):
            check_ids(table, labels, len(names))
    else:
        names = tuple(label_names or sorted({str(label) for label in train.columns[LABEL_COLUMN]}))
        train_labels, validation_labels = (read_words(table, names) for table in (train, validation))
        if label_names is None:
            doubt_names(train)
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


def _to_dataset(task: Task, table: Table, labels: list) -> Any:
    from datasets import Dataset, Features, Value

    features = {name: Value("string") for name in task.text_columns}
    features[LABEL_COLUMN] = Value("float32" if task.is_regression else "int64")
    columns = {name: table.columns[name] for name in task.text_columns}
    return Dataset.from_dict({**columns, LABEL_COLUMN: labels}, features=Features(features))
