"""StabilityCallback: gradient norms by layer, every update step, an early warning, and a verdict; for any Trainer.

Here are the Trainer's events only. Each goes to the training's [`Monitor`][hf_stability.diagnostics.monitor.Monitor].
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from .diagnostics.early_warning import Alarm
from .diagnostics.loggers import loggers_of, move_to_end
from .diagnostics.monitor import Monitor
from .diagnostics.probes import make_probes
from .diagnostics.readings import Readings
from .errors import InputError
from .verdicts.verdict import Verdict


ON_ALARM = ("none", "warn", "stop")


class StabilityCallback(Readings, TrainerCallback):
    """Records a run's gradient norms by layer, loss and logits at every update step, and judges it at the end.

    ```python
    trainer = Trainer(model, args, train_dataset=..., callbacks=[StabilityCallback()])
    ```

    It changes no bit of the training, unless `on_alarm` stops it. An error of its own never ends a training: the part that
    raised is warned of once, and is off for the rest of it. Rows stay on the device until the Trainer logs, evaluates or
    saves, or until there are `block_steps` of them. The early warning adds a host synchronisation every 5% of training;
    nothing else does.

    The early warning ([`early_warning`][hf_stability.diagnostics.early_warning]) looks at the run every 5% of training
    once the warmup is over. It raises its alarm once: layer, step, figures, and what to change. It knows single-label
    classification into up to 16 classes, with the plain cross entropy and gradient norms. With other losses (label
    smoothing, class weights, a loss function of your own: the gradient at the logits shows it) it is silent. With
    unbalanced classes it looks from half of training on, because sound runs first come down from ln K to the labels' entropy.

    The verdict rests on the last evaluation that the Trainer itself makes in training, of its (first) evaluation set.
    Evaluations and predictions of your own code in between do not count. Without outputs and without a metric with a
    known baseline the verdict is `unknown`, neither `ok` nor `failed`.

    On a stock Trainer the norms are those after clipping; a callback can see no others. Steps that hit the clip are
    marked (`clipped`); a vanishing gradient is under it anyhow. [`StableTrainer`] gives the norms before clipping.

    `<output_dir>/stability` has `steps.rec` (see [`read_steps`]), `verdict.json`, `gradients.png` (layers x steps, see
    [`plot_heat_map`][hf_stability.diagnostics.plots.plot_heat_map]) and `tensorboard/` (for its tags see
    [`TensorBoard`][hf_stability.diagnostics.tensorboard.TensorBoard]). The Trainer's own TensorBoardCallback
    (`report_to`) writes to a folder of its own, unless the two share a writer: see [`share_tensorboard`]. The Trainer's
    other loggers (WandbCallback, MLflowCallback ...) get the numbers after [`attach`].

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
            verdict is `stopped`, not `failed`. Where checkpoints are saved at all, one is saved at the stop. Resumed from
            it, the run is finished and judged as any other. Default: the training arguments' where they are
            [`StableTrainingArguments`], else `warn`.
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
        record: the rows so far, as arrays: see [`read_steps`]. In mid-training, a call for all processes together.
        recorder, meter: what records the training, and what measures its gradients; None without a training.
        guard: where errors of ours end; `guard.off` names the parts that raised.
        adds_loss_terms: set by a trainer that adds terms of ours to the model's own loss.
        monitor: of the training that goes on, or of the last one.
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
        self.adds_loss_terms = False
        self.stopped_early = False
        self.verdicts: list[Verdict] = []
        self.trainers_tensorboard: TensorBoardCallback | None = None  # see share_tensorboard
        self.trainers_handler: Any = None  # the Trainer's callback handler, see attach
        self.monitor = Monitor(self)

    # ---- the trainer ---------------------------------------------------------------------------------------------------

    def observe_gradients(self, layer_norms: Tensor, total: Tensor, before_clipping: bool) -> None:
        """Take this update step's norms from the trainer: see [`Recorder.observe_gradients`]."""
        if self.recorder is not None:
            self.recorder.observe_gradients(layer_norms, total, before_clipping)

    def share_tensorboard(self, trainer: Trainer) -> None:
        """Write to the same event file as the Trainer's own TensorBoardCallback, where it has one (`report_to`).

        On a stock Trainer call this once, before `train()`; [`StabilityMixin`] calls it. Two writers must not write to one
        folder: TensorBoard follows the newer file only.
        """
        found = [c for c in trainer.callback_handler.callbacks if isinstance(c, TensorBoardCallback)][:1]
        self.trainers_tensorboard = found[0] if found else None
        move_to_end(trainer, found)  # it closes the file that the verdict goes to

    def attach(self, trainer: Trainer) -> None:
        """Send the numbers to the Trainer's other loggers, too: every callback that takes logs (`on_log`), but the Trainer's
        own progress bars and printing. Call it once, before `train()`; [`share_tensorboard`] is done with it.

        A logger is called as the Trainer calls it, with each row's own update step in the state, when rows are written;
        with the rows that TensorBoard gets, `alarm/risk` and `final/...`. The keys are TensorBoard's tags without the
        logarithms, but `step/loss` and `step/learning_rate` for what the Trainer sends as means over its logging steps.
        Numbers that are not finite are left out. A logger that raises is warned about, and gets no more of these.

        ```python
        callback = StabilityCallback()
        trainer = Trainer(..., callbacks=[callback])  # args.report_to="wandb"
        callback.attach(trainer)
        ```
        """
        self.trainers_handler = trainer.callback_handler
        move_to_end(trainer, loggers_of(trainer.callback_handler))
        self.share_tensorboard(trainer)

    def release(self, abandoned: bool = True) -> None:
        """Let go of the model and of files: no hook, no batches, no writers of a training are kept after it.

        Args:
            abandoned: the training did not come to its end.
        """
        self.monitor.release(abandoned)

    # ---- the Trainer's events ------------------------------------------------------------------------------------------

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        self.release()  # an earlier training's, where that was interrupted
        self.monitor, self.stopped_early = Monitor(self), False
        self.monitor.begin(args, state, model, optimizer, train_dataloader)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.monitor.begin_epoch()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.monitor.begin_step()

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        self.monitor.before_step(optimizer, state.global_step + 1)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.monitor.after_step()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.monitor.end_step(state.global_step, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.monitor.flush()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.world_size == 1:
            self.monitor.flush()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.world_size == 1:
            self.monitor.flush()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if args.world_size == 1:
            self.monitor.flush()
        self.monitor.evaluated(metrics or {}, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        verdict = self.monitor.end(control)
        if verdict is not None:
            self.verdicts.append(verdict)
