"""The text of `--dry_run`: the runs of a study and their settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ..diagnostics.preflight import check_arguments
from ..methods import METHODS, Method, load_method
from ..tasks.overview import columns_and_classes
from ..tasks.task import TaskData
from ..training_args import StableTrainingArguments
from ..utils.batches import planned_steps
from .attempts import restart_sentence
from .job import Job
from .policies.early_stopping import policy_sentence
from .pretrained import load_config
from .run import settings_table
from .saving import saving_sentence
from .stages import StagePlan, describe_stage


def describe_study(
    jobs: Sequence[Job], data: TaskData, stages: StagePlan, refusal: str = "", notes: Sequence[str] = ()
) -> str:
    """The data, then each stage, then each recipe with its runs: every setting with its source.

    Args:
        jobs: at least one.
        data, stages: the study's.
        refusal: why the study would be refused now; empty if it would not.
        notes: lines about the study's policy and its recipes.
    """
    splits = ", ".join(f"{name} {len(rows)}" for name, rows in data.validation.items())
    lines = [
        f"task {data.task.name}: train {len(data.train)}, {splits} examples, from {data.source}; headline metric {data.task.headline}",
        columns_and_classes(data),
        f"model {stages.model}, weights in {jobs[0].dtype}; {jobs[0].device}, {jobs[0].processes} process(es), {jobs[0].threads} thread(s) per run",
    ]
    recipes = dict.fromkeys(job.recipe for job in jobs)
    lines += dict.fromkeys(saving_sentence(job.args) for job in jobs)
    lines += [f"{len(recipes)} recipe(s), {len(jobs)} run(s)", *notes]
    for stage in stages.jobs:
        lines += ["", describe_stage(stage, stages), settings_table(stage), *describe_methods(stage, stages.model)]
    names = {stage.id: f"stages/{stage.name}" for stage in stages.jobs}
    for recipe in recipes:
        runs = [job for job in jobs if job.recipe == recipe]
        seeds = ", ".join(str(job.seed) if job.cell is None else job.name.split("/")[-1] for job in runs)
        lines += ["", f"{recipe}: {len(runs)} run(s), seeds {seeds}"]
        if runs[0].stages:
            lines[-1] += f"; after {', '.join(names[id] for id in runs[0].stages)}"
        lines += [policy_sentence(runs)] if runs[0].policy else []
        lines += [sentence] if (sentence := restart_sentence(all_arguments(runs[0]))) else []
        lines += [settings_table(runs[0])]
        lines += describe_methods(runs[0], stages.model)
        lines += describe_risks(runs[0], stages.model, len(data.train))
        lines += [f"ids: {', '.join(job.id for job in runs)}"]
    lines += ["", f"This study would be refused: {refusal}."] if refusal else []
    lines += ["", "Every other argument keeps the Trainer's default. Nothing was written."]
    return "\n".join(lines)


def all_arguments(job: Job) -> dict[str, Any]:
    """A job's training arguments, and the defaults of the others."""
    return {**{f.name: f.default for f in fields(StableTrainingArguments)}, **job.args}


def describe_methods(job: Job, model: str) -> list[str]:
    """Lines of the methods that are on: each may tell what its settings mean for this pretrained model."""
    args, methods = _methods_of(job)
    return [line for method in methods for line in method.describe(load_config(model), args)]


def _methods_of(job: Job) -> tuple[dict[str, Any], list[Method]]:
    """All training arguments of a job, and its methods that are on."""
    args = all_arguments(job)
    made = [method.from_arguments(args) for method in (*METHODS, *map(load_method, job.methods))]
    return args, [method for method in made if method.is_on]


def describe_risks(job: Job, model: str, examples: int) -> list[str]:
    """Lines on settings that often make runs fail: the preflight of each of the recipe's runs, said once.

    Args:
        job: one of the recipe's runs.
        model: the pretrained model, before any stages.
        examples: number of training examples.
    """
    if job.args.get("preflight") == "none":
        return []
    width = getattr(load_config(model), "hidden_size", None)
    steps = planned_steps(job.args, examples, job.processes)
    whole = all(method.trains_encoder for method in _methods_of(job)[1])
    return [f"preflight: {line}" for line in check_arguments(job.args, steps, width, new_head=whole)]
