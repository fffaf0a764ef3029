"""The loss and the gradient norm on the plane through a run's start, a failed run's end and an ok run's end.

The plane is that of Mosbach et al. (ICLR 2021, section 5.1), drawn as in Hao et al. (2019, "Visualizing and Understanding the
Effectiveness of BERT") and Li et al. (2018, "Visualizing the Loss Landscape of Neural Nets"):

    f(a, b) = L(theta_p + a (theta_f - theta_p) + b (theta_s - theta_p))

    theta_p   the weights at the start: pretrained, with the head that the run drew from its seed
    theta_f   the weights at the end of a failed run
    theta_s   the weights at the end of an ok run
    L         mean loss over training examples, without dropout

Li et al. scale random directions by the norm of each filter. Here both directions are differences of weights, so nothing is scaled.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..study.records import RunRecord
from .analysis import Analysis
from .finished_study import FinishedStudy
from .kept_models import missing_models, progress_bar, read_weights, settings_of, starting_trainer, with_models
from .plane import Loss, difference, dot, grid_values, length, loss_and_gradient_norm, restored, surface, write_weights
from .plane_figure import plane_figure
from .points_file import PointsFile
from .run_paths import checkpoint_path, trained_path


if TYPE_CHECKING:
    from matplotlib.figure import Figure


CORNERS = {"start": (0.0, 0.0), "failed": (1.0, 0.0), "ok": (0.0, 1.0)}
"""The coordinates (a, b) of the three points that the plane goes through."""


@dataclass(frozen=True)
class SurfaceOptions:
    """The options of the analysis."""

    points: int = field(default=25, metadata={"help": "Points per side of the grid."})
    lowest: float = field(default=-0.5, metadata={"help": "Lowest coordinate on both sides. The start is at 0."})
    highest: float = field(default=1.5, metadata={"help": "Highest coordinate. The runs' ends are at 1."})
    examples: int = field(
        default=100, metadata={"help": "Training examples for loss and gradient, drawn with a fixed seed; 0: all."}
    )
    batch_size: int = field(default=64, metadata={"help": "Examples in memory at a time."})
    failed: str | None = field(
        default=None,
        metadata={
            "help": "The failed run, such as devlin2019/seed-001. Without it: one that has its seed in common with an ok run."
        },
    )
    ok: str | None = field(
        default=None, metadata={"help": "The ok run. Without it: one of the failed run's seed, if there is one."}
    )
    path_points: int = field(
        default=0,
        metadata={
            "help": "Train both runs again, and record their paths at this many points. 0: paths from checkpoints only."
        },
    )


class LossSurface(Analysis):
    """Loss and gradient norm on the plane through a start, a failed run's end and an ok run's end.

    Finished points are kept in `STUDY/analysis/loss-surface/points-HASH.jsonl`, or in `--output_dir`, so that the same command
    goes on after a kill. Other settings have another hash.
    """

    name = "loss-surface"
    Options = SurfaceOptions

    def missing(self, study: FinishedStudy, options: SurfaceOptions) -> list[str]:
        check_options(options)
        return missing_models(study)

    def numbers(self, study: FinishedStudy, options: SurfaceOptions) -> dict[str, Any]:
        failed, ok = choose_pair(study, options.failed, options.ok)
        jobs = [settings_of(study, run) for run in (failed, ok)]
        if options.path_points and jobs[0].device != study.settings(failed).device:
            raise InputError(
                f"--path_points {options.path_points}: {failed.name} was trained on a GPU, and there is none here; leave it out"
            )
        with starting_trainer(jobs[1], ok.name) as trainer:
            other: Any = trainer.model
            other_start = [value.detach().clone() for value in other.parameters()]
        with starting_trainer(jobs[0], failed.name) as trainer:
            model: Any = trainer.model
            names = (failed.name, ok.name)
            ends = [
                read_weights(study.run_folder(run) / "model", job, model)
                for run, job in zip((failed, ok), jobs, strict=True)
            ]
            batches = loss_batches(
                trainer.train_dataset, trainer.data_collator, options.examples, options.batch_size, trainer.args.device
            )
            axis = grid_values(options.lowest, options.highest, options.points)
            settings = {"runs": [failed.id, ok.id], "axis": axis, "examples": options.examples}
            settings |= {"batch_size": options.batch_size}
            saved = PointsFile(points_path(study.target(self.name), settings), settings)
            start = [value.detach().clone() for value in model.parameters()]
            directions = (difference(ends[0], start), difference(ends[1], start))
            with progress_bar(len(axis) ** 2, "loss surface") as advance:
                for _ in saved.points:
                    advance()

                def on_point(*point: Any) -> None:
                    saved.add(*point)
                    advance()

                losses, norms = surface(
                    model, directions, (axis, axis), batches.loss, known=saved.points, on_point=on_point
                )
            points = [
                corner(model, directions, kind, end, batches.loss)
                for kind, end in zip(CORNERS, (start, *ends), strict=True)
            ]
            paths: dict[str, list[dict[str, Any]]] = {}
            for kind, run, job in zip(("failed", "ok"), (failed, ok), jobs, strict=True):
                if not options.path_points:
                    paths[kind] = checkpoint_path(study.run_folder(run), job, model, start, directions)
                    continue
                known = f"{kind}, {options.path_points} points"
                if known not in saved.paths:
                    saved.add_path(known, trained_path(job, run.name, options.path_points, start, directions))
                paths[kind] = saved.paths[known]
        rows = [
            {"a": a, "b": b, "loss": losses[i, j], "gradient_norm": norms[i, j]}
            for (i, a), (j, b) in itertools.product(enumerate(axis), enumerate(axis))
        ]
        return {
            "task": failed.task,
            "failed": names[0],
            "ok": names[1],
            "same_start": all(torch.equal(one, value.to(one)) for one, value in zip(start, other_start, strict=True)),
            "examples": batches.examples,
            "batch_size": options.batch_size,
            "lengths": {kind: length(direction) for kind, direction in zip(("failed", "ok"), directions, strict=True)},
            "cosine": dot(*directions) / max(length(directions[0]) * length(directions[1]), 1e-300),
            "climbs": {"failed": climb(axis, losses.T), "ok": climb(axis, losses)},
            "a": axis,
            "b": axis,
            "loss": losses,
            "gradient_norm": norms,
            "tables": {
                "points": points,
                "surface": rows,
                "paths": [{"point": kind, **row} for kind, path in paths.items() for row in path],
            },
        }

    def sentences(self, numbers: Mapping[str, Any]) -> list[str]:
        points = {point["point"]: point for point in numbers["tables"]["points"]}
        start, failed, ok = (points[kind] for kind in CORNERS)
        same = "both runs began there" if numbers["same_start"] else "the ok run began with another head"
        told = [
            f"On {numbers['task']}, n = {numbers['examples']} training examples, without dropout: the plane through the start of "
            f"{numbers['failed']} (failed), its end, and the end of {numbers['ok']} (ok); {same}.",
            f"Loss: {start['loss']:.3g} at the start, {failed['loss']:.3g} at the failed end, {ok['loss']:.3g} at the ok end. "
            f"Gradient norm: {start['gradient_norm']:.3g}, {failed['gradient_norm']:.3g} and {ok['gradient_norm']:.3g}.",
        ]
        for kind, line in numbers["climbs"].items():
            if line is not None:
                told.append(
                    f"On the straight line to the {kind} end, the loss is lowest at {line['at']:.3g} of the way ({line['lowest']:.3g}); "
                    f"its largest climb is {line['height']:.2g}."
                )
        for kind in ("failed", "ok"):
            path = [row for row in numbers["tables"]["paths"] if row["point"] == kind]
            if path:
                told.append(
                    f"The path of the {kind} run ({len(path)} points) is at most {max(row['distance'] for row in path):.3g} from the "
                    f"plane; its end is {numbers['lengths'][kind]:.3g} from the start."
                )
        rounding = max(abs(point["loss"] - point["loss_of_plane"]) for point in points.values())
        told.append(
            f"At the three points, the plane's loss and the runs' own loss differ by at most {rounding:.1g} (rounding)."
        )
        return told

    def draw(self, numbers: Mapping[str, Any]) -> Figure:
        return plane_figure(numbers)


ANALYSIS = LossSurface()


def points_path(folder: Path, settings: Mapping[str, Any]) -> Path:
    """The file of the finished points of these settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return folder / f"points-{digest[:8]}.jsonl"


def check_options(options: SurfaceOptions) -> None:
    """Refuse numbers that give no surface."""
    if not 2 <= options.points <= 1000:
        raise InputError(f"--points {options.points}: give 2 to 1000 points per side")
    if not -math.inf < options.lowest < options.highest < math.inf:
        raise InputError(f"--lowest {options.lowest:g}: give finite numbers, less than --highest {options.highest:g}")
    for name in ("batch_size", "examples", "path_points"):
        least = 1 if name == "batch_size" else 0
        if getattr(options, name) < least:
            raise InputError(f"--{name} {getattr(options, name)}: give {least} or more")


def choose_pair(study: FinishedStudy, failed: str | None = None, ok: str | None = None) -> tuple[RunRecord, RunRecord]:
    """A failed and an ok run with models.

    Two runs of the same seed come first: they began with the same head, so the plane goes through the start of both. Failed
    runs come before diverged ones, small seeds before large ones.

    Raises:
        InputError: there is no such run, or it has no model.
    """
    pairs = itertools.product(_chosen(study, study.failed, failed, "failed"), _chosen(study, study.ok, ok, "ok"))
    return min(
        pairs,
        key=lambda pair: (
            pair[0].status != "failed",
            pair[0].seed != pair[1].seed,
            pair[0].seed,
            pair[1].seed,
            pair[1].name,
        ),
    )


def _chosen(study: FinishedStudy, runs: Sequence[RunRecord], name: str | None, kind: str) -> list[RunRecord]:
    found = with_models(study, runs)
    chosen = [run for run in found if name in (None, run.name)]
    if not chosen:
        known = ", ".join(run.name for run in found) or "none"
        raise InputError(f"--{kind} {name}: no {kind} run of this name with a model; choose one of {known}")
    return chosen


@dataclass(frozen=True)
class LossBatches:
    """Batches of examples for a loss.

    Args:
        batches: the model's keyword arguments, with labels.
        sizes: examples per batch.
    """

    batches: list[dict[str, Tensor]]
    sizes: list[int]

    @property
    def examples(self) -> int:
        return sum(self.sizes)

    def loss(self, model: nn.Module) -> Iterator[Tensor]:
        """The mean loss over all examples, in parts: one per batch."""
        for batch, size in zip(self.batches, self.sizes, strict=True):
            yield model(**batch).loss * (size / self.examples)


def loss_batches(
    rows: Any, collate: Callable[..., Any], examples: int, batch_size: int, device: Any = "cpu"
) -> LossBatches:
    """Batches of randomly drawn rows, sorted by length, so that there is little padding.

    Args:
        rows: a data set with the column `input_ids`.
        collate: makes a batch of a list of rows.
        examples: how many rows to draw, with seed 0; 0, or more than there are: all.
        batch_size: examples per batch.
        device: of the batches.
    """
    drawn = np.random.default_rng(0).permutation(len(rows))[: examples or None]
    chosen = sorted((rows[int(row)] for row in drawn), key=lambda row: len(row["input_ids"]))
    parts = [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
    batches = [{name: value.to(device) for name, value in collate(part).items()} for part in parts]
    return LossBatches(batches, [len(part) for part in parts])


def corner(
    model: nn.Module, directions: tuple[list[Tensor], list[Tensor]], kind: str, end: list[Tensor], loss_of: Loss
) -> dict[str, Any]:
    """A corner of the plane with a run's own weights, and by the plane's formula beside it; they differ by rounding."""
    a, b = CORNERS[kind]
    losses, norms = surface(model, directions, ([a], [b]), loss_of)
    with restored(model):
        model.eval()
        write_weights(list(model.parameters()), end)
        loss, norm = loss_and_gradient_norm(model, loss_of)
    plane = {"loss_of_plane": float(losses[0, 0]), "gradient_norm_of_plane": float(norms[0, 0])}
    return {"point": kind, "a": a, "b": b, "loss": loss, "gradient_norm": norm, **plane}


def climb(axis: Sequence[float], losses: np.ndarray) -> dict[str, float] | None:
    """The largest climb of the loss on the straight line from the start to an end. None if the grid has no such line.

    Args:
        axis: the grid's coordinates on both sides.
        losses: `(other direction, this direction)`.

    Returns:
        `height`: the most by which the loss rises above its lowest value so far. 0: it never rises.
        `lowest`: the lowest loss on the line. `at`: its place; 0 is the start, 1 the end.
    """
    if 0.0 not in axis or 1.0 not in axis:
        return None
    start, end = axis.index(0.0), axis.index(1.0)
    line = losses[start, start : end + 1]
    if not np.isfinite(line).all():
        return None
    place = int(line.argmin())
    height = float((line - np.minimum.accumulate(line)).max())
    return {"height": height, "lowest": float(line[place]), "at": axis[start + place]}
