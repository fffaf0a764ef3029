"""A task's data in a line, and what looks wrong with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from datasets import Dataset

from hf_stability.tasks.overview import CLASSES_SHOWN, columns_and_classes, doubts
from hf_stability.tasks.task import Task, TaskData


def data(
    train: list, names: tuple | None = ("neg", "pos"), name: str = "custom", texts: str = "train", **sets
) -> TaskData:
    """Sets with these labels, and texts that differ between sets."""

    def rows(labels: list, text: str) -> Dataset:
        return Dataset.from_dict({"sentence": [f"{text} {i}" for i in range(len(labels))], "label": labels})

    task = Task(name, ("sentence",), names, ("accuracy",))
    return TaskData(
        task, rows(train, texts), {key: rows(labels, key) for key, labels in sets.items()}, "files (a, b)", "y"
    )


def test_columns_and_counts():
    assert columns_and_classes(data([0, 1, 1], validation=[1])) == (
        "task custom: text from sentence, label from y; examples in train / validation: neg 1 / 0, pos 2 / 1"
    )
    assert "in train / first / second: neg 1 / 1 / 0, pos 1 / 0 / 1" in columns_and_classes(
        data([0, 1], first=[0], second=[1])
    )
    odd = data([0, 1, 2], ("pos ", "a,b", "n"), validation=[0])
    assert columns_and_classes(odd).endswith("'pos ' 1 / 1, 'a,b' 1 / 0, n 1 / 0")
    assert columns_and_classes(data([0.5, -1.0], None, validation=[2.0])).endswith(
        "; targets: train -1 to 0.5, validation 2 to 2"
    )


def test_of_many_classes_some_are_shown():
    names = tuple(f"c{i}" for i in range(CLASSES_SHOWN + 3))
    line = columns_and_classes(data(list(range(len(names))), names, validation=[0]))
    assert line.endswith(f"c{CLASSES_SHOWN - 1} 1 / 0, and 3 more classes")


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            data([0, 1], validation=[1, 1]),
            "validation: all 2 examples are of the class pos. No run can beat the majority",
        ),
        (data([0, 1], first=[0, 1], second=[0]), "second: all 1 examples are of the class neg"),
        (
            data([0, 0, 1, 1], ("a", "b", "c"), validation=[0, 2, 2]),
            "validation: 2 of 3 examples are of the class c, which",
        ),
        (
            data([0, 1, 2, 3, 0], tuple("abcd"), validation=[0, 1]),
            "train: 4 classes in 5 examples. Is y the column of labels",
        ),
        (
            data([0, 1], texts="validation", validation=[0, 1, 1]),
            "validation: 2 of 3 texts are in the training set too",
        ),
        (
            data([0.5, 1], None, texts="validation", validation=[0.1, 0.5, 1]),
            "validation: 2 of 3 texts are in the training set too",
        ),
        (
            data([0.5, 1], None, validation=[2.5, 2.5]),
            "validation: all 2 targets are 2.5. A correlation needs at least two different values",
        ),
    ],
)
def test_doubts(case, message):
    (said,) = doubts(case)
    assert said.startswith(f"files (a, b), {message}") and "\n" not in said


@pytest.mark.parametrize(
    "case",
    [
        data([0, 1, 1], validation=[0, 1]),
        data([0, 1, 2, 0, 1, 2], ("a", "b", "c"), validation=[0, 1]),
        data([0.5, 1.5], None, validation=[1.0, 1.5]),
        data([0, 1], name="rte", texts="validation", validation=[0, 1]),  # GLUE's overlaps are known
    ],
)
def test_no_doubts(case):
    assert doubts(case) == []


def test_several_labels_per_example():
    def several(train: list, validation: list) -> TaskData:
        made = data(train, ("a", "b c"), validation=validation)
        return replace(made, task=replace(made.task, multi_label=True))

    found = several([[1, 1], [0, 0], [1, 0]], [[1, 0], [0, 0]])
    assert columns_and_classes(found).endswith(
        "examples in train / validation (several labels per example): a 2 / 1, 'b c' 1 / 0"
    )
    assert doubts(found) == []
    (same,) = doubts(several([[1, 0], [0, 1]], [[1, 0], [1, 0]]))
    assert "all 2 examples have the same labels. No run can beat the best constant answer" in same
    (unknown,) = doubts(several([[1, 0], [0, 0]], [[1, 1], [0, 0]]))
    assert "1 of 2 examples are of the class 'b c', which has no training examples" in unknown
