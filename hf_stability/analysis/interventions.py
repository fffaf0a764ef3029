"""Does a change in the middle of training save a failing run? The strongest test of "vanishing gradients cause the failure".

The gradients of failed runs vanish (Mosbach et al., ICLR 2021, section 5.1), but norms alone do not show what causes what. Here the
seeds that failed are trained again, the same up to one step, and with one change from there on, see `intervention`. Only the runs of
`correction_off_K` are branches of another run: that with bias correction.

| arms | question |
| --- | --- |
| `unchanged` | does training repeat? All of these runs must fail again |
| `correction_on_K` | bias correction is on from step K: until when does it save a run? |
| `correction_off_K` | it is on for the first K steps only: are the first steps enough? |
| `reset_moments`, `quarter_rate`, `beta2_98`, `eps_1e-12`, `lower_third_back`, `upper_third_back` | the run has collapsed: can it be saved at all? |

All of these seeds failed. So the share of ok runs of an arm is the share of saved seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..methods import source_hash
from ..study.job import Job
from ..study.records import RunRecord
from ..study.report.summary import with_interval
from ..utils.text import interval_text
from ..verdicts.verdict import NOT_OK
from .analysis import Analysis
from .finished_study import Arms, FinishedStudy
from .intervention import INTERVENTIONS, Intervention
from .intervention_course import FAILED, SAVED, arm_course, by_end, draw_course, median_of
from .more_runs import changed, job_of


if TYPE_CHECKING:
    from matplotlib.figure import Figure


COLLAPSED = tuple(name for name in INTERVENTIONS if not name.startswith("correction"))
"""Changes that are made late, when the failing runs have collapsed."""

METHOD = "hf_stability.analysis.intervention:Intervention"
DIAGNOSTICS = ["update_ratio", "cls_variance"]
LAST_TENTH = 0.1
DODGE = 0.1
"""Marks of two kinds at the same step are so far from it, in places of the axis."""
UNCHANGED = "unchanged"


@dataclass(frozen=True)
class InterventionsOptions:
    """The options of `Interventions`."""

    steps: tuple[int, ...] = field(
        default=(0, 5, 10, 20, 40, 80), metadata={"help": "Update steps at which bias correction is switched."}
    )
    branch_at: float = field(
        default=0.5, metadata={"help": "Share of training after which collapsed runs are changed."}
    )
    seeds: int = field(default=20, metadata={"help": "The first so many failed seeds are trained again."})


def arms(planned_steps: int, options: InterventionsOptions, own_layers: bool = True) -> dict[str, dict[str, Any]]:
    """Arm -> the training arguments that differ from the failed runs'.

    Args:
        planned_steps: update steps of the whole training. Changes after its end are left out.
        options: the analysis's.
        own_layers: whether the model has layers of its own. ALBERT shares one among all: there is no third to put back.
    """
    found: dict[str, dict[str, Any]] = {UNCHANGED: {}}
    for name, corrects in (("correction_on", False), ("correction_off", True)):
        for step in sorted(set(options.steps)):
            if step < planned_steps and (step or not corrects):  # off from the first step on is the failed run itself
                found[f"{name}_{step:04d}"] = {"bias_correction": corrects, "intervention": name, "intervene_at": step}
    at = int(options.branch_at * planned_steps)
    late = [name for name in COLLAPSED if own_layers or not name.endswith("_back")]
    return found | {f"{name}_{at:04d}": {"intervention": name, "intervene_at": at} for name in late}


def kind_of(args: Mapping[str, Any]) -> str:
    """The kind of an arm, from its training arguments: unchanged, correction_on, correction_off, collapsed."""
    name = args.get("intervention", UNCHANGED)
    return "collapsed" if name in COLLAPSED else name


class Interventions(Analysis):
    """Failed seeds again, each with one change. The table `course` and the second figure show training before and after it."""

    name = "interventions"
    Options = InterventionsOptions

    def missing(self, study: FinishedStudy, options: InterventionsOptions) -> list[str]:
        check(options)
        recipe, failed = self._failed(study, options)
        if failed:
            return []
        return [
            f"No run with a plain seed and without bias correction failed in {study.folder}. Give a study in which some do, for example: hf-stability "
            "--task_name demo_pair --recipe devlin2019 --learning_rate 2.5e-4 --seeds 40 --output_dir pair"
        ]

    def jobs(self, study: FinishedStudy, options: InterventionsOptions) -> list[Job]:
        _, failed = self._failed(study, options)
        planned = [job_of(study, run) for run in failed]
        return [
            changed(
                job,
                arm,
                {**args, "diagnostics": DIAGNOSTICS},
                methods=(*job.methods, METHOD),
                method_hashes=(*job.method_hashes, source_hash(Intervention)),
            )
            for arm, args in self._arms(study, failed, options).items()
            for job in planned
        ]

    def numbers_of_arms(self, study: FinishedStudy, arms: Arms, options: InterventionsOptions) -> dict[str, Any]:
        recipe, failed = self._failed(study, options)
        total = failed[0].planned_steps
        rows, windows, points = [], [], []
        for arm, args in self._arms(study, failed, options).items():
            own, runs = arms[arm]
            name = args.get("intervention", UNCHANGED)
            head = {"arm": name, "kind": kind_of(args), "step": args.get("intervene_at")}
            rows.append({**head, **outcome(own, runs)})
            windows += arm_course(own, runs, head, total)
            points += [{**head, "seed": run.seed, "status": run.status, "score": run.last} for run in runs]
        return {
            "metric": failed[0].metric,
            "recipe": recipe,
            "planned_steps": total,
            "baseline": failed[0].baseline,
            "ends": ends(list(arms.values())),
            "tables": {"arms": rows, "course": windows, "runs": points},
        }

    def sentences(self, numbers: Mapping[str, Any]) -> list[str]:
        rows = numbers["tables"]["arms"]
        n, total = rows[0]["n"], numbers["planned_steps"]
        again = f"{n - rows[0]['ok']} of {n} fail again"
        found = [
            f"These are the failed seeds of {numbers['recipe']}, in {total} update steps. Without a change {again}, as they must where "
            "training is repeatable."
        ]
        if rows[0]["ok"]:
            found[0] = (
                f"Read this with care: training is not repeatable here. These are the failed seeds of {numbers['recipe']}, in {total} "
                f"update steps, and without a change only {again}."
            )
        for kind, text in (
            ("correction_on", "Bias correction on from step {step} saves {ok} of {n} ({interval})"),
            ("correction_off", "On for the first {step} steps only, it saves {ok} of {n} ({interval})"),
        ):
            own = [row for row in rows if row["kind"] == kind]
            if own:
                said = [text.format(**_words(row)) for row in (own if len(own) < 3 else [own[0], own[-1]])]
                found.append("; ".join([said[0], *(each[0].lower() + each[1:] for each in said[1:])]) + ".")
        late = [row for row in rows if row["kind"] == "collapsed"]
        if late:
            named = [f"{row['arm']} {row['ok']} of {row['n']}" for row in sorted(late, key=lambda row: -row["ok"])]
            found.append(f"Changed at step {late[0]['step']}, saved: {', '.join(named)}.")
        saved, lost = (numbers.get("ends", {}).get(end, {}) for end in (SAVED, FAILED))
        if saved.get("cls_variance") is not None and lost.get("cls_variance") is not None:
            found.append(
                f"In the last tenth of training the median variance of [CLS] over inputs is {saved['cls_variance']:.2g} in saved runs "
                f"(n = {saved['n']}) and {lost['cls_variance']:.2g} in runs that fail again (n = {lost['n']}). An update is "
                f"{saved['update_ratio']:.1g} and {lost['update_ratio']:.1g} of the weights."
            )
        return found

    def figures(self, numbers: Mapping[str, Any]) -> dict[str, Figure]:
        return {
            self.name: self.draw(numbers),
            f"{self.name}_course": draw_course(numbers["tables"]["course"]),
        }

    def draw(self, numbers: Mapping[str, Any]) -> Figure:
        from matplotlib.figure import Figure

        rows = [row for row in numbers["tables"]["arms"] if row["kind"] != UNCHANGED]
        figure = Figure(figsize=(9, 4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        marks = (
            ("correction_on", "o", "tab:blue", "on from this step"),
            ("correction_off", "s", "tab:orange", "on until this step"),
        )
        steps = sorted({row["step"] for row in rows if row["kind"] != "collapsed"})
        for (kind, marker, color, label), aside in zip(marks, (-DODGE, DODGE), strict=True):
            own = [row for row in rows if row["kind"] == kind]
            if own:
                places = [steps.index(row["step"]) + aside for row in own]
                self._bars(left, places, own, marker=marker, color=color, label=label)
        left.set_xticks(range(len(steps)), [str(step) for step in steps])
        left.set_xlabel("update step at which bias correction is switched")
        left.set_ylabel("share of failing seeds that end ok")
        left.legend(frameon=False, fontsize="small")
        late = [row for row in rows if row["kind"] == "collapsed"]
        self._bars(right, range(len(late)), late, marker="o", color="tab:green")
        right.set_xticks(
            range(len(late)), [row["arm"].replace("_", "\n", 1).replace("_", " ") for row in late], fontsize="small"
        )
        right.set_xlabel(f"change of collapsed runs at step {late[0]['step']}" if late else "")
        left.set_ylim(-0.05, 1.05)
        return figure

    @staticmethod
    def _bars(ax: Any, places: Sequence[float], rows: Sequence[Mapping[str, Any]], **style: Any) -> None:
        shares = np.array([row["share"] for row in rows], float)
        low, high = (np.array([row[end] for row in rows], float) for end in ("share_low", "share_high"))
        ax.errorbar(list(places), shares, [shares - low, high - shares], linestyle="none", capsize=3, **style)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="0.9", linewidth=0.6)

    def _failed(self, study: FinishedStudy, options: InterventionsOptions) -> tuple[str, list[RunRecord]]:
        """The first recipe without bias correction that has failed runs, and the first `most_seeds` of these."""
        for recipe, runs in study.by_recipe.items():
            failed = [run for run in runs if run.status in NOT_OK and run.known_seed is not None and run.cell is None]
            args = study.job(failed[0]).get("args", {}) if failed else {}
            if args.get("bias_correction", True) is False and not args.get("lr_bias_correction", False):
                return recipe, sorted(failed, key=lambda run: run.seed)[: options.seeds]
        return "", []

    @staticmethod
    def _arms(
        study: FinishedStudy, failed: Sequence[RunRecord], options: InterventionsOptions
    ) -> dict[str, dict[str, Any]]:
        record = study.steps(failed[0])
        own_layers = record is None or any(name.startswith("layer_") for name in record["layers"])
        return arms(failed[0].planned_steps, options, own_layers)


ANALYSIS = Interventions()


def check(options: InterventionsOptions) -> None:
    """Raise InputError for an option out of its range."""
    if min(options.steps, default=-1) < 0:
        raise InputError(f"--steps {' '.join(map(str, options.steps))}: give update steps of 0 or more")
    if not 0 < options.branch_at < 1:
        raise InputError(f"--branch_at {options.branch_at}: give a share of training between 0 and 1")
    if options.seeds < 1:
        raise InputError(f"--seeds {options.seeds}: give 1 or more")


def outcome(study: FinishedStudy, runs: Sequence[RunRecord]) -> dict[str, Any]:
    """How an arm's runs ended: saved seeds with Wilson's interval, scores, and what the last tenth of training shows.

    `update_ratio` is the median over runs, layers and steps of the update's norm over the weights' norm. `cls_variance` is the
    median of the variance of the [CLS] states over the examples of a step. None if they were not recorded.
    """
    ok = sum(run.status == "ok" for run in runs)
    scores = [run.last for run in runs if run.last is not None]
    return {
        "ok": ok,
        "n": len(runs),
        **with_interval("share", ok, len(runs)),
        "median_score": float(np.median(scores)) if scores else None,
        "update_ratio": median_of(_late(study, runs, "update_ratio")),
        "cls_variance": median_of(_late(study, runs, "cls_variance")),
    }


def ends(arms: Sequence[tuple[FinishedStudy, list[RunRecord]]]) -> dict[str, dict[str, Any]]:
    """The last tenth of training, over the runs of all arms: `saved` and `failed` -> `n`, `update_ratio`, `cls_variance`."""
    found: dict[str, dict[str, Any]] = {}
    for end in (SAVED, FAILED):
        own = [(study, by_end(runs).get(end, [])) for study, runs in arms]
        values = {
            column: np.concatenate([_late(study, runs, column) for study, runs in own] or [np.array([])])
            for column in DIAGNOSTICS
        }
        found[end] = {"n": sum(len(runs) for _, runs in own), **{c: median_of(late) for c, late in values.items()}}
    return found


def _late(study: FinishedStudy, runs: Sequence[RunRecord], column: str) -> np.ndarray:
    """A recorded number over the last tenth of the runs' update steps, and over layers if it has some."""
    found = [np.array([])]
    for run in runs:
        record = study.steps(run)
        if record is not None and column in record:
            late = record["step"] > (1 - LAST_TENTH) * run.planned_steps
            found.append(np.asarray(record[column][late], dtype=float).ravel())
    return np.concatenate(found)


def _words(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "interval": interval_text(row["share_low"], row["share_high"])}
