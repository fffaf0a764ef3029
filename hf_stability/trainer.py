"""StableTrainer: a Trainer that takes a stability recipe, and knows its gradients before clipping."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch.nn.utils import clip_grads_with_norm_
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback, set_seed
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.trainer_utils import IntervalStrategy

from .callback import StabilityCallback, headline
from .errors import InputError
from .methods.adamw import AdamW, effective_step_factor
from .methods.child_tuning import ChildTuning, child_masks, fisher_information
from .methods.component_clip import clip_components
from .methods.layerwise_lr import groups_table, layerwise_lr_groups
from .methods.mixout import apply_mixout, warn_of_dropout
from .methods.prior_decay import PriorDecay, pretrained_parameters
from .methods.r3f import r3f
from .methods.r_drop import check_dropout, r_drop
from .methods.reinit import reinit_layers
from .training_args import check_methods
from .utils.layers import layers_of
from .utils.optimizers import inner_optimizer


logger = logging.getLogger(__name__)


class StabilityMixin:
    """What makes a Trainer a [`StableTrainer`]; put it before any subclass: `class Mine(StabilityMixin, Seq2SeqTrainer)`. Where
    this has training arguments of its own, do the same with them, as a dataclass: `class MyArguments(StableTrainingArguments,
    Seq2SeqTrainingArguments)`.

    - The optimizer follows `args.bias_correction`, the learning rate `args.lr_bias_correction`.
    - Gradient norms of each layer, before clipping, come from the one pass that also clips.
    - Where `args.eval_strategy` evaluates at all, the last update step is evaluated too: after it was saved, before any
      reload of the best model; an evaluation that raises there is warned of. [`last_metrics`] and [`best_metrics`] keep
      both; the verdict (`trainer.stability.verdict`) is on the last.
    - With `args.report_to` "tensorboard", the Trainer's events and the diagnostics are in one file.
    - With `args.seed_streams`, initialisation (through `model_init`), data order and dropout have random streams of
      their own. A `model` that is passed in ready has its initialisation behind it.
    - With `args.reinit_layers`, the pooler and so many top layers are drawn anew: after each call of `model_init`, or once,
      here, where a `model` is passed in ready (set it to 0 to evaluate a model that is trained already).
    - With `args.total_train_batch_size`, the gradient is the mean over that many examples however they are split: for
      a `...ForSequenceClassification`, whose loss is a mean over the batch, the stock Trainer sums over accumulation
      steps and processes instead.
    - The methods of `hf_stability.methods`, each by its argument: `mixout`, `prior_decay`, `layerwise_lr_decay`,
      `component_clip`, `r_drop`, `r3f`, `child_tuning`. What they call pretrained are the weights that `model_init` returns, or
      that a `model` passed in ready has now: in a study after stages, the last stage's.

    With arguments that set none of these, weights are the stock Trainer's, bit for bit.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        found = [c for c in self.callback_handler.callbacks if isinstance(c, StabilityCallback)]
        if not found:
            found = [StabilityCallback()]
            self.add_callback(found[0])
        self.stability = found[0]
        self.stability.adds_loss_terms = bool(getattr(self.args, "r_drop", 0.0) or getattr(self.args, "r3f", 0.0))
        self._final_history: list[dict] | None = None  # the log as training left it
        self._flow = StableFlowCallback()
        self.add_callback(self._flow)
        if self.model_init is None:
            streams = getattr(self.args, "seed_streams", False)
            self._prepare_model(self.model, self.args.init_seed if streams else None)

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
        if getattr(self.args, "layerwise_lr_decay", 1.0) != 1:
            self._create_layerwise_optimizer()
        optimizer = super().create_optimizer(*args, **kwargs)
        for handle in self._step_hooks:  # of an earlier training with this optimizer
            handle.remove()
        inner = inner_optimizer(self.optimizer)  # in a second training it has accelerate's wrapper
        self._step_hooks = []
        if self._prior is not None and self.args.prior_decay_form == "decoupled":
            self._step_hooks.append(self._prior.attach(inner))
        if self._child is not None:
            self._step_hooks.append(self._child.attach(inner, lambda: self.state.global_step))
        # An optimizer that was passed in goes past get_optimizer_cls_and_kwargs: the argument must not be lost on it.
        if not getattr(self.args, "bias_correction", True):
            if any(group.get("bias_correction", True) for group in inner_optimizer(optimizer).param_groups):
                raise InputError(
                    "--bias_correction false, but the optimizer passed to the Trainer has it on: "
                    "pass hf_stability.AdamW(..., bias_correction=False)"
                )
        return optimizer

    def _create_layerwise_optimizer(self) -> None:
        if self.optimizer is not None:
            if inner_optimizer(self.optimizer) is self._layerwise_optimizer:
                return  # a second training
            raise InputError(
                "--layerwise_lr_decay: an optimizer was passed to the Trainer, which has its rates already"
            )
        cls, kwargs = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, self.model)
        if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)) or "params" in kwargs:
            raise InputError(f"--layerwise_lr_decay: --optim {self.args.optim} makes parameter groups of its own")
        decayed = set(self.get_decay_parameter_names(self.model))
        undecayed = [p for name, p in self.model.named_parameters() if name not in decayed]
        settings = kwargs.get("lr", self.args.learning_rate), self.args.layerwise_lr_decay, self.args.weight_decay
        groups = layerwise_lr_groups(layers_of(self.model), *settings, undecayed)
        logger.info(f"--layerwise_lr_decay {self.args.layerwise_lr_decay}:\n{groups_table(groups)}")
        self.optimizer = self._layerwise_optimizer = cls(groups, **kwargs)

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
        if trial is None:  # else the trial's arguments are not there yet
            self._prepare_model(model)  # goes on in the stream that the head was drawn from
        return model

    def _hp_search_setup(self, trial) -> None:
        super()._hp_search_setup(trial)
        if trial is not None and self.model_init is not None:
            check_methods(vars(self.args))
            self._prepare_model(self.model)

    def _prepare_model(self, model, seed: int | None = None) -> None:
        """What methods do to a model before its training, while it has its pretrained weights."""
        self._warn_of_another_config(model)
        number, p = getattr(self.args, "reinit_layers", 0), getattr(self.args, "mixout", 0.0)
        if number:
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            names = reinit_layers(model, number, generator)
            logger.info(f"--reinit_layers {number}: drawn anew: {', '.join(names)}")
        if p:
            names = apply_mixout(model, p, self.args.mixout_where, self.args.mixout_rescale_grad)
            logger.info(f"--mixout {p}: {', '.join(names)}")
            warn_of_dropout(model.config, p)
        if getattr(self.args, "r_drop", 0.0):
            check_dropout(model, self.args.r_drop)
        self._prior = self._make_prior(model)
        self._child: ChildTuning | None = None
        self._step_hooks: list[Any] = []
        self._layerwise_optimizer: torch.optim.Optimizer | None = None
        if getattr(self, "_begins_training", False):
            self._child = self._make_child(model)

    def _warn_of_another_config(self, model) -> None:
        wanted = getattr(self.args, "recipe_model_config", {})
        for name, value in wanted.items():
            says = f"recipe {self.args.recipe} has {name} {value}, the model's config"
            if not hasattr(model.config, name):
                logger.warning(f"{says} no such field: set what it calls this")
            elif getattr(model.config, name) != value:
                logger.warning(f"{says} {getattr(model.config, name)}: from_pretrained(..., {name}={value})")

    def _make_prior(self, model) -> PriorDecay | None:
        strength = getattr(self.args, "prior_decay", 0.0)
        if not strength:
            return None
        names = self.get_decay_parameter_names(model) if self.args.prior_decay_form == "decoupled" else None
        return PriorDecay(pretrained_parameters(model, names), strength)

    def _make_child(self, model) -> ChildTuning | None:
        form = getattr(self.args, "child_tuning", "none")
        if form == "none":
            return None
        share, seed = self.args.child_tuning_share, self.args.dropout_seed
        seed = self.args.seed if seed is None else seed
        if form == "F":
            return ChildTuning([p for p in model.parameters() if p.requires_grad], share, seed)
        if self.label_smoother is not None or self.compute_loss_func is not None:
            raise InputError(
                "--child_tuning D: its Fisher information is of the model's own loss; give F, or that loss"
            )
        layers = {k: group for k, group in layers_of(model).items() if k not in ("embeddings", "pooler", "classifier")}
        parameters = [parameter for group in layers.values() for parameter in group]
        masks = None
        if share < 1:
            information = fisher_information(
                parameters, self._batch_losses(model, seed), self.args.max_grad_norm or None
            )
            if self.args.world_size > 1:  # kernels need not be deterministic: all processes must have one mask
                for part in information:
                    torch.distributed.broadcast(part, 0)
            masks = child_masks(information, share)
        return ChildTuning(parameters, share, seed, masks)

    def _batch_losses(self, model, seed: int) -> Iterator[torch.Tensor]:
        """The loss of each batch of the training set, in its order, every process all of them; dropout on, as in training."""
        data, collator = self.train_dataset, self.data_collator
        if hasattr(data, "column_names"):
            data = self._remove_unused_columns(data, description="training")
        loader = DataLoader(data, batch_size=self.args.train_batch_size, collate_fn=collator)
        was_training, device = model.training, self.args.device
        model.to(device).train()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for batch in tqdm(loader, desc="Fisher information", disable=self.args.disable_tqdm):
                yield model(**{name: value.to(device) for name, value in batch.items()}).loss
        model.train(was_training)

    # ---- the batch's loss --------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.get("labels")
        if model.training and (getattr(self.args, "r_drop", 0.0) or getattr(self.args, "r3f", 0.0)):
            result = self._regularised_loss(model, inputs, num_items_in_batch)
            result = result if return_outputs else result[0]
        else:
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch=num_items_in_batch)
        if num_items_in_batch is None or labels is None or not self._loss_is_a_batch_mean():
            return result
        # The Trainer takes the loss for a sum over these examples / num_items_in_batch, the examples of the whole step.
        share = labels.numel() / num_items_in_batch
        if self.args.n_gpu > 1 and self.args.average_tokens_across_devices:
            share = share / self.args.n_gpu  # DataParallel: the Trainer has multiplied by it, and takes the mean later
        return (result[0] * share, result[1]) if return_outputs else result * share

    def _loss_is_a_batch_mean(self) -> bool:
        wanted = bool(getattr(self.args, "total_train_batch_size", None))
        return wanted and self._is_a_classifier() and self.model_accepts_loss_kwargs

    def _is_a_classifier(self) -> bool:
        """Whether the loss is a `...ForSequenceClassification`'s own, a mean over the examples it is given."""
        own = self.label_smoother is None and self.compute_loss_func is None
        return own and "ForSequenceClassification" in type(self.model).__name__

    def _regularised_loss(self, model, inputs, num_items_in_batch) -> tuple[torch.Tensor, Any]:
        """The batch's loss with R-Drop's or R3F's term, and the outputs."""
        method = "r_drop" if self.args.r_drop else "r3f"
        config, labels = self.model.config, inputs.get("labels")
        single = (
            getattr(config, "problem_type", None) in (None, "single_label_classification") and config.num_labels > 1
        )
        whole = labels is not None and labels.ndim == 1 and not labels.is_floating_point()
        if not (self._is_a_classifier() and single and whole):
            raise InputError(
                f"--{method}: needs a ...ForSequenceClassification with one label an example, and its own loss; give 0"
            )
        if self.args.n_gpu > 1:
            raise InputError(
                f"--{method}: not with DataParallel ({self.args.n_gpu} GPUs in one process); use torchrun"
            )
        # Of decoders the classifier finds an example's last token by its padding tokens. Encoders are those with a masked LM.
        encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_encoder_decoder
        if method == "r3f" and not encoder:
            raise InputError(
                f"--r3f: a {config.model_type} looks for padding in the tokens, which noise takes away; give 0"
            )
        of_processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        scaled = num_items_in_batch is not None and self.model_accepts_loss_kwargs
        scale = of_processes if scaled else 1  # what the Trainer multiplies a loss by

        def compute_loss(batch):
            loss, outputs = super(StabilityMixin, self).compute_loss(model, batch, True, num_items_in_batch)
            return loss / scale, outputs

        if method == "r_drop":
            loss, outputs = r_drop(compute_loss, inputs, self.args.r_drop)
        else:
            embedding = self.model.get_input_embeddings()
            loss, outputs = r3f(compute_loss, inputs, embedding, self.args.r3f, self.args.r3f_eps, self.args.r3f_noise)
        return loss * scale, outputs

    # ---- gradient norms before clipping: the one place that stands in for the Trainer's own ----------------------------
    #
    # Trainer._clip_grad_norm -> accelerator.clip_grad_norm_ -> torch.nn.utils.clip_grad_norm_: norms of all parameters,
    # the norm of these, and a multiplication. Here the first of the three is kept, and grouped by layer; the same
    # kernels in the same order, so that weights stay bitwise the Trainer's. With max_grad_norm 0 the Trainer makes the
    # pass in _get_grad_norm. Where gradients are not whole tensors of this process, its own way is taken.

    def _clip_grad_norm(self, model):
        total = self._measure_gradients()
        if total is None:
            self._refuse_methods_on_gradients()
            return super()._clip_grad_norm(model)
        clip_grads_with_norm_(self.stability.meter.parameters, self.args.max_grad_norm, total)
        return total

    def _get_grad_norm(self, model, grad_norm=None):
        if grad_norm is None:
            grad_norm = self._measure_gradients()
            if grad_norm is None:
                self._refuse_methods_on_gradients()
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    def _measure_gradients(self) -> torch.Tensor | None:
        """Total gradient norm as torch's, handing layers' norms to the callback; None where that cannot be."""
        if self.stability.meter is None or not self._gradients_are_whole():
            return None
        self.stability.recorder.follow_unfreezing()
        meter = self.stability.meter
        if not meter.is_whole():
            return None  # in several groups, whose norms torch sums in another order
        self.accelerator.unscale_gradients()
        if self._prior is not None and self.args.prior_decay_form == "l2_sp":
            self._prior.add_gradient()
        norms = meter.parameter_norms()
        total = torch.linalg.vector_norm(norms)
        layer_norms = self.stability.guard.run("the gradient norms", meter.layer_norms, norms)
        if layer_norms is not None:
            self.stability.observe_gradients(layer_norms, total, before_clipping=True)
        component_clip = getattr(self.args, "component_clip", 0.0)
        if component_clip:
            total = torch.linalg.vector_norm(clip_components(meter.gradients(), component_clip, norms))
        return total

    def _refuse_methods_on_gradients(self) -> None:
        """Where gradients are sharded, hidden, or of several kinds, these would change nothing, or a part only."""
        used = [name for name in ("prior_decay", "component_clip") if getattr(self.args, name, 0.0)]
        used += ["child_tuning"] if getattr(self.args, "child_tuning", "none") != "none" else []
        if used:
            raise InputError(
                f"--{used[0]}: needs whole gradients of one kind in each process, not DeepSpeed, FSDP or mixed devices"
            )

    def _gradients_are_whole(self) -> bool:
        whole = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        return self.accelerator.distributed_type in whole and not getattr(
            self, "is_distributed_loading_by_transformers", False
        )

    # ---- evaluations -------------------------------------------------------------------------------------------------

    def train(self, *args, **kwargs):
        self._final_history = None
        self.stability.share_tensorboard(self)
        if self.model_init is None and self._child is None:
            self._child = self._make_child(self.model)
        self._begins_training = True
        try:
            output = super().train(*args, **kwargs)
        finally:
            self._begins_training = False
            self.stability.release()  # interrupted, or an exception: no event tells the callback
        self._final_history = list(self.state.log_history)
        return output

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        result = super()._maybe_log_save_evaluate(*args, **kwargs)
        if self._flow.is_over and self._flow.evaluated_step != self.state.global_step:
            self._evaluate_last()
        return result

    def _evaluate_last(self) -> None:
        """Evaluate the last update step, where `eval_strategy` did not; it was saved, so that nothing can be lost."""
        self._flow.is_over = False
        if self.args.eval_strategy == IntervalStrategy.NO or self.eval_dataset is None:
            return
        try:
            self.evaluate()
        except Exception as error:  # the user's own evaluation
            logger.warning(
                f"The last update step could not be evaluated, so that the verdict rests on the evaluation before it: "
                f"{type(error).__name__}: {error}"
            )

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
            if any(key.startswith("eval_") for key in entry) and "step" in entry:
                by_step.setdefault(entry["step"], {}).update(entry)
        return list(by_step.values())


class StableFlowCallback(TrainerCallback):
    """The part of [`StabilityMixin`] that hangs on the Trainer's events: the dropout stream, and the end of training.

    Attributes:
        evaluated_step: the update step after which the last evaluation was.
        is_over: whether the last epoch has ended; only its last log, evaluation and save are to come.
    """

    def __init__(self):
        self.evaluated_step = -1
        self.is_over = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.evaluated_step, self.is_over = -1, False
        if getattr(args, "seed_streams", False):
            # After a resume the Trainer loads the checkpoint's random state later than this.
            set_seed((args.dropout_seed + args.process_index) % 2**32)

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluated_step = state.global_step

    def on_epoch_end(self, args, state, control, **kwargs):
        self.is_over = state.global_step >= state.max_steps or control.should_training_stop


class StableTrainer(StabilityMixin, Trainer):
    """Hugging Face's [`~transformers.Trainer`] with [`StabilityMixin`]: drop-in, with `StableTrainingArguments`.

    ```python
    args = StableTrainingArguments.from_recipe("mosbach2021", model_type="bert", output_dir="out")
    trainer = StableTrainer(model_init=model_init, args=args, train_dataset=..., eval_dataset=..., compute_metrics=...)
    trainer.train()
    print(trainer.stability.verdict.sentence)
    ```
    """
