"""StabilityCallback: records every update step of a Trainer, warns early, and gives a verdict.

This file has only the Trainer's events. Each is passed to the training's `Monitor`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations.integration_utils import TensorBoardCallback

from .diagnostics.early_warning import Alarm
from .diagnostics.loggers import loggers_of, move_to_end
from .diagnostics.monitor import Monitor
from .diagnostics.preflight import known_choice
from .diagnostics.probes import make_probes
from .diagnostics.readings import Readings
from .errors import InputError
from .verdicts.verdict import Verdict


if TYPE_CHECKING:  # takes long to import
    from transformers import Trainer

ON_ALARM = ("none", "warn", "stop", "restart")


class StabilityCallback(Readings, TrainerCallback):
    """Records each update step's gradient norms by layer, loss and logits, and judges the run at the end.

    It works with any Hugging Face Trainer. Training stays the same, bit for bit, unless `on_alarm` stops it.

    Example:
        ```python
        trainer = Trainer(model, args, train_dataset=..., callbacks=[StabilityCallback()])
        trainer.train()
        ```

    **What it writes.** The folder `<output_dir>/stability` has these files:

    | file | content |
    | --- | --- |
    | `steps.rec` | a row for each update step; read it with [`steps_frame`][hf_stability.diagnostics.step_record.steps_frame] |
    | `verdict.json` | the verdict, with its evidence |
    | `gradients.png` | heat map of the gradient norms, layers by update steps |
    | `tensorboard/` | TensorBoard's event file, unless it is [shared][hf_stability.callback.StabilityCallback.share_tensorboard] with the Trainer's |

    **The early warning** looks at the run every 5% of training, once the warmup is over. It raises at most one alarm per run.
    The alarm names the layer, the step, the figures, and what to change. The early warning covers single-label classification
    with up to 16 classes, the plain cross entropy, and gradient norms that can be read. With another loss (label smoothing,
    class weights, a custom function) it stays silent. It detects such a loss by its gradient at the logits. With unbalanced
    classes it looks only from half of training on: until then a healthy loss still falls from ln K to the label entropy.

    **The verdict** rests on the last evaluation that the Trainer itself makes during training. With several evaluation
    sets the first one counts. Evaluations and predictions that your own code makes in between do not count. The status is
    `unknown`, neither `ok` nor `failed`, if there are no outputs and no metric with a known baseline.

    **Clipping.** On a stock Trainer a callback sees the gradients only after clipping. Steps that were clipped are marked
    in the column `clipped`. Vanishing gradients are below the limit, so clipping does not hide them.
    [`StableTrainer`][hf_stability.trainer.StableTrainer] records the norms before clipping.

    **Errors and cost.** An error in the callback never ends a training. The part that raised gives one warning and is off for
    the rest of the training. Rows stay on the device until the Trainer logs, evaluates or saves, or until there are
    `block_steps` rows. Apart from that only the early warning synchronises with the host, every 5% of training.

    Args:
        compute_metrics: the function that `baseline="compute_metrics"` calls. Default: the Trainer's own. Nothing else
            needs it: the verdict uses the outputs and scores that the Trainer has.
        baseline: score of the best constant prediction in the headline metric. A number is compared with `metric` and
            decides the verdict. Default: computed from the evaluation labels, for accuracy, F1, Matthews, Pearson,
            Spearman, R2, mse, rmse and mae. With `"compute_metrics"` that function is called once per class with
            constant predictions; do not use this if the function accumulates state.
        metric: key of the headline metric, with or without `eval_`. Default: `metric_for_best_model`, else accuracy,
            else the first metric. For names such as mse, error, perplexity or wer, smaller is better. For names that
            are not known, `greater_is_better` of the training arguments decides.
        output_dir: folder to write to. Default: `<output_dir>/stability`. In a hyperparameter search each trial has its
            own folder, `<output_dir>/run-<trial>/stability`.
        tensorboard: whether to write TensorBoard's files.
        tensorboard_dir: folder for TensorBoard's files. If the writer is shared, the Trainer's TensorBoardCallback writes
            there, too. Default: that callback's folder if the writer is shared, else `<output_dir>/stability/tensorboard`.
        hparams: the run's hyperparameters for TensorBoard's HParams tab. The tab shows them with the verdict's status,
            `final/<metric>` and `final/failed`. Written at the end of training.
        texts: tag -> Markdown, for TensorBoard's Text tab.
        block_steps: write rows after this many update steps at the latest. A killed run loses at most these rows.
        diagnostics: names of additional columns for the record, or `"all"`: `clipping`, `update_ratio`, `step_factor`,
            `pooler_saturation`, `prediction_entropy`, `distance`, `cls_variance`. Default: `diagnostics` of
            [`StableTrainingArguments`][hf_stability.training_args.StableTrainingArguments] if they are used, else none.
        heat_map: whether to draw `gradients.png` at the end of training. This takes about half a second.
        on_alarm: what an alarm does. `"warn"` logs it. `"stop"` logs it and ends the training. `"none"` does neither. A
            function is called with the alarm and the Trainer's `control`, in every process with the same alarm; it may
            set `control.should_training_stop`. The alarm is recorded in any case. A stopped run is censored: its verdict
            is `stopped`, not `failed`. If checkpoints are saved at all, one is saved at the stop; a run resumed from it
            is judged as usual. `"restart"`: `StableTrainer` and `train_with_restarts` begin again, others stop. Default: that of
            [`StableTrainingArguments`][hf_stability.training_args.StableTrainingArguments] if they are used, else `"warn"`.
        audited: with `on_alarm="stop"`, finish the run in spite of an alarm, to learn how often alarms are right.
        preflight: `"warn"`: before the first step, log one line for each setting that often makes runs fail (half precision,
            too large steps, no bias correction, few steps, a head that is lost; see `docs/diagnostics.md`). `"none"`: log
            none. Default: that of [`StableTrainingArguments`][hf_stability.training_args.StableTrainingArguments].

    Attributes:
        verdict (Verdict | None): the verdict after training. None before, and in all processes but the main one.
        verdicts (list[Verdict]): the verdicts of all trainings so far, in order: one per trial of a hyperparameter search.
        alarm (Alarm | None): the alarm, once it was raised.
        stopped (bool): whether the alarm ended the training.
        attempts (list[Attempt]): with `on_alarm="restart"`, the run's attempts. The last one counts.
        stopped_early (bool): set this if your code ends the training before its last update step for another reason. The
            verdict is then `stopped early`, not `failed`.
        constant (dict | None): the baseline, known after training: the `score` of the best constant prediction in the
            headline metric, and that `constant` itself, a class or a value. None if it is not known.
        evaluation (Evaluation): the last evaluation that counts.
        record (dict): the rows so far, as arrays: see
            [`read_steps`][hf_stability.diagnostics.step_record.read_steps]. During training all processes must read it
            together.
        recorder (Recorder | None): records the training. None without a training.
        meter (GradientMeter | None): measures the gradients. None without a training.
        guard (Guard): catches errors of the callback. `guard.off` names the parts that raised.
        adds_loss_terms (bool): set by a trainer that adds a method's terms to the model's own loss.
        quiet_share (float): set by a trainer that freezes layers for this share of training. No alarm is raised in it.
        monitor (Monitor): follows the current training, or the last one.

    Raises:
        InputError: `on_alarm`, `baseline`, `preflight` or `diagnostics` has a value that is not allowed.
    """

    sends_to_loggers = True  # not a logger itself

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
        preflight: str | None = None,
    ) -> None:
        if on_alarm is not None and not callable(on_alarm) and on_alarm not in ON_ALARM:
            raise InputError(
                f"on_alarm {on_alarm!r}: must be one of {', '.join(ON_ALARM)}, or a function of the alarm and the Trainer's control."
            )
        if isinstance(baseline, str) and baseline != "compute_metrics":
            raise InputError(f"baseline {baseline!r}: must be a number or 'compute_metrics'.")
        self.compute_metrics = compute_metrics
        self.baseline, self.metric = baseline, metric
        self.output_dir = output_dir
        self.tensorboard = tensorboard
        self.tensorboard_dir = tensorboard_dir
        self.hparams = hparams
        self.texts = texts
        self.block_steps = block_steps
        self.diagnostics = diagnostics
        make_probes(diagnostics or ())  # refuses a wrong name
        self.heat_map, self.preflight = heat_map, known_choice(preflight)
        self.on_alarm, self.audited = on_alarm, audited
        self.adds_loss_terms = self.stopped_early = False
        self.quiet_share = 0.0
        self.said: set[str] = set()  # the lines of the preflight so far
        self.verdicts: list[Verdict] = []
        self.trainers_tensorboard: TensorBoardCallback | None = None  # see share_tensorboard
        self.trainers_handler: Any = None  # the Trainer's callback handler, see attach
        self.monitor = Monitor(self)

    # ---- the trainer ---------------------------------------------------------------------------------------------------

    def observe_gradients(self, layer_norms: Tensor, total: Tensor, before_clipping: bool) -> None:
        """Take this update step's gradient norms from the trainer, which has them already.

        Args:
            layer_norms: `(layers,)`, in the order of `meter.names`.
            total: 0-d, the total gradient norm.
            before_clipping: whether the norms were taken before clipping.
        """
        if self.recorder is not None:
            self.recorder.observe_gradients(layer_norms, total, before_clipping)

    def share_tensorboard(self, trainer: Trainer) -> None:
        """Write to the same event file as the Trainer's own TensorBoardCallback, if it has one (`report_to`).

        Call this once, before `train()`. [`StableTrainer`][hf_stability.trainer.StableTrainer] calls it for you. Without
        it the two callbacks write to two folders: two writers in one folder do not work, because TensorBoard follows
        only the newer file.

        Args:
            trainer: the Trainer that has this callback.

        Example:
            ```python
            callback = StabilityCallback()
            trainer = Trainer(..., callbacks=[callback])  # args.report_to="tensorboard"
            callback.share_tensorboard(trainer)
            ```
        """
        found = [c for c in trainer.callback_handler.callbacks if isinstance(c, TensorBoardCallback)][:1]
        self.trainers_tensorboard = found[0] if found else None
        move_to_end(trainer, found)  # it closes the file, so it must come after our verdict

    def attach(self, trainer: Trainer) -> None:
        """Send the numbers to the Trainer's other loggers, too (wandb, MLflow and others).

        A logger is every callback with `on_log`, except the Trainer's own progress bars and printing. Call this once,
        before `train()`. It includes
        [`share_tensorboard`][hf_stability.callback.StabilityCallback.share_tensorboard].

        Each logger is called as the Trainer calls it, with the row's own update step in the state. It gets the rows that
        TensorBoard gets, `alarm/risk` and `final/...`. The keys are TensorBoard's tags, with these differences:

        - The logarithms (`log10_...`) are left out, and so are numbers that are not finite.
        - `loss` and `learning_rate` become `step/loss` and `step/learning_rate`: under the plain names the Trainer sends
          means over its logging steps.

        A logger that raises gives one warning and gets no more of these numbers.

        Args:
            trainer: the Trainer that has this callback.

        Example:
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
        """Remove the hook from the model, drop its batches and close the files of this training.

        Args:
            abandoned: whether the training did not reach its end.
        """
        self.monitor.release(abandoned)

    # ---- the Trainer's events ------------------------------------------------------------------------------------------

    def on_train_begin(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        self.release()  # an earlier training that was interrupted
        self.monitor, self.stopped_early = Monitor(self), False
        self.monitor.begin(args, state, model, optimizer, train_dataloader)

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.monitor.begin_epoch()

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.monitor.begin_step()

    def on_pre_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, optimizer: Any = None, **kwargs: Any
    ) -> None:
        self.monitor.before_step(optimizer, state.global_step + 1)

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.monitor.after_step()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.monitor.end_step(state.global_step, control)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.monitor.flush()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.world_size == 1:
            self.monitor.flush()

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.world_size == 1:
            self.monitor.flush()

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        if args.world_size == 1:
            self.monitor.flush()
        self.monitor.evaluated(metrics or {}, state.global_step)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        verdict = self.monitor.end(control)
        if verdict is not None:
            self.verdicts.append(verdict)
