"""StabilityCallback: gradient norms by layer, every update step, and a verdict on the run; for any Trainer."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback, default_logdir

from .diagnostics.failures import Verdict, best_constant_score, judge
from .diagnostics.gradients import GradientMeter
from .diagnostics.outputs import combine_statistics, output_statistics
from .diagnostics.step_record import LAYER_PREFIX, StepRecord
from .errors import InputError


logger = logging.getLogger(__name__)

MAX_CLASSES = 16  # more classes than this get no counts a step
MAX_WIDTH = 128  # more outputs than this get no logit_std
TENSORBOARD_POINTS = 1000  # a curve's points; TensorBoard shows no more
LAST_PART = 0.1  # share of training over which "predicts one class" is counted
EVENTS_SUFFIX = ".stability"  # of the names of our event files
NOT_SCORES = ("runtime", "samples_per_second", "steps_per_second", "epoch", "model_preparation_time")


class StabilityCallback(TrainerCallback):
    """Records a run's gradient norms by layer, loss and logits at every update step, and judges it at the end.

    ```python
    trainer = Trainer(model, args, train_dataset=..., callbacks=[StabilityCallback()])
    ```

    It changes no bit of the training, and adds no host synchronisation to the Trainer's own: rows stay on the device
    until the Trainer logs, evaluates or saves, or `block_steps` have come together.

    On a stock Trainer the norms are those after clipping, the only ones a callback can see; steps that hit the clip are
    marked (`clipped`), and a vanishing gradient is under it anyhow. [`StableTrainer`] gives the norms before clipping.

    In `<output_dir>/stability` it leaves `steps.rec` (see [`read_steps`]), `verdict.json`, and `tensorboard/`, where
    the tags are

    | tag | what |
    | --- | --- |
    | `grad_norm/<layer>` | norm of the layer's gradient |
    | `grad_norm/total`, `loss`, `learning_rate`, `logit_std`, `clipped` | as in the record |
    | `eval/<metric>` | every number of every evaluation but its times, whatever `report_to` says |
    | `final/<metric>`, `final/failed` | at the end: the headline metric; 1 where the verdict is not `ok` |
    | `verdict` (text) | the verdict's sentence |

    A run has one event file, and another for each time it is resumed. The Trainer's own TensorBoardCallback
    (`report_to`) writes to a folder of its own, unless the two share a writer: see [`share_tensorboard`].

    Args:
        compute_metrics: the Trainer's own; with it the verdict compares the final accuracy (R2 for a regression) with
            the best constant predictor's on the last evaluation, and reports the best constant's score.
        baseline: the best constant predictor's score, where it is known; compared with `metric` of the last evaluation.
            Greater is better. Without either, the verdict rests on the training loss, the predicted classes and the gradients, and says so.
        metric: key of the headline metric, with or without `eval_`. Default: `metric_for_best_model`, else accuracy,
            else the first one.
        output_dir: where to write, instead of `<output_dir>/stability`.
        tensorboard: whether to write TensorBoard's files.
        tensorboard_dir: where to write them, those of the Trainer's TensorBoardCallback included where the writer is
            shared. Default: that callback's folder where it is shared, else `<output_dir>/tensorboard`.
        hparams: the run's hyperparameters for TensorBoard's HParams tab, which shows them with the verdict's status,
            `final/<metric>` and `final/failed`. Written at the end of training.
        texts: tag -> Markdown, for TensorBoard's Text tab.
        block_steps: update steps after which rows are written at the latest. A killed run loses at most these.

    Attributes:
        verdict: the [`Verdict`] after training; None before, and in all processes but the main one.
        constant: the best constant predictor's score, class and so on, once an evaluation has shown the labels.
    """

    def __init__(
        self,
        compute_metrics: Callable | None = None,
        baseline: float | None = None,
        metric: str | None = None,
        output_dir: str | os.PathLike | None = None,
        tensorboard: bool = True,
        tensorboard_dir: str | os.PathLike | None = None,
        hparams: Mapping[str, Any] | None = None,
        texts: Mapping[str, str] | None = None,
        block_steps: int = 256,
    ):
        self.compute_metrics = compute_metrics
        self.baseline = baseline
        self.metric = metric
        self.output_dir = output_dir
        self.tensorboard = tensorboard
        self.tensorboard_dir = tensorboard_dir
        self.hparams = hparams
        self.texts = texts
        self.block_steps = block_steps
        self.verdict: Verdict | None = None
        self.constant: dict[str, Any] | None = None
        self.trainer_hands_over = False  # set by a trainer that calls observe_evaluation
        self.evaluation: dict[str, Any] = {}  # the last one: metrics, and predictions and labels where they were seen
        self.meter: GradientMeter | None = None
        self._norms: tuple[Tensor, Tensor, bool] | None = None
        self._record: StepRecord | None = None
        self._hook = None
        self._writer = None
        self._trainers_callback: TensorBoardCallback | None = None  # the Trainer's own, where it is known
        self._shares_writer = False

    @property
    def record(self) -> dict[str, Any]:
        """What is recorded so far, as arrays: see [`read_steps`]. In mid-training, a call for all processes together."""
        if self._record is None:
            raise RuntimeError("nothing is recorded yet: the callback's trainer has not trained")
        self._flush()
        return self._record.to_dict()

    # ---- what a trainer that knows more can hand over ----------------------------------------------------------------

    def observe_gradients(self, layer_norms: Tensor, total: Tensor, before_clipping: bool) -> None:
        """Take this update step's norms from the trainer, instead of another pass over the gradients.

        Args:
            layer_norms: `(layers,)`, as `meter` gives them.
            total: 0-d, the total norm.
            before_clipping: whether they were taken before clipping.
        """
        self._norms = (layer_norms, total, before_clipping)

    def observe_evaluation(self, predictions: Any, labels: np.ndarray, metrics: dict[str, float]) -> None:
        """Take the outputs of an evaluation; the verdict rests on the last one."""
        self.evaluation = {"predictions": predictions, "labels": labels, "metrics": metrics}

    def share_tensorboard(self, trainer) -> None:
        """Write to the same event file as the Trainer's own TensorBoardCallback, where it has one (`report_to`).

        A callback does not see the others, so that on a stock Trainer this is to be called, once, before `train()`;
        [`StabilityMixin`] calls it. Two writers must not write to one folder: TensorBoard follows the newer file only.
        """
        callbacks = trainer.callback_handler.callbacks
        self._trainers_callback = next((c for c in callbacks if isinstance(c, TensorBoardCallback)), None)
        if self._trainers_callback is not None:  # to the end of the list: it closes the file that the verdict goes to
            trainer.remove_callback(self._trainers_callback)
            trainer.add_callback(self._trainers_callback)

    # ---- the Trainer's events ----------------------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        self._args, self._state = args, state
        self.verdict, self.constant, self.evaluation = None, None, {}
        self.meter = GradientMeter(model)
        config = getattr(model, "config", None)
        num_labels = getattr(config, "num_labels", 0) or 0
        self._classes = num_labels if 2 <= num_labels <= MAX_CLASSES else 0
        self._num_labels = num_labels
        self._train_dataloader = train_dataloader
        self._width = num_labels if num_labels <= MAX_WIDTH else 0
        self._label_names = getattr(config, "id2label", None)
        self._saw_loss = False  # a NaN loss is divergence, no loss at all is a model that returns none
        self._rows: list[tuple[int, float, Tensor, Tensor]] = []
        self._micro_batches: list[tuple[Tensor | None, Tensor | None, Tensor | None]] = []
        self._eval_batches: list[tuple[Tensor, Tensor]] = []
        self._evaluated_step = -1
        # A process of several sees its share of an evaluation only, and not which examples are there twice as padding.
        self._sees_evaluations = bool(self.compute_metrics) and not self.trainer_hands_over and args.world_size == 1
        columns = ["step", "learning_rate", "loss", "logit_std", "grad_norm", "clipped"]
        columns += [f"{kind}/{k}" for kind in ("labels", "predicted") for k in range(self._classes)]
        columns += [LAYER_PREFIX + name for name in self.meter.names]
        folder = Path(self.output_dir or os.path.join(args.output_dir, "stability"))
        self._folder = folder if state.is_world_process_zero else None
        self._record = StepRecord(
            columns,
            folder / "steps.rec" if self._folder else None,
            last_step=state.global_step,
            info={"max_steps": state.max_steps, "warmup_steps": args.get_warmup_steps(state.max_steps)},
        )
        if self._folder:
            (folder / "verdict.json").unlink(missing_ok=True)
        self._open_writer(folder)
        self._remove_hook()
        self._hook = model.register_forward_hook(self._observe_forward, with_kwargs=True)

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        if self._norms is not None:
            layer_norms, total, before_clipping = self._norms
        else:
            norms = self.meter.parameter_norms()
            layer_norms, before_clipping = self.meter.layer_norms(norms), False
            total = torch.linalg.vector_norm(norms.float())
            if not self.meter.present or _is_sharded(args):  # not zero: unknown
                layer_norms, total = layer_norms * math.nan, total * math.nan
        self._norms = None
        rate = float(optimizer.param_groups[0]["lr"])
        self._rows.append(
            (state.global_step + 1, rate, self._seen_here(total), self._norms_row(layer_norms, total, before_clipping))
        )
        self._micro_batches.clear()

    def on_step_end(self, args, state, control, **kwargs):
        if len(self._rows) >= self.block_steps:
            self._flush()

    def on_log(self, args, state, control, **kwargs):
        self._flush()

    def on_save(self, args, state, control, **kwargs):
        self._flush()

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if self._hook is None:  # an evaluation outside training
            return
        self._flush()
        self._write_evaluation(metrics or {})
        batches, self._eval_batches = self._eval_batches, []
        if self.trainer_hands_over or self._evaluated_step == state.global_step:
            return  # of several evaluation sets the first counts
        self._evaluated_step = state.global_step
        self.evaluation = {"metrics": dict(metrics or {})}
        if batches:
            logits, labels = (torch.cat(part).float().cpu().numpy() for part in zip(*batches, strict=True))
            self.observe_evaluation(logits, labels, dict(metrics or {}))

    def on_train_end(self, args, state, control, **kwargs):
        self._flush()
        self._remove_hook()
        if not state.is_world_process_zero:
            return
        self.verdict = self._judge()
        level = logger.info if self.verdict.status == "ok" else logger.warning
        level(self.verdict.sentence)
        write_json(self._folder / "verdict.json", self.verdict.to_dict())
        self._write_end()

    # ---- a step's row ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _observe_forward(self, module, args, kwargs, output) -> None:
        loss, logits, labels = _loss_logits_labels(kwargs, output)
        if module.training:
            self._saw_loss |= loss is not None
            self._micro_batches.append((loss, logits, labels))
        elif self._sees_evaluations and logits is not None and labels is not None:
            self._eval_batches.append((logits, labels))

    @torch.no_grad()
    def _seen_here(self, total: Tensor) -> Tensor:
        """Loss and output statistics of the examples that this process has seen in this step, on the device."""
        device = total.device  # under DataParallel the batches are on several
        batches = [[part.to(device) if part is not None else None for part in batch] for batch in self._micro_batches]
        losses = [loss.float() for loss, _, _ in batches if loss is not None]
        sizes = [len(labels) if labels is not None else 1 for loss, _, labels in batches if loss is not None]
        loss = sum(loss * (size / sum(sizes)) for loss, size in zip(losses, sizes, strict=True))
        loss = loss if losses else torch.full((), torch.nan, device=device)
        seen = [(logits, labels) for _, logits, labels in batches if logits is not None and labels is not None]
        logits, labels = (torch.cat(part) for part in zip(*seen, strict=True)) if seen else (None, None)
        statistics = output_statistics(logits, labels, self._width, self._classes, device)
        return torch.cat([loss[None], statistics])

    def _norms_row(self, layer_norms: Tensor, total: Tensor, before_clipping: bool) -> Tensor:
        limit = self._args.max_grad_norm or math.inf
        # After clipping the total stands at the limit, up to rounding and the 1e-6 in torch's formula.
        clipped = total > (limit if before_clipping else limit * (1 - 1e-4))
        return torch.cat([torch.stack([total.float(), clipped.float()]), layer_norms.float().to(total.device)])

    def _flush(self) -> None:
        """Bring the rows of the last block to the host, the file and TensorBoard."""
        if not self._rows:
            return
        steps, rates, seen, norms = zip(*self._rows, strict=True)
        self._rows = []
        seen = self._of_all_processes(torch.stack(seen)).cpu().numpy()
        norms = torch.stack(norms).cpu().numpy()
        outputs = combine_statistics(seen[..., 1:], self._width)
        loss = _weighted_mean(seen[..., 0], seen[..., 1])
        block = [steps, rates, loss, outputs[:, 0], norms[:, :2], outputs[:, 1:], norms[:, 2:]]
        block = np.column_stack([np.asarray(part, "<f4") for part in block])
        self._record.append(block)
        self._write_steps(block)

    def _of_all_processes(self, seen: Tensor) -> Tensor:
        """`(steps, columns)` of this process -> `(processes, steps, columns)`. Gradient norms are global already."""
        if self._args.world_size == 1 or not torch.distributed.is_initialized():
            return seen[None]
        gathered = [torch.empty_like(seen) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(gathered, seen)
        return torch.stack(gathered)

    # ---- the verdict -------------------------------------------------------------------------------------------------

    def _judge(self) -> Verdict:
        record, evaluation = self._record.to_dict(), self.evaluation
        metrics = evaluation.get("metrics", {})
        metric, score = headline(metrics, self.metric or self._args.metric_for_best_model)
        last = record["step"] > (1 - LAST_PART) * self._state.max_steps
        regression = self._num_labels == 1
        wanted = self.metric or self._args.metric_for_best_model or ""
        lower_is_better = self._args.greater_is_better is False and wanted and not wanted.endswith("loss")
        if lower_is_better:  # baselines are for scores, where greater is better
            metric, score = None, None
        if (
            "labels" in evaluation
            and self.compute_metrics is not None
            and metric is not None
            and self.constant is None
        ):
            self.constant = self._best_constant(metric, regression)
        known = bool(np.isfinite(record["layer_norms"]).any())
        evidence = {
            "eval_labels": evaluation.get("labels"),
            "eval_predictions": evaluation.get("predictions"),
            "num_labels": self._num_labels or None,
            "regression": regression,
            "label_names": self._names_of_labels(),
            "score": score,
            "baseline": None if lower_is_better else self.constant["score"] if self.constant else self.baseline,
            "metric": metric,
            "steps": record["step"],
            "losses": record["loss"] if self._saw_loss else None,
            "layer_norms": record["layer_norms"] if known else None,
            "layers": record["layers"] if known else None,
            "warmup_steps": record["info"]["warmup_steps"],
            "total_steps": self._state.max_steps,
            "constant_loss": _label_variance(self._train_dataloader) if regression else None,
            "train_label_counts": _counts(record["labels"]),
            "train_predicted_counts": _counts(record["predicted"][last]),
        }
        try:
            return judge(**evidence)
        except (
            InputError
        ) as error:  # outputs of another shape than a verdict knows: token labels, several labels at once
            logger.warning(f"The verdict leaves the evaluation out: {error}")
            evidence.update(eval_labels=None, eval_predictions=None)
            return judge(**evidence)

    def _best_constant(self, metric: str, regression: bool) -> dict[str, Any] | None:
        outputs = self.evaluation["predictions"], self.evaluation["labels"]
        try:
            return best_constant_score(self.compute_metrics, *outputs, self._num_labels, metric, regression)
        except Exception as error:  # the user's own function; a finished training must not be lost over it
            logger.warning(
                f"No baseline: compute_metrics failed on a constant prediction: {type(error).__name__}: {error}"
            )
            return None

    def _names_of_labels(self) -> list[str] | None:
        names = self._label_names
        return [str(names[k]) for k in range(self._num_labels)] if names and len(names) == self._num_labels else None

    def _remove_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    # ---- TensorBoard ------------------------------------------------------------------------------------------------

    def _open_writer(self, folder: Path) -> None:
        """The run's one writer. Comes before the Trainer's callback would open its own."""
        interrupted, self._writer, self._shares_writer = self._writer, None, False
        if interrupted is not None:  # a training that raised
            interrupted.close()
        if self._folder is None or not self.tensorboard:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.warning("tensorboard is not installed: the diagnostics go to the record file only.")
            return
        # In a search the Trainer's callback has a folder for each trial.
        theirs = None if self._state.is_hyper_param_search else self._trainers_callback
        first_step = self._state.global_step + 1
        if theirs is not None and theirs.tb_writer not in (None, interrupted):
            self._writer = theirs.tb_writer  # one that it was made with
        else:
            directory = self._events_folder(folder, theirs)
            self._writer = SummaryWriter(directory, purge_step=first_step, filename_suffix=EVENTS_SUFFIX)
            if theirs is not None:
                theirs.tb_writer, theirs.logging_dir = self._writer, directory
        self._shares_writer = theirs is not None
        for tag, text in (self.texts or {}).items():
            self._writer.add_text(tag, text, first_step)
        self._writer.flush()

    def _events_folder(self, folder: Path, theirs: TensorBoardCallback | None) -> str:
        if self.tensorboard_dir is not None:
            return str(self.tensorboard_dir)
        if theirs is not None:
            return theirs.logging_dir or os.path.join(self._args.output_dir, default_logdir())
        if self._state.global_step == 0:  # begun anew, as the record: TensorBoard would keep the old run's hparams
            for earlier in (folder / "tensorboard").glob(f"events.out.tfevents.*{EVENTS_SUFFIX}"):
                earlier.unlink()
        return str(folder / "tensorboard")

    def _write_steps(self, rows: np.ndarray) -> None:
        if self._writer is None:
            return
        every = max(1, self._state.max_steps // TENSORBOARD_POINTS)
        for row in rows[(rows[:, 0] - 1) % every == 0]:
            for column, value in zip(self._record.columns[1:], row[1:], strict=True):
                if "/" not in column or column.startswith(LAYER_PREFIX):
                    tag = {"grad_norm": "grad_norm/total"}.get(column, column)
                    self._writer.add_scalar(tag, value, int(row[0]))
        self._writer.flush()

    def _write_evaluation(self, metrics: dict[str, float]) -> None:
        if self._writer is None or self._shares_writer:  # the Trainer's callback writes the same tags
            return
        for key, value in scores_of({k: v for k, v in metrics.items() if k.startswith("eval_")}).items():
            self._writer.add_scalar(f"eval/{key}", value, self._state.global_step)
        self._writer.flush()

    def _write_end(self) -> None:
        if self._writer is None:
            return
        metric, score = headline(self.evaluation.get("metrics", {}), self.metric or self._args.metric_for_best_model)
        final = {} if score is None else {f"final/{metric}": score}
        final["final/failed"] = float(self.verdict.status != "ok")
        for tag, value in final.items():
            self._writer.add_scalar(tag, value, self._state.global_step)
        self._writer.add_text("verdict", self.verdict.sentence, self._state.global_step)
        if self.hparams is not None:
            from torch.utils.tensorboard.summary import hparams

            values = {key: _hparam(value) for key, value in {**self.hparams, "verdict": self.verdict.status}.items()}
            for summary in hparams(values, final):  # SummaryWriter.add_hparams would make a run of its own of them
                self._writer.file_writer.add_summary(summary)
        self._writer.flush()
        if not self._shares_writer:  # the Trainer's callback closes its own, after this
            self._writer.close()
        self._writer = None


def headline(metrics: dict[str, Any], wanted: str | None = None) -> tuple[str | None, float | None]:
    """Key (without `eval_`) and value of the metric that counts: the wanted one, else accuracy, else the first.

    Args:
        metrics: of an evaluation, keys with or without `eval_`.
        wanted: `metric_for_best_model`; a loss is not a score.
    """
    scores = {key: value for key, value in scores_of(metrics).items() if not key.endswith("loss")}
    wanted = (wanted or "").removeprefix("eval_")
    for key in (wanted, "accuracy", *scores):
        if key in scores:
            return key, float(scores[key])
    return None, None


def scores_of(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation, its loss included, without its times and the epoch; keys without `eval_`."""
    return {
        key.removeprefix("eval_"): value
        for key, value in metrics.items()
        if not key.endswith(NOT_SCORES) and isinstance(value, (int, float))
    }


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: it is there whole, or not at all."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _loss_logits_labels(kwargs: dict, output: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What a model's forward shows: loss (0-d), logits `(examples, outputs)`, labels `(examples,)`, or None for each."""
    labels = kwargs.get("labels")
    if isinstance(output, dict):
        loss, logits = output.get("loss"), output.get("logits")
    else:
        outputs = output if isinstance(output, tuple) else (output,)
        loss, logits = (
            (outputs[0], outputs[1] if len(outputs) > 1 else None) if labels is not None else (None, outputs[0])
        )
    loss = loss.detach() if isinstance(loss, Tensor) and loss.ndim == 0 else None
    logits = logits.detach() if isinstance(logits, Tensor) and logits.ndim == 2 else None
    labels = labels if isinstance(labels, Tensor) and labels.ndim == 1 else None
    return loss, logits, labels


def _weighted_mean(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Mean over processes `(processes, steps) -> (steps,)`, weighted by their numbers of examples where these are known."""
    sizes = np.where(np.isfinite(sizes), sizes, 1.0)
    return (values.astype(np.float64) * sizes).sum(0) / sizes.sum(0)


def _label_variance(dataloader) -> float | None:
    """Variance of a regression's training labels: the loss of the best constant. None where there is no label column."""
    dataset = getattr(dataloader, "dataset", None)
    name = next((n for n in ("labels", "label") if n in (getattr(dataset, "column_names", None) or ())), None)
    return None if name is None else float(np.var(np.asarray(dataset[name], dtype=np.float64)))


def _is_sharded(args) -> bool:
    """Whether a process sees a part of the gradients only."""
    flags = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    return bool(args.fsdp or args.deepspeed) or any(os.environ.get(flag, "").lower() == "true" for flag in flags)


def _hparam(value: Any) -> int | float | str:
    """As the HParams tab takes it; torch would make a number of a bool."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, (int, float)) else str(value)


def _counts(rows: np.ndarray) -> np.ndarray | None:
    counts = np.nansum(rows, axis=0)
    return counts if counts.size and counts.sum() > 0 else None
