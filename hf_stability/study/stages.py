"""Intermediate trainings before the target task: STILTs (Phang, Févry & Bowman 2018, arXiv 1811.01088).

The pretrained model is first fine-tuned on another task (MNLI before RTE, MRPC, STS-B ...). Its encoder is kept, with the
pooler if there is one, and its head is dropped. Each run on the target starts from that encoder. The run's own initialisation
stream draws its new head.

A stage is a `Job` with record, metrics and verdict, in `stages/TASK-ID/` of the study's folder. It is trained once for all
recipes and seeds that share it. A later call of the study finds it there. Several stages are a chain: each starts from the
one before it. A run's id depends on the ids of its stages.

For methods that refer to the pretrained weights (`mixout`, `prior_decay`), these are the weights that a training starts from:
the pretrained model's in the first stage, the last stage's in the target runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..recipe import Recipe, Stage
from ..recipe.resolve import resolve_stage
from ..tasks.load import TokenizedData
from ..tasks.presets import task_preset
from ..tasks.task import TaskData
from .folder import encoder_folder, run_folder
from .job import STAGE, Job
from .model import model_config
from .prepare import (
    STUDY_DEFAULTS,
    check_settings,
    fingerprint_model,
    fingerprint_tokens,
    job_device,
    job_values,
    made_arguments,
    own_methods,
)
from .records import read_run


MAX_LABEL = 80  # characters of a stage's name that come from a file's name


@dataclass(frozen=True)
class StagePlan:
    """The stages of a study.

    Args:
        folder: the study's folder.
        model: the pretrained model: the start of each chain's first stage.
        chains: recipe -> its stages in their order; recipes without stages are left out.
        data: folder of the tokenised data -> the data as text and as tokens.
    """

    folder: Path
    model: str
    chains: dict[str, tuple[Job, ...]] = field(default_factory=dict)
    data: dict[str, tuple[TaskData, TokenizedData]] = field(default_factory=dict)

    @property
    def jobs(self) -> list[Job]:
        """Every stage once, after the stages before it."""
        return list({job.id: job for chain in self.chains.values() for job in chain}.values())

    def recipes_of(self, stage: Job) -> list[str]:
        """The recipes that have this stage."""
        return [name for name, chain in self.chains.items() if stage.id in [job.id for job in chain]]

    def attach(self, jobs: Sequence[Job]) -> list[Job]:
        """The target's jobs; those of recipes with stages start from the last stage's encoder."""
        attached = []
        for job in jobs:
            chain = self.chains.get(job.recipe)
            if chain:
                ids = tuple(stage.id for stage in chain)
                job = replace(job, model=str(encoder_folder(self.folder, chain[-1])), stages=ids)
            attached.append(job)
        return attached

    def save_data(self) -> None:
        """Write the tokens of the stages that are not finished; files that are there may be damaged."""
        needed = {stage.data_folder for stage in self.jobs if read_run(run_folder(self.folder, stage)) is None}
        for folder, (_, tokens) in self.data.items():
            if folder in needed or not Path(folder).is_dir():
                tokens.save(folder)


def plan_stages(
    recipes: Sequence[Recipe],
    model: str,
    config: Any,
    load: Callable[[Stage], tuple[TaskData, TokenizedData]],
    folder: Path,
    given: Mapping[str, Any] | None = None,
    methods: Sequence[str] = (),
    tokenizer: str = "",
    threads: int = 1,
    dtype: str = "float32",
    device: str = "",
) -> StagePlan:
    """The stages of all recipes. Nothing is written.

    Args:
        recipes: the study's recipes, with or without stages.
        model, config: the pretrained model's name or folder, and its config.
        load: returns a stage's data as text and as tokens.
        folder: the study's.
        given: the command line's training arguments; a stage's own override them.
        methods: names of the user's own methods for all recipes.
        tokenizer, threads, dtype: see `Job`.
        device: where the stages train, if it is not this machine's device.

    Raises:
        InputError: data are missing, or a setting makes training impossible. The message begins with recipe and stage.
    """
    plan = StagePlan(folder, model)
    weights: dict[int, str] = {}
    for recipe in recipes:
        chain: list[Job] = []
        for number, stage in enumerate(recipe.stages, 1):
            try:
                texts, tokens = load(stage)
                labels = tokens.task.num_labels
                if labels not in weights:
                    weights[labels] = fingerprint_model(model, model_config(model, tokens.task, {}))
                hashed = fingerprint_tokens(tokens)
                own, own_given = own_methods(recipe, given or {}, methods)
                settings = resolve_stage(
                    recipe, stage, config.model_type, task_preset(tokens.task.name), own_given, STUDY_DEFAULTS
                )
                check_settings(settings)
                args = made_arguments(settings, methods=own.values())
                job = Job(
                    recipe=_label(stage, tokens),
                    seed=stage.seed,
                    task=tokens.task.name,
                    **job_values(recipe, model, config, tokens.task, settings, own),
                    model_fingerprint=weights[labels],
                    data_fingerprint=hashed,
                    threads=threads,
                    processes=args.world_size,
                    device=job_device(settings, args.device.type, device),
                    mixed_precision=args.mixed_precision,
                    dtype=dtype,
                    model=str(encoder_folder(folder, chain[-1])) if chain else model,
                    tokenizer=tokenizer,
                    data_folder=str(folder / "data" / hashed[:16]),
                    keep_model=STAGE,
                    stages=tuple(earlier.id for earlier in chain),
                )
            except InputError as error:
                raise InputError(f"--recipe {recipe.name}, stage {number}: {error}") from None
            plan.data[job.data_folder] = (texts, tokens)
            chain.append(job)
        if chain:
            plan.chains[recipe.name] = tuple(chain)
    return plan


def _label(stage: Stage, data: TokenizedData) -> str:
    """A stage's name: its task, or its training file's name without the ending."""
    name = data.task.name if stage.train_file is None else Path(stage.train_file).stem
    return re.sub(r"[^\w.+-]", "_", name)[:MAX_LABEL]


def describe_stage(stage: Job, plan: StagePlan) -> str:
    """A stage in a line for `--dry_run`: its data, seed, starting weights and recipes."""
    texts, _ = plan.data[stage.data_folder]
    splits = ", ".join(f"{name} {len(rows)}" for name, rows in texts.validation.items())
    start = next((job.name for job in plan.jobs if stage.stages and job.id == stage.stages[-1]), plan.model)
    return (
        f"stages/{stage.name}: train {len(texts.train)}, {splits} examples, from {texts.source}; seed "
        f"{stage.seed}; starts from {start}; for {', '.join(plan.recipes_of(stage))}"
    )
