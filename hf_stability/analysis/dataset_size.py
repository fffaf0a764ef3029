"""Few examples: is it their number that makes fine-tuning unstable, or the number of update steps?

Mosbach et al. (ICLR 2021), section 4.2: 1000 training examples at 3 epochs are unstable. The same 1000 examples with as many update
steps as the full data set has are nearly as stable as the full data set. So the update steps count, not the examples.

| arm | examples | update steps |
| --- | --- | --- |
| `all_examples` | all | those of the study |
| `few_same_epochs` | few | as many epochs, so fewer steps |
| `few_same_steps` | few | those of the study, so more epochs |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..statistics import fisher_exact_p
from ..study.job import Job
from ..study.records import RunRecord
from ..utils.text import decimal, p_text, share_text
from .analysis import Analysis
from .finished_study import Arms, FinishedStudy
from .more_runs import changed, counted, first_runs, job_of, own_folder


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..tasks.load import TokenizedData


ARMS = ("all_examples", "few_same_epochs", "few_same_steps")


@dataclass(frozen=True)
class DatasetSizeOptions:
    """The options of `DatasetSize`."""

    examples: int = field(
        default=1000, metadata={"help": "Number of training examples of the small arms, the first ones."}
    )
    seeds: int = field(default=20, metadata={"help": "Seeds per arm: the first so many of the study's."})


def first_examples(data: TokenizedData, number: int) -> TokenizedData:
    """The same data with only the first so many training examples."""
    return replace(data, train=data.train.select(range(number)))


class DatasetSize(Analysis):
    """All examples against few, at the same epochs and at the same update steps."""

    name = "dataset-size"
    Options = DatasetSizeOptions

    def missing(self, study: FinishedStudy, options: DatasetSizeOptions) -> list[str]:
        if options.seeds < 1:
            raise InputError(f"--seeds {options.seeds}: give 1 or more")
        there = len(study.data.train)
        if not 1 <= options.examples < there:
            raise InputError(
                f"--examples {options.examples}: the study has {there} training examples; give fewer, at least 1"
            )
        if study.data.task.is_one_class(study.data.train[: options.examples]["label"]):
            raise InputError(f"--examples {options.examples}: they are all of one class; give more")
        return []

    def runs_folder(self, study: FinishedStudy, options: DatasetSizeOptions) -> Path:
        return own_folder(study, self.name) / f"first_{options.examples}"

    def jobs(self, study: FinishedStudy, options: DatasetSizeOptions) -> list[Job]:
        from ..study.prepare import fingerprint_tokens

        data = study.data
        hashed = fingerprint_tokens(first_examples(data, options.examples))
        folder = self.runs_folder(study, options) / "data" / hashed[:16]
        found = []
        for run in first_runs(study, options.seeds):
            job = job_of(study, run)
            given = job.args.get("max_steps", -1)  # the study may count epochs, or steps
            fewer = {"max_steps": max(1, round(given * options.examples / len(data.train)))} if given > 0 else {}
            steps = {"max_steps": run.planned_steps}
            of_few = {"data_fingerprint": hashed, "data_folder": str(folder.absolute())}
            found += [
                changed(job, arm, args, **fields)
                for arm, args, fields in zip(ARMS, ({}, fewer, steps), ({}, of_few, of_few), strict=True)
            ]
        return sorted(found, key=lambda job: ARMS.index(job.recipe))

    def prepare(self, study: FinishedStudy, jobs: list[Job], options: DatasetSizeOptions) -> None:
        from ..tasks.load import is_saved

        for folder in {job.data_folder for job in jobs if job.recipe != ARMS[0]}:
            if not is_saved(Path(folder)):
                first_examples(study.data, options.examples).save(folder)

    def numbers_of_arms(self, study: FinishedStudy, arms: Arms, options: DatasetSizeOptions) -> dict[str, Any]:
        first: RunRecord = first_runs(study, 1)[0]
        rows = []
        for arm in ARMS:
            _, runs = arms[arm]
            rows.append(
                {
                    "arm": arm,
                    "examples": len(study.data.train) if arm == ARMS[0] else options.examples,
                    "steps": runs[0].planned_steps if runs else None,
                    **counted(runs),
                }
            )
        return {
            "metric": first.metric,
            "recipe": first.recipe,
            "baseline": first.baseline,
            "tables": {
                "arms": rows,
                "runs": [
                    {"arm": arm, "seed": run.seed, "status": run.status, "score": run.last}
                    for arm in ARMS
                    for run in arms[arm][1]
                ],
            },
        }

    def sentences(self, numbers: Mapping[str, Any]) -> list[str]:
        rows = {row["arm"]: row for row in numbers["tables"]["arms"]}
        said = []
        for arm, words in zip(
            ARMS, ("all examples", "few examples, same epochs", "few examples, same update steps"), strict=True
        ):
            row = rows[arm]
            spread = "" if row["std_score"] is None else f", std {decimal(row['std_score'])}"
            mean = (
                ""
                if row["mean_score"] is None
                else f"; mean {numbers['metric'].replace('_', ' ')} {decimal(row['mean_score'])}{spread}"
            )
            said.append(
                f"{words} ({row['examples']} examples, {row['steps']} steps): {row['failed']} of {row['n']} fail{mean}"
            )
        found = [f"{numbers['recipe']}. " + ". ".join(each[0].upper() + each[1:] for each in said) + "."]
        short, long = rows[ARMS[1]], rows[ARMS[2]]
        if short["n"] and long["n"]:
            p = fisher_exact_p(short["failed"], short["n"], long["failed"], long["n"])
            found.append(
                f"The same {short['examples']} examples with more steps change the failed share from {share_text(short['failed_share'])} "
                f"to {share_text(long['failed_share'])} (Fisher's exact test, {p_text(p)})."
            )
        return found

    def draw(self, numbers: Mapping[str, Any]) -> Figure:
        from matplotlib.figure import Figure

        rows, runs = numbers["tables"]["arms"], numbers["tables"]["runs"]
        figure = Figure(figsize=(6, 4), layout="constrained")
        ax = figure.subplots()
        for place, row in enumerate(rows):
            for ok, marker, color in ((True, "o", "tab:blue"), (False, "x", "tab:red")):
                own = [
                    run
                    for run in runs
                    if run["arm"] == row["arm"] and run["score"] is not None and (run["status"] == "ok") == ok
                ]
                offsets = np.linspace(-0.15, 0.15, len(own)) if len(own) > 1 else np.zeros(len(own))
                ax.scatter(place + offsets, [run["score"] for run in own], 20, marker=marker, color=color)
        if numbers["baseline"] is not None:
            ax.axhline(numbers["baseline"], color="0.5", linewidth=0.8, linestyle=":")
        labels = [
            f"{row['examples']} examples\n{row['steps']} steps\n{row['failed']} of {row['n']} failed" for row in rows
        ]
        ax.set_xticks(range(len(rows)), labels)
        ax.set_xlim(-0.5, len(rows) - 0.5)
        ax.set_ylabel(numbers["metric"].replace("_", " "))
        ax.spines[["top", "right"]].set_visible(False)
        return figure


ANALYSIS = DatasetSize()
