"""One run in words, from its folder alone: verdict, scores, files, settings with their sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...diagnostics.attempt import Attempt
from ...diagnostics.begin_again import HOW
from ...errors import InputError
from ...utils.text import decimal, joined, loss_text, markdown_table
from ...verdicts.verdict import NOT_OK
from ..attempts import attempts_of, was_restarted
from ..job import RESTART
from ..records import RunRecord, read_run
from .settings import read_json, settings_rows


FILES = {
    "gradients.png": "gradient norms by layer",
    "verdict.json": "verdict with its evidence",
    "metrics.json": "all evaluations",
    "steps.rec": "every update step",
    "predictions.npz": "logits and labels of the last evaluation",
    "config.json": "settings and versions",
    "error.txt": "the traceback",
}
"""Files of a run, and what is in them."""


def describe_run(folder: Path) -> str:
    """The text of `hf-stability show`.

    Args:
        folder: of a run in a study, or the `output_dir` of a Trainer with the StabilityCallback.

    Raises:
        InputError: it is no folder, has no files of a run, or is a whole study's.
    """
    if not folder.is_dir():
        what = "this is a file" if folder.exists() else "no such folder"
        raise InputError(f"show {folder}: {what}; give a run's folder")
    own = folder / "stability" if (folder / "stability" / "verdict.json").is_file() else folder
    run, verdict, config = read_run(own), read_json(own / "verdict.json"), read_json(own / "config.json")
    if (folder / "runs").is_dir() and run is None:
        raise InputError(
            f"show {folder}: this is a study's folder; give one run of it, such as {folder}/runs/RECIPE/seed-001. For the "
            f"whole study: hf-stability report {folder}"
        )
    if run is None and not verdict and not config and not (own / "error.txt").is_file():
        hint = ""
        if (folder / "trainer_state.json").is_file() or any(folder.glob("checkpoint-*")):
            hint = f". It is a Trainer's; to find out why the run failed: hf-stability diagnose {folder}"
        raise InputError(
            f"show {folder}: there is no verdict, no record and no settings of a run in this folder{hint}"
        )
    parts = [
        "\n".join([f"{folder}", *_verdict_lines(own, run, verdict, config)]),
        "\n".join(_score_lines(run)) if run is not None else "",
        "\n".join(["Files:", *_file_lines(own)]),
        _settings(config),
        _versions(config),
    ]
    return "\n\n".join(part for part in parts if part)


def _verdict_lines(
    own: Path, run: RunRecord | None, verdict: Mapping[str, Any], config: Mapping[str, Any]
) -> list[str]:
    """The verdict in one sentence; for a run without one, why there is none."""
    if run is not None:
        lines = [run.sentence or run.status]
    elif verdict.get("sentence"):
        lines = [str(verdict["sentence"])]
    elif (own / "error.txt").is_file():
        text = (own / "error.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        lines = [f"crashed: {text[-1] if text else 'no traceback'}"]
    else:
        lines = ["not finished: there is no record yet. The study's command, run again, finishes it."]
    status = run.status if run is not None else verdict.get("status")
    if run is not None and run.alarm_step is not None:
        lines.append(f"early warning: alarm at update step {run.alarm_step}")
    if run is not None and was_restarted(run):
        lines += [_attempt_line(attempt) for attempt in attempts_of(run)]
    if status in NOT_OK:
        lines.append(f"To find the cause: hf-stability diagnose {own.parent if own.name == 'stability' else own}")
    return lines


def _attempt_line(attempt: Attempt) -> str:
    """How an attempt ended, and what it changed."""
    how = HOW[attempt.reason] if attempt.was_abandoned else "trained to its end"
    changes = joined(
        f"{name} {value:.2g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in attempt.settings.items()
    )
    line = f"attempt {attempt.number + 1}: {how}, step {attempt.steps} of {attempt.total_steps}"
    return f"{line}; with other seeds{f', {changes}' if changes else ''}" if attempt.number else line


def _score_lines(run: RunRecord) -> list[str]:
    """Scores at the end and at the best evaluation, with the baseline."""
    of = f" of {run.planned_steps}" if run.planned_steps and run.planned_steps != run.steps else ""
    lines = [f"recipe {run.recipe}, {run.name.partition('/')[2]}, task {run.task}; {run.steps}{of} update steps"]
    lines.append(
        f"{run.metric}: {decimal(run.last)} at the end of training, {decimal(run.best)} at the best of "
        f"{run.evaluations} evaluations; best constant prediction {decimal(run.baseline)}"
    )
    if run.report is not None:
        lines.append(f"{run.metric} on the second half, which selected nothing: {decimal(run.report)}")
    if run.train_loss is not None:
        lines.append(f"train loss, mean over the last 10% of update steps: {loss_text(run.train_loss)}")
    return lines


def _file_lines(own: Path) -> list[str]:
    """Paths of the run's files, with what is in them."""
    found = [(own / name, what) for name, what in FILES.items() if (own / name).is_file()]
    found += [(own / name, "the model") for name in ("model", "encoder") if (own / name).is_dir()]
    width = max((len(str(path)) for path, _ in found), default=0)
    return [f"  {str(path).ljust(width)}  {what}" for path, what in found] or ["  none"]


def _settings(config: Mapping[str, Any]) -> str:
    if not config.get("job"):
        return ""
    table = markdown_table(["argument", "value", "from"], settings_rows(config))
    first = " of the first attempt" if config["job"].get("args", {}).get("on_alarm") == RESTART else ""
    return f"Settings{first} (every other argument keeps the Trainer's default):\n{table}"


def _versions(config: Mapping[str, Any]) -> str:
    versions = config.get("versions") or {}
    return f"Versions: {', '.join(f'{name} {value}' for name, value in versions.items())}" if versions else ""
