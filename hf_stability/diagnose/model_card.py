"""A run from the model card that the Trainer writes: its hyperparameters and its table of training results.

The Trainer's `create_model_card` (and `push_to_hub`) writes this README.md. People often have no other file of a run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from .files import Run, read_run_files


CARD = "README.md"

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

NAMES = {
    "learning_rate": "learning_rate",
    "train_batch_size": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "seed": "seed",
    "lr_scheduler_type": "lr_scheduler_type",
    "lr_scheduler_warmup_steps": "warmup_steps",
    "lr_scheduler_warmup_ratio": "warmup_ratio",
    "num_epochs": "num_train_epochs",
    "training_steps": "max_steps",
    "label_smoothing_factor": "label_smoothing_factor",
}
"""A card's names of hyperparameters -> those of the training arguments. The card has no others."""

OPTIMIZER = re.compile(r"Use (?:OptimizerNames\.)?(\w+)")
BETAS = re.compile(r"betas=\(([\d.]+),\s*([\d.]+)\)")

RUN_FILES = ("trainer_state.json", "steps.rec", "stability/steps.rec", "runs", "error.txt")
"""A folder with one of these, or with checkpoints, is read as a run. Its card is not."""


def read_path(path: str | os.PathLike) -> Run:
    """Read a run from its files, or from a model card if there is nothing else.

    Args:
        path: see `read_run_files`; or a Markdown file, a folder with a README.md and no file of a run, or a model's name on
            the hub (`user/name`, if there is no folder `user` here).

    Raises:
        InputError: see `read_run_files` and `read_card`; or the hub has no such card, or cannot be reached.
    """
    place = Path(path)
    file = place / CARD if place.is_dir() else place
    is_run = any((place / name).exists() for name in RUN_FILES) or any(place.glob("checkpoint-*"))
    if file.is_file() and file.suffix.lower() == ".md" and not is_run:
        return read_card(file.read_text(encoding="utf-8", errors="replace"), str(file))
    # out/rnu beside out/run is a mistyped path, not a model's name.
    if place.exists() or not HUB_NAME.fullmatch(str(path)) or place.parent.is_dir():
        return read_run_files(path)
    return read_card(hub_card(str(path)), f"{path} (its model card on the hub)")


def hub_card(name: str) -> str:
    """The text of a model's card on the hub, or in the hub's cache if the hub cannot be reached.

    It asks the hub once. `ModelCard.load` tries six times without a network, which takes half a minute for a mistyped path.

    Raises:
        InputError: there is no such card.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    way_out = "give a trainer_state.json, a steps.rec, a run's folder, or a README.md"
    reached, why = True, "its model card on the hub cannot be read"
    try:
        get_hf_file_metadata(hf_hub_url(name, CARD), timeout=10)
    except HfHubHTTPError as error:
        why = f"no model card of this name on the hub ({type(error).__name__})"
        raise InputError(f"{name}: no such file or folder, and {why}; {way_out}") from None
    except Exception:  # each way to have no network has its own error
        reached, why = False, "the hub cannot be reached"
    try:
        file = hf_hub_download(name, CARD, local_files_only=not reached)
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except Exception as error:
        raise InputError(f"{name}: no such file or folder, and {why} ({type(error).__name__}); {way_out}") from None


def read_card(text: str, source: str) -> Run:
    """A run from a model card's text.

    `history` has a row per evaluation, as in the Trainer's log: `step`, `epoch`, `eval_loss`, `eval_accuracy` ..., and `loss`
    where the training loss was logged. `total_steps` is known only if the card has `training_steps`, or if the last row
    ends the last epoch.

    Args:
        text: the card's Markdown.
        source: a description of where it is, for the report.

    Raises:
        InputError: the card has no table of training results.
    """
    run = Run(source, args=_arguments(text), history=_history(text), is_card=True)
    if not run.history:
        raise InputError(
            f"{source}: no table of training results (with Training Loss, Epoch, Step, Validation Loss) in this card; give "
            "the run's trainer_state.json or output folder"
        )
    last = run.history[-1]
    run.step, epochs = last["step"], run.args.get("num_train_epochs")
    run.total_steps = run.args.get("max_steps")
    if run.total_steps is None and epochs and last.get("epoch"):
        # Evaluations within an epoch end before it: the total follows from the steps per epoch.
        run.total_steps = max(run.step, round(run.step / last["epoch"] * epochs))
    return run


def _arguments(text: str) -> dict[str, Any]:
    """The training arguments in the card's list of hyperparameters, by the Trainer's names."""
    part = text.partition("### Training hyperparameters")[2].partition("\n#")[0]
    found = dict(re.findall(r"^- (\w+): (.*)$", part, re.M))
    args = {NAMES[name]: _number(value) for name, value in found.items() if name in NAMES}
    args.setdefault("warmup_steps", 0)  # the card leaves out a warmup of 0
    if optimizer := OPTIMIZER.match(found.get("optimizer", "")):  # before 2024 it was not named
        args["optim"] = optimizer[1].lower()
    if betas := BETAS.search(found.get("optimizer", "")):
        args |= {"adam_beta1": float(betas[1]), "adam_beta2": float(betas[2])}
    if "mixed_precision_training" in found:
        args["fp16"] = True
    return args


def _history(text: str) -> list[dict[str, Any]]:
    """The rows of the card's table of training results, as the Trainer logs them."""
    rows = [_cells(line) for line in text.splitlines() if line.startswith("|")]
    header = next((row for row in rows if {"Training Loss", "Step", "Validation Loss"} <= set(row)), None)
    if header is None:
        return []
    history = []
    for row in rows[rows.index(header) + 1 :]:
        if len(row) != len(header):
            break
        entry = {_log_name(name): _number(value) for name, value in zip(header, row, strict=True)}
        if isinstance(entry["step"], int):  # not the line of dashes
            numbers = {name: value for name, value in entry.items() if isinstance(value, (int, float))}  # not "No log"
            history.append(numbers)
    return history


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _log_name(column: str) -> str:
    """The Trainer's name of a column: `eval_accuracy` for `Accuracy`."""
    names = {"Training Loss": "loss", "Epoch": "epoch", "Step": "step", "Validation Loss": "eval_loss"}
    return names.get(column, "eval_" + column.lower().replace(" ", "_"))


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def card_values(run: Run) -> Mapping[str, Any]:
    """The value that only a card's run has: its evaluations, `(step, training loss or None, loss, accuracy or None)` each."""
    if not run.is_card:
        return {}
    names = ("step", "loss", "eval_loss", "eval_accuracy")
    rows = [tuple(entry.get(name) for name in names) for entry in run.history if "eval_loss" in entry]
    return {"evaluations": rows}
