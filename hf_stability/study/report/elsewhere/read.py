"""Runs made elsewhere as run records: plain Trainer folders, a table of scores, a dict of arrays.

The records work in `summarize` like those of a study. Unknown values stay unknown:

- A run has failed if its score is at or below a baseline: the score of the best constant prediction, for accuracy the
  share of the most frequent class. It comes from `baseline`, from the runs' own data, or from the metric (0 for Matthews,
  Pearson, Spearman, R2). Without any, a run is `UNJUDGED`: its score counts in mean and std, but no failed share is known.
- One failure is certain without a baseline. The most frequent of K classes has a share of at least 1 / K. So an accuracy of
  1 / K or less has failed. K comes from the model's config.
- A run without a known seed has a negative one. These numbers are unique among the runs that were read together.
- A training that has not ended is `unknown`, and no figure counts it.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ....diagnostics.metrics import family
from ....errors import InputError, nearest
from ....tasks.table import Table, find_column, only, read_table
from ....utils.text import joined
from ....verdicts.verdict import CENSORED, STATUSES
from ...records import UNJUDGED, RunRecord
from .run_records import Found, choose_metric, to_records
from .trainer_folders import SEED_IN_NAME, TrainerRun, read_trainer_folder, seed_in_name


# ---- Trainer folders ------------------------------------------------------------------------------------------------


def read_trainer_folders(
    patterns: Sequence[str], metric: str | None = None, baseline: float | None = None, recipe: str | None = None
) -> list[RunRecord]:
    """The runs in plain Trainer folders.

    A run's score is that of the evaluation after the last update step; see `TrainerRun.source` for the others. A folder
    without any file of a Trainer is `unknown`.

    | recipe of a folder | if |
    | --- | --- |
    | `NAME` | the pattern is `NAME=PATTERN`, or `recipe` is given |
    | `bert` | its name is `bert_seed-3`: the name without the seed |
    | `run` | the pattern is `out/run*`: the pattern's last part without wildcards |
    | `out` | else: the folder that it is in |

    Args:
        patterns: of folders, such as `out/*`; each may be `NAME=PATTERN`.
        metric: the headline metric, with or without `eval_`. Default: the only metric; else the one that selected
            checkpoints.
        baseline: score of the best constant prediction. It replaces the runs' own.
        recipe: the name for all of them.

    Returns:
        the records, by recipe in the order of the patterns, then by folder. `id` is the folder.

    Raises:
        InputError: nothing matches, a file is damaged, no metric can be chosen, or two runs have one recipe and seed.
    """
    runs: list[tuple[str, Path, TrainerRun | None]] = []
    for text in patterns:
        name, pattern = _name_and_pattern(text)
        for folder in _matches(text, pattern):
            label = recipe or name or _recipe_name(pattern, folder)
            runs.append((label, folder, read_trainer_folder(folder)))
    _check_folders([folder for _, folder, _ in runs])
    read = [(label, run) for label, _, run in runs if run is not None]
    if not read:
        raise InputError(
            f"--runs {joined(patterns)}: {len(runs)} folder{'s' * (len(runs) > 1)}, but no file of a Trainer in them "
            "(trainer_state.json, checkpoint-*/trainer_state.json, eval_results.json, all_results.json)"
        )
    _check_models(read)
    names = {str(run.folder): list(run.metrics) for _, run in read if run.finished and run.metrics}
    if not names:
        raise InputError(
            f"--runs {joined(patterns)}: no finished run has an evaluation; evaluate with eval_strategy and "
            "compute_metrics, or give the scores in a file with --scores"
        )
    metric = choose_metric("--runs", names, metric, _selecting_metric([run for _, run in read]))
    found = [
        Found(str(folder), label, seed_in_name(folder.name), metric, None, "unknown", NO_FILES)
        if run is None
        else _from_folder(label, run, metric)
        for label, folder, run in runs
    ]
    return to_records(found, baseline)


NO_FILES = "unknown: no file of a Trainer is in this folder."


def _name_and_pattern(text: str) -> tuple[str, str]:
    """`NAME=PATTERN` -> both; else an empty name. A path with `=` in it is a pattern."""
    name, equals, pattern = text.partition("=")
    named = equals and name and pattern and "/" not in name and not glob.glob(text)
    return (name, pattern) if named else ("", text)


def _matches(text: str, pattern: str) -> list[Path]:
    """The folders that a pattern matches, with numbers in their order."""
    given = Path(pattern).expanduser()
    paths: Iterable[Path] = [given] if given.is_dir() else map(Path, glob.glob(str(given), recursive=True))
    found = [path.parent if path.name == "trainer_state.json" else path for path in paths]
    found = [path for path in found if path.is_dir()]
    if not found:
        raise InputError(
            f"--runs {text}: no folder matches; give a pattern of Trainer output folders in quotes, for example "
            "--runs 'out/*'"
        )
    return sorted(
        found, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]
    )


def _recipe_name(pattern: str, folder: Path) -> str:
    last = Path(pattern).name
    if seed_in_name(folder.name) is not None and _without_seed(folder.name):
        return _without_seed(folder.name)
    if re.search(r"[*?\[]", last) and not Path(pattern).is_dir():
        name = _without_seed(re.sub(r"\[[^\]]*\]|[*?]+", "", last))
        if name:
            return name
    return folder.absolute().parent.name or str(folder.absolute().parent)


def _without_seed(name: str) -> str:
    """`bert_seed-3` -> `bert`; `seed-3` -> nothing."""
    name = re.sub(rf"[-_.=]*(?:{SEED_IN_NAME.pattern}|(?<![a-z0-9])seeds?$)", "", name.rstrip("-_.="), flags=re.I)
    return name.strip("-_.=")


def _check_folders(folders: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise InputError(f"--runs: two patterns match {folder}; give each run once")
        seen.add(folder.resolve())


def _check_models(runs: Sequence[tuple[str, TrainerRun]]) -> None:
    """Refuse runs of two tasks, and two kinds of models under one recipe."""
    models: dict[str, TrainerRun] = {}
    classes: TrainerRun | None = None
    for recipe, run in runs:
        first = models.setdefault(recipe, run) if run.model_type else run
        if first.model_type != run.model_type:
            raise InputError(
                f"--runs: {first.folder} is a {first.model_type} model, {run.folder} a {run.model_type} model, but both "
                f"are of the recipe {recipe}; name them: --runs 'NAME=PATTERN' 'OTHER=PATTERN'"
            )
        if run.labels is not None and classes is not None and run.labels != classes.labels:
            raise InputError(
                f"--runs: {classes.folder} has {classes.labels} classes, {run.folder} has {run.labels}; a report is about "
                "one task, so give the runs of one task only"
            )
        classes = classes or (run if run.labels is not None else None)


def _selecting_metric(runs: Sequence[TrainerRun]) -> str | None:
    """The metric that selected checkpoints (`metric_for_best_model`), if the logs tell. The Trainer writes only its value."""
    found: set[str] | None = None
    for run in runs:
        if run.best is not None:
            value, step = run.best
            own = {name for name, score in run.evaluations.get(step, {}).items() if score == value}
            found = own if found is None else found & own
    return found.pop() if found is not None and len(found) == 1 else None


def _from_folder(recipe: str, run: TrainerRun, metric: str) -> Found:
    place, verdict, score = str(run.folder), run.verdict, run.metrics.get(metric)
    status, sentence = (verdict.status, verdict.sentence) if verdict is not None else ("", "")
    fields: dict[str, Any] = {"task": run.task, "steps": run.steps, "planned_steps": run.planned}
    if not run.finished and status not in ("diverged", *CENSORED):
        status, score = "unknown", None
        sentence = (
            f"unknown: the training has not ended, or its last checkpoint was deleted. The newest one is at step {run.steps} "
            f"of {run.planned}."
        )
        return Found(place, recipe, run.seed, metric, score, status, sentence, fields=fields)
    if run.nonfinite and status not in CENSORED:
        status, sentence = (
            "diverged",
            sentence if status == "diverged" else f"diverged: NaN or Inf in {run.nonfinite}.",
        )
    if status == "unknown" and score is not None:  # a baseline may be known now
        status = ""
    if score is None and not status:
        status, sentence = "unknown", "unknown: the run was never evaluated."
    known = {} if verdict is None else verdict.evidence
    own = known.get("baseline") if known.get("metric") == metric else None
    if own is None and family(metric) == "accuracy":
        own = known.get("constant_accuracy")
    values = [scores.get(metric, math.nan) for scores in run.evaluations.values()]
    curve = [value for value in values if math.isfinite(value)]
    fields |= {
        "best": max(curve, default=None),
        "accuracy": run.metrics.get("accuracy"),
        "train_loss": run.train_loss,
        "evaluations": len(curve),
        "alarm_step": (known.get("alarm") or {}).get("step"),
        "metrics": {f"eval_{name}": value for name, value in run.metrics.items()},
    }
    return Found(place, recipe, run.seed, metric, score, status, sentence, own, run.labels, run.source, fields)


# ---- tables of scores, dicts of arrays ------------------------------------------------------------------------------

NUMBERS = ("baseline", "best", "train_loss")
COUNTS = ("steps", "planned_steps", "evaluations", "alarm_step", "steps_spent")
WORDS = ("status", "sentence", "task", "first_status")
NOT_METRICS = ("recipe", "seed", *NUMBERS, *COUNTS, *WORDS, "epoch", "step", "attempts")
"""Columns of a table that are no candidates for the headline metric."""


def read_scores_file(path: str | Path, metric: str | None = None, baseline: float | None = None) -> list[RunRecord]:
    """The runs in a table of scores: a row per run, with the columns `recipe`, `seed` and the metric.

    An empty cell of `seed` means that the seed is not known. More columns are read if they are there: `status` (such as
    `diverged` or `crashed`; then the score may be missing), `baseline`, and those of a study's `summary.csv`. In a
    `summary.csv`, the column `metric` has the metric's name and `last` its score.

    Args:
        path: a .csv, .tsv, .json or .jsonl file.
        metric: the column of the scores. Default: the only column of numbers for which larger is better.
        baseline: score of the best constant prediction. It replaces the column.

    Returns:
        the records, in the order of the rows. `id` is the file and the row.

    Raises:
        InputError: the file is damaged, a column is missing, no metric can be chosen, a cell is wrong, or two rows have one
            recipe and seed. The message names file, line and column.
    """
    table = read_table(Path(path), "--scores")
    columns = {name: find_column(table, name) for name in (*NOT_METRICS, "metric", "last")}
    missing = [name for name in ("recipe", "seed") if columns[name] is None]
    if missing:
        raise InputError(
            f"{table.where}: no column {joined(missing)} ({only(table)}); give recipe, seed and the metric, a row per run. "
            "Leave a cell of seed empty if it is not known"
        )
    name, scores = _score_column(table, columns, metric)
    return to_records([_from_row(table, row, columns, name, scores) for row in range(len(table.rows))], baseline)


def _score_column(table: Table, columns: Mapping[str, str | None], metric: str | None) -> tuple[str, str]:
    """The headline metric, and the column of its scores."""
    if columns["metric"] is not None and columns["last"] is not None:  # a summary.csv
        found = sorted({str(name) for name in table.columns[columns["metric"]] if name not in (None, "")})
        if len(found) > 1:
            raise InputError(
                f"{table.where}: {len(found)} metrics in column {columns['metric']} ({', '.join(found)}); keep the rows of one"
            )
        return choose_metric(table.where, {table.where: found}, metric), columns["last"]
    taken = set(columns.values())
    names = {}
    for column, cells in table.columns.items():
        given = [cell for cell in cells if cell not in (None, "")]
        if column not in taken and given and all(_is_float(cell) for cell in given):
            names[column.strip().removeprefix("eval_")] = column
    wanted = None if metric is None else metric.removeprefix("eval_")
    column = None if wanted is None else find_column(table, wanted) or find_column(table, f"eval_{wanted}")
    if wanted is not None and column is not None:  # also if a cell is wrong: its line is named later
        names[wanted] = column
    others = [column for column in table.columns if column not in taken]
    if not names and metric is None and len(others) == 1:  # a cell of it is wrong, and its line is named later
        names[others[0].strip().removeprefix("eval_")] = others[0]
    if not names and metric is None:
        raise InputError(
            f"{table.where}: no column of numbers besides recipe and seed ({only(table)}); add the scores"
        )
    chosen = choose_metric(table.where, {table.where: list(names)}, metric)
    return chosen, names[chosen]


def _is_float(cell: Any) -> bool:
    try:
        return not isinstance(cell, bool) and float(cell) is not None
    except (TypeError, ValueError):
        return False


def _from_row(table: Table, row: int, columns: Mapping[str, str | None], metric: str, scores: str) -> Found:
    def cell(name: str) -> Any:
        column = columns[name]
        value = None if column is None else table.columns[column][row]
        return value.strip() if isinstance(value, str) else value

    recipe, status = str(cell("recipe") or ""), str(cell("status") or "")
    if not recipe:
        raise table.error(row, f"no recipe in column {columns['recipe']}; give each run one")
    if status not in (*STATUSES, UNJUDGED, ""):
        raise table.error(
            row, f"status {status!r}{nearest(status, STATUSES)}; give one of {', '.join(STATUSES)}, or none"
        )
    score = _number(table, row, scores)
    status = "" if status == UNJUDGED else status
    if score is None and status in ("", "ok"):
        raise table.error(
            row,
            f"no score in column {scores}; give it, or say in a column status why there is none (diverged, crashed, failed, "
            "unknown)",
        )
    fields: dict[str, Any] = {
        name: _number(table, row, columns[name]) for name in NUMBERS if columns[name] is not None
    }
    counts = {name: _whole(table, row, columns[name]) for name in COUNTS if columns[name] is not None}
    fields |= {name: value for name, value in counts.items() if value is not None}
    if "steps_spent" in fields:  # of a study with restarts: its figures have a mark
        fields |= {"attempts": [], "first_status": str(cell("first_status") or "") or None}
    own = fields.pop("baseline", None)
    fields["task"] = str(cell("task") or "")
    if score is not None:
        fields |= {"metrics": {f"eval_{metric}": score}}
        fields |= {"accuracy": score} if family(metric) == "accuracy" else {}
    place = f"{table.where.removeprefix('--scores ')}, {table.rows[row]}"
    seed = _whole(table, row, columns["seed"])
    return Found(place, recipe, seed, metric, score, status, str(cell("sentence") or ""), own, fields=fields)


def _number(table: Table, row: int, column: str | None) -> float | None:
    """A cell as a number; None for an empty cell or NaN."""
    value = None if column is None else table.columns[column][row]
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not _is_float(value) or math.isinf(float(value)):
        raise table.error(
            row, f"column {column}: {value!r} is not a finite number; correct it, or leave the cell empty"
        )
    return None if math.isnan(float(value)) else float(value)


def _whole(table: Table, row: int, column: str | None) -> int | None:
    """A cell as a whole number of at least 0; None for an empty cell."""
    value = _number(table, row, column)
    if value is None:
        return None
    if value < 0 or value != int(value):
        raise table.error(
            row, f"column {column}: {value:g} is not a whole number of 0 or more; correct it, or leave it empty"
        )
    return int(value)


def from_scores(
    scores: Mapping[str, ArrayLike],
    metric: str = "score",
    baseline: float | None = None,
    task: int | None = None,
    seeds: Sequence[int] | None = None,
) -> list[RunRecord]:
    """Run records from a dict of arrays, as libraries for the statistics of runs take it.

    Args:
        scores: recipe -> scores, `(runs,)` or `(runs, tasks)`, finite.
        metric: the name of the scores; larger is better.
        baseline: score of the best constant prediction.
        task: which column, from 0; needed if there are several tasks, because a report is about one.
        seeds: one per run, the same for all recipes. Default: not known, so that no runs are paired.

    Raises:
        InputError: wrong shapes or values.
    """
    metric = choose_metric("metric", {"scores": [metric]}, metric)
    found = []
    for recipe, values in scores.items():
        array = np.asarray(values, dtype=float)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or not array.size or not np.isfinite(array).all():
            raise InputError(f"scores of {recipe}: need finite numbers, of shape (runs,) or (runs, tasks)")
        if task is None and array.shape[1] > 1:
            raise InputError(
                f"scores of {recipe}: {array.shape[1]} tasks; a report is about one task, so give task=0 to "
                f"task={array.shape[1] - 1}"
            )
        if not 0 <= (task or 0) < array.shape[1]:
            raise InputError(f"task {task}: scores of {recipe} have {array.shape[1]} tasks, counted from 0")
        if seeds is not None and len(seeds) != len(array):
            raise InputError(f"scores of {recipe}: {len(array)} runs, but {len(seeds)} seeds; give one for each run")
        for row, score in enumerate(array[:, task or 0].tolist()):
            seed = None if seeds is None else int(seeds[row])
            fields = {"task": "" if task is None else f"task {task}", "metrics": {f"eval_{metric}": score}}
            found.append(Found(f"{recipe}, run {row}", recipe, seed, metric, score, fields=fields))
    if not found:
        raise InputError("scores: an empty dict; give recipe -> scores")
    return to_records(found, baseline)
