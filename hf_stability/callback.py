"""StabilityCallback: gradient norms by layer, every update step, an early warning, and a verdict; for any Trainer."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import TrainerCallback, TrainerControl
from transformers.integrations.integration_utils import TensorBoardCallback

from .diagnostics.calling_trainer import TrainingLoop, calling_evaluation, training_loop
from .diagnostics.dashboard import RISK, curves
from .diagnostics.early_warning import Alarm, with_alarm
from .diagnostics.evaluation import Evaluation, slim
from .diagnostics.gradients import GradientMeter
from .diagnostics.guard import Guard
from .diagnostics.judging import RunFacts, headline, judge_run
from .diagnostics.loggers import Loggers, loggers_of
from .diagnostics.plots import draw_heat_map
from .diagnostics.precision import half_precision_weights
from .diagnostics.probes import make_probes
from .diagnostics.recorder import RECORD, Recorder
from .diagnostics.sinks import Sink
from .diagnostics.tensorboard import TensorBoard
from .diagnostics.watch import Watch
from .errors import InputError
from .utils.files import write_bytes, write_json
from .verdicts.verdict import NO_FINAL, Verdict, ended_early, pruned


logger = logging.getLogger(__name__)

POINTS = 1000  # a curve's points; TensorBoard shows no more, and other loggers get no more
ON_ALARM = ("none", "warn", "stop")
HEAT_MAP = "gradients.png"


class StabilityCallback(TrainerCallback):
    """Records a run's gradient norms by layer, loss and logits at every update step, and judges it at the end.

    ```python
    trainer = Trainer(model, args, train_dataset=..., callbacks=[StabilityCallback()])
    ```

    It changes no bit of the training, unless `on_alarm` stops it, and never ends one by an error of its own: a part that
    raises is warned of once, and is off for the rest of the training. Rows stay on the device until the Trainer logs, evaluates
    or saves, or `block_steps` have come together; the early warning adds a host synchronisation every 5% of training, and
    nothing else does.

    The early warning ([`early_warning`][hf_stability.diagnostics.early_warning]) looks at the run every 5% of training
    once the warmup is over, and raises its alarm once: layer, step, figures, and what to change. It knows single-label
    classification into up to 16 classes, with the plain cross entropy and gradient norms; elsewhere (label smoothing, class
    weights, a loss function of one's own: seen from the gradient at the logits) it is silent. With unbalanced classes it looks
    from half of training on, because sound runs first come down from ln K to the labels' entropy.

    The verdict rests on the evaluation that the Trainer itself makes for its (first) evaluation set, the last one of the
    training; evaluations and predictions of your own code in between do not count. Without outputs and without a metric
    with a known baseline the verdict is `unknown`, neither `ok` nor `failed`.

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
    | `final/<metric>`, `final/failed` | at the end: the headline metric; 1 where the run failed or diverged, none where it was stopped or is unknown |
    | `verdict` (text) | the verdict's sentence |
    | `gradients` (image) | `gradients.png` |

    A curve has at most 1000 points. The Custom Scalars tab has all layers in one chart, and a chart for each diagnostic.

    A run has one event file, and another for each time it is resumed. The Trainer's own TensorBoardCallback
    (`report_to`) writes to a folder of its own, unless the two share a writer: see [`share_tensorboard`]. The Trainer's other
    loggers (WandbCallback, MLflowCallback ...) get the numbers where [`attach`] was called.

    Args:
        compute_metrics: what `baseline="compute_metrics"` calls; default: the Trainer's own. It is not needed for anything
            else: the verdict takes the outputs and scores that the Trainer has.
        baseline: the headline metric's score of the best constant predictor. Default: computed from the evaluation labels
            for accuracy, F1, Matthews, Pearson, Spearman, R2, mse, rmse, mae. A number is compared with `metric` and decides
            the verdict. `compute_metrics` calls that function once per class with constant predictions: only for a function
            that keeps nothing of what it sees.
        metric: key of the headline metric, with or without `eval_`. Default: `metric_for_best_model`, else accuracy,
            else the first one. Names such as mse, error, perplexity or wer are better when smaller; for names that are
            not known `greater_is_better` of the training arguments decides.
        output_dir: where to write, instead of `<output_dir>/stability`; in a hyperparameter search each trial has a folder
            of its own, `<output_dir>/run-<trial>/stability`.
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
        verdicts: those of all trainings so far, in order: one for each trial of a hyperparameter search.
        alarm: the [`Alarm`][hf_stability.diagnostics.early_warning.Alarm] once it was raised.
        stopped: whether the alarm ended the training.
        stopped_early: set by whoever ends the training before its last update step for other reasons: the verdict then
            is `stopped early`, not `failed`.
        constant: the baseline after training: the best constant predictor's `score` in the headline metric, and its
            `constant` (class or value); None where it is not known.
        evaluation: the last evaluation that counts, an [`Evaluation`][hf_stability.diagnostics.evaluation.Evaluation].
    """

    sends_to_loggers = True  # it is no logger itself

    def __init__(
        self,
        compute_metrics: Callable | None = None,
        baseline: float | str | None = None,
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
        if isinstance(baseline, str) and baseline != "compute_metrics":
            raise InputError(f"baseline {baseline!r}: give a number, or 'compute_metrics'")
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
        make_probes(diagnostics or ())  # a wrong name is refused here
        self.heat_map = heat_map
        self.on_alarm = on_alarm
        self.audited = audited
        self.adds_loss_terms = False  # set by a trainer that adds terms of ours to the model's own loss
        self.alarm: Alarm | None = None
        self.stopped = False
        self.stopped_early = False
        self.verdict: Verdict | None = None
        self.verdicts: list[Verdict] = []
        self.constant: dict[str, Any] | None = None
        self.evaluation = Evaluation()
        self.recorder: Recorder | None = None
        self.guard = Guard()
        self._watch: Watch | None = None
        self._sinks: list[Sink] = []
        self._loop: TrainingLoop | None = None
        self._is_training = False
        self._trainers_callback: TensorBoardCallback | None = None  # the Trainer's own, where it is known
        self._callback_handler = None  # of the trainer that this is attached to

    @property
    def record(self) -> dict[str, Any]:
        """The rows so far, as arrays: see [`read_steps`]. In mid-training, a call for all processes together."""
        if self.recorder is None:
            raise RuntimeError("nothing is recorded yet: the callback's trainer has not trained")
        self._flush()
        return self.recorder.record.to_dict()

    @property
    def meter(self) -> GradientMeter | None:
        """Measures the gradients of the training that is going on."""
        return self.recorder.meter if self.recorder is not None else None

    @property
    def _micro_batches(self) -> list:
        """The model's batches that are held: those of the update step that is going on, else none."""
        return self.recorder.micro_batches if self.recorder is not None else []

    _eval_batches = ()  # none: evaluations are the Trainer's own

    # ---- the trainer ---------------------------------------------------------------------------------------------------

    def observe_gradients(self, layer_norms: Tensor, total: Tensor, before_clipping: bool) -> None:
        """Take this update step's norms from the trainer: see [`Recorder.observe_gradients`]."""
        if self.recorder is not None:
            self.recorder.observe_gradients(layer_norms, total, before_clipping)

    def share_tensorboard(self, trainer) -> None:
        """Write to the same event file as the Trainer's own TensorBoardCallback, where it has one (`report_to`).

        On a stock Trainer this is to be called, once, before `train()`; [`StabilityMixin`] calls it. Two writers must not
        write to one folder: TensorBoard follows the newer file only.
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
        for other in loggers_of(trainer.callback_handler):  # to the end of the list: they close at the end of training
            trainer.remove_callback(other)
            trainer.add_callback(other)
        self.share_tensorboard(trainer)

    # ---- the Trainer's events ------------------------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, model=None, optimizer=None, train_dataloader=None, **kwargs):
        self.release()  # an earlier training's, where that was interrupted
        self._args, self._state, self._model, self._train_dataloader = args, state, model, train_dataloader
        self.guard = Guard()
        self._loop = self.guard.run("reading the call stack", training_loop, self)
        self._on_alarm = self.on_alarm or getattr(args, "on_alarm", "warn")
        self.verdict, self.constant, self.recorder = None, None, None
        self.evaluation = self.guard.run("reading the log", self._logged_evaluation, default=Evaluation())
        self.alarm, self.stopped, self.stopped_early = None, False, False
        self._is_training = True
        if args.label_smoothing_factor and self._on_alarm != "none":
            logger.warning(
                f"--label_smoothing_factor {args.label_smoothing_factor}: the model is not shown the labels, so that loss and "
                "classes are not recorded and the early warning is silent"
            )
        self._half_precision = self.guard.run("the check of the precision", half_precision_weights, model, default="")
        if self._half_precision and state.is_world_process_zero:
            logger.warning(self._half_precision)
        wanted = getattr(args, "diagnostics", None) if self.diagnostics is None else self.diagnostics
        # Those that are averaged over processes have the last columns.
        probes = sorted(make_probes(wanted or ()), key=lambda probe: probe.mean_over_processes)
        main = state.is_world_process_zero
        self._folder = self.guard.run("writing to the folder", self._make_folder, settings=True) if main else None
        self.recorder = self.guard.run(RECORD, self._make_recorder, optimizer, probes, settings=True)
        if self.recorder is None:
            return
        self._watch = self.guard.run("the early warning", Watch, self.recorder, self.guard)
        self.alarm = self._watch.alarm if self._watch is not None else None
        self._sinks = self._make_sinks() if self._folder else []
        self._tell("open", self.recorder.record.columns)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._epoch_has_steps = False

    def on_step_begin(self, args, state, control, **kwargs):
        if not self._records:
            return
        self.recorder.begin_step()
        if self._loop is not None and not self._epoch_has_steps:
            self.guard.run("the clean-up after an interrupt", self._loop.call_when_abandoned, self._abandon)
        self._epoch_has_steps = True

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        if self._records:
            self.recorder.before_step(optimizer, state.global_step + 1)

    def on_optimizer_step(self, args, state, control, **kwargs):
        if self._records:
            self.recorder.after_step()

    def on_step_end(self, args, state, control, **kwargs):
        # All processes flush together, at steps that the Trainer's flow gives; a user may log in one process alone.
        flow = control.should_save or control.should_log or control.should_evaluate
        if self._watch is not None and state.global_step in self._watch.steps:
            self._flush()
            self._look(state.global_step, control)
        elif flow or (self._records and self.recorder.pending >= self.block_steps):
            self._flush()  # before a save: a kill between the two would leave a gap in the resumed run's record

    def on_epoch_end(self, args, state, control, **kwargs):
        self._flush()

    def on_log(self, args, state, control, **kwargs):
        if args.world_size == 1:
            self._flush()

    def on_save(self, args, state, control, **kwargs):
        if args.world_size == 1:
            self._flush()

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if not self._is_training:
            return
        if args.world_size == 1:
            self._flush()
        self._tell("evaluation", metrics or {}, state.global_step)
        self.guard.run("reading the evaluation", self._observe_evaluation, metrics or {}, state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        if not self._is_training:
            return
        self._flush()
        if state.is_world_process_zero:
            record = self._trusted_record()
            unjudged = Verdict("unknown", "unknown: the verdict could not be made, see the warning.")
            self.verdict = self.guard.run("the verdict", self._judge, record, control, default=unjudged)
            self.verdicts.append(self.verdict)
            self._show_verdict(record, state.global_step)
        self.release(abandoned=False)

    # ---- what they do --------------------------------------------------------------------------------------------------

    def release(self, abandoned: bool = True) -> None:
        """Let go of the model and of files: no hook, no batches, no writers of a training are kept after it.

        Args:
            abandoned: the training did not come to its end.
        """
        if self._is_training:
            self._is_training = False
            for sink in self._sinks:  # also one that raised before
                self.guard.run(f"closing {sink.name}", sink.close, abandoned)
            if self.recorder is not None:
                self.recorder.stop()
        self._sinks, self._watch, self._model, self._train_dataloader, self._loop = [], None, None, None, None

    def _abandon(self, loop: TrainingLoop) -> None:
        if loop is self._loop:  # not that of a training since
            self.release()

    @property
    def _records(self) -> bool:
        return self.recorder is not None and not self.recorder.is_over

    def _make_folder(self) -> Path:
        trainer, trial = (self._loop.trainer, self._loop.trial) if self._loop is not None else (None, None)
        base = Path(self._args.output_dir)
        if self._state.is_hyper_param_search and trial is not None:
            base = Path(trainer._get_output_dir(trial))
        is_trial, folder = base != Path(self._args.output_dir), base / "stability"
        if self.output_dir is not None:
            folder = Path(self.output_dir, base.name) if is_trial else Path(self.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _make_recorder(self, optimizer, probes) -> Recorder:
        path = self._folder / "steps.rec" if self._folder else None
        for name in ("verdict.json", HEAT_MAP) if self._folder else ():
            self.guard.run(f"the removal of an earlier {name}", (self._folder / name).unlink, True)
        given = self._model, self._args, self._state, optimizer, probes, path, self.guard, self._loop
        recorder = Recorder(*given, checks_loss=not self.adds_loss_terms)
        self._label_counts = np.nansum(recorder.record.to_dict()["labels"], axis=0, dtype=float)
        recorder.on_rows = lambda rows: self.guard.run("the curves", self._send, rows) if self._sinks else None
        return recorder

    def _make_sinks(self) -> list[Sink]:
        sinks: list[Sink] = []
        if self.tensorboard:
            values = self.tensorboard_dir, self._trainers_callback, self.hparams, self.texts
            sinks.append(TensorBoard(self._folder, self._args, self._state, *values, lambda: not self.stopped_early))
        if self._callback_handler is not None:
            sinks.append(Loggers(self._callback_handler, self._args, self._state))
        return sinks

    def _tell(self, what: str, *values: Any) -> None:
        """Call each sink."""
        for sink in self._sinks:
            self.guard.run(sink.name, getattr(sink, what), *values)

    def _flush(self) -> None:
        """Bring the rows of the last block to the host, the file and the sinks."""
        if self._records:
            self.recorder.flush()

    def _send(self, rows: np.ndarray) -> None:
        columns = self.recorder.record.columns
        drawn = curves(columns, rows, self._label_counts)
        self._label_counts += np.nansum(rows[:, [c.startswith("labels/") for c in columns]], axis=0)
        every = math.ceil(self._state.max_steps / POINTS)
        for i in np.flatnonzero((rows[:, 0] - 1) % every == 0):
            self._tell("numbers", {tag: float(values[i]) for tag, values in drawn.items()}, int(rows[i, 0]))
        self._tell("flush")

    def _look(self, step: int, control: TrainerControl) -> None:
        """Look at the run, and raise the alarm where it is the first."""
        risk, alarm = self._watch.look(step)
        if math.isfinite(risk):
            self._tell("numbers", {RISK: risk}, step)
        if alarm is None:
            return
        self.alarm = alarm
        self._tell("alarm", alarm)
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

    def _observe_evaluation(self, metrics: Mapping[str, Any], step: int) -> None:
        """Keep the Trainer's own evaluation of its (first) evaluation set."""
        names = self.recorder.output_names if self.recorder is not None else ()
        if self._loop is None:  # a loop of one's own
            self.evaluation = Evaluation(dict(metrics), step=step)
            return
        trainer = self._loop.trainer
        found = calling_evaluation(trainer)
        if found is None or step == 0:  # before the first update step: it says nothing of the run
            return
        sets = trainer.eval_dataset
        first = next(iter(sets)) if isinstance(sets, dict) else None
        prefix = "eval" if first is None else f"eval_{first}"
        if found.prefix not in (None, prefix):
            return
        known = [sets] if first is None else [first, sets[first]]
        is_its_own = any(found.dataset is one for one in known)
        if self.evaluation.step == step and (self.evaluation.is_trainers_set or not is_its_own):
            return  # the first of several in this step
        metrics = {
            f"eval{key.removeprefix(prefix)}": value for key, value in metrics.items() if key.startswith(prefix)
        }
        ignored = found.ignore_keys
        if ignored is None:
            ignored = getattr(getattr(self._model, "config", None), "keys_to_ignore_at_inference", None) or []
        outputs, labels = getattr(found.output, "predictions", None), getattr(found.output, "label_ids", None)
        names = [name for name in names if name not in ignored]
        if not self._state.is_world_process_zero:  # the main process judges
            outputs, labels = None, None
        elif self.baseline != "compute_metrics":
            outputs = slim(outputs, names, self._generates())
        self.evaluation = Evaluation(metrics, outputs, labels, step, names, is_its_own)

    def _first_set(self) -> tuple[str | None, str]:
        """Name of the first of several evaluation sets, None for a single one; what its metrics begin with."""
        sets = getattr(self._loop.trainer, "eval_dataset", None) if self._loop is not None else None
        first = next(iter(sets), None) if isinstance(sets, dict) else None
        return first, "eval" if first is None else f"eval_{first}"

    def _logged_evaluation(self) -> Evaluation:
        """The last evaluation before the checkpoint of a resumed training, from the log: scores without outputs."""
        prefix = f"{self._first_set()[1]}_"
        logged = [entry for entry in self._state.log_history if any(key.startswith(prefix) for key in entry)]
        if self._state.global_step == 0 or not logged:
            return Evaluation()
        return Evaluation(_without_set(logged[-1], prefix.removesuffix("_")), step=logged[-1].get("step"))

    def _trusted_record(self) -> dict[str, Any] | None:
        known = self.recorder is not None and RECORD not in self.guard.off
        return self.recorder.record.to_dict() if known else None

    def _judge(self, record: dict[str, Any] | None, control: TrainerControl) -> Verdict:
        verdict, self.constant = judge_run(record, self.evaluation, self._facts())
        step, total = self._state.global_step, self._state.max_steps
        if self.alarm is not None:
            verdict = with_alarm(verdict, self.alarm, self.stopped)
        if self.stopped_early:
            return ended_early(verdict, step, total)
        if self._state.is_hyper_param_search and step < total and not control.should_training_stop:
            return pruned(verdict, step, total)
        return verdict

    def _facts(self) -> RunFacts:
        config, args = getattr(self._model, "config", None), self._args
        trainer = self._loop.trainer if self._loop is not None else None
        compute_metrics = self.compute_metrics or getattr(trainer, "compute_metrics", None)
        baseline = self.baseline
        if baseline == "compute_metrics" and args.batch_eval_metrics:
            logger.warning(
                "baseline='compute_metrics': not with batch_eval_metrics, whose function keeps what it sees"
            )
            baseline = None
        return RunFacts(
            metric=self.metric,
            greater_is_better=args.greater_is_better,
            metric_for_best_model=args.metric_for_best_model,
            problem_type=getattr(config, "problem_type", None),
            num_labels=getattr(config, "num_labels", 0) or 0,
            label_names=getattr(config, "id2label", None),
            causal=type(self._model).__name__.endswith(("ForCausalLM", "LMHeadModel")),
            generates=self._generates(),
            baseline=baseline,
            compute_metrics=compute_metrics,
            saw_loss=self.recorder is not None and self.recorder.saw_loss,
            train_dataset=getattr(self._train_dataloader, "dataset", None),
            eval_dataset=getattr(trainer, "eval_dataset", None),
            half_precision=self._half_precision,
        )

    def _generates(self) -> bool:
        return bool(getattr(getattr(self._model, "config", None), "is_encoder_decoder", False))

    def _show_verdict(self, record: dict[str, Any] | None, step: int) -> None:
        """To the log, to the folder and to the sinks."""
        level = logger.info if self.verdict.status == "ok" else logger.warning
        level(self.verdict.sentence)
        if self._folder is not None:
            self.guard.run("the file of the verdict", self._write_verdict)
        draws = self.heat_map and record is not None
        picture = self.guard.run("the heat map", self._draw_heat_map, record) if draws else None
        self._tell("end", self.verdict, self.guard.run("the final scores", self._final, default={}), step, picture)

    def _write_verdict(self) -> None:
        write_json(self._folder / "verdict.json", self.verdict.to_dict())

    def _draw_heat_map(self, record: dict[str, Any]) -> bytes | None:
        before = self.recorder.before_clipping
        kind = f"{'before' if before else 'after'} clipping" if self._args.max_grad_norm else ""
        png = draw_heat_map(record, self.verdict.sentence, self.alarm.step if self.alarm else None, kind)
        if png is not None and self._folder is not None:
            write_bytes(self._folder / HEAT_MAP, png)
        return png

    def _final(self) -> dict[str, float]:
        """The headline metric, and whether the run failed: unknown of one that was stopped. Of one that was stopped early
        neither: it may go on, and TensorBoard's HParams tab keeps what it has seen first."""
        if self.stopped_early:
            return {}
        metric, score = headline(self.evaluation.metrics, self.metric or self._args.metric_for_best_model)
        final = {} if score is None else {f"final/{metric}": score}
        if self.verdict.status not in NO_FINAL:
            final["final/failed"] = float(self.verdict.status != "ok")
        return final


def _without_set(metrics: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The metrics of one evaluation set, keys `eval_...` without its name."""
    return {f"eval{key.removeprefix(prefix)}": value for key, value in metrics.items() if key.startswith(f"{prefix}_")}
