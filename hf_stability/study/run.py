"""One run, from a job to its folder."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import shutil
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
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    TrainerCallback,
)
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import IntervalStrategy

from ..callback import StabilityCallback
from ..diagnostics.evaluation import named_output
from ..diagnostics.step_record import LAST_PART, missing_steps
from ..errors import InputError, nearest
from ..tasks.load import TokenizedData
from ..tasks.metrics import build_compute_metrics
from ..trainer import StableTrainer
from ..training_args import StableTrainingArguments
from ..utils.files import write_bytes, write_json
from ..utils.text import markdown_table
from ..version import __version__
from .job import Job
from .records import LOOK, RunRecord, delete_checkpoints


logger = logging.getLogger(__name__)

# report(update steps done, update steps in all)
Report = Callable[[int, int], None]

AUDIT_STREAM = 100
"""Spawn key of the audits' random stream; those of training have the first ones, see `training_args.seed_streams`."""

WHOLE_MODEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Where each process has all weights, so that any can save a part of the model."""

NEVER = 10**9
"""Update steps; longer than any training."""

TIMES = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


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
            checkpoint = _prepare_folder(job, folder, args)
            trainer = make_trainer(job, args, report)
            if job.is_stage and trainer.accelerator.distributed_type not in WHOLE_MODEL:
                raise InputError("stages: one process or DistributedDataParallel, not DeepSpeed, FSDP or XLA")
            trainer.train(resume_from_checkpoint=checkpoint)
            if job.is_stage:
                save_encoder(trainer, job.model, folder / "encoder")
            elif job.keep_model != "none" and not job.until_look:
                trainer.save_model(str(folder / "model"))
            if not args.should_save:
                return None
            return _write_results(job, folder, trainer, time.time() - started)
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
    args = StableTrainingArguments(**{**free, **job.args, **fixed})
    if args.eval_strategy == IntervalStrategy.NO:  # a study's runs are evaluated at their end in any case
        args.eval_strategy, args.eval_steps = IntervalStrategy.STEPS, NEVER
    args.recipe = job.recipe
    return args


def make_trainer(job: Job, args: StableTrainingArguments, report: Report | None = None) -> StableTrainer:
    """The trainer of a job, its data loaded; `model_init` loads the pretrained weights."""
    data = TokenizedData.load(job.data_folder)
    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer or job.model)
    config = model_config(job.model, data.task, job.model_config)

    def model_init():
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


def save_encoder(trainer: StableTrainer, model: str, folder: Path) -> None:
    """Leave the trained model without its head, and its tokenizer, in `folder`: what a later training starts from.

    The head is all that is not in the base model: BERT's and ALBERT's poolers are, RoBERTa has none and draws both layers
    of its head anew. The config is that of `model`, from which the training started, without its recipe's dropout and its
    task's labels. Only the main process writes.
    """
    if trainer.args.should_save:
        encoder = trainer.model.base_model
        encoder.save_pretrained(folder)
        config = AutoConfig.from_pretrained(model)
        config.architectures, config.dtype = [type(encoder).__name__], encoder.dtype  # not the checkpoint's dtype
        config.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)


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


def load_model(model: str, config, dtype: str = "float32", **more):
    """A classifier with the pretrained weights, in float32 unless told otherwise: left alone, transformers 5 loads what was
    saved in half precision in half precision, and training fails (see diagnostics/precision.py).

    Args:
        model: a folder or a name on the hub.
        config: the model's, with the task's labels.
        dtype: "float32", "bfloat16" or "float16"; "auto": as the checkpoint was saved.
        more: for `from_pretrained`.
    """
    return AutoModelForSequenceClassification.from_pretrained(
        model,
        config=config,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        ignore_mismatched_sizes=True,  # the head of a model fine-tuned on other labels; prepare.py checks the rest
        **more,
    )


def model_config(model: str, task, values: dict[str, Any]):
    """The pretrained model's config for a task, with a recipe's values put in.

    Raises:
        InputError: the config has no such field.
    """
    config = AutoConfig.from_pretrained(model)
    for name in values:
        if not hasattr(config, name):
            known = list(config.to_dict())
            raise InputError(
                f"model_config.{name}: a {config.model_type} config has no such field{nearest(name, known)}"
            )
    names = task.label_names
    labels = (
        {"num_labels": 1}
        if names is None
        else {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    )
    config.update(
        {**values, **labels, "problem_type": "regression" if names is None else "single_label_classification"}
    )
    return config


class ReportCallback(TrainerCallback):
    """Tells a function of each update step."""

    def __init__(self, report: Report):
        self.report = report

    def on_step_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.report(state.global_step, state.max_steps)


def look_step(fraction: float, max_steps: int) -> int:
    """The update step at which a run is looked at, after a fraction of all: at least 1, and before the last.

    Raises:
        InputError: there is one update step only.
    """
    if max_steps < 2:
        raise InputError(f"--look_at {fraction}: {max_steps} update step has no look before its end; train longer")
    return min(max(1, round(fraction * max_steps)), max_steps - 1)


class LookCallback(TrainerCallback):
    """Evaluates and saves at the look, and ends the training there if it is to.

    It ends it once the checkpoint is written, which then says nothing of an end.

    Args:
        fraction: of the update steps.
        stability: is told of the end, for its verdict.
        stop: whether to end there.
    """

    def __init__(self, fraction: float, stability: StabilityCallback, stop: bool):
        self.fraction, self.stability, self.stop = fraction, stability, stop

    def _is_look(self, state) -> bool:
        return state.global_step == look_step(self.fraction, state.max_steps)

    def on_step_end(self, args, state, control, **kwargs):
        if self._is_look(state):
            control.should_evaluate = control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        if self.stop and self._is_look(state):
            control.should_training_stop = self.stability.stopped_early = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self._is_look(state):  # done at the step, and it may be no end of an epoch
            control.should_evaluate = control.should_save = False


# ---- the folder -------------------------------------------------------------------------------------------------------


def _prepare_folder(job: Job, folder: Path, args: StableTrainingArguments) -> str | None:
    """Make the folder ready; the checkpoint to resume from, if there is one. Raises InputError where it is a file."""
    if os.path.lexists(folder) and not folder.is_dir():  # every process sees it: none waits for another
        raise InputError(f"{folder} is a file, and the run's folder is needed there; move it away")
    unfinished = _unfinished_job_id(folder) == job.id
    before = job.policy["look_at"] if job.until_look else None
    checkpoint = newest_whole_checkpoint(folder, args.eval_strategy.value, before) if unfinished else None
    if checkpoint is not None and _has_lost_steps(folder, checkpoint):
        logger.error(f"{folder}: its record has lost update steps; the run begins anew")  # louder than `quiet`
        checkpoint = None
    args.distributed_state.wait_for_everyone()  # nobody deletes before everybody has looked
    if args.should_save:
        look = (
            (folder / LOOK).read_bytes() if unfinished and not job.until_look and (folder / LOOK).is_file() else None
        )
        if checkpoint is None:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        if look is not None:  # who was chosen rests on it, whatever becomes of the checkpoint
            write_bytes(folder / LOOK, look)
        for leftover in ("run.json", "error.txt"):
            (folder / leftover).unlink(missing_ok=True)
        streams = {name: getattr(args, name) for name in ("init_seed", "data_seed", "dropout_seed")}
        config = {
            "id": job.id,
            "job": job.to_dict(),
            "streams": streams,
            "versions": versions(),
            "args": args.to_dict(),
        }
        write_json(folder / "config.json", config)
    args.distributed_state.wait_for_everyone()
    return checkpoint


def _has_lost_steps(folder: Path, checkpoint: str) -> bool:
    """Whether the record lacks update steps before the checkpoint's: a torn file, a power cut."""
    state = json.loads(Path(checkpoint, "trainer_state.json").read_text(encoding="utf-8"))
    return missing_steps(folder / "steps.rec", state["global_step"]) > 0


def _unfinished_job_id(folder: Path) -> str | None:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError):
        return None


def newest_whole_checkpoint(folder: Path, eval_strategy: str = "epoch", before: float | None = None) -> str | None:
    """The newest of the Trainer's checkpoints from which a run goes on as if it had not been stopped, or None.

    The Trainer does not write them atomically, but `trainer_state.json` last: one that can be read stands for the rest.

    Args:
        folder: the run's.
        eval_strategy: the run's.
        before: only those before the look after this fraction of the update steps.
    """
    found = {}
    for path in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            early = before is None or state["global_step"] < look_step(before, state["max_steps"])
            if early and _can_go_on(state, eval_strategy) and _has_training_state(path.parent):
                found[state["global_step"]] = str(path.parent)
        except (OSError, ValueError, KeyError):
            continue
    return found[max(found)] if found else None


def _has_training_state(checkpoint: Path) -> bool:
    """Not where only the model was saved (`--save_only_model`)."""
    files = [file.name for file in checkpoint.iterdir()]
    return {"optimizer.pt", "scheduler.pt"} <= set(files) and any(name.startswith("rng_state") for name in files)


def _can_go_on(state: dict[str, Any], eval_strategy: str) -> bool:
    """Not where an evaluation was still to come: that after the last step, and that of an epoch that ends with the step
    (`--save_strategy steps` saves before it; it would be missing, and what it draws from the random state too). Nor where
    an alarm had stopped the run: it would go on to its end."""
    step = state["global_step"]
    evaluated = any(
        entry["step"] == step and any(key.startswith("eval_") for key in entry) for entry in state["log_history"]
    )
    at_epoch_end = float(state["epoch"]).is_integer()
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    whole = evaluated or not at_epoch_end or eval_strategy != "epoch"
    return step < state["max_steps"] and whole and not control.get("should_training_stop", False)


def _write_results(job: Job, folder: Path, trainer: StableTrainer, seconds: float) -> RunRecord:
    evaluations = trainer.evaluations
    last, best = trainer.last_metrics, trainer.best_metrics
    times = {
        "wall": seconds,
        "train": _times(trainer.state.log_history[-1]),
        "evaluations": [_times(e) for e in evaluations],
    }
    evaluations, last, best = [_without_times(e) for e in evaluations], _without_times(last), _without_times(best)
    metric = trainer.stability.metric
    sets = trainer.eval_dataset
    prefix = f"eval_{next(iter(sets))}_" if isinstance(sets, dict) else "eval_"  # MNLI: the first set counts
    evaluation = trainer.stability.evaluation
    if evaluation.predictions is not None:
        logits = named_output(evaluation.predictions, evaluation.output_names)
        np.savez_compressed(folder / "predictions.npz", logits=logits, labels=evaluation.labels)
    write_json(
        folder / "metrics.json", finite({"metric": metric, "last": last, "best": best, "evaluations": evaluations})
    )
    write_json(folder / "times.json", times)
    if not job.until_look:
        delete_checkpoints(folder)
    stability = trainer.stability
    record, verdict, constant, alarm = stability.record, stability.verdict, stability.constant, stability.alarm
    final = record["loss"][record["step"] > (1 - LAST_PART) * trainer.state.max_steps]
    run = RunRecord(
        id=job.id,
        recipe=job.recipe,
        seed=job.seed,
        task=job.task,
        status=verdict.status,
        metric=metric,
        last=last.get(f"{prefix}{metric}"),
        best=best.get(f"{prefix}{metric}"),
        accuracy=last.get(f"{prefix}accuracy"),
        baseline=constant["score"] if constant else None,
        train_loss=float(np.mean(final, dtype=np.float64)) if len(final) else None,
        steps=trainer.state.global_step,
        planned_steps=trainer.state.max_steps,
        alarm_step=alarm.step if alarm else None,
        audited=was_audited(stability),
        evaluations=len(evaluations),
        sentence=verdict.sentence,
        metrics={k: v for k, v in last.items() if k.startswith("eval_")},
        cell=job.cell,
    )
    if stability.stopped or stability.stopped_early:  # these are of the end of training
        run = replace(run, last=None, best=None, accuracy=None, train_loss=None)
    run = RunRecord(**finite(run.to_dict()))  # what is read back later
    write_json(folder / (LOOK if job.until_look else "run.json"), run.to_dict())
    return run


def was_audited(stability: StabilityCallback) -> bool:
    """Whether a run's alarm was to stop it, and it was finished to see how it ends.

    Not where it had diverged by then: stopped there it counts as diverged, not as censored, so that such a run tells
    nothing of the stopped ones.
    """
    if not stability.audited or stability.alarm is None:
        return False
    verdict = stability.verdict
    first = verdict.evidence.get("first_nonfinite_step") if verdict.status == "diverged" else None
    return first is None or first > stability.alarm.step


def versions() -> dict[str, str]:
    """What a result may depend on in its last digits."""
    import accelerate
    import datasets

    modules = (torch, transformers, accelerate, datasets, np)
    found = {module.__name__: module.__version__ for module in modules}
    return {
        "hf_stability": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": str(os.cpu_count()),
        **found,
    }


def finite(content: Any) -> Any:
    """JSON has no NaN and no Inf: they become null."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if key == "step" or key.endswith(TIMES)}


def _without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    # Sorted, as those are that a resumed run reads from its checkpoint.
    return {key: metrics[key] for key in sorted(metrics) if not key.endswith(TIMES)}
