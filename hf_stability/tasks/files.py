"""A task from the user's own data: files, or a data set that `datasets` reads. A column of labels, and one or two of text.

Data with one meaning are read. Data that may have another meaning are read with a warning. All others are refused.
table.py reads a file and dataset.py a data set, columns.py chooses the columns, labels.py reads the labels. overview.py has the
doubts about data that were read (one class, leakage).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .columns import (
    LABEL_COLUMN,
    check_text,
    choose_columns,
    doubt_columns,
    doubt_text,
    find_label_column,
    find_text_columns,
    join_label_columns,
)
from .labels import (
    check_ids,
    check_labels,
    doubt_names,
    label_kind,
    read_ids,
    read_numbers,
    read_words,
    sorted_names,
)
from .table import Table, find_column, read_table
from .task import Task, TaskData


MULTI_LABEL = ("f1_micro", "f1_macro")
"""Metrics of tasks with several labels per example."""


def load_files(train_file: str | os.PathLike, validation_file: str | os.PathLike, **columns: Any) -> TaskData:
    """A task named `custom` from two files.

    Files: `.csv` (quoted as in RFC 4180), `.tsv` (quotes count as text, as in GLUE), `.json` (an array of objects, or one
    object per line), `.jsonl`, `.parquet`. Encoding: UTF-8, with or without a BOM. The first line of csv and tsv names the
    columns.

    Args:
        train_file: the training set.
        validation_file: the development set, with the same columns.
        columns: the keywords of `load_tables`.

    Raises:
        InputError: an error in a file or a label, with flag, file and row.
    """
    train, validation = Path(train_file), Path(validation_file)
    tables = read_table(train, "--train_file"), read_table(validation, "--validation_file")
    return load_tables(*tables, f"files ({train.name}, {validation.name})", **columns)


def load_tables(
    train: Table,
    validation: Table,
    source: str,
    regression: bool | None = None,
    label_names: Sequence[str] | None = None,
    text_column_names: str | Sequence[str] | None = None,
    label_column_name: str | None = None,
) -> TaskData:
    """A task named `custom` from two tables.

    Text: the column `sentence`, or `sentence1` and `sentence2`. Without these, the first one or two other columns of
    strings; columns of numbers, and columns named `id`, `idx`, `index` or `guid`, are skipped.

    A column is also found if its name differs only by case or by spaces at the ends (`Label`).

    Labels: whole numbers are class ids 0 to K-1. Other numbers are the targets of a regression. Words are class names; their
    ids follow their sorted order in the training set, or that of a `ClassLabel`.

    Several labels per example: each label is a list of names or numbers, or there is a column of 0 and 1 for each label.

    Args:
        train: the training set.
        validation: the development set, with the same columns.
        source: where they came from, in words.
        regression: True reads whole numbers as targets too. False refuses numbers that are not whole. Default: None, as
            above.
        label_names: the classes in the order of their ids. A word is looked up here; a number is an index. A class may then
            be absent from the training set. Default: those of the training set's `ClassLabel`, if it has one.
        text_column_names: one or two columns to read the text from, instead of those above.
        label_column_name: the column of labels, instead of `label`. Several columns, joined by commas (`toxic,insult`): a
            column of 0 and 1 for each label.

    Returns:
        The data. The headline metric is accuracy (two classes also get F1 of class 1 and Matthews correlation), for a
        regression the mean of Pearson's and Spearman's correlation, and for several labels per example the micro-F1.

    Raises:
        InputError: an error in a label or a text, with flag, file and row.
    """
    if label_column_name and "," in label_column_name and find_column(train, label_column_name) is None:
        label_names = [name.strip() for name in label_column_name.split(",")]
        train, validation = (join_label_columns(one, label_names, label_column_name) for one in (train, validation))
    label_column = find_label_column(train, label_column_name)
    label_names = label_names or train.class_names.get(label_column)
    text_columns = find_text_columns(train, text_column_names, label_column)
    train, validation = (choose_columns(table, text_columns, label_column) for table in (train, validation))
    lists = isinstance(train.columns[LABEL_COLUMN][0], list)
    for table in (train, validation):
        check_labels(table, lists)
        check_text(table, text_columns)
        doubt_text(table, text_columns)
    doubt_columns(train, text_columns)

    kind = label_kind(train, regression, label_names)
    names: tuple[str, ...] | None
    train_labels: list[Any]
    validation_labels: list[Any]
    if kind == "number":
        names = None
        train_labels, validation_labels = (read_numbers(table) for table in (train, validation))
    elif kind == "id":
        train_labels, validation_labels = (read_ids(table) for table in (train, validation))
        names = tuple(label_names or map(str, range(len(set(train_labels)))))
        for table, labels in ((train, train_labels), (validation, validation_labels)):
            check_ids(table, labels, len(names))
    else:
        names = tuple(label_names or sorted_names(train))
        ids = [read_words(table, names) for table in (train, validation)]
        train_labels, validation_labels = (
            [[float(k in own) for k in range(len(names))] if lists else own[0] for own in part] for part in ids
        )
        if label_names is None:
            doubt_names(train)
        if lists and len(names) < 2:
            raise InputError(f"{train.where}: lists of one label only, {names[0]!r}; write 1 and 0 instead of lists")
    task = Task("custom", text_columns, names, _metrics(names, lists), multi_label=lists)
    return TaskData(
        task,
        _to_dataset(task, train, train_labels),
        {"validation": _to_dataset(task, validation, validation_labels)},
        source,
        label_column,
    )


def _metrics(names: tuple[str, ...] | None, multi_label: bool) -> tuple[str, ...]:
    """The metrics, the headline metric first."""
    if names is None:
        return ("pearson_and_spearman", "pearson", "spearman")
    if multi_label:
        return MULTI_LABEL
    return ("accuracy", "f1", "matthews_correlation") if len(names) == 2 else ("accuracy",)


def _to_dataset(task: Task, table: Table, labels: list) -> Any:
    from datasets import Dataset, Features, Sequence, Value

    features = {name: Value("string") for name in task.text_columns}
    features[LABEL_COLUMN] = Value("float32" if task.is_regression else "int64")
    if task.multi_label:
        features[LABEL_COLUMN] = Sequence(Value("float32"), length=task.num_labels)
    columns = {name: table.columns[name] for name in task.text_columns}
    return Dataset.from_dict({**columns, LABEL_COLUMN: labels}, features=Features(features))
