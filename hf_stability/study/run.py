"""One run, from a job to its folder."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate.utils import DistributedType
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import IntervalStrategy

from ..callback import StabilityCallback
from ..errors import InputError
from ..methods import load_method, source_hash
from ..tasks.load import TokenizedData
from ..tasks.metrics import build_compute_metrics
from ..trainer import StableTrainer
from ..training_args import StableTrainingArguments, arguments_class
from ..utils.text import markdown_table
from .checkpoints import prepare_folder
from .job import Job
from .look import LookCallback
from .model import load_model, model_config, save_encoder
from .records import RunRecord
from .results import write_results


# report(update steps done, update steps in all)
Report = Callable[[int, int], None]

AUDIT_STREAM = 100
"""Spawn key of the audits' random stream; those of training have the first ones, see `training_args.seed_streams`."""

WHOLE_MODEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Where each process has all weights, so that any can save a part of the model."""

NEVER = 10**9
"""Update steps; longer than any training."""


def run_job(job: Job, folder: Path, report: Report | None = None) -> RunRecord | None:
    """Train, evaluate and judge one run, and leave it in `folder`.

    A folder of an unfinished run is resumed from its newest whole checkpoint where there is one (`--save_strategy`),
    and begun anew otherwise. Every process of a distributed run calls this; only the main one writes.

    Args:
        job: what to run. With `until_look` training ends there: a checkpoint stays, and the record is `look.json`; without it
            such a job goes on from that checkpoint.
        folder: where to leave it; see `records.py` for the files.
        report: is told of the progress, update step by update step.

    Returns:
        the run's record; None in the other processes of a distributed run.
    """
    started = time.time()
    threads = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        with quiet():
            args = training_arguments(job, folder)
            checkpoint = prepare_folder(job, folder, args)
            trainer = make_trainer(job, args, report)
            if job.is_stage and trainer.accelerator.distributed_type not in WHOLE_MODEL:
                raise InputError(
                    "stages: train them in one process or with DistributedDataParallel, not with DeepSpeed, FSDP or XLA"
                )
            trainer.train(resume_from_checkpoint=checkpoint)
            if job.is_stage:
                save_encoder(trainer, job.model, folder / "encoder")
            elif job.keep_model != "none" and not job.until_look:
                trainer.save_model(str(folder / "model"))
            if not args.should_save:
                return None
            return write_results(job, folder, trainer, time.time() - started)
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def quiet(ours: bool = True) -> Iterator[None]:
    """A study says a line for each run; what the libraries say of loading weights and of new heads is not among it.

    Args:
        ours: silence our own warnings too: in a run the verdict stands in its line.
    """
    logger, bars = logging.getLogger("hf_stability"), transformers.logging.is_progress_bar_enabled()
    level, verbosity = logger.level, transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if ours:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()


def training_arguments(job: Job, folder: Path) -> StableTrainingArguments:
    """The job's training arguments, as the Trainer takes them."""
    free = {"report_to": "none", "dataloader_pin_memory": job.device == "cuda"}
    free |= {"log_level": "error", "log_level_replica": "error"}  # the Trainer sets the libraries' verbosity again
    fixed = {"output_dir": str(folder), "seed": job.seed, "disable_tqdm": True}
    methods = [load_method(name) for name in job.methods]
    if tuple(map(source_hash, methods)) != job.method_hashes:
        raise InputError(
            f"--method {' '.join(job.methods)}: its source changed after the study was planned; start the study again"
        )
    args = arguments_class(methods)(**{**free, **job.args, **fixed})
    if args.eval_strategy == IntervalStrategy.NO:  # a study's runs are evaluated at their end in any case
        args.eval_strategy, args.eval_steps = IntervalStrategy.STEPS, NEVER
    args.recipe = job.recipe
    return args


def make_trainer(job: Job, args: StableTrainingArguments, report: Report | None = None) -> StableTrainer:
    """The trainer of a job, its data loaded; `model_init` loads the pretrained weights."""
    data = TokenizedData.load(job.data_folder)
    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer or job.model)
    config = model_config(job.model, data.task, job.model_config)

    def model_init() -> Any:
        return load_model(job.model, config, job.dtype)

    stability = StabilityCallback(
        output_dir=args.output_dir,
        tensorboard_dir=args.output_dir,  # TensorBoard shows the run by its folder's name
        metric=data.task.headline,
        baseline="compute_metrics",  # the task's own metric script, which keeps nothing
        hparams=hyperparameters(job, args),
        texts={"recipe": settings_table(job)},
        audited=args.on_alarm == "stop" and audits(job.seed, args.audit_alarms),
    )
    callbacks: list[TrainerCallback] = [stability]
    if job.policy is not None:
        callbacks.append(LookCallback(job.policy["look_at"], stability, job.until_look))
    if report is not None:
        callbacks.append(ReportCallback(report))
    validation = data.validation
    trainer = StableTrainer(
        model_init=model_init,
        args=args,
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=data.train,
        eval_dataset=validation if len(validation) > 1 else next(iter(validation.values())),
        processing_class=tokenizer,
        compute_metrics=build_compute_metrics(data.task),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def audits(seed: int, share: float) -> bool:
    """Whether a run is finished where its alarm would stop it: each with probability `share`, drawn from the run's seed.

    The draw has a random stream of its own, so that it says nothing of how the run would end and is the same in every
    process. A seed that is audited at one share is audited at every greater one.

    Args:
        seed: the run's seed, a non-negative integer.
        share: in [0, 1]: `audit_alarms`.
    """
    stream = np.random.SeedSequence(seed, spawn_key=(AUDIT_STREAM,))
    return bool(np.random.default_rng(stream).random() < share)


def hyperparameters(job: Job, args: StableTrainingArguments) -> dict[str, Any]:
    """What runs are told apart by in TensorBoard's HParams tab, which shows five columns at first: with the verdict, these."""
    length = "max_steps" if args.max_steps > 0 else "num_train_epochs"
    return {"recipe": job.recipe, "seed": job.seed, "learning_rate": args.learning_rate, length: getattr(args, length)}


def settings_table(job: Job) -> str:
    """A Markdown table of everything that is set for a job, and where it came from."""
    values = {**job.args, **{f"model_config.{name}": value for name, value in job.model_config.items()}}
    rows = [[name, str(value), job.sources.get(name, "")] for name, value in values.items()]
    return markdown_table(["argument", "value", "from"], rows)


class ReportCallback(TrainerCallback):
    """Tells a function of each update step."""

    def __init__(self, report: Report):
        self.report = report

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.report(state.global_step, state.max_steps)
