"""Gradient norms by layer over training, failed runs against ok runs: Mosbach et al. (ICLR 2021), section 5.1.

The paper's figure shows one failed and one successful run, and its appendix ten of each. In failed runs the gradients of the
lower layers vanish. In successful runs they are small too, until shortly after warmup. This is a correlation: the norms do not
show which came first.

The numbers are in `norms_over_training.py`. Shapes: `R` runs, `L` layers, `W` windows of training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..study.records import RunRecord
from ..study.report.figures import empty_figure, pick_layers
from ..utils.text import decimal, joined, share_text
from ..verdicts.verdict import NOT_OK
from .analysis import Analysis
from .finished_study import FinishedStudy
from .norms_over_training import (
    PHASES,
    lower_layers,
    phase_medians,
    quartiles,
    separation,
    stays_below,
    windowed,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LOWER = "lower layers"
"""Name of the lower layers taken together: the norm of their joint gradient."""

EVERYTHING = "all recipes"
"""Name of the group of all recipes' runs."""

MEDIAN_RUN = "median of the failed runs"


# ---- a group of runs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """The norms of a group's runs.

    Args:
        name: the recipe's, or `EVERYTHING`.
        runs: R runs, ok or failed, each with a step record.
        layers: L names, the last of them is `LOWER`.
        curves: (R, W, L), see `windowed`.
        phases: (R, 4, L), see `phase_medians`.
        total: update steps, if all runs have the same number; else None.
        warmup: share of training that is warmup, mean over runs.
        left_out: number of other runs: stopped, unknown, or without a record.
    """

    name: str
    runs: tuple[RunRecord, ...]
    layers: tuple[str, ...]
    curves: np.ndarray
    phases: np.ndarray
    total: int | None
    warmup: float
    left_out: int

    @property
    def failed(self) -> np.ndarray:
        """Whether each run failed, (R,)."""
        return np.array([run.status in NOT_OK for run in self.runs], dtype=bool)

    def step(self, window: int | None) -> int | None:
        """The first update step of a window; None if the runs have different numbers of steps."""
        return None if window is None or self.total is None else window * self.total // self.curves.shape[1] + 1


def read_group(study: FinishedStudy, name: str, runs: Sequence[RunRecord], windows: int) -> Group:
    """Read the step records of the ok and failed runs of a group.

    Args:
        study: the study.
        name: of the group.
        runs: of the group.
        windows: the largest number of windows.
    """
    judged = [run for run in runs if run.status == "ok" or run.status in NOT_OK]
    read = [(run, record) for run in judged if (record := study.steps(run)) is not None and len(record["layers"])]
    records = [record for _, record in read]
    layers: list[str] = max((record["layers"] for record in records), key=len, default=[])
    totals = [_total(run, record) for run, record in read]
    windows = min([windows, *totals])
    lower = lower_layers(layers)
    curves = np.full((len(records), windows, len(layers) + 1), np.nan)
    phases = np.full((len(records), len(PHASES), len(layers) + 1), np.nan)
    warmups = []
    for number, (record, total) in enumerate(zip(records, totals, strict=True)):
        places = [layers.index(layer) for layer in record["layers"] if layer in layers]
        norms = np.full((len(record["step"]), len(layers) + 1), np.nan)
        norms[:, places] = record["layer_norms"][:, [layer in layers for layer in record["layers"]]]
        norms[:, -1] = np.sqrt((norms[:, [layers.index(layer) for layer in lower]] ** 2).sum(1))
        warmup = record["info"].get("warmup_steps") or 0
        curves[number] = windowed(record["step"], norms, total, windows)
        phases[number] = phase_medians(record["step"], norms, warmup, total)
        warmups.append(warmup / total)
    return Group(
        name=name,
        runs=tuple(run for run, _ in read),
        layers=(*layers, LOWER),
        curves=curves,
        phases=phases,
        total=totals[0] if len(set(totals)) == 1 else None,
        warmup=float(np.mean(warmups)) if warmups else 0.0,
        left_out=len(runs) - len(records),
    )


def _total(run: RunRecord, record: Mapping[str, Any]) -> int:
    return max(1, record["info"].get("max_steps") or run.planned_steps or int(max(record["step"], default=1)))


# ---- tables ---------------------------------------------------------------------------------------------------------


def curve_rows(group: Group) -> list[dict[str, Any]]:
    """Quartiles by layer, status and window: `part` is the middle of the window as a share of training."""
    rows = []
    windows = group.curves.shape[1]
    for status, chosen in (("ok", ~group.failed), ("failed", group.failed)):
        if not chosen.any():
            continue
        (first, middle, third), n = quartiles(group.curves[chosen])
        rows += [
            {
                "group": group.name,
                "layer": layer,
                "status": status,
                "part": (window + 0.5) / windows,
                "step": group.step(window),
                "n": n[window, place],
                "first_quartile": first[window, place],
                "median": middle[window, place],
                "third_quartile": third[window, place],
            }
            for place, layer in enumerate(group.layers)
            for window in range(windows)
        ]
    return rows


def phase_rows(group: Group) -> list[dict[str, Any]]:
    """Medians of failed and ok runs by layer and phase, their ratio, and the separation."""
    rows = []
    for place, layer in enumerate(group.layers):
        for number, phase in enumerate(PHASES):
            own = group.phases[:, number, place]
            ok, failed = own[~group.failed], own[group.failed]
            ok, failed = ok[np.isfinite(ok)], failed[np.isfinite(failed)]
            if not len(ok) and not len(failed):
                continue
            median_ok, median_failed = (float(np.median(each)) if len(each) else math.nan for each in (ok, failed))
            share, low, high = separation(ok, failed)
            rows.append(
                {
                    "group": group.name,
                    "layer": layer,
                    "phase": phase,
                    "median_failed": median_failed,
                    "median_ok": median_ok,
                    "ratio": median_failed / median_ok if median_ok > 0 else math.nan,
                    "separation": share,
                    "separation_low": low,
                    "separation_high": high,
                    "n_failed": len(failed),
                    "n_ok": len(ok),
                }
            )
    return rows


def vanishing_rows(group: Group, below: float) -> list[dict[str, Any]]:
    """From when on the lower layers' norm stays below `below` times the ok runs' median: the failed runs' median, each failed run.

    `first_part` is a share of training. It and `first_step` are None for a run that does not stay below.
    """
    if not group.failed.any() or group.failed.all():
        return []
    lower = group.curves[:, :, -1]
    reference = quartiles(lower[~group.failed])[0][1]
    failed = quartiles(lower[group.failed])[0][1]
    found = {MEDIAN_RUN: stays_below(failed, reference, below)}
    for run, norms in zip(group.runs, lower, strict=True):
        if run.status in NOT_OK:
            found[run.name] = stays_below(norms, reference, below)
    return [
        {
            "group": group.name,
            "run": run,
            "first_step": group.step(window),
            "first_part": None if window is None else window / lower.shape[1],
            "of_steps": group.total,
        }
        for run, window in found.items()
    ]


# ---- the analysis ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GradientsOptions:
    """The options of `Gradients`."""

    windows: int = field(default=60, metadata={"help": "Points of a curve: each is the median of a window of steps."})
    below: float = field(
        default=0.1,
        metadata={"help": "Failed runs have vanished where they stay below this times the ok runs' median."},
    )


class Gradients(Analysis):
    """Gradient norms by layer, failed against ok runs."""

    name = "gradients"
    Options = GradientsOptions

    def missing(self, study: FinishedStudy, options: GradientsOptions) -> list[str]:
        if not 1 <= options.windows <= 10_000:
            raise InputError(f"--windows {options.windows}: give 1 to 10000")
        if not 0 < options.below < np.inf:
            raise InputError(f"--below {options.below}: give a factor above 0, for example 0.1")
        if any((study.run_folder(run) / "steps.rec").is_file() for run in study.runs):
            return []
        return [
            f"No run in {study.folder} has a steps.rec. Give a study that hf_stability ran; it records every step."
        ]

    def numbers(self, study: FinishedStudy, options: GradientsOptions) -> dict[str, Any]:
        groups = [read_group(study, name, runs, options.windows) for name, runs in study.by_recipe.items()]
        if len(groups) > 1:
            groups.append(read_group(study, EVERYTHING, study.runs, options.windows))
        layers = max((group.layers for group in groups), key=len)
        return {
            "metric": "gradient norm of a layer, before clipping",
            "layers": layers[:-1],
            "lower_layers": lower_layers(layers[:-1]),
            "below": options.below,
            "drawn": _drawn(groups).name,
            "tables": {
                "groups": [
                    {
                        "group": group.name,
                        "failed": int(group.failed.sum()),
                        "diverged": sum(run.status == "diverged" for run in group.runs),
                        "ok": int((~group.failed).sum()),
                        "left_out": group.left_out,
                        "steps": group.total,
                        "warmup_part": group.warmup,
                    }
                    for group in groups
                ],
                "phases": [row for group in groups for row in phase_rows(group)],
                "vanishing": [row for group in groups for row in vanishing_rows(group, options.below)],
                "curves": [row for group in groups for row in curve_rows(group)],
            },
        }

    def sentences(self, numbers: Mapping[str, Any]) -> list[str]:
        tables = numbers["tables"]
        group = next(row for row in tables["groups"] if row["group"] == numbers["drawn"])
        name = group["group"]
        found = []
        if not group["failed"]:
            found.append(
                f"No failed runs here: {_runs(group['ok'])} of {name} ended ok, so there is nothing to compare."
            )
        elif not group["ok"]:
            found.append(
                f"No ok runs here: all {_runs(group['failed'])} of {name} failed, so there is nothing to compare."
            )
        else:
            found += _comparison(numbers, group)
        lone = [row for row in tables["groups"] if row["group"] != name and not (row["failed"] and row["ok"])]
        for kind, other in (("failed", "ok"), ("ok", "failed")):
            named = [f"{row['group']} ({row[other]} {other})" for row in lone if not row[kind] and row[other]]
            if named:
                found.append(f"Without a {kind} run: {joined(named)}.".replace("Without a ok", "Without an ok"))
        return found

    def draw(self, numbers: Mapping[str, Any]) -> Figure:
        """Failed runs left, ok runs right: the median over runs of some layers, and quartiles of the lowest."""
        group = next(row for row in numbers["tables"]["groups"] if row["group"] == numbers["drawn"])
        figure = empty_figure(9.5, 4.2, f"Gradient norms: {group['group']}")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        layers = pick_layers(numbers["layers"])
        rows = [row for row in numbers["tables"]["curves"] if row["group"] == group["group"]]
        for ax, status in zip(panels, ("failed", "ok"), strict=True):
            _panel(ax, [row for row in rows if row["status"] == status], layers, group)
            ax.set_title(f"{group[status]} {status} run{'s' * (group[status] != 1)}", fontsize="medium")
        panels[0].set_ylabel("gradient norm of the layer")
        handles, labels = next((both for ax in panels if (both := ax.get_legend_handles_labels())[0]), ([], []))
        if handles:
            figure.legend(
                handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize="small"
            )
        figure.supxlabel(
            f"{'update step' if group['steps'] else 'share of training'} (line: median over runs; band: quartiles)",
            fontsize="medium",
        )
        return figure


ANALYSIS = Gradients()


def _drawn(groups: Sequence[Group]) -> Group:
    """The recipe with most runs of the rarer kind; all recipes if no recipe has both kinds."""

    def rarer(group: Group) -> int:
        return int(min(group.failed.sum(), (~group.failed).sum()))

    recipes = [group for group in groups if group.name != EVERYTHING or len(groups) == 1]
    best = max(recipes, key=rarer)
    return best if rarer(best) else groups[-1]


def _comparison(numbers: Mapping[str, Any], group: Mapping[str, Any]) -> list[str]:
    """The sentences on a group with failed and ok runs."""
    tables, name = numbers["tables"], group["group"]
    by_phase = {row["phase"]: row for row in tables["phases"] if row["group"] == name and row["layer"] == LOWER}
    lower = numbers["lower_layers"]
    of = f"{lower[0]} to {lower[-1]}" if len(lower) > 1 else lower[0]
    mixed = " They are of different recipes, so the recipe may make the difference." if name == EVERYTHING else ""
    found = [f"{name}: {_runs(group['failed'])} failed and {group['ok']} ended ok.{mixed}"]
    phases = [row for phase in PHASES if (row := by_phase.get(phase)) and row["ratio"] is not None]
    if phases:
        ratios = joined(f"{row['ratio']:.2g} in the {row['phase']}" for row in phases)
        last = phases[-1]
        between = (
            ""
            if last["separation_low"] is None
            else f", 95% interval {decimal(last['separation_low'], 2)} to {decimal(last['separation_high'], 2)}"
        )
        found.append(
            f"Norm of the lower layers ({of}), failed over ok, medians over runs: {ratios}. In the {last['phase']} an ok "
            f"run is above a failed one with probability {share_text(last['separation'])} (n = {last['n_ok']} and "
            f"{last['n_failed']}{between})."
        )
    vanishing = [row for row in tables["vanishing"] if row["group"] == name]
    for row in vanishing[:1]:
        own = [each["first_part"] for each in vanishing[1:] if each["first_part"] is not None]
        times = f"{numbers['below']:g} times the ok runs' median"
        count = f"{len(own)} of {len(vanishing) - 1} failed runs do"
        if row["first_part"] is None:
            found.append(f"The failed runs' median does not stay below {times} until the end; {count}.")
        else:
            step = f"step {row['first_step']} of {row['of_steps']}, " if row["first_step"] is not None else ""
            found.append(
                f"The failed runs' median stays below {times} from {step}{row['first_part']:.0%} of training on; {count}."
            )
    return found


def _runs(n: int) -> str:
    return "1 run" if n == 1 else f"{n} runs"


def _panel(ax: Axes, rows: Sequence[Mapping[str, Any]], layers: Sequence[str], group: Mapping[str, Any]) -> None:
    import matplotlib

    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, max(len(layers), 1)))
    drawn = False
    for layer, color in zip(layers, colors, strict=False):
        own = [row for row in rows if row["layer"] == layer]
        x = [row["part"] * (group["steps"] or 1) for row in own]
        first, middle, third = (
            np.array([np.nan if row[key] is None else row[key] for row in own], dtype=float)
            for key in ("first_quartile", "median", "third_quartile")
        )
        if not (middle > 0).any():
            continue
        drawn = True
        ax.plot(x, middle, color=color, linewidth=1.6, label=layer.replace("_", " "))
        ax.fill_between(x, first, third, color=color, alpha=0.12, linewidth=0)
    if drawn:
        ax.set_yscale("log")
        if group["warmup_part"]:
            ax.axvline(group["warmup_part"] * (group["steps"] or 1), color="black", linestyle=":", linewidth=1)
    else:
        ax.text(0.5, 0.5, "no such runs here", ha="center", va="center", transform=ax.transAxes)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.9", linewidth=0.6)
