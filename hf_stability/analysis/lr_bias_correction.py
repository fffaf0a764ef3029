"""Learning rate x bias correction x beta2: Mosbach et al. (ICLR 2021), section 5.1, and what it leaves open.

Bias correction is, up to eps, a factor on the step: `sqrt(1 - beta2^t) / (1 - beta1^t)` at update t. So without it the steps are
larger in sum, too. The scores are shown against the nominal rate, and against the summed effective rate: learning rate times
factor, over all update steps. Where arms with and without correction agree at the same sum, it is no more than a lower rate.

beta2 is crossed with the correction and the model type, because the paper's RoBERTa has beta2 0.98. There the factor is near 1 after
200 steps, at 0.999 after 4000. One study has one model: `beside` names the studies of other models. Each of them has its own runs, with
its own recipe's other values (decay, clipping, dropout).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..methods.adamw import TORCH_ADAMW, effective_step_factor
from ..study.job import Job
from ..study.records import RunRecord
from ..utils.text import decimal, interval_text
from .analysis import Analysis
from .finished_study import Arms, FinishedStudy
from .more_runs import changed, counted, first_runs, job_of


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def effective_rates(rates: np.ndarray, beta1: float, beta2: float, corrects: bool) -> np.ndarray:
    """The learning rate of each update step times the correction's factor: (T,) -> (T,), see `effective_step_factor`.

    Args:
        rates: learning rates of the update steps 1 to T.
        beta1: Adam's.
        beta2: Adam's.
        corrects: whether bias correction is on.
    """
    steps = np.arange(1, len(rates) + 1)
    return np.asarray(rates, dtype=float) * effective_step_factor(steps, beta1, beta2, corrects)


@dataclass(frozen=True)
class GridOptions:
    """The options of `LrBiasCorrection`."""

    rates: tuple[float, ...] = field(
        default=(5e-5, 1e-4, 2e-4, 3e-4, 4e-4), metadata={"help": "Learning rates, after warmup."}
    )
    betas2: tuple[float, ...] = field(
        default=(0.98, 0.999), metadata={"help": "Adam's decay rates of the squared gradient."}
    )
    seeds: int = field(default=10, metadata={"help": "Seeds per arm: the first so many of the study's."})
    beside: tuple[str, ...] = field(
        default=(), metadata={"help": "Folders of further studies, such as those of other model types."}
    )


def arm_name(rate: float, corrects: bool, beta2: float) -> str:
    """`rate_0.0001_on_beta2_0.98`."""
    return f"rate_{rate:g}_{'on' if corrects else 'off'}_beta2_{beta2:g}"


class LrBiasCorrection(Analysis):
    """A grid of learning rates, with and without bias correction."""

    name = "lr-bias-correction"
    Options = GridOptions

    def beside(self, study: FinishedStudy, options: GridOptions) -> list[FinishedStudy]:
        template = first_runs(study, 1)[0]
        studies = [FinishedStudy(folder, [template.recipe]) for folder in options.beside]
        firsts = [template, *(first_runs(each, 1)[0] for each in studies)]
        for key, flag in (("metric", "--metric"), ("baseline", "--task_name")):
            values = [getattr(first, key) for first in firsts]
            if len(set(values)) > 1:
                raise InputError(
                    f"--beside: the studies' {key} differs ({', '.join(map(str, values))}); give studies with the same {flag}"
                )
        models = [_model(each, first) for each, first in zip([study, *studies], firsts, strict=True)]
        if len(set(models)) < len(models):
            raise InputError(
                f"--beside: two studies have the same model ({', '.join(models)}); give one for each model"
            )
        return studies

    def missing(self, study: FinishedStudy, options: GridOptions) -> list[str]:
        if not options.rates or not all(0 < rate < np.inf for rate in options.rates):
            raise InputError(f"--rates {' '.join(map(str, options.rates))}: give learning rates above 0")
        if not options.betas2 or not all(0 <= beta < 1 for beta in options.betas2):
            raise InputError(
                f"--betas2 {' '.join(map(str, options.betas2))}: give values in [0, 1), for example 0.98 0.999"
            )
        for name in ("rates", "betas2"):
            values = getattr(options, name)
            if len(set(values)) < len(values):
                raise InputError(f"--{name} {' '.join(map(str, values))}: give each value once")
        if options.seeds < 1:
            raise InputError(f"--seeds {options.seeds}: give 1 or more")
        args = study.settings(first_runs(study, 1)[0]).args
        if args.get("optim", TORCH_ADAMW[0]) not in TORCH_ADAMW:
            raise InputError(
                f"{study.folder}: its first recipe has --optim {args['optim']}, and the correction is that of torch's AdamW; give "
                "--recipe with another one"
            )
        if args.get("lr_bias_correction"):
            raise InputError(
                f"{study.folder}: its first recipe has lr_bias_correction, which is a correction of its own; give --recipe with "
                "another one"
            )
        return []

    def jobs(self, study: FinishedStudy, options: GridOptions) -> list[Job]:
        runs = first_runs(study, options.seeds)
        return [
            changed(job_of(study, run), arm_name(rate, corrects, beta2), _args(rate, corrects, beta2))
            for rate, corrects, beta2 in product(options.rates, (False, True), options.betas2)
            for run in runs
        ]

    def numbers_of_arms(self, study: FinishedStudy, arms: Arms, options: GridOptions) -> dict[str, Any]:
        first = first_runs(study, 1)[0]
        model = _model(study, first)
        beta1 = study.job(first)["args"].get("adam_beta1", 0.9)
        rows, points = [], []
        for rate, corrects, beta2 in product(options.rates, (False, True), options.betas2):
            own, runs = arms[arm_name(rate, corrects, beta2)]
            steps = next((record for run in runs if (record := own.steps(run)) is not None), None)
            effective = np.nan
            if steps is not None and len(steps["step"]):
                effective = float(effective_rates(steps["learning_rate"], beta1, beta2, corrects).sum())
            arm = {
                "model": model,
                "rate": rate,
                "correction": corrects,
                "beta2": beta2,
                "summed_effective_rate": effective,
            }
            rows.append({**arm, **counted(runs)})
            points += [{**arm, "seed": run.seed, "status": run.status, "score": run.last} for run in runs]
        return {
            "metric": first.metric,
            "template": first.recipe,
            "baseline": first.baseline,
            "planned_steps": first.planned_steps,
            "tables": {"arms": rows, "runs": points},
        }

    def sentences(self, numbers: Mapping[str, Any]) -> list[str]:
        rows = numbers["tables"]["arms"]
        found = [
            f"{len(rows)} arms of {_span(rows, 'n')} runs each, in {numbers['planned_steps']} update steps; all else is as in "
            f"{numbers['template']}."
        ]
        several = len({row["model"] for row in rows}) > 1
        found += _crossed(rows) if several else []
        for model, beta2 in _blocks(rows):
            own = [row for row in rows if (row["model"], row["beta2"]) == (model, beta2)]
            pairs = [
                (_arm(own, rate, False), _arm(own, rate, True)) for rate in dict.fromkeys(row["rate"] for row in own)
            ]
            worst = max(pairs, key=lambda pair: (pair[0]["failed_share"] or 0) - (pair[1]["failed_share"] or 0))
            off, on = worst
            found.append(
                f"{f'{model}: with' if several else 'With'} beta2 {beta2:g} the correction makes the largest difference at the rate "
                f"{off['rate']:g}: without it {off['failed']} of {off['n']} runs fail ({_interval(off)}), with it {on['failed']} of {on['n']} ({_interval(on)})."
            )
            found += _equal_steps(own)
        return found

    def draw(self, numbers: Mapping[str, Any]) -> Figure:
        from matplotlib.figure import Figure

        rows = numbers["tables"]["arms"]
        blocks = _blocks(rows)
        figure = Figure(figsize=(9, (3 if len(blocks) < 4 else 2.3) * len(blocks)), layout="constrained")
        axes = figure.subplots(len(blocks), 2, squeeze=False, sharex="col", sharey=True)
        colors = {False: "tab:orange", True: "tab:blue"}
        for line, (model, beta2) in zip(axes, blocks, strict=True):
            rows = [row for row in numbers["tables"]["arms"] if (row["model"], row["beta2"]) == (model, beta2)]
            runs = [run for run in numbers["tables"]["runs"] if (run["model"], run["beta2"]) == (model, beta2)]
            for ax, key in zip(line, ("rate", "summed_effective_rate"), strict=True):
                for corrects, shift in ((False, 0.96), (True, 1.04)):
                    own = [row for row in rows if row["correction"] == corrects]
                    points = [row for row in runs if row["correction"] == corrects and row["score"] is not None]
                    kwargs = {"color": colors[corrects]}
                    ax.scatter(
                        [row[key] * shift for row in points], [row["score"] for row in points], 12, alpha=0.5, **kwargs
                    )
                    known = [row for row in own if row["median_score"] is not None]
                    label = f"correction {'on' if corrects else 'off'}"
                    ax.plot(
                        [row[key] * shift for row in known],
                        [row["median_score"] for row in known],
                        label=label,
                        **kwargs,
                    )
                if numbers["baseline"] is not None:
                    ax.axhline(numbers["baseline"], color="0.5", linewidth=0.8, linestyle=":")
                ax.set_xscale("log")
                ax.spines[["top", "right"]].set_visible(False)
            named = f"{model}, " if len({row["model"] for row in numbers["tables"]["arms"]}) > 1 else ""
            line[0].set_ylabel(f"{numbers['metric']}\n{named}beta2 {beta2:g}")
        axes[-1, 0].set_xlabel("learning rate after warmup")
        axes[-1, 1].set_xlabel("sum of effective rates over all update steps")
        axes[0, 0].legend(frameon=False, fontsize="small")
        return figure


ANALYSIS = LrBiasCorrection()


def _args(rate: float, corrects: bool, beta2: float) -> dict[str, Any]:
    return {"learning_rate": rate, "bias_correction": corrects, "adam_beta2": beta2}


def _model(study: FinishedStudy, run: RunRecord) -> str:
    """The name of the run's pretrained model, without its folders."""
    return Path(study.settings(run).model).name


def _arm(rows: Sequence[Mapping[str, Any]], rate: float, corrects: bool) -> Mapping[str, Any]:
    return next(row for row in rows if row["rate"] == rate and row["correction"] == corrects)


def _blocks(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Each pair of a model and beta2."""
    return list(dict.fromkeys((row["model"], row["beta2"]) for row in rows))


def _crossed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The failed runs without correction by model and beta2, over all rates: is it the model, or its beta2?"""
    parts: dict[str, list[str]] = {}
    for model, beta2 in _blocks(rows):
        own = [row for row in rows if (row["model"], row["beta2"], row["correction"]) == (model, beta2, False)]
        failed, n = (sum(row[key] for row in own) for key in ("failed", "n"))
        parts.setdefault(model, []).append(f"{failed} of {n} with beta2 {beta2:g}")
    named = "; ".join(f"{model} {' and '.join(found)}" for model, found in parts.items())
    return [f"Failed runs without the correction, over all rates: {named}."]


def _equal_steps(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The pair of an arm with and one without correction that are nearest in their summed effective rates, if within 15%."""
    known = [row for row in rows if row["summed_effective_rate"] and row["failed_share"] is not None]
    pairs = [(a, b) for a in known if a["correction"] for b in known if not b["correction"]]
    if not pairs:
        return []
    on, off = min(
        pairs, key=lambda pair: abs(np.log(pair[0]["summed_effective_rate"] / pair[1]["summed_effective_rate"]))
    )
    ratio = on["summed_effective_rate"] / off["summed_effective_rate"]
    if not 1 / 1.15 < ratio < 1.15:
        return []
    return [
        f"At nearly equal summed effective rates (ratio {decimal(ratio, 2)}), on at {on['rate']:g} against off at {off['rate']:g}: "
        f"{on['failed']} of {on['n']} and {off['failed']} of {off['n']} fail; median {decimal(on['median_score'])} and "
        f"{decimal(off['median_score'])}."
    ]


def _interval(row: Mapping[str, Any]) -> str:
    return interval_text(row["failed_share_low"], row["failed_share_high"])


def _span(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    values = sorted({row[key] for row in rows})
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"
