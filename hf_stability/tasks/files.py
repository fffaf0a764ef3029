"""A task from the user's own files: csv, tsv, json or json lines, with a column of labels and one or two of text.

A file that has one meaning is read; one that may be meant otherwise is read with a warning; the rest is refused. Reading a
file is in table.py, choosing its columns in columns.py, its labels in labels.py. Doubts about the data themselves, once
they are read (one class, leakage), are in overview.py.
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
