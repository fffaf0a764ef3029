"""A study's summary for experiment trackers, through the Trainer's own integrations: MLflow, Trackio, Weights & Biases.

A study reports to no tracker unless `--report_to` names one. Then each run's Trainer has that tracker's callback, and logs
its own run. This module adds one more run for the study: the figures of each recipe. It calls the same callback with the
events of a training that logs once and has no model: `on_train_begin`, `on_log`, `on_train_end`. So projects, servers and
offline modes are set as for any Trainer. As for a training, wandb's callback continues a run that is open in this process.
TensorBoard has the study's own file, see `tensorboard`.

| key | meaning |
| --- | --- |
| `eval_study/RECIPE/failed_share`, `..._low`, `..._high` | share of failed runs, with its 95% Wilson interval |
| `eval_study/RECIPE/METRIC_mean`, `_std`, `_std_ok`, `_median`, `_max` | scores at the end; `std_ok` of the runs that did not fail |
| `eval_study/RECIPE/runs`, `failed`, `crashed`, `stopped`, `stopped_early` | numbers of runs |

`summarize` defines them. Figures without a value are left out. Trackers other than MLflow show `eval_` as `eval/`. The
prefix keeps them from taking the figures for training metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks

from ...utils.text import error_line
from ..job import Job


TRACKERS = ("mlflow", "trackio", "wandb")
"""The integrations that get the summary."""

COUNTS = ("runs", "failed", "crashed", "stopped", "stopped_early")
SHARES = ("failed_share", "failed_share_low", "failed_share_high")
SCORES = ("mean", "std", "std_ok", "median", "max")

OF_TRACKERS = ("project", "hub_private_repo", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
"""Training arguments that tell a tracker where to put a run."""


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


def summary_logs(summary: Mapping[str, Any]) -> dict[str, float]:
    """The figures of each recipe, as a Trainer logs numbers. The module's table has the keys."""
    logs = {}
    for figures in summary["recipes"]:
        names = {key: key for key in (*COUNTS, *SHARES)} | {
            key: f"{summary['metric'] or 'score'}_{key}" for key in SCORES
        }
        for key, name in names.items():
            if figures.get(key) is not None:
                logs[f"eval_study/{figures['recipe']}/{name}"] = figures[key]
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
            _send(name, run_name, summary, jobs, folder)
        except Exception as error:  # of a tracker's library, its server, or the network
            lines.append(
                f"--report_to {name}: the study's summary was not sent ({error_line(error, kind=True, first=True)})"
            )
        else:
            lines.append(f"The study's summary was sent to {name}: run {run_name}.")
    return lines


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
