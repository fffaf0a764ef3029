"""A study's runs and its table of recipes in formats that other programs read.

| format | content |
| --- | --- |
| `csv`, `parquet` | a row per run, numbers in full; `read_scores_file` reads the csv again |
| `markdown`, `latex` | the table of recipes, as in `summary.md`; LaTeX needs the package booktabs |

Below a table are the notes of a study with `--until` and of restarts; in LaTeX they are comments. Finished runs only: a crashed run has no record.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from ...utils.text import latex_table, markdown_table
from ..attempts import has_attempts
from ..records import RunRecord
from .summary import summarize
from .summary_page import ATTEMPT_COLUMNS, RESTART_NOTES, RUN_COLUMNS, recipes_cells, run_row


FORMATS = ("csv", "parquet", "latex", "markdown")

WHOLE = ("seed", "steps", "planned_steps", "alarm_step", "evaluations", "attempts", "steps_spent")
NUMBERS = ("last", "best", "accuracy", "baseline", "train_loss")
"""Columns of whole numbers, and of other numbers."""


def exported(runs: Sequence[RunRecord], to: str, notes: Sequence[str] = ()) -> bytes:
    """The content of a file.

    Args:
        runs: of one task and metric, at least one, in the order of the rows.
        to: one of `FORMATS`.
        notes: how to read the table of recipes, a sentence each, see `until_notes`. Rows of runs do without them.
    """
    if to == "csv":
        return _csv(runs).encode()
    if to == "parquet":
        return _parquet(runs)
    header, rows = recipes_cells(summarize(runs))
    notes = [*notes, *(RESTART_NOTES if has_attempts(runs) else ())]
    if to == "markdown":
        told = f"\n{' '.join(notes)}\n" if notes else ""
        return f"{markdown_table(header, rows)}\n{told}".encode()
    comments = "".join(f"% {note}\n" for note in notes)
    return f"% needs \\usepackage{{booktabs}}\n{latex_table(header, rows)}\n{comments}".encode()


def run_rows(runs: Sequence[RunRecord]) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns, and a row per run: those of `summary.csv`, then every metric of the last evaluation.

    With two-way seeds there are columns `init`, `order` and `dropout` after the seed; with restarts those of
    `ATTEMPT_COLUMNS` before the metrics.
    """
    cells = ["init", "order", "dropout"] if any(run.cell for run in runs) else []
    metrics = list(dict.fromkeys(key for run in runs for key in run.metrics if key.startswith("eval_")))
    at = RUN_COLUMNS.index("seed") + 1
    attempts = ATTEMPT_COLUMNS if has_attempts(runs) else ()
    columns = [*RUN_COLUMNS[:at], *cells, *RUN_COLUMNS[at:], *attempts, *metrics]
    rows = [{**run_row(run.to_dict()), "seed": run.known_seed, **(run.cell or {}), **run.metrics} for run in runs]
    return columns, [{name: row.get(name) for name in columns} for row in rows]


def _csv(runs: Sequence[RunRecord]) -> str:
    columns, rows = run_rows(runs)
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def _parquet(runs: Sequence[RunRecord]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    columns, rows = run_rows(runs)
    # Given, because a column without a value in these runs would have no type.
    words = {name: pyarrow.string() for name in (*RUN_COLUMNS, *ATTEMPT_COLUMNS)}
    numbers = {name: pyarrow.int64() for name in (*WHOLE, "init", "order", "dropout")}
    kinds = words | numbers | {name: pyarrow.float64() for name in NUMBERS} | {"audited": pyarrow.bool_()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in columns])
    target = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), target)
    return target.getvalue()
