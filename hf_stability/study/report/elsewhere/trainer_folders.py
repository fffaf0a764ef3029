"""A Trainer's output folder as numbers: scores, update steps and seed of a run, as far as its files tell them.

| file | what is read |
| --- | --- |
| `trainer_state.json` | the log, update steps, the best evaluation; the folder's own, else that of its newest checkpoint |
| `eval_results.json`, `all_results.json` | the evaluation after training |
| `config.json` | model type, number of labels, task |
| `stability/verdict.json` | the verdict, if `StabilityCallback` watched the run |
| `README.md` | the seed, if it is the Trainer's model card |

`training_args.bin` is not read, although it has the seed: it is a pickle, and reading a pickle can run code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....errors import InputError
from ....utils.trainer_files import last_state, read_object
from ....verdicts.verdict import Verdict


NOT_SCORES = re.compile(
    r"(^|_)(runtime|samples|samples_per_second|steps_per_second|tokens_per_second|time|epoch)$|(^|_)mem_"
)
"""Keys of an evaluation that are no scores: times, numbers of examples, memory."""

SEED_IN_NAME = re.compile(r"(?<![a-z0-9])seed[-_=]?(\d+)(?![0-9])", re.IGNORECASE)
"""`seed3`, `seed-3`, `bert_seed_03_long`; not `dataseed3`."""

SEED_IN_CARD = re.compile(r"^- seed: (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class TrainerRun:
    """A run, from the files of its folder. Unknown values are None or empty.

    Args:
        folder: the Trainer's output folder.
        seed: from a search's trial, the folder's name, or the model card.
        evaluations: update step -> metrics (keys without `eval_`), of the evaluations during training.
        after: metrics of the evaluation after training. With `load_best_model_at_end` it is of the best checkpoint.
        steps, planned: update steps that were made, and of the whole training; 0 if not known.
        finished: whether the training has ended.
        early: whether `EarlyStoppingCallback` ended it.
        train_loss: mean of the losses that were logged in the last 10% of the planned update steps.
        nonfinite: where NaN or Inf shows that the run diverged, in words.
        best: value and update step of the best evaluation, in the metric that selected checkpoints. The Trainer does not
            write its name.
        verdict: by `StabilityCallback`.
        model_type, labels, task: of the model's config; `labels` is the number of classes of a classifier.
    """

    folder: Path
    seed: int | None = None
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    planned: int = 0
    finished: bool = True
    early: bool = False
    train_loss: float | None = None
    nonfinite: str = ""
    best: tuple[float, int] | None = None
    verdict: Verdict | None = None
    model_type: str = ""
    labels: int | None = None
    task: str = ""

    @property
    def metrics(self) -> dict[str, float]:
        """The evaluation that counts: the one after the last update step; see `source` for which one it is."""
        if self.evaluations and (self.steps in self.evaluations or not self.after):
            return self.evaluations[max(self.evaluations)]
        return self.after

    @property
    def source(self) -> str:
        """Where the evaluation that counts comes from, in words; empty if it is that of the last update step."""
        last = max(self.evaluations, default=None)
        ended = f"; EarlyStoppingCallback ended the training at step {self.steps} of {self.planned}" * self.early
        if last is not None and (last == self.steps or not self.after):
            return (f"; its last evaluation is at step {last} of {self.steps}" if last != self.steps else "") + ended
        if self.after and self.best is not None and self.best[1] < self.steps:
            return f"; evaluated after training: with load_best_model_at_end, of the best checkpoint{ended}"
        return ended


def read_trainer_folder(folder: Path) -> TrainerRun | None:
    """Read a Trainer's output folder; None if it has no file of a Trainer.

    Raises:
        InputError: a file is damaged or has another content; the folder is a checkpoint or a run of a study.
    """
    if re.fullmatch(r"checkpoint-\d+", folder.name):
        raise InputError(f"{folder}: a checkpoint is a part of one run; give the run's folder: {folder.parent}")
    if (folder / "run.json").is_file():
        raise InputError(f"{folder}: this is a run of a study; give the study's folder in place of --runs")
    own = folder / "trainer_state.json"
    state_file = own if own.is_file() else last_state(folder)
    results: dict[str, Any] = {}
    for name in ("all_results.json", "eval_results.json"):
        if (folder / name).is_file():
            results |= read_object(folder / name)
    if state_file is None and not results:
        return None
    given: dict[str, Any] = {"after": scores_in(results), "seed": _seed_in_texts(folder)}
    if state_file is not None:
        given |= _from_state(state_file, given, "train_runtime" in results)
    for place in (folder, *([state_file.parent] if state_file else [])):
        if (place / "config.json").is_file():
            given |= _from_config(read_object(place / "config.json"))
            break
    verdict_file = folder / "stability" / "verdict.json"
    if verdict_file.is_file():
        try:
            given["verdict"] = Verdict.from_dict(read_object(verdict_file))
        except InputError as error:
            raise InputError(f"{verdict_file}: {str(error).removeprefix(f'{verdict_file}: ')}") from None
    return TrainerRun(folder, **given)


def scores_in(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation, without `eval_`; no times."""
    return {
        key.removeprefix("eval_"): value
        for key, value in metrics.items()
        if key.startswith("eval_") and is_number(value) and not NOT_SCORES.search(key)
    }


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number. NaN and Inf are."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def seed_in_name(name: str) -> int | None:
    """The seed in a folder's name, if it has exactly one."""
    found = SEED_IN_NAME.findall(name)
    return int(found[0]) if len(found) == 1 else None


def _seed_in_texts(folder: Path) -> int | None:
    seed = seed_in_name(folder.name)
    if seed is not None or not (folder / "README.md").is_file():
        return seed
    try:
        found = SEED_IN_CARD.findall((folder / "README.md").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return int(found[0]) if len(found) == 1 else None


def _from_state(file: Path, given: Mapping[str, Any], has_runtime: bool) -> dict[str, Any]:
    """The values that a `trainer_state.json` tells.

    Args:
        file: the state's.
        given: what is known already: `after` and `seed`.
        has_runtime: whether the result files show that `train()` returned.
    """
    content = read_object(file)
    log, steps, planned = (content.get(key) for key in ("log_history", "global_step", "max_steps"))
    if not isinstance(log, list) or not isinstance(steps, int) or not isinstance(planned, int):
        raise InputError(
            f"{file}: not a trainer_state.json (it needs log_history, global_step and max_steps); move it away"
        )
    log = [entry for entry in log if isinstance(entry, dict)]
    end = next((at for at, entry in enumerate(log) if "train_runtime" in entry), len(log))
    evaluations: dict[int, dict[str, float]] = {}
    for entry in log[:end]:  # several evaluation sets have an entry each
        scores = scores_in(entry)
        if scores and isinstance(entry.get("step"), int):
            evaluations.setdefault(entry["step"], {}).update(scores)
    after = dict(given["after"])
    for entry in log[end:]:
        after |= scores_in(entry)
    early = 0 < steps < planned and _stopped_by_callback(content)
    best, best_step = content.get("best_metric"), content.get("best_global_step")
    trial = content.get("trial_params")
    seed = trial.get("seed") if isinstance(trial, dict) else None
    losses = [entry for entry in log[:end] if is_number(entry.get("loss")) and is_number(entry.get("step"))]
    last = [entry["loss"] for entry in losses if entry["step"] > 0.9 * max(planned, steps)]
    return {
        "seed": seed if isinstance(seed, int) else given["seed"],
        "evaluations": evaluations,
        "after": after,
        "steps": steps,
        "planned": planned,
        "finished": steps >= planned or end < len(log) or has_runtime or early,
        "early": early,
        "train_loss": sum(last) / len(last) if last and all(map(math.isfinite, last)) else None,
        "nonfinite": _nonfinite(losses, evaluations),
        "best": (best, best_step) if is_number(best) and isinstance(best_step, int) else None,
    }


def _stopped_by_callback(content: Mapping[str, Any]) -> bool:
    """Whether `EarlyStoppingCallback` had run out of patience."""
    try:
        saved = content["stateful_callbacks"]["EarlyStoppingCallback"]
        return saved["attributes"]["early_stopping_patience_counter"] >= saved["args"]["early_stopping_patience"]
    except (KeyError, TypeError):
        return False


def _nonfinite(losses: list[dict[str, Any]], evaluations: Mapping[int, Mapping[str, float]]) -> str:
    """Where NaN or Inf shows that the run has diverged.

    The last logged train loss counts, unless its gradient norm is finite: a batch without labels has a loss of NaN too.
    """
    if losses and not math.isfinite(losses[-1]["loss"]):
        norm = losses[-1].get("grad_norm")
        if not is_number(norm) or not math.isfinite(norm):
            return f"the logged train loss at step {losses[-1]['step']}"
    if evaluations and not math.isfinite(evaluations[max(evaluations)].get("loss", 0.0)):
        return f"eval_loss at step {max(evaluations)}"
    return ""


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Model type, number of labels and task, from the model's config. Other files of this name have no `model_type`."""
    if not isinstance(config.get("model_type"), str):
        return {}
    labels = None
    kinds = config.get("architectures")
    if isinstance(kinds, list) and any(str(kind).endswith("ForSequenceClassification") for kind in kinds):
        names = config.get("id2label")
        labels = len(names) if isinstance(names, dict) else 2  # the config leaves out two labels with default names
        if config.get("problem_type") in ("regression", "multi_label_classification") or labels < 2:
            labels = None
    task = config.get("finetuning_task")
    return {"model_type": config["model_type"], "labels": labels, "task": task if isinstance(task, str) else ""}
