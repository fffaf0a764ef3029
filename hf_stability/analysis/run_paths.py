"""The path of a training, projected on a plane of weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from ..study.job import Job
from ..utils.adapters import adapter_kind, merged
from ..utils.layers import unwrapped
from .kept_models import read_weights, starting_trainer
from .plane import difference, plane_coordinates


Directions = tuple[Sequence[Tensor], Sequence[Tensor]]


def path_row(step: int, weights: Sequence[Tensor], start: Sequence[Tensor], directions: Directions) -> dict[str, Any]:
    """A point of a path: update step, coordinates a and b, and the distance to the plane, in the weights' unit."""
    a, b, distance = plane_coordinates(difference(weights, start), directions)
    return {"step": step, "a": a, "b": b, "distance": distance}


def checkpoint_path(
    folder: Path, job: Job, like: nn.Module, start: Sequence[Tensor], directions: Directions
) -> list[dict[str, Any]]:
    """The path of a run from the checkpoints in its folder, by update step. Empty if there are none: a study deletes them at a run's end.

    Args:
        folder: the run's.
        job: its settings.
        like: a model with the same parameters.
        start: the weights at the point (0, 0).
        directions: of the plane.
    """
    steps = {int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoint-*") if _has_model(path)}
    return [path_row(step, read_weights(steps[step], job, like), start, directions) for step in sorted(steps)]


def _has_model(path: Path) -> bool:
    return path.name.rpartition("-")[2].isdigit() and (path / "config.json").is_file()


def trained_path(
    job: Job, run_name: str, points: int, start: Sequence[Tensor], directions: Directions
) -> list[dict[str, Any]]:
    """The path of a run that is trained again, in a temporary folder, with the same settings, seeds and threads.

    On the same machine and versions, training is repeated bit for bit. Then the last point is the run's end, at distance 0.

    Args:
        job: the run's settings.
        run_name: for messages.
        points: number of points after the start, evenly spaced in update steps.
        start: the weights at the point (0, 0).
        directions: of the plane.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        with starting_trainer(replace(job, keep_model="none"), run_name) as trainer:
            callback = PathCallback(points, start, directions)
            trainer.add_callback(callback)
            trainer.train()
            return callback.path
    finally:
        torch.set_num_threads(threads)


class PathCallback(TrainerCallback):
    """Records the projection of the weights at evenly spaced update steps.

    Args:
        points: number of points after the start.
        start: the weights at the point (0, 0).
        directions: of the plane.

    Attributes:
        path: a row for each point, see `path_row`.
    """

    def __init__(self, points: int, start: Sequence[Tensor], directions: Directions):
        self.points, self.start, self.directions = points, start, directions
        self.path: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._add(state.global_step, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        wanted = {round(part * state.max_steps / self.points) for part in range(1, self.points + 1)}
        if state.global_step in wanted:
            self._add(state.global_step, model)

    def _add(self, step: int, model: nn.Module) -> None:
        model = unwrapped(model)
        whole = merged(copy.deepcopy(model)) if adapter_kind(model) else model
        weights = [parameter.detach() for parameter in whole.parameters()]
        self.path.append(path_row(step, weights, self.start, self.directions))
