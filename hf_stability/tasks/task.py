"""What a task is: columns, labels, metrics; and the data of one, as read from anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Task:
    """A sentence or sentence-pair classification (or regression) task.

    Args:
        name: as on the command line: `"rte"`, `"demo_pair"`, `"custom"`.
        text_columns: one or two column names that hold the text.
        label_names: names of the classes in the order of their ids; None for regression.
        metrics: keys that `compute_metrics` returns, the headline metric first. Greater is better for all of them.
    """

    name: str
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...] | None
    metrics: tuple[str, ...]

    @property
    def headline(self) -> str:
        """The metric that stands in tables, and that picks the best checkpoint."""
        return self.metrics[0]

    @property
    def is_regression(self) -> bool:
        return self.label_names is None

    @property
    def num_labels(self) -> int:
        """Width of the classifier's output: number of classes, 1 for regression."""
        return 1 if self.label_names is None else len(self.label_names)


@dataclass(frozen=True)
class TaskData:
    """The data of a task, before tokenisation.

    Args:
        task: what it is.
        train: columns `task.text_columns` (text) and `label` (int class id, float for regression).
        validation: the development sets by name. One for nearly every task, `{"validation": ...}`;
            MNLI has `{"validation_matched": ..., "validation_mismatched": ...}`. The first is the one that counts.
        source: where it came from, in words, for the record: `"nyu-mll/glue (hub)"`, `"folder (official layout)"`.
        label_column: what the label's column is called in the user's file.
    """

    task: Task
    train: Dataset
    validation: dict[str, Dataset] = field(default_factory=dict)
    source: str = ""
    label_column: str = "label"
