"""One run, from a job to its folder."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from ..utils.batches import derived_batch_size
from ..utils.text import error_line, markdown_table
from .attempts import AUDIT, attempt_text, first_was_stopped, restarts
from .by_length import LengthTrainer
from .checkpoints import prepare_folder
from .job import ALARM_ARGS, RESTART_ARGS, Job
from .look import LookCallback
from .model import load_model, model_config, save_encoder, save_model, set_padding
from .records import RunRecord, delete_checkpoints
from .report.trackers import closing_runs, trackers_in
from .results import audited_run, write_results
from .saving import SavingCallback, pass_over, save_limit, save_strategy
from .stop import stop_if_asked


logger = logging.getLogger(__name__)

Report = Callable[[int, int, "float | None", "float | None", str], None]
"""`report(steps, total, loss, risk, attempt)`: as in an `Event` of the kind "progress"."""

AUDIT_STREAM = 100
"""Spawn key of the audits' random stream. The first keys are those of training, see `training_args.seed_streams`."""

WHOLE_MODEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Kinds of training in which each process has all weights, so that it can save a part of the model."""

NOT_OF_A_CHECKPOINT = (InputError, MemoryError, torch.OutOfMemoryError)
"""Errors while a checkpoint is loaded that do not mean that it is damaged."""

NEVER = 10**9
"""Update steps: more than any training has."""


def run_job(job: Job, folder: Path, report: Report | None = None) -> RunRecord | None:
    """Train, evaluate and judge one run, and write its files.

    An unfinished run resumes from its newest complete checkpoint if it has one. Otherwise it starts again from the beginning.
    Every process of a distributed run calls this; only the main process writes.

    Args:
        job: the run. With `until_look` training ends at the look, leaves a checkpoint, and the record is `look.json`. The
            same job without `until_look` continues from that checkpoint.
        folder: the run's folder; see `records.py` for the files.
        report: is called after every update step.

    Returns:
        the run's record; None in the other processes of a distributed run.
    """
    started = time.monotonic()
    threads = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        with quiet(), closing_runs(job.args.get("report_to")):
            trainer = _train(job, folder, report)
            if job.is_stage:
                save_encoder(trainer, job.model, folder / "encoder")
            elif job.keep_model != "none" and not job.until_look:
                save_model(trainer, folder / "model")
            main, audits_first = trainer.args.should_save, _audits_first(job, trainer)
            run = write_results(job, folder, trainer, time.monotonic() - started, not audits_first) if main else None
            if audits_first:
                del trainer
                gc.collect()  # a Trainer is part of reference cycles
                status = _audit(job, folder / AUDIT, report)
                run = audited_run(folder, run, status) if run is not None else None
            return run
    finally:
        torch.set_num_threads(threads)


def _audits_first(job: Job, trainer: StableTrainer) -> bool:
    """Whether the first attempt of a run that restarted is trained to its end, too, to learn whether its alarm was right."""
    args: Any = trainer.args
    if not restarts(job.args) or not first_was_stopped(trainer.stability.attempts):
        return False
    return audits(job.seed, args.audit_alarms)


def _audit(job: Job, folder: Path, report: Report | None) -> str:
    """Train a run's first attempt to its end in spite of its alarm, in a folder of its own. Returns the verdict's status.

    It is the plain run of the same seed: an alarm that does nothing changes no bit of a training.
    """
    left_out = (*ALARM_ARGS, *RESTART_ARGS, "report_to")
    args = {name: value for name, value in job.args.items() if name not in left_out}
    trainer = _train(replace(job, args=args, keep_model="none"), folder, report)
    if trainer.args.should_save:
        delete_checkpoints(folder)
    return trainer.stability.verdict.status if trainer.args.should_save else ""


def _train(job: Job, folder: Path, report: Report | None) -> StableTrainer:
    """Train one run from its newest complete checkpoint, or from the beginning. A checkpoint that cannot be loaded is passed over."""
    while True:
        args = training_arguments(job, folder)
        checkpoint = prepare_folder(job, folder, args)
        trainer = make_trainer(job, args, report)
        if job.is_stage and trainer.accelerator.distributed_type not in WHOLE_MODEL:
            raise InputError(
                "stages: train them in one process or with DistributedDataParallel, not with DeepSpeed, FSDP or XLA"
            )
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
            return trainer
        except Exception as error:
            saving = next(each for each in trainer.callback_handler.callbacks if isinstance(each, SavingCallback))
            if not isinstance(checkpoint, str) or saving.has_begun or isinstance(error, NOT_OF_A_CHECKPOINT):
                raise
            if args.should_save:
                pass_over(Path(checkpoint))
            if job.processes > 1:
                raise  # the other processes may have loaded it; the next call passes it over
            logger.error(
                f"{checkpoint}: cannot be loaded ({error_line(error)}); the run continues from an older one or begins anew"
            )
            del trainer, saving  # its memory is free before the next one is made


@contextlib.contextmanager
def quiet(ours: bool = True) -> Iterator[None]:
    """Silence the libraries' messages about loaded weights and new heads: a study prints a line per run.

    Args:
        ours: silence our own warnings too. A run's line has its verdict.
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
    """The job's training arguments, as the Trainer takes them. A run of one process trains on one GPU, even if this process sees more.

    Raises:
        InputError: a method's source has changed.
        RuntimeError: the job was planned for a GPU, and this process has none.
    """
    free = {"report_to": "none", "dataloader_pin_memory": job.device == "cuda"}
    free |= {"save_strategy": save_strategy(job.args) or "no"}  # by default `SavingCallback` decides
    free |= {"run_name": job.name} if trackers_in(job.args.get("report_to")) else {}  # else each has a random name
    free |= {"log_level": "error", "log_level_replica": "error"}  # the Trainer sets the libraries' verbosity again
    fixed = {"output_dir": str(folder), "seed": job.seed, "disable_tqdm": True}
    methods = [load_method(name) for name in job.methods]
    if tuple(map(source_hash, methods)) != job.method_hashes:
        raise InputError(
            f"--method {' '.join(job.methods)}: its source changed after the study was planned; start the study again"
        )
    values = {**free, **job.args, **fixed}
    total = values.pop("total_train_batch_size", None)  # the arguments would divide it by the visible GPUs
    args = arguments_class(methods)(**values)
    check_device(job, args.device.type)
    args._n_gpu = min(args.n_gpu, 1)  # with more, the Trainer takes nn.DataParallel, which splits each batch
    if total is not None:
        per_device = job.args.get("per_device_train_batch_size")
        args.total_train_batch_size = total
        args.per_device_train_batch_size = derived_batch_size(
            total, args.world_size, args.gradient_accumulation_steps, per_device
        )
    if args.eval_strategy == IntervalStrategy.NO:  # a study evaluates each run at least at its end
        args.eval_strategy, args.eval_steps = IntervalStrategy.STEPS, NEVER
    args.save_total_limit = None  # the Trainer deletes the older checkpoint too early; `SavingCallback` does it
    args.recipe = job.recipe
    return args


def check_device(job: Job, device: str) -> None:
    """Refuse to train on a CPU what was planned for a GPU: the job's id tells the device, and the results would be others.

    Args:
        job: the run.
        device: the device of this process: "cpu", "cuda" ...

    Raises:
        RuntimeError: there is no GPU.
    """
    if job.device == "cuda" and device != "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        where = socket.gethostname() + ("" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible}")
        raise RuntimeError(f"this run was planned for a GPU, but PyTorch finds none on {where}")


def make_trainer(job: Job, args: StableTrainingArguments, report: Report | None = None) -> StableTrainer:
    """The trainer of a job, its data loaded; `model_init` loads the pretrained weights."""
    data = TokenizedData.load(job.data_folder)
    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer or job.model)
    config = model_config(job.model, data.task, job.model_config)
    set_padding(tokenizer, config)

    def model_init() -> Any:
        return load_model(job.model, config, job.dtype)

    stability = StabilityCallback(
        output_dir=args.output_dir,
        tensorboard_dir=args.output_dir,  # TensorBoard takes the run's name from its folder
        metric=data.task.headline,
        baseline="compute_metrics",  # the task's metric script has no state
        hparams=hyperparameters(job, args),
        texts={"recipe": settings_table(job)},
        audited=args.on_alarm == "stop" and audits(job.seed, args.audit_alarms),
    )
    saving = SavingCallback(at_tenths=save_strategy(job.args) is None, limit=save_limit(job.args))
    callbacks: list[TrainerCallback] = [saving, stability]
    if job.policy is not None:
        callbacks.append(LookCallback(job.policy["look_at"], stability, job.until_look))
    if report is not None:
        callbacks.append(ReportCallback(report, stability, args.max_restarts + 1 if restarts(job.args) else 0))
    validation = data.validation
    trainer = LengthTrainer(
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
    """Whether a run is finished although its alarm would stop it: with probability `share`, drawn from the run's seed.

    The draw has its own random stream. So it is independent of how the run would end, and the same in every process. A seed
    that is audited at one share is audited at every larger share.

    Args:
        seed: the run's seed, a non-negative integer.
        share: `audit_alarms`, in [0, 1].
    """
    stream = np.random.SeedSequence(seed, spawn_key=(AUDIT_STREAM,))
    return bool(np.random.default_rng(stream).random() < share)


def hyperparameters(job: Job, args: StableTrainingArguments) -> dict[str, Any]:
    """The columns of TensorBoard's HParams tab, with the verdict: the tab shows five at first."""
    length = "max_steps" if args.max_steps > 0 else "num_train_epochs"
    return {"recipe": job.recipe, "seed": job.seed, "learning_rate": args.learning_rate, length: getattr(args, length)}


def settings_table(job: Job) -> str:
    """A Markdown table of every setting of a job, with its source."""
    values = {**job.args, **{f"model_config.{name}": value for name, value in job.model_config.items()}}
    rows = [[name, str(value), job.sources.get(name, "")] for name, value in values.items()]
    return markdown_table(["argument", "value", "from"], rows)


class ReportCallback(TrainerCallback):
    """Calls a function after each update step, with the loss and the risk that are on the host already.

    After every batch, also of evaluations, it asks whether the study is to end.

    Args:
        report: the function.
        stability: the run's callback. It comes before this one.
        attempts: the most attempts of a run that restarts; 0 if it does not.
    """

    def __init__(self, report: Report, stability: StabilityCallback, attempts: int = 0):
        self.report, self.stability, self.attempts = report, stability, attempts

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            recorder = self.stability.recorder
            loss = recorder.last_loss() if recorder is not None else None
            attempt = attempt_text(len(self.stability.attempts) + 1, self.attempts) if self.attempts else ""
            self.report(state.global_step, state.max_steps, loss, self.stability.monitor.risk, attempt)
        stop_if_asked()  # in each process of a distributed run

    def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
        stop_if_asked()

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        stop_if_asked()
