"""A task (columns, labels, metrics) and its data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Task:
    """A sentence or sentence-pair classification (or regression) task.

    Args:
        name: as on the command line: `"rte"`, `"demo_pair"`, `"custom"`.
        text_columns: names of the one or two columns of text.
        label_names: names of the classes in the order of their ids. None for a regression.
        metrics: keys that `compute_metrics` returns, the headline metric first. Greater is better for all of them.
        multi_label: whether an example has any number of the classes. Its label is then 0 or 1 for each class.
    """

    name: str
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...] | None
    metrics: tuple[str, ...]
    multi_label: bool = False

    @property
    def headline(self) -> str:
        """The metric in tables. It also selects the best checkpoint."""
        return self.metrics[0]

    @property
    def is_regression(self) -> bool:
        return self.label_names is None

    @property
    def num_labels(self) -> int:
        """Width of the classifier's output: the number of classes, or 1 for a regression."""
        return 1 if self.label_names is None else len(self.label_names)

    def classes_of(self, labels: Iterable[Any]) -> list[int]:
        """Class ids: of each example its class; with `multi_label`, those of all its labels, one after the other."""
        return [k for label in labels for k, on in enumerate(label) if on] if self.multi_label else list(labels)

    def is_one_class(self, labels: Iterable[Any]) -> bool:
        """Whether all examples have the same class; with `multi_label`, the same labels. Never for a regression."""
        return not self.is_regression and len(set(map(tuple, labels) if self.multi_label else labels)) < 2


@dataclass(frozen=True)
class TaskData:
    """The data of a task, before tokenisation.

    Args:
        task: the task.
        train: columns `task.text_columns` (text) and `label` (int class id; float for a regression; for several labels
            per example a float of 0 or 1 for each class, as the loss takes them).
        validation: name -> development set. Nearly every task has one, `{"validation": ...}`. MNLI has
            `{"validation_matched": ..., "validation_mismatched": ...}`. The first is the one that counts.
        source: where the data came from, in words: `"nyu-mll/glue (hub)"`, `"folder (official layout)"`.
        label_column: name of the label column in the user's file.
    """

    task: Task
    train: Dataset
    validation: dict[str, Dataset] = field(default_factory=dict)
    source: str = ""
    label_column: str = "label"
