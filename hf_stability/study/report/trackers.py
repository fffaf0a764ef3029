"""A study's summary for experiment trackers, through the Trainer's own integrations: MLflow, Trackio, Weights & Biases.

A study reports to no tracker unless `--report_to` names one. Then each run's Trainer has that tracker's callback, and logs
its own run. This module adds one more run for the study: the figures of each recipe. It calls the same callback with the
events of a training that logs once and has no model: `on_train_begin`, `on_log`, `on_train_end`. So projects, servers and
offline modes are set as for any Trainer. A run that is open in this process before is continued, by the callbacks of wandb and
MLflow. TensorBoard has the study's own file, see `tensorboard`.

| key | meaning |
| --- | --- |
| `eval_study/RECIPE/failed_share`, `..._low`, `..._high` | share of failed runs, with its 95% Wilson interval |
| `eval_study/RECIPE/METRIC_mean`, `_std`, `_std_ok`, `_median`, `_max` | scores at the end; `std_ok` of the runs that did not fail |
| `eval_study/RECIPE/runs`, `failed`, `crashed`, `stopped`, `stopped_early` | numbers of runs |

A recipe with restarts (`--on_alarm restart`) is called `RECIPE after restarts`, and has also its `cost`: update steps of all
attempts over those of one run. `summarize` defines the figures. Figures without a value are left out. Trackers other than MLflow show `eval_` as `eval/`. The
prefix keeps them from taking the figures for training metrics. MLflow shows `_` for a character that it does not take, such as
`+`.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks

from ...utils.text import error_line
from ..job import Job


logger = logging.getLogger(__name__)

TRACKERS = ("mlflow", "trackio", "wandb")
"""The integrations that get the summary."""

COUNTS = ("runs", "failed", "crashed", "stopped", "stopped_early")
SHARES = ("failed_share", "failed_share_low", "failed_share_high")
SCORES = ("mean", "std", "std_ok", "median", "max")
AFTER_RESTARTS = " after restarts"
"""Behind the name of a recipe with restarts: its figures are of final results."""

OF_TRACKERS = ("project", "hub_private_repo", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
"""Training arguments that tell a tracker where to put a run."""


OF_A_MODEL = ("WANDB_LOG_MODEL", "WANDB_WATCH")
"""Environment variables with which wandb's callback wants a model. The summary has none."""


class SummaryArguments(TrainingArguments):
    """The training arguments that a tracker's callback reads, for a study. All others have their defaults.

    A tracker shows `to_dict()` as the run's settings. Those of one run would be wrong for the study, so it gets facts of the
    study instead.

    Args:
        facts: what `to_dict` returns.
        values: training arguments.
    """

    def __init__(
        self, facts: Mapping[str, Any], **values: Any
    ):  # without `TrainingArguments`', which chooses a device
        self.facts = dict(facts)
        vars(self).update(values)

    def to_dict(self) -> dict[str, Any]:
        """The facts of the study."""
        return dict(self.facts)


def trackers_in(report_to: str | Sequence[str] | None) -> list[str]:
    """The trackers among the values of `report_to`, in the order of `TRACKERS`; `all` means those that are installed."""
    given = [report_to] if isinstance(report_to, str) else list(report_to or ())
    if "all" in given:
        given = get_available_reporting_integrations()
    return [name for name in TRACKERS if name in given]


@contextlib.contextmanager
def closing_runs(report_to: str | Sequence[str] | None) -> Iterator[None]:
    """End the trackers' runs that begin in this block. One that was open before stays open.

    The Trainer's callbacks leave this to the end of the process: wandb's always, the others after an error. But a worker process
    ends too abruptly for that, and a later run in the same process would continue an open one.

    Args:
        report_to: as a Trainer takes it.
    """
    names = [name for name in trackers_in(report_to) if not _has_open_run(name)]
    failed = True
    try:
        yield
        failed = False
    finally:
        for name in names:
            try:
                if _has_open_run(name):
                    _end_run(name, failed)
            except Exception as error:  # of a tracker's library, its server, or the network
                logger.error(f"{name}: its run could not be ended ({error_line(error, kind=True, first=True)})")


def _has_open_run(name: str) -> bool:
    library = importlib.import_module(name)
    if name == "wandb":
        return library.run is not None
    if name == "mlflow":
        return library.active_run() is not None
    return library.context_vars.current_run.get() is not None


def _end_run(name: str, failed: bool) -> None:
    library = importlib.import_module(name)
    if name == "wandb":
        library.finish(exit_code=int(failed))
    elif name == "mlflow":
        library.end_run("FAILED" if failed else "FINISHED")
    else:
        library.finish()


def summary_logs(summary: Mapping[str, Any]) -> dict[str, float]:
    """The figures of each recipe, as a Trainer logs numbers. The module's table has the keys."""
    logs = {}
    for figures in summary["recipes"]:
        restarts = figures.get("restarts")
        after = AFTER_RESTARTS if restarts is not None else ""
        names = {key: key for key in (*COUNTS, *SHARES)} | {
            key: f"{summary['metric'] or 'score'}_{key}" for key in SCORES
        }
        for key, name in names.items():
            if figures.get(key) is not None:
                logs[f"eval_study/{figures['recipe']}{after}/{name}"] = figures[key]
        if restarts is not None and restarts["cost"] is not None:
            logs[f"eval_study/{figures['recipe']}{after}/cost"] = restarts["cost"]
    return logs


def send_summary(summary: Mapping[str, Any], jobs: Sequence[Job], folder: Path) -> list[str]:
    """Send a study's summary to the trackers that its jobs report to. An error ends nothing: it is a line of the result.

    Args:
        summary: see `summarize`.
        jobs: of the study.
        folder: the study's; its name is the name of the run.

    Returns:
        A line per tracker: sent, or why not.
    """
    lines = []
    for name in dict.fromkeys(name for job in jobs for name in trackers_in(job.args.get("report_to"))):
        run_name = f"{folder.absolute().name} (study)"
        try:
            with closing_runs(name), _without_model():
                _send(name, run_name, summary, jobs, folder)
        except Exception as error:  # of a tracker's library, its server, or the network
            lines.append(
                f"--report_to {name}: the study's summary was not sent ({error_line(error, kind=True, first=True)})"
            )
        else:
            lines.append(f"The study's summary was sent to {name}: run {run_name}.")
    return lines


@contextlib.contextmanager
def _without_model() -> Iterator[None]:
    given = {name: os.environ.pop(name) for name in OF_A_MODEL if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(given)


def _send(name: str, run_name: str, summary: Mapping[str, Any], jobs: Sequence[Job], folder: Path) -> None:
    facts = {
        "task": jobs[0].task,
        "metric": summary["metric"],
        "recipes": ", ".join(figures["recipe"] for figures in summary["recipes"]),
        "model_fingerprint": jobs[0].model_fingerprint,
        "data_fingerprint": jobs[0].data_fingerprint,
    }
    own = {key: jobs[0].args[key] for key in OF_TRACKERS if key in jobs[0].args}
    args = SummaryArguments(facts, output_dir=str(folder), run_name=run_name, **own)
    state, control = TrainerState(), TrainerControl()
    (kind,) = get_reporting_integration_callbacks([name])
    callback = kind()
    callback.on_train_begin(args, state, control)
    callback.on_log(args, state, control, logs=summary_logs(summary))
    callback.on_train_end(args, state, control)
