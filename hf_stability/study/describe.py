"""What a study would run, in words: the text of `--dry_run`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModelForSequenceClassification

from ..methods.layerwise_lr import layer_rates
from ..tasks.overview import columns_and_classes
from ..tasks.task import TaskData
from ..training_args import StableTrainingArguments
from ..utils.layers import layers_of
from .job import Job
from .policies.early_stopping import policy_sentence
from .prepare import load_config
from .run import settings_table
from .stages import StagePlan, describe_stage


def describe_study(jobs: Sequence[Job], data: TaskData, stages: StagePlan) -> str:
    """The data; then each stage, and each recipe with its runs: every value that is set, with its source.

    Args:
        jobs: one or more.
        data, stages: the study's.
    """
    splits = ", ".join(f"{name} {len(rows)}" for name, rows in data.validation.items())
    lines = [
        f"task {data.task.name}: train {len(data.train)}, {splits} examples, from {data.source}; headline metric {data.task.headline}",
        columns_and_classes(data),
        f"model {stages.model}, weights in {jobs[0].dtype}; {jobs[0].device}, {jobs[0].processes} process(es), {jobs[0].threads} thread(s) a run",
    ]
    recipes = dict.fromkeys(job.recipe for job in jobs)
    lines += [f"{len(recipes)} recipe(s), {len(jobs)} run(s)"]
    for stage in stages.jobs:
        lines += ["", describe_stage(stage, stages), settings_table(stage), *layerwise_rates(stage, stages.model)]
    names = {stage.id: f"stages/{stage.name}" for stage in stages.jobs}
    for recipe in recipes:
        runs = [job for job in jobs if job.recipe == recipe]
        seeds = ", ".join(str(job.seed) if job.cell is None else job.name.split("/")[-1] for job in runs)
        lines += ["", f"{recipe}: {len(runs)} run(s), seeds {seeds}"]
        if runs[0].stages:
            lines[-1] += f"; after {', '.join(names[id] for id in runs[0].stages)}"
        lines += [policy_sentence(runs)] if runs[0].policy else []
        lines += [settings_table(runs[0])]
        lines += layerwise_rates(runs[0], stages.model)
        lines += [f"ids: {', '.join(job.id for job in runs)}"]
    lines += ["", "Every other argument keeps the Trainer's default. Nothing was written."]
    return "\n".join(lines)


def layerwise_rates(job: Job, model: str) -> list[str]:
    """`learning rates: classifier 2e-05, pooler 2e-05, layer_11 1.9e-05, ..., embeddings 1.08e-05`, of a pretrained model:
    a line, or none where there is one rate for all."""
    args = StableTrainingArguments
    decay, rate = (job.args.get(name, getattr(args, name)) for name in ("layerwise_lr_decay", "learning_rate"))
    if decay == 1:
        return []
    with torch.device("meta"):
        built = AutoModelForSequenceClassification.from_config(load_config(model))
    rates = layer_rates(list(layers_of(built)), rate, decay)
    return ["learning rates: " + ", ".join(f"{name} {rates[name]:.3g}" for name in reversed(rates))]
