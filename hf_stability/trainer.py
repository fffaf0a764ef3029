"""StableTrainer: a Trainer that takes a stability recipe, and knows its gradients before clipping."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch.nn.utils import clip_grads_with_norm_
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, set_seed
from transformers.trainer_utils import IntervalStrategy

from .callback import StabilityCallback, headline
from .errors import InputError
from .methods.adamw import AdamW, effective_step_factor
from .methods.reinit import reinit_layers


logger = logging.getLogger(__name__)


class StabilityMixin:
    """What makes a Trainer a [`StableTrainer`]; put it before any subclass: `class Mine(StabilityMixin, Seq2SeqTrainer)`.

    - The optimizer follows `args.bias_correction`, the learning rate `args.lr_bias_correction`.
    - Gradient norms of each layer, before clipping, come from the one pass that also clips.
    - The last update step is always evaluated where there is an evaluation set, before any reload of the best model.
      [`last_metrics`] and [`best_metrics`] keep both; the verdict (`trainer.stability.verdict`) is on the last.
    - With `args.report_to` "tensorboard", the Trainer's events and the diagnostics are in one file.
    - With `args.seed_streams`, initialisation (through `model_init`), data order and dropout have random streams of
      their own. A `model` that is passed in ready has its initialisation behind it.
    - With `args.reinit_layers`, the pooler and so many top layers are drawn anew: after each call of `model_init`, or once,
      here, where a `model` is passed in ready (set it to 0 to evaluate a model that is trained already).
    - With `args.total_train_batch_size`, the gradient is the mean over that many examples however they are split: for
      a `...ForSequenceClassification`, whose loss is a mean over the batch, the stock Trainer sums over accumulation
      steps and processes instead.

    With arguments that set none of these, weights are the stock Trainer's, bit for bit.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        found = [c for c in self.callback_handler.callbacks if isinstance(c, StabilityCallback)]
        if not found:
            found = [StabilityCallback()]
            self.add_callback(found[0])
        self.stability = found[0]
        self.stability.trainer_hands_over = True
        self.stability.compute_metrics = self.stability.compute_metrics or self.compute_metrics
        self._final_history: list[dict] | None = None  # the log as training left it
        self.add_callback(StableFlowCallback(lambda: self.eval_dataset is not None))
        if self.model_init is None:
            streams = getattr(self.args, "seed_streams", False)
            self._reinit_layers(self.model, self.args.init_seed if streams else None)

    # ---- optimizer and random streams --------------------------------------------------------------------------------

    @classmethod
    def get_optimizer_cls_and_kwargs(cls, args, model=None) -> tuple[Any, dict[str, Any]]:
        optimizer_cls, kwargs = super().get_optimizer_cls_and_kwargs(args, model)
        if getattr(args, "bias_correction", True):
            return optimizer_cls, kwargs
        if optimizer_cls is not torch.optim.AdamW:
            raise InputError(f"--bias_correction false: --optim {args.optim} is not torch's AdamW")
        return AdamW, {**kwargs, "bias_correction": False}

    def create_optimizer(self, *args, **kwargs):
        optimizer = super().create_optimizer(*args, **kwargs)
        # An optimizer that was passed in goes past get_optimizer_cls_and_kwargs: the argument must not be lost on it.
        if not getattr(self.args, "bias_correction", True):
            inner = getattr(optimizer, "optimizer", optimizer)
            if any(group.get("bias_correction", True) for group in inner.param_groups):
                raise InputError(
                    "--bias_correction false, but the optimizer passed to the Trainer has it on: "
                    "pass hf_stability.AdamW(..., bias_correction=False)"
                )
        return optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        passed_in = self.lr_scheduler is not None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if not getattr(self.args, "lr_bias_correction", False):
            return scheduler
        if passed_in:
            raise InputError(
                "--lr_bias_correction true, but a scheduler was passed to the Trainer: pass the optimizer alone"
            )
        if not isinstance(scheduler, LambdaLR):
            kind = getattr(self.args.lr_scheduler_type, "value", self.args.lr_scheduler_type)
            raise InputError(
                f"--lr_bias_correction true: --lr_scheduler_type {kind} is no function of the step; give another"
            )
        betas = self.args.adam_beta1, self.args.adam_beta2

        def corrected(shape: Callable[[int], float]) -> Callable[[int], float]:
            return lambda done: shape(done) * effective_step_factor(done + 1, *betas)  # update t follows t - 1 done

        self.lr_scheduler = LambdaLR(scheduler.optimizer, [corrected(shape) for shape in scheduler.lr_lambdas])
        return self.lr_scheduler

    def call_model_init(self, trial=None):
        if getattr(self.args, "seed_streams", False):
            set_seed(self.args.init_seed)
        model = super().call_model_init(trial)
        self._reinit_layers(model)  # goes on in the stream that the head was drawn from
        return model

    def _reinit_layers(self, model, seed: int | None = None) -> None:
        number = getattr(self.args, "reinit_layers", 0)
        if number:
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            names = reinit_layers(model, number, generator)
            logger.info(f"--reinit_layers {number}: drawn anew: {', '.join(names)}")

    # ---- the batch's loss --------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.get("labels")
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch=num_items_in_batch)
        if num_items_in_batch is None or labels is None or not self._loss_is_a_batch_mean():
            return result
        # The Trainer takes the loss for a sum over these examples / num_items_in_batch, the examples of the whole step.
        share = labels.numel() / num_items_in_batch
        return (result[0] * share, result[1]) if return_outputs else result * share

    def _loss_is_a_batch_mean(self) -> bool:
        is_classifier = "ForSequenceClassification" in type(self.model).__name__
        standard = self.label_smoother is None and self.compute_loss_func is None and self.model_accepts_loss_kwargs
        return bool(getattr(self.args, "total_train_batch_size", None)) and is_classifier and standard

    # ---- gradient norms before clipping: the one place that stands in for the Trainer's own ----------------------------
    #
    # Trainer._clip_grad_norm -> accelerator.clip_grad_norm_ -> torch.nn.utils.clip_grad_norm_: norms of all parameters,
    # the norm of these, and a multiplication. Here the first of the three is kept, and grouped by layer; the same
    # kernels in the same order, so that weights stay bitwise the Trainer's. With max_grad_norm 0 the Trainer makes the
    # pass in _get_grad_norm. Where gradients are not whole tensors of this process, its own way is taken.

    def _clip_grad_norm(self, model):
        total = self._measure_gradients()
        if total is None:
            return super()._clip_grad_norm(model)
        clip_grads_with_norm_(self.stability.meter.parameters, self.args.max_grad_norm, total)
        return total

    def _get_grad_norm(self, model, grad_norm=None):
        if grad_norm is None:
            grad_norm = self._measure_gradients()
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    def _measure_gradients(self) -> torch.Tensor | None:
        """Total gradient norm as torch's, handing layers' norms to the callback; None where that cannot be."""
        meter = self.stability.meter
        if meter is None or not self._gradients_are_whole():
            return None
        if not meter.is_whole():
            return None  # unfrozen since, or in several groups, whose norms torch sums in another order
        self.accelerator.unscale_gradients()
        norms = meter.parameter_norms()
        total = torch.linalg.vector_norm(norms)
        self.stability.observe_gradients(meter.layer_norms(norms), total, before_clipping=True)
        return total

    def _gradients_are_whole(self) -> bool:
        whole = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        return self.accelerator.distributed_type in whole and not getattr(
            self, "is_distributed_loading_by_transformers", False
        )

    # ---- evaluations -------------------------------------------------------------------------------------------------

    def train(self, *args, **kwargs):
        self._final_history = None
        self.stability.share_tensorboard(self)
        output = super().train(*args, **kwargs)
        self._final_history = list(self.state.log_history)
        return output

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        first = next(iter(self.eval_dataset)) if isinstance(self.eval_dataset, dict) else None
        if self.is_in_train and metric_key_prefix == ("eval" if first is None else f"eval_{first}"):
            metrics = {key.replace(metric_key_prefix, "eval", 1): value for key, value in output.metrics.items()}
            labels = output.label_ids
            if output.predictions is not None and getattr(labels, "ndim", 0) == 1:
                self.stability.observe_evaluation(output.predictions, labels, metrics)
            else:
                self.stability.evaluation = {"metrics": metrics}
        return output

    @property
    def last_metrics(self) -> dict[str, Any]:
        """Metrics of the last evaluation, with `step` and `epoch`; the verdict is on these."""
        return self.evaluations[-1] if self.evaluations else {}

    @property
    def best_metrics(self) -> dict[str, Any]:
        """Metrics of the evaluation with the best headline metric (the earliest of equals), with `step` and `epoch`.

        The best of many evaluations is selected on the evaluation set: compare it between equal numbers of evaluations.
        """
        wanted = self._wanted()
        sign = -1 if self.args.greater_is_better is False and wanted and not wanted.endswith("loss") else 1
        scores = [(headline(self._of_first_set(metrics), wanted)[1], metrics) for metrics in self.evaluations]
        scored = [(sign * score, -metrics["step"], metrics) for score, metrics in scores if score is not None]
        return max(scored, key=lambda item: item[:2])[2] if scored else {}

    def _of_first_set(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """The metrics of the evaluation set that counts, without its name."""
        if not isinstance(self.eval_dataset, dict):
            return metrics
        prefix = f"eval_{next(iter(self.eval_dataset))}_"
        return {f"eval_{key.removeprefix(prefix)}": value for key, value in metrics.items() if key.startswith(prefix)}

    def _wanted(self) -> str:
        return (self.stability.metric or self.args.metric_for_best_model or "").removeprefix("eval_")

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Metrics of each evaluated step of the training, with `step` and `epoch`, several evaluation sets joined."""
        by_step: dict[int, dict[str, Any]] = {}
        for entry in self._final_history or self.state.log_history:  # not what is evaluated after training
            if any(key.startswith("eval_") for key in entry):
                by_step.setdefault(entry["step"], {}).update(entry)
        return list(by_step.values())


class StableFlowCallback(TrainerCallback):
    """The part of [`StabilityMixin`] that hangs on the Trainer's events: the dropout stream, and the last evaluation.

    Args:
        has_eval: whether the trainer has anything to evaluate on.
    """

    def __init__(self, has_eval: Callable[[], bool]):
        self.has_eval = has_eval
        self.evaluated_step = -1

    def on_train_begin(self, args, state, control, **kwargs):
        self.evaluated_step = -1
        if getattr(args, "seed_streams", False):
            # After a resume the Trainer loads the checkpoint's random state later than this.
            set_seed((args.dropout_seed + args.process_index) % 2**32)

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluated_step = state.global_step

    def on_step_end(self, args, state, control, eval_dataloader=None, **kwargs):
        # With eval_strategy "epoch" the end of the epoch evaluates; otherwise now, before the last step is saved.
        if self._is_last(state, control) and args.eval_strategy != IntervalStrategy.EPOCH and self.has_eval():
            control.should_evaluate = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self._is_last(state, control) and self.evaluated_step != state.global_step and self.has_eval():
            control.should_evaluate = True

    def _is_last(self, state, control) -> bool:
        return state.global_step >= state.max_steps or control.should_training_stop


class StableTrainer(StabilityMixin, Trainer):
    """Hugging Face's [`~transformers.Trainer`] with [`StabilityMixin`]: drop-in, with `StableTrainingArguments`.

    ```python
    args = StableTrainingArguments.from_recipe("mosbach2021", model_type="bert", output_dir="out")
    trainer = StableTrainer(model_init=model_init, args=args, train_dataset=..., eval_dataset=..., compute_metrics=...)
    trainer.train()
    print(trainer.stability.verdict.sentence)
    ```
    """
