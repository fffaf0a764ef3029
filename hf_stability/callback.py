"""StabilityCallback: gradient norms by layer, every update step, an early warning, and a verdict; for any Trainer."""

from __future__ import annotations

import ast
import copy
import inspect
import json
import logging
import math
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainerControl
from transformers.integrations.integration_utils import TensorBoardCallback, default_logdir

from .diagnostics.dashboard import LOG10, RISK, curves, custom_layout
from .diagnostics.early_warning import Alarm, check, check_steps, find_alarm, with_alarm
from .diagnostics.failures import CENSORED, Verdict, best_constant_score, ended_early, judge
from .diagnostics.gradients import GradientMeter, layers_of
from .diagnostics.outputs import combine_statistics, output_statistics
from .diagnostics.plots import draw_heat_map
from .diagnostics.probes import Probe, is_clipped, make_probes
from .diagnostics.step_record import LAYER_PREFIX, StepRecord, training_evidence
from .errors import InputError


logger = logging.getLogger(__name__)

MAX_CLASSES = 16  # more classes than this get no counts a step
MAX_WIDTH = 128  # more outputs than this get no logit_std
TENSORBOARD_POINTS = 1000  # a curve's points; TensorBoard shows no more, and other loggers get no more
EVENTS_SUFFIX = ".stability"  # of the names of our event files
ON_ALARM = ("none", "warn", "stop")
HEAT_MAP = "gradients.png"
NOT_LOGGERS = ("transformers.trainer_callback", "transformers.utils.notebook")  # progress bars, printing, control flow
TRAINERS_KEYS = ("loss", "learning_rate")  # loggers know them from the Trainer, as means over its logging steps
NOT_SCORES = ("runtime", "samples_per_second", "steps_per_second", "epoch", "model_preparation_time")


class StabilityCallback(TrainerCallback):
    """Records a run's gradient norms by layer, loss and logits at every update step, and judges it at the end.

    ```python
    trainer = Trainer(model, args, train_dataset=..., callbacks=[StabilityCallback()])
    ```

    It changes no bit of the training, unless `on_alarm` stops it. Rows stay on the device until the Trainer logs, evaluates
    or saves, or `block_steps` have come together; the early warning adds a host synchronisation every 5% of training, and
    nothing else does.

    The early warning ([`early_warning`][hf_stability.diagnostics.early_warning]) looks at the run every 5% of training
    once the warmup is over, and raises its alarm once: layer, step, figures, and what to change. It knows single-label
    classification into up to 16 classes, with the model's own loss and gradient norms; elsewhere (label smoothing, a loss
    function of one's own) it is silent.

    On a stock Trainer the norms are those after clipping, the only ones a callback can see; steps that hit the clip are
    marked (`clipped`), and a vanishing gradient is under it anyhow. [`StableTrainer`] gives the norms before clipping.

    In `<output_dir>/stability` it leaves `steps.rec` (see [`read_steps`]), `verdict.json`, `gradients.png` (layers x steps,
    see [`plot_heat_map`][hf_stability.diagnostics.plots.plot_heat_map]), and `tensorboard/`, where the tags are

    | tag | what |
    | --- | --- |
    | `grad_norm/<layer>` | norm of the layer's gradient |
    | `grad_norm/total`, `loss`, `learning_rate`, `logit_std`, `clipped` | as in the record |
    | the columns of `diagnostics` | as in the record: `clip_factor`, `update_ratio/<layer>` ... |
    | `log10_grad_norm/<layer>`, `log10_grad_norm/total`, `log10_update_ratio/<layer>` ... | the logarithm of what has a value for each layer; -12 for 0 |
    | `label_entropy` | of the labels so far (nats): the loss of the best constant prediction |
    | `eval/<metric>` | every number of every evaluation but its times, whatever `report_to` says |
    | `alarm/risk` | the early warning's risk, at each check |
    | `alarm` (text) | the alarm's sentence, at its step |
    | `final/<metric>`, `final/failed` | at the end: the headline metric; 1 where the run failed or diverged, none where it was stopped |
    | `verdict` (text) | the verdict's sentence |
    | `gradients` (image) | `gradients.png` |

    A curve has at most 1000 points. The Custom Scalars tab has all layers in one chart, and a chart for each diagnostic.

    A run has one event file, and another for each time it is resumed. The Trainer's own TensorBoardCallback
    (`report_to`) writes to a folder of its own, unless the two share a writer: see [`share_tensorboard`]. The Trainer's other
    loggers (WandbCallback, MLflowCallback ...) get the numbers where [`attach`] was called.

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
        diagnostics: more columns for the record, by name, or `all`: see [`probes`][hf_stability.diagnostics.probes], which
            says what each costs. Default: the training arguments' where they are [`StableTrainingArguments`], else none.
        heat_map: whether to draw `gradients.png` at the end of training, about half a second.
        on_alarm: what an alarm does: `warn` logs it, `stop` also ends the training, `none` does neither; or a function of
            the alarm and the Trainer's `control`, called in every process with the same alarm, which may set
            `control.should_training_stop`. The alarm is recorded in any case. A run that was stopped is censored: its
            verdict is `stopped`, not `failed`. Where checkpoints are saved at all, one is saved at the stop; resumed from
            it, the run is finished, and judged as any other. Default: the training arguments' where they are [`StableTrainingArguments`], else `warn`.
        audited: with `stop`: finish the run in spite of an alarm, to learn how often alarms are right.

    Attributes:
        verdict: the [`Verdict`] after training; None before, and in all processes but the main one.
        alarm: the [`Alarm`][hf_stability.diagnostics.early_warning.Alarm] once it was raised.
        stopped: whether the alarm ended the training.
        stopped_early: set by whoever ends the training before its last update step for other reasons: the verdict then
            is `stopped early`, not `failed`.
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
        diagnostics: str | Iterable[str] | None = None,
        heat_map: bool = True,
        on_alarm: str | Callable[[Alarm, TrainerControl], None] | None = None,
        audited: bool = False,
    ):
        if on_alarm is not None and not callable(on_alarm) and on_alarm not in ON_ALARM:
            raise InputError(f"on_alarm {on_alarm!r}: give {', '.join(ON_ALARM)}, or a function of alarm and control")
        self.compute_metrics = compute_metrics
        self.baseline = baseline
        self.metric = metric
        self.output_dir = output_dir
        self.tensorboard = tensorboard
        self.tensorboard_dir = tensorboard_dir
        self.hparams = hparams
        self.texts = texts
        self.block_steps = block_steps
        self.diagnostics = diagnostics
        self.probes: list[Probe] = make_probes(diagnostics or ())
        self.heat_map = heat_map
        self.on_alarm = on_alarm
        self.audited = audited
        self.alarm: Alarm | None = None
        self.stopped = False
        self.stopped_early = False
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
        self._callback_handler = None  # of the trainer that this is attached to
        self._loggers: list[TrainerCallback] = []  # those that get our numbers, in this training

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

    def attach(self, trainer) -> None:
        """Send the numbers to the Trainer's other loggers, too: every callback that takes logs (`on_log`), but the Trainer's
        own progress bars and printing. To be called once, before `train()`; [`share_tensorboard`] is done with it.

        A logger is called as the Trainer calls it, with each row's own update step in the state, when rows are written;
        with the rows that TensorBoard gets, `alarm/risk` and `final/...`. The keys are TensorBoard's tags without the
        logarithms, but `step/loss` and `step/learning_rate` for what the Trainer sends as means over its logging steps. Numbers
        that are not finite are left out. A logger that raises is warned about, and gets no more of these.

        ```python
        callback = StabilityCallback()
        trainer = Trainer(..., callbacks=[callback])  # args.report_to="wandb"
        callback.attach(trainer)
        ```
        """
        self._callback_handler = trainer.callback_handler
        for other in self._other_loggers():  # to the end of the list: they close at the end of training
            trainer.remove_callback(other)
            trainer.add_callback(other)
        self.share_tensorboard(trainer)

    # ---- the Trainer's events ----------------------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, model=None, train_dataloader=None, **kwargs):
        self._args, self._state = args, state
        self._on_alarm = self.on_alarm or getattr(args, "on_alarm", "warn")
        self._make_probes(args)
        if args.label_smoothing_factor and self._on_alarm != "none":
            logger.warning(
                f"--label_smoothing_factor {args.label_smoothing_factor}: the model is not shown the labels, so that loss and "
                "classes are not recorded and the early warning is silent"
            )
        self.verdict, self.constant, self.evaluation = None, None, {}
        self.meter = GradientMeter(model)
        config = getattr(model, "config", None)
        num_labels = getattr(config, "num_labels", 0) or 0
        self._classes = num_labels if 2 <= num_labels <= MAX_CLASSES else 0
        self._num_labels = num_labels
        self._train_dataloader = train_dataloader
        self._width = num_labels if num_labels <= MAX_WIDTH else 0
        self._label_names = getattr(config, "id2label", None)
        self._divides_by_num_items = _divides_by_num_items(model)
        self._losses_add_up = False
        self._said_unknown = self.meter.hidden is not None  # the meter has said why
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
        for probe in self.probes:
            limit, resumed = args.max_grad_norm or 0.0, state.global_step > 0
            probe.start(model, layers_of(model), max_grad_norm=limit, resumed=resumed)
            columns += probe.columns
        folder = Path(self.output_dir or os.path.join(args.output_dir, "stability"))
        self._folder = folder if state.is_world_process_zero else None
        self._record = StepRecord(
            columns,
            folder / "steps.rec" if self._folder else None,
            last_step=state.global_step,
            info={"max_steps": state.max_steps, "warmup_steps": args.get_warmup_steps(state.max_steps)},
        )
        warmup_steps = self._record.info["warmup_steps"]
        self._checks = set(check_steps(warmup_steps, state.max_steps))
        self.alarm = self._of_the_main_process(find_alarm(self._record.to_dict()))  # a resumed run's
        self.stopped = self.stopped_early = False
        self._before_clipping = False
        self._label_counts = np.nansum(self._record.to_dict()["labels"], axis=0, dtype=float)
        self._loggers = self._other_loggers() if self._folder else []
        if self._folder:
            for name in ("verdict.json", HEAT_MAP):
                (folder / name).unlink(missing_ok=True)
        self._open_writer(folder)
        self._remove_hook()
        self._hook = model.register_forward_hook(self._observe_forward, with_kwargs=True)

    def _make_probes(self, args) -> None:
        for probe in self.probes:  # of a training that raised
            probe.stop()
        wanted = getattr(args, "diagnostics", None) if self.diagnostics is None else self.diagnostics
        # Those that are averaged over processes have the last columns.
        self.probes = sorted(make_probes(wanted or ()), key=lambda probe: probe.mean_over_processes)

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        if self._norms is not None:
            layer_norms, total, before_clipping = self._norms
        else:
            norms = self.meter.parameter_norms()
            layer_norms, before_clipping = self.meter.layer_norms(norms), False
            total = torch.linalg.vector_norm(norms.float()).to(norms.dtype)  # whose rounding is that of the clipping
            if not self.meter.present or _is_sharded(args):  # not zero: unknown
                layer_norms, total = layer_norms * math.nan, total * math.nan
                self._say_unknown()
        self._norms = None
        rate = float(optimizer.param_groups[0]["lr"])
        norms = self._norms_row(layer_norms, total, before_clipping)
        self._row = state.global_step + 1, rate, self._seen_here(total), norms
        self._before_clipping = before_clipping
        self._micro_batches.clear()
        for probe in self.probes:
            probe.before_step(optimizer, total, before_clipping, state.global_step + 1)

    def _say_unknown(self) -> None:
        if not self._said_unknown and self._state.is_world_process_zero:
            logger.warning(
                "Gradient norms are NaN: at the optimizer's step this process does not hold the whole gradients. With "
                "DeepSpeed, call deepspeed.utils.safe_get_full_grad(parameter) on all ranks, between its backward and its step"
            )
        self._said_unknown = True

    def on_optimizer_step(self, args, state, control, **kwargs):
        step, rate, seen, norms = self._row
        for probe in self.probes:
            values = probe.after_step().to(norms.device)
            if probe.mean_over_processes:
                seen = torch.cat([seen, values])
            else:  # of sharded weights a process has its part only
                unknown = _is_sharded(args) and "/" in probe.columns[0]
                norms = torch.cat([norms, values * math.nan if unknown else values])
        self._rows.append((step, rate, seen, norms))

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in self._checks:
            self._flush()
            self._look(state.global_step, control)
        elif control.should_save or len(self._rows) >= self.block_steps:
            self._flush()  # before a save: a kill between the two would leave a gap in the resumed run's record

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
        for probe in self.probes:
            probe.stop()
        if not state.is_world_process_zero:
            return
        self.verdict = self._judge()
        level = logger.info if self.verdict.status == "ok" else logger.warning
        level(self.verdict.sentence)
        write_json(self._folder / "verdict.json", self.verdict.to_dict())
        self._draw_heat_map()
        self._send(self._final(), state.global_step)
        self._write_end()

    # ---- a step's row ------------------------------------------------------------------------------------------------

    @torch.compiler.disable  # else it is compiled again for each number of micro-batches
    @torch.no_grad()
    def _observe_forward(self, module, args, kwargs, output) -> None:
        loss, logits, labels = _loss_logits_labels(kwargs, output)
        if module.training:
            self._saw_loss |= loss is not None
            self._losses_add_up = self._divides_by_num_items and kwargs.get("num_items_in_batch") is not None
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
        if self._losses_add_up:  # the processes' mean is taken in _flush
            loss = sum(losses) * (self._args.world_size if self._args.average_tokens_across_devices else 1)
        else:
            loss = sum(loss * (size / sum(sizes)) for loss, size in zip(losses, sizes, strict=True))
        loss = loss if losses else torch.full((), torch.nan, device=device)
        seen = [(logits, labels) for _, logits, labels in batches if logits is not None and labels is not None]
        logits, labels = (torch.cat(part) for part in zip(*seen, strict=True)) if seen else (None, None)
        statistics = output_statistics(logits, labels, self._width, self._classes, device)
        return torch.cat([loss[None], statistics])

    def _norms_row(self, layer_norms: Tensor, total: Tensor, before_clipping: bool) -> Tensor:
        clipped = is_clipped(total, self._args.max_grad_norm or 0.0, before_clipping)
        return torch.cat([torch.stack([total.float(), clipped.float()]), layer_norms.float().to(total.device)])

    def _flush(self) -> None:
        """Bring the rows of the last block to the host, the file and TensorBoard."""
        if not self._rows:
            return
        steps, rates, seen, norms = zip(*self._rows, strict=True)
        self._rows = []
        seen = self._of_all_processes(torch.stack(seen)).cpu().numpy()
        norms = torch.stack(norms).cpu().numpy()
        own = sum(len(probe.columns) for probe in self.probes if probe.mean_over_processes)
        seen, probed = np.split(seen, [seen.shape[-1] - own], axis=-1)
        outputs = combine_statistics(seen[..., 1:], self._width)
        loss, probed = (_weighted_mean(part, seen[..., 1:2]) for part in (seen[..., :1], probed))
        block = [steps, rates, loss, outputs[:, 0], norms[:, :2], outputs[:, 1:], norms[:, 2:], probed]
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

    def _of_the_main_process(self, value: Any) -> Any:
        """The main process's value, in every process."""
        if self._args.world_size == 1 or not torch.distributed.is_initialized():
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values)
        return values[0]

    # ---- the early warning -------------------------------------------------------------------------------------------

    def _look(self, step: int, control: TrainerControl) -> None:
        """Look at the run, and raise the alarm where it is the first."""
        # In a resumed run only the main process has the steps before; all must stop, or none.
        risk, alarm = self._of_the_main_process(check(self._record.to_dict(), step, self._state.max_steps))
        if math.isfinite(risk):
            self._show({RISK: risk}, step)
            self._send({RISK: risk}, step)
        if alarm is None or self.alarm is not None:
            return
        self.alarm = alarm
        if self._writer is not None:
            self._writer.add_text("alarm", alarm.sentence, step)
        if self._on_alarm == "none":
            return
        stopping = control.should_training_stop  # by somebody else
        if callable(self._on_alarm):
            self._on_alarm(alarm, control)
        else:
            control.should_training_stop |= self._on_alarm == "stop" and not self.audited
            if self._state.is_world_process_zero:
                logger.warning(alarm.sentence)
        self.stopped = control.should_training_stop and not stopping
        if self.stopped:
            control.should_save |= self._args.save_strategy != "no"

    # ---- the verdict -------------------------------------------------------------------------------------------------

    def _judge(self) -> Verdict:
        record, evaluation = self._record.to_dict(), self.evaluation
        metrics = evaluation.get("metrics", {})
        metric, score = headline(metrics, self.metric or self._args.metric_for_best_model)
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
        evidence = {
            **training_evidence(record),
            "losses": record["loss"] if self._saw_loss else None,
            "eval_labels": evaluation.get("labels"),
            "eval_predictions": evaluation.get("predictions"),
            "num_labels": self._num_labels or None,
            "regression": regression,
            "label_names": self._names_of_labels(),
            "score": score,
            "baseline": None if lower_is_better else self.constant["score"] if self.constant else self.baseline,
            "metric": metric,
            "constant_loss": _label_variance(self._train_dataloader) if regression else None,
        }
        try:
            verdict = judge(**evidence)
        except InputError as error:  # outputs of a shape that a verdict does not know: token labels, several labels
            logger.warning(f"The verdict leaves the evaluation out: {error}")
            evidence.update(eval_labels=None, eval_predictions=None)
            verdict = judge(**evidence)
        verdict = verdict if self.alarm is None else with_alarm(verdict, self.alarm, self.stopped)
        return ended_early(verdict, self._state.global_step, self._state.max_steps) if self.stopped_early else verdict

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
        self._writer.add_custom_scalars(custom_layout(self._record.columns))
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
        """A block of the record, to TensorBoard and to other loggers."""
        if self._writer is None and not self._loggers:
            return
        drawn = curves(self._record.columns, rows, self._label_counts)
        self._label_counts += np.nansum(rows[:, [c.startswith("labels/") for c in self._record.columns]], axis=0)
        every = math.ceil(self._state.max_steps / TENSORBOARD_POINTS)
        for i in np.flatnonzero((rows[:, 0] - 1) % every == 0):
            numbers = {tag: float(values[i]) for tag, values in drawn.items()}
            self._show(numbers, int(rows[i, 0]))
            self._send(numbers, int(rows[i, 0]))
        if self._writer is not None:
            self._writer.flush()

    def _show(self, numbers: Mapping[str, float], step: int) -> None:
        """Numbers of a step, to TensorBoard: all in one event, in a seventh of the time of an event each."""
        if self._writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary
        from torch.utils.tensorboard import SummaryWriter

        if isinstance(self._writer, SummaryWriter):
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
            self._writer.file_writer.add_summary(Summary(value=values), step)
        else:  # another library's, that the Trainer's callback was made with
            for tag, value in numbers.items():
                self._writer.add_scalar(tag, value, step)

    def _write_evaluation(self, metrics: dict[str, float]) -> None:
        if self._writer is None or self._shares_writer:  # the Trainer's callback writes the same tags
            return
        for key, value in scores_of({k: v for k, v in metrics.items() if k.startswith("eval_")}).items():
            self._writer.add_scalar(f"eval/{key}", value, self._state.global_step)
        self._writer.flush()

    def _draw_heat_map(self) -> None:
        if not self.heat_map:
            return
        kind = f"{'before' if self._before_clipping else 'after'} clipping" if self._args.max_grad_norm else ""
        alarm_step = self.alarm.step if self.alarm else None
        try:
            png = draw_heat_map(self._record.to_dict(), self.verdict.sentence, alarm_step, kind)
            if png is None:
                return
            write_bytes(self._folder / HEAT_MAP, png)
            if self._writer is not None:
                self._writer.add_image("gradients", _pixels(png), self._state.global_step, dataformats="HWC")
        except Exception as error:  # a finished training must not be lost over a picture of it
            logger.warning(f"No heat map of the gradients: {type(error).__name__}: {error}")

    def _final(self) -> dict[str, float]:
        """The headline metric, and whether the run failed: unknown of one that was stopped. Of one that was stopped early
        neither: it may go on, and TensorBoard's HParams tab keeps what it has seen first."""
        if self.stopped_early:
            return {}
        metric, score = headline(self.evaluation.get("metrics", {}), self.metric or self._args.metric_for_best_model)
        final = {} if score is None else {f"final/{metric}": score}
        if self.verdict.status not in CENSORED:
            final["final/failed"] = float(self.verdict.status != "ok")
        return final

    def _write_end(self) -> None:
        if self._writer is None:
            return
        final = self._final()
        self._show(final, self._state.global_step)
        self._writer.add_text("verdict", self.verdict.sentence, self._state.global_step)
        if self.hparams is not None and not self.stopped_early:
            from torch.utils.tensorboard.summary import hparams

            values = {key: _hparam(value) for key, value in {**self.hparams, "verdict": self.verdict.status}.items()}
            for summary in hparams(values, final):  # SummaryWriter.add_hparams would make a run of its own of them
                self._writer.file_writer.add_summary(summary)
        self._writer.flush()
        if not self._shares_writer:  # the Trainer's callback closes its own, after this
            self._writer.close()
        self._writer = None

    # ---- the Trainer's other loggers ---------------------------------------------------------------------------------

    def _other_loggers(self) -> list[TrainerCallback]:
        """Those of the trainer that this is attached to."""
        handler = self._callback_handler
        return [] if handler is None else [callback for callback in handler.callbacks if is_logger(callback)]

    def _send(self, numbers: Mapping[str, float], step: int) -> None:
        """Numbers of a step, to each of them, as the Trainer would send them."""
        if not self._loggers:
            return
        logs = {
            f"step/{key}" if key in TRAINERS_KEYS else key: value
            for key, value in numbers.items()
            if math.isfinite(value) and not key.startswith(LOG10)
        }
        state = copy.copy(self._state)
        state.global_step = step
        if state.epoch is not None:
            state.epoch *= step / max(1, self._state.global_step)
        for other in list(self._loggers):
            handler = copy.copy(self._callback_handler)
            handler.callbacks = [other]
            try:
                handler.on_log(self._args, state, TrainerControl(), logs=dict(logs))
            except Exception as error:  # a training must not be lost over one
                name = type(other).__name__
                logger.warning(f"{name} gets no more of the diagnostics: {type(error).__name__}: {error}")
                self._loggers.remove(other)


def is_logger(callback: TrainerCallback) -> bool:
    """Whether a callback takes logs, and is none of the Trainer's own displays, nor TensorBoard's, nor ours."""
    classes = [cls for cls in type(callback).__mro__ if "on_log" in vars(cls) and cls is not TrainerCallback]
    served = isinstance(callback, (StabilityCallback, TensorBoardCallback))
    return bool(classes) and not served and not any(cls.__module__ in NOT_LOGGERS for cls in classes)


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
    # A copy: with several processes the Trainer multiplies the loss in place by their number.
    loss = loss.detach().clone() if isinstance(loss, Tensor) and loss.ndim == 0 else None
    logits = logits.detach() if isinstance(logits, Tensor) and logits.ndim == 2 else None
    labels = labels if isinstance(labels, Tensor) and labels.ndim == 1 else None
    return loss, logits, labels


def _weighted_mean(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Mean over processes `(processes, steps) -> (steps,)`, weighted by their numbers of examples where these are known."""
    sizes = np.where(np.isfinite(sizes), sizes, 1.0)
    return (values.astype(np.float64) * sizes).sum(0) / sizes.sum(0)


def _divides_by_num_items(model) -> bool:
    """Whether a model's loss is a sum over tokens / `num_items_in_batch`, so that a step's micro-batches add up.

    Many take the argument, and leave it: T5 and BERT's classifiers have a cross entropy of their own, others (Qwen2's
    classifier) do not hand it on to `self.loss_function`.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT
    if not isinstance(model, PreTrainedModel):
        return False
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(type(model).forward)))
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    losses = [call for call in calls if getattr(call.func, "attr", None) == "loss_function"]
    return any(keyword.arg in (None, "num_items_in_batch") for call in losses for keyword in call.keywords)


def _label_variance(dataloader) -> float | None:
    """Variance of a regression's training labels: the loss of the best constant. None where there is no label column."""
    dataset = getattr(dataloader, "dataset", None)
    name = next((n for n in ("labels", "label") if n in (getattr(dataset, "column_names", None) or ())), None)
    return None if name is None else float(np.var(np.asarray(dataset[name], dtype=np.float64)))


def _is_sharded(args) -> bool:
    """Whether a process sees a part of the gradients only."""
    flags = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    return bool(args.fsdp or args.deepspeed) or any(os.environ.get(flag, "").lower() == "true" for flag in flags)


def _pixels(png: bytes) -> np.ndarray:
    """A PNG as `(height, width, 3)`, uint8."""
    from PIL import Image

    with Image.open(BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def _hparam(value: Any) -> int | float | str:
    """As the HParams tab takes it; torch would make a number of a bool."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, (int, float)) else str(value)
