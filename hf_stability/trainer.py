"""StableTrainer: a Trainer with stability recipes and methods, and with gradient norms measured before clipping."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from torch import nn
from torch.nn.utils import clip_grads_with_norm_
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, set_seed
from transformers.trainer_utils import IntervalStrategy, TrainOutput

from .callback import StabilityCallback
from .diagnostics.history import best_evaluation, evaluations_of
from .methods import Method, check_methods, make_methods, methods_of
from .methods.active import ActiveMethods
from .packed.forward import use_step
from .restarting.attempts import callback_of
from .restarting.trainer import train_stable_trainer
from .training_args import warn_of_another_config
from .utils.optimizers import inner_optimizer


logger = logging.getLogger(__name__)
if TYPE_CHECKING:  # a type checker sees the Trainer that it is mixed into
    _Trainer = Trainer
else:
    _Trainer = object


class StabilityMixin(_Trainer):
    """Adds recipes, methods and diagnostics to any subclass of the Trainer: `class Mine(StabilityMixin, Seq2SeqTrainer)`.

    Put it first. Combine the training arguments, too: `class MyArguments(StableTrainingArguments, Seq2SeqTrainingArguments)`.

    - Gradient norms of each layer, before clipping, come from the pass that also clips.
    - If `args.eval_strategy` evaluates at all, the last update step is evaluated too, after it was saved. If that evaluation
      raises an error, there is a warning. The verdict (`trainer.stability.verdict`) is on the last evaluation.
    - With `args.report_to` "tensorboard", the Trainer's logs and the diagnostics are in one file.
    - With `args.seed_streams`, initialisation (through `model_init`), data order and dropout have separate random streams.
    - With `args.total_train_batch_size`, the gradient is the mean over that many examples, however they are split. For a
      `...ForSequenceClassification`, which has a mean over the batch as its loss, the stock Trainer would sum over accumulation
      steps and processes.
    - Each method of `hf_stability.methods` is switched on by its argument (`mixout` ...). `methods` takes your own. Methods
      change a model after each call of `model_init`, or, if you pass a ready `model`, once in `__init__`. The weights at that
      time count as the pretrained ones: in a study with stages, those of the last stage.
    - With `args.on_alarm` "restart", a run begins again after an alarm, NaN or Inf: see the page "A run that mends itself".

    If the arguments set none of these, the weights are those of the stock Trainer, bit for bit.

    Args:
        methods: objects of subclasses of `hf_stability.methods.Method`, with their settings. All else is the Trainer's.

    Attributes:
        stability: the `StabilityCallback`: record, verdict, alarm. It is added if `callbacks` has none.
    """

    stability: StabilityCallback
    methods: ActiveMethods

    def __init__(self, *args: Any, methods: Sequence[Method] | Method = (), **kwargs: Any) -> None:
        self._passed_methods: list[Any] = list(methods) if isinstance(methods, (list, tuple)) else [methods]
        super().__init__(*args, **kwargs)
        self.stability = callback_of(self)
        self._final_history: list[dict] | None = None  # the log at the end of training
        self._flow = StableFlowCallback()
        self.add_callback(self._flow)
        if self.model_init is None:
            seed = self.args.init_seed if getattr(self.args, "seed_streams", False) else None
            self.model = self.model_wrapped = self._prepare_model(self.model, seed)
        self.methods.inform(self.stability)

    # ---- model, optimizer, schedule ------------------------------------------------------------------------------------

    def _prepare_model(self, model: Any, seed: int | None = None) -> Any:
        """Let methods change or wrap a model with its pretrained weights, before training."""
        warn_of_another_config(self.args, model)
        self.methods = ActiveMethods(self, self._passed_methods)
        model = self.methods.prepare_model(model, seed)
        use_step(model, getattr(self.args, "step", "hf"), self.args.n_gpu)
        if getattr(self, "_begins_training", False):
            self.methods.begin_training(model)
        return model

    def call_model_init(self, trial: Any = None) -> nn.Module:
        if getattr(self.args, "seed_streams", False):
            args: Any = self.args
            set_seed(args.init_seed)
        model = super().call_model_init(trial)
        # In a search, the trial's arguments are set later. This continues the random stream that the head was drawn from.
        return self._prepare_model(model) if trial is None else model

    def _hp_search_setup(self, trial: Any) -> None:
        super()._hp_search_setup(trial)
        if trial is not None and self.model_init is not None:
            check_methods(vars(self.args), methods_of(self.args))
            self.model = self.model_wrapped = self._prepare_model(self.model)
            self.methods.inform(self.stability)

    @classmethod
    def get_optimizer_cls_and_kwargs(cls, args: Any, model: Any = None) -> tuple[Any, dict[str, Any]]:
        optimizer_cls, kwargs = super().get_optimizer_cls_and_kwargs(args, model)
        for method in make_methods(args):
            if method.is_on:
                optimizer_cls, kwargs = method.change_optimizer(optimizer_cls, kwargs, args)
        return optimizer_cls, kwargs

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        self.methods.make_optimizer()
        optimizer = super().create_optimizer(*args, **kwargs)
        self.methods.attach_to_optimizer(inner_optimizer(optimizer))  # in a second training, accelerate has wrapped it
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        passed_in = self.lr_scheduler is not None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = self.methods.change_scheduler(scheduler, passed_in)
        return self.lr_scheduler

    # ---- the loss of a batch -----------------------------------------------------------------------------------------

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.get("labels")
        if model.training and self.methods.change_loss:
            loss, outputs = self._loss_of_methods(model, inputs, num_items_in_batch)
            result: Any = (loss, outputs) if return_outputs else loss
        else:
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch=num_items_in_batch)
        if num_items_in_batch is None or labels is None or not self._loss_is_a_batch_mean():
            return result
        # The Trainer expects the sum over these examples, divided by num_items_in_batch, the examples of the whole step.
        share = labels.numel() / num_items_in_batch
        if self.args.n_gpu > 1 and self.args.average_tokens_across_devices:
            share = share / self.args.n_gpu  # DataParallel: the Trainer multiplies by it, and later takes the mean
        return (result[0] * share, result[1]) if return_outputs else result * share

    def _loss_of_methods(self, model: nn.Module, inputs: Any, num_items_in_batch: Any) -> tuple[torch.Tensor, Any]:
        """The loss of a batch with the terms of the methods, and the outputs."""
        of_processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        scaled = num_items_in_batch is not None and self.model_accepts_loss_kwargs
        scale = of_processes if scaled else 1  # the Trainer multiplies a loss by this

        def compute_loss(batch: dict[str, Any]) -> tuple[torch.Tensor, Any]:
            loss, outputs = super(StabilityMixin, self).compute_loss(model, batch, True, num_items_in_batch)
            return loss / scale, outputs

        loss, outputs = self.methods.loss(compute_loss, inputs)
        return loss * scale, outputs

    def _loss_is_a_batch_mean(self) -> bool:
        wanted = bool(getattr(self.args, "total_train_batch_size", None))
        return wanted and self.has_classifier_loss() and self.model_accepts_loss_kwargs

    def has_classifier_loss(self) -> bool:
        """Whether the loss is that of a `...ForSequenceClassification` itself, a mean over the given examples."""
        own = self.label_smoother is None and self.compute_loss_func is None
        return own and "ForSequenceClassification" in type(self.model).__name__

    # ---- gradient norms before clipping --------------------------------------------------------------------------------
    # The Trainer calls _clip_grad_norm -> accelerator.clip_grad_norm_ -> torch.nn.utils.clip_grad_norm_. That computes the norm of
    # each parameter, the norm of these, and then multiplies. Here the norms of the parameters are kept and grouped by layer. The
    # kernels and their order are the same, so that weights stay bitwise those of the Trainer. With max_grad_norm 0 the Trainer
    # computes the norm in _get_grad_norm. If this process does not have whole gradients, the Trainer's own code runs.

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        total, meter = self._measure_gradients(), self.stability.meter
        if total is None or meter is None:
            self.methods.refuse_parts_of_gradients()
            return super()._clip_grad_norm(model)
        clip_grads_with_norm_(meter.parameters, self.args.max_grad_norm, total)
        return total

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None:
            grad_norm = self._measure_gradients()
            if grad_norm is None:
                self.methods.refuse_parts_of_gradients()
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    def _measure_gradients(self) -> torch.Tensor | None:
        """The total gradient norm, as torch computes it. Gives the norms of layers to the callback. None if that is not possible."""
        recorder = self.stability.recorder
        if recorder is None or recorder.meter is None or not self._gradients_are_whole():
            return None
        recorder.follow_unfreezing()
        meter = recorder.meter
        if not meter.is_whole():
            return None  # several groups: torch sums their norms in another order
        self.accelerator.unscale_gradients()
        self.methods.add_gradients()
        norms = meter.parameter_norms()
        total = torch.linalg.vector_norm(norms)
        layer_norms = self.stability.guard.run("the gradient norms", meter.layer_norms, norms)
        if layer_norms is not None:
            self.stability.observe_gradients(layer_norms, total, before_clipping=True)
        return self.methods.clip(meter.gradients, norms, total)

    def _gradients_are_whole(self) -> bool:
        whole = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        in_parts = getattr(self, "is_distributed_loading_by_transformers", False)
        return self.accelerator.distributed_type in whole and not in_parts

    # ---- evaluations -------------------------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as the Trainer does; arguments and result are the same. `on_alarm="restart"` may take several attempts."""
        return train_stable_trainer(self, self._train_once, args, kwargs)

    def _train_once(self, *args: Any, **kwargs: Any) -> TrainOutput:
        self._final_history = None
        self.stability.share_tensorboard(self)
        self.methods.inform(self.stability)
        if self.model_init is None:
            self.methods.begin_training(self.model)
        self._begins_training = True
        try:
            output = super().train(*args, **kwargs)
        finally:
            self._begins_training = False
            self.stability.release()  # after an interrupt or an exception the callback gets no event
        self._final_history = list(self.state.log_history)
        return output

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._maybe_log_save_evaluate(*args, **kwargs)
        if self._flow.is_over and self._flow.evaluated_step != self.state.global_step:
            self._evaluate_last()
        return result

    def _evaluate_last(self) -> None:
        """Evaluate the last update step if `eval_strategy` did not. It was saved before, so an error loses nothing."""
        self._flow.is_over = False
        if self.args.eval_strategy == IntervalStrategy.NO or self.eval_dataset is None:
            return
        try:
            self.evaluate()
        except Exception as error:  # the user's own evaluation
            reason = f"could not be evaluated ({type(error).__name__}: {error})"
            logger.warning(f"The last update step {reason}. The verdict uses the evaluation before it.")

    @property
    def last_metrics(self) -> dict[str, Any]:
        """Metrics of the last evaluation, with `step` and `epoch`. The verdict uses these. Empty before any evaluation."""
        return self.evaluations[-1] if self.evaluations else {}

    @property
    def best_metrics(self) -> dict[str, Any]:
        """Metrics of the evaluation with the best headline metric. Compare them only between equal numbers of evaluations."""
        first_set = next(iter(self.eval_dataset)) if isinstance(self.eval_dataset, dict) else None
        wanted = self.stability.metric or self.args.metric_for_best_model
        return best_evaluation(self.evaluations, wanted, first_set, self.args.greater_is_better is False)

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Metrics of each evaluated step of the training, with `step` and `epoch`. Several evaluation sets are joined."""
        return evaluations_of(self._final_history or self.state.log_history)  # without evaluations after training


class StableFlowCallback(TrainerCallback):
    """The part of `StabilityMixin` that needs the Trainer's events: the dropout stream, and the end of training.

    Attributes:
        evaluated_step: the update step of the last evaluation; -1 before any.
        is_over: whether the last epoch has ended. Only its last log, evaluation and save are still to come.
    """

    def __init__(self) -> None:
        self.evaluated_step = -1
        self.is_over = False

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.evaluated_step, self.is_over = -1, False
        if getattr(args, "seed_streams", False):
            # On a resume the Trainer loads the checkpoint's random state after this.
            set_seed((args.dropout_seed + args.process_index) % 2**32)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.evaluated_step = state.global_step

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.is_over = state.global_step >= state.max_steps or control.should_training_stop


class StableTrainer(StabilityMixin, Trainer):
    """Hugging Face's `Trainer` with `StabilityMixin`: a drop-in replacement. Use it with `StableTrainingArguments`.

    It takes what the Trainer takes, and your own `methods`. See `StabilityMixin` for what it adds.

    ```python
    args = StableTrainingArguments.from_recipe("mosbach2021", model_type="bert", output_dir="out")
    trainer = StableTrainer(model_init=model_init, args=args, train_dataset=..., eval_dataset=..., compute_metrics=...)
    trainer.train()
    print(trainer.stability.verdict.sentence)
    ```
    """
