"""A task's data in one line, and doubts about them. Both are printed before any run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .task import TaskData


if TYPE_CHECKING:
    from datasets import Dataset


CLASSES_SHOWN = 10


def columns_and_classes(data: TaskData) -> str:
    """The columns of text and label, and the number of examples per set and class (for a regression, the range of targets).

    `task custom: text from sentence, label from label; examples in train / validation: neg 20 / 8, pos 20 / 12`
    """
    sets = {"train": data.train, **data.validation}
    columns = " and ".join(map(_shown, data.task.text_columns))
    text = f"task {data.task.name}: text from {columns}, label from {_shown(data.label_column)}"
    if data.task.is_regression:
        ranges = [f"{name} {min(labels):g} to {max(labels):g}" for name, labels in _labels(sets).items()]
        return f"{text}; targets: {', '.join(ranges)}"
    counts = [Counter(data.task.classes_of(labels)) for labels in _labels(sets).values()]
    names = data.task.label_names
    shown = [
        f"{_shown(name)} {' / '.join(str(count[index]) for count in counts)}"
        for index, name in enumerate(names[:CLASSES_SHOWN])
    ]
    more = f", and {len(names) - CLASSES_SHOWN} more classes" if len(names) > CLASSES_SHOWN else ""
    several = " (several labels per example)" if data.task.multi_label else ""
    return f"{text}; examples in {' / '.join(sets)}{several}: {', '.join(shown)}{more}"


def doubts(data: TaskData) -> list[str]:
    """Doubts about the training and evaluation data, one sentence each.

    They are: a development set with one class only, a class without training examples, nearly as many classes as examples,
    and development examples that are in the training set too.
    """
    said = _doubts_about_targets(data) if data.task.is_regression else _doubts_about_classes(data)
    if data.task.name != "custom":
        return said  # GLUE's sets overlap, as is known
    trained = set(_texts(data, data.train))
    for name, rows in data.validation.items():
        known = sum(text in trained for text in _texts(data, rows))
        if known:
            said.append(
                f"{data.source}, {name}: {known} of {len(rows)} texts are in the training set too, so scores will be too "
                "good. Remove them from one of the two sets."
            )
    return said


def _doubts_about_targets(data: TaskData) -> list[str]:
    return [
        f"{data.source}, {name}: all {len(labels)} targets are {labels[0]:g}. A correlation needs at least two different "
        "values. Give a development set with more."
        for name, labels in _labels(data.validation).items()
        if len(set(labels)) == 1
    ]


def _doubts_about_classes(data: TaskData) -> list[str]:
    said = []
    names = data.task.label_names
    sets = _labels({"train": data.train, **data.validation})
    trained = data.task.classes_of(sets.pop("train"))
    classes = set(trained)
    if len(classes) > 2 and 2 * len(classes) > len(trained):
        said.append(
            f"{data.source}, train: {len(classes)} classes in {len(trained)} examples. Is {data.label_column} the column of "
            "labels? If not, give the right one with --label_column_name."
        )
    for name, labels in sets.items():
        ids = data.task.classes_of(labels)
        if data.task.is_one_class(labels):
            what = "have the same labels" if data.task.multi_label else f"are of the class {_shown(names[labels[0]])}"
            best = (
                "best constant answer" if data.task.multi_label else "majority-class baseline there (accuracy 1.000)"
            )
            said.append(
                f"{data.source}, {name}: all {len(labels)} examples {what}. No run can beat the {best}. Give a development "
                "set with all classes."
            )
        for index in sorted(set(ids) - classes):
            said.append(
                f"{data.source}, {name}: {ids.count(index)} of {len(labels)} examples are of the class "
                f"{_shown(names[index])}, which has no training examples. Add some, or remove the class from {name}."
            )
    return said


def _labels(sets: dict[str, Dataset]) -> dict[str, list]:
    return {name: rows["label"][:] for name, rows in sets.items()}


def _texts(data: TaskData, rows: Dataset) -> Sequence[tuple[str, ...]]:
    return list(zip(*(rows[name][:] for name in data.task.text_columns), strict=True))


def _shown(name: str) -> str:
    """A name, in quotes if it has spaces, commas or slashes, or is empty."""
    return repr(name) if any(letter.isspace() or letter in ",/" for letter in name) or not name else name
