"""Hugging Face's TrainingArguments, plus ours."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import TrainingArguments

from .diagnostics.probes import PROBES, make_probes
from .errors import InputError
from .methods.child_tuning import FORMS as CHILD_FORMS
from .methods.mixout import PLACES
from .methods.prior_decay import FORMS as PRIOR_FORMS
from .methods.r3f import NOISES
from .recipe import load_recipe
from .recipe.resolve import resolve, resolve_model_config


logger = logging.getLogger(__name__)

# The optimizers that run torch's AdamW kernels, the ones that have a bias correction to leave out.
TORCH_ADAMW = ("adamw_torch", "adamw_torch_fused")


WITH_CHOICES = ("on_alarm", "mixout_where", "prior_decay_form", "r3f_noise", "child_tuning")

# The arguments of methods/, which --help shows and a rescue keeps.
METHOD_ARGS = (
    "reinit_layers", "mixout", "mixout_where", "mixout_rescale_grad", "prior_decay", "prior_decay_form", "layerwise_lr_decay",
    "component_clip", "r_drop", "r3f", "r3f_eps", "r3f_noise", "child_tuning", "child_tuning_share",
)  # fmt: skip

# What they need: least and largest value, and whether the largest is allowed. With its default a method is off.
METHOD_RANGES = {
    "reinit_layers": (0, math.inf, False),
    "mixout": (0, 1, False),
    "prior_decay": (0, math.inf, False),
    "layerwise_lr_decay": (0, 1, True),
    "component_clip": (0, math.inf, False),
    "r_drop": (0, math.inf, False),
    "r3f": (0, math.inf, False),
    "r3f_eps": (0, math.inf, False),
    "child_tuning_share": (0, 1, True),
}


@dataclass
class StableTrainingArguments(TrainingArguments):
    """Hugging Face's [`~transformers.TrainingArguments`] with the fields a stability recipe needs.

    With the defaults of our fields, training is the stock Trainer's, bit for bit.

    Raises:
        InputError: `total_train_batch_size` cannot be divided, `per_device_train_batch_size` contradicts it,
            `bias_correction` is off with an optimizer that is not torch's AdamW, `lr_bias_correction` is on with it,
            `on_alarm` is not one of its choices, `audit_alarms` is no share, `diagnostics` has an unknown name, or a
            method's value is out of its range, or contradicts another's (see [`check_methods`]).
    """

    # The recipe these were made from, and what it sets in the model's config; set by from_recipe.
    recipe: str | None = field(default=None, init=False)
    recipe_model_config: dict = field(default_factory=dict, init=False)
    bias_correction: bool = field(
        default=True,
        metadata={
            "help": "Adam's bias correction. BERT's original optimizer leaves it out, which makes early steps larger "
            "by up to 6.5 times and runs fail (Mosbach et al. 2021)."
        },
    )
    lr_bias_correction: bool = field(
        default=False,
        metadata={
            "help": "Put what bias correction does to the step into the learning rate: at update t it is multiplied by "
            "sqrt(1 - beta2^t) / (1 - beta1^t). Goes with --bias_correction false, and equals true up to eps and weight decay."
        },
    )
    total_train_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Examples an update step over all devices and accumulation steps. The per-device size is derived: "
            "this / (processes x gradient_accumulation_steps)."
        },
    )
    seed_streams: bool = field(
        default=False,
        metadata={
            "help": "Draw initialisation, data order and dropout from three separate random streams, made from --seed "
            "by numpy's SeedSequence. Off: Hugging Face's habit, where seeds 1 and 2 share the order of most epochs."
        },
    )
    init_seed: int | None = field(
        default=None,
        metadata={"help": "Seed of the new head's initialisation. Default with --seed_streams: from --seed."},
    )
    dropout_seed: int | None = field(
        default=None, metadata={"help": "Seed of dropout. Default with --seed_streams: from --seed."}
    )
    reinit_layers: int = field(
        default=0,
        metadata={
            "help": "Draw the pooler and this many top encoder layers anew before training (Zhang et al. 2021: 5 of 24). "
            "0: none. Not for ALBERT, whose layers are shared."
        },
    )
    mixout: float = field(
        default=0.0,
        metadata={
            "help": "Mixout's probability (Lee et al. 2020: .7 to .9): so many input neurons of a layer have their pretrained "
            "weights at each forward pass. It takes dropout's place: set the model's hidden_dropout_prob to 0."
        },
    )
    mixout_where: str = field(
        default="dropout",
        metadata={
            "help": "Which linear layers: those with a dropout beside them, or all.",
            "choices": list(PLACES),
        },
    )
    mixout_rescale_grad: bool = field(
        default=False,
        metadata={"help": "Mixout with its exact gradient; the authors' code leaves out its factor 1 / (1 - p)."},
    )
    prior_decay: float = field(
        default=0.0,
        metadata={
            "help": "Decay towards the pretrained weights, the new head left out: lambda of the decoupled form (Zhang et al. "
            "2021), alpha of L2-SP (Li et al. 2018). Give --weight_decay 0 with it, or both act."
        },
    )
    prior_decay_form: str = field(
        default="decoupled",
        metadata={
            "help": "decoupled: w -= lr lambda (w - pretrained) before each step, on what weight decay touches. l2_sp: the "
            "gradient of alpha / 2 ||w - pretrained||^2, on all of the encoder, clipped with the rest; not in the logged loss.",
            "choices": list(PRIOR_FORMS),
        },
    )
    layerwise_lr_decay: float = field(
        default=1.0,
        metadata={
            "help": "Rate of each layer as a share of the one above; head and pooler have the full rate (Zhang et al. 2021: "
            ".95). 1: one rate for all."
        },
    )
    component_clip: float = field(
        default=0.0,
        metadata={
            "help": "Clip the gradient of each parameter tensor to this norm (Yang & Ma 2022), before --max_grad_norm clips "
            "all of them together. 0: no."
        },
    )
    r_drop: float = field(
        default=0.0,
        metadata={
            "help": "R-Drop's alpha, half of that in Liang et al. (2021), whose loss is the sum over both passes and not the mean: "
            "two dropout passes must agree. Twice the time. 0: no."
        },
    )
    r3f: float = field(
        default=0.0,
        metadata={
            "help": "R3F's lambda (Aghajanyan et al. 2021): predictions must not move under noise on the embeddings. Twice "
            "the time. 0: no."
        },
    )
    r3f_eps: float = field(default=1e-5, metadata={"help": "R3F's noise: its standard deviation, or half its range."})
    r3f_noise: str = field(
        default="uniform", metadata={"help": "The distribution of R3F's noise.", "choices": list(NOISES)}
    )
    child_tuning: str = field(
        default="none",
        metadata={
            "help": "Child-Tuning (Xu et al. 2021): a part of the gradient is kept. F: at random, another part each step. D: in "
            "the encoder's layers, the weights with the largest Fisher information, from one pass over the training set.",
            "choices": ["none", *CHILD_FORMS],
        },
    )
    child_tuning_share: float = field(
        default=0.3,
        metadata={
            "help": "Child-Tuning's p: the share of the gradient's entries that are kept (D: of the encoder's layers)."
        },
    )
    on_alarm: str = field(
        default="warn",
        metadata={
            "help": "What the early warning does to a run that looks like one that will fail: log a warning, also stop it "
            "(it is then censored, not failed), or neither. The alarm is recorded in any case.",
            "choices": ["none", "warn", "stop"],
        },
    )
    audit_alarms: float = field(
        default=0.2,
        metadata={
            "help": "With --on_alarm stop, in a study: finish each alarmed run anyway with this probability, drawn from the "
            "run's seed, to learn how many of the stopped ones would have failed."
        },
    )
    diagnostics: list[str] | None = field(
        default=None,
        metadata={
            "help": f"More to record at each update step: {', '.join(PROBES)}, or all. Changes no result, takes time."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.total_train_batch_size is not None:
            default = type(self).__dataclass_fields__["per_device_train_batch_size"].default
            given = None if self.per_device_train_batch_size == default else self.per_device_train_batch_size
            devices = self.world_size * max(1, self.n_gpu)
            self.per_device_train_batch_size = derived_batch_size(
                self.total_train_batch_size, devices, self.gradient_accumulation_steps, given
            )
        if not self.bias_correction and self.optim not in TORCH_ADAMW:
            raise InputError(
                f"--optim {getattr(self.optim, 'value', self.optim)}: bias correction can be left out of torch's AdamW only. "
                f"Give --optim {' or '.join(TORCH_ADAMW)}, or --bias_correction true."
            )
        if self.lr_bias_correction and self.bias_correction:
            raise InputError(
                "--lr_bias_correction true: the optimizer corrects already, and the step would be corrected twice; "
                "give --bias_correction false, too"
            )
        for name in WITH_CHOICES:
            choices = type(self).__dataclass_fields__[name].metadata["choices"]
            if getattr(self, name) not in choices:
                raise InputError(f"--{name} {getattr(self, name)}: give {', '.join(choices)}")
        check_methods(vars(self))
        if not 0 <= self.audit_alarms <= 1:
            raise InputError(f"--audit_alarms {self.audit_alarms}: give a share of the alarmed runs, from 0 to 1")
        try:
            make_probes(self.diagnostics or ())
        except InputError as error:
            raise InputError(f"--{error}") from None
        if self.seed_streams:
            streams = seed_streams(self.seed)
            self.init_seed = streams["init_seed"] if self.init_seed is None else self.init_seed
            self.data_seed = streams["data_seed"] if self.data_seed is None else self.data_seed
            self.dropout_seed = streams["dropout_seed"] if self.dropout_seed is None else self.dropout_seed

    @classmethod
    def from_recipe(cls, recipe: str, model_type: str | None = None, **overrides) -> "StableTrainingArguments":
        """The arguments of a recipe, for use from Python.

        Args:
            recipe: a packaged recipe's name, the path of a `.yaml` file, or several of these (`mosbach2021+mixout`).
            model_type: `model.config.model_type`; picks the recipe's part for that model type.
            overrides: training arguments that go over the recipe's.

        The recipe's `model_config` (dropout ...) is not among the training arguments: it is in
        `args.recipe_model_config`, for `from_pretrained(..., **args.recipe_model_config)`, whose names are BERT's, RoBERTa's
        and ALBERT's (DistilBERT has others). StableTrainer warns of a model that has other values, or none. Its `stages` are
        trained by a study only: it is said where a recipe has some.
        """
        loaded = load_recipe(recipe)
        if loaded.stages:
            logger.warning(
                f"recipe {recipe}: its stages are not in these arguments, which are the target's; train them in a study "
                "(hf-stability), and load the model from the encoder that it leaves in stages/"
            )
        values = {name: r.value for name, r in resolve(loaded, model_type, given=overrides).items()}
        args = cls(**values)
        args.recipe = loaded.name
        config = resolve_model_config(loaded, model_type)
        args.recipe_model_config = {name: resolved.value for name, resolved in config.items()}
        return args


def check_methods(args: Mapping[str, Any]) -> None:
    """Refuse values of the methods' arguments that no training could start with, and methods that contradict each other.

    Args:
        args: by name; what is missing has its default.
    """
    fields = StableTrainingArguments.__dataclass_fields__
    others = ("child_tuning", "label_smoothing_factor")
    values = {name: args.get(name, fields[name].default) for name in (*METHOD_RANGES, *others)}
    for name, (low, high, high_too) in METHOD_RANGES.items():
        value = values[name]
        if high_too and not low < value <= high:
            raise InputError(f"--{name} {value}: give more than {low:g}, up to {high:g}")
        if not high_too and not low <= value < high:
            bound = "" if high == math.inf else f", below {high:g}"
            raise InputError(f"--{name} {value}: give {low:g} or more{bound}")
    if values["r_drop"] and values["r3f"]:
        raise InputError("--r_drop and --r3f: both add a second pass over the batch; give one of them")
    for name in ("mixout", "prior_decay"):
        if values["reinit_layers"] and values[name]:
            raise InputError(
                f"--reinit_layers {values['reinit_layers']} with --{name} {values[name]}: layers that are drawn anew have no "
                "pretrained weights to go back to; give one of them"
            )
    for name in ("r_drop", "r3f"):
        if values[name] and values["label_smoothing_factor"]:
            raise InputError(f"--{name} with --label_smoothing_factor: not known together; give one of them")
    if values["child_tuning"] == "D" and values["label_smoothing_factor"]:
        raise InputError(
            "--child_tuning D with --label_smoothing_factor: its Fisher information is of the model's own loss; give F, or 0"
        )


def derived_batch_size(total: int, devices: int, accumulation: int, per_device: int | None = None) -> int:
    """Examples a device and micro-batch, so that an update step sees `total` examples.

    Args:
        total: examples an update step.
        devices: processes, times the GPUs of each.
        accumulation: accumulation steps.
        per_device: what the user gave, None for nothing.

    Raises:
        InputError: it cannot be divided, or `per_device` is another number.
    """
    if accumulation < 1:
        raise InputError(f"--gradient_accumulation_steps {accumulation}: give 1 or more")
    parts = devices * accumulation
    if total < 1 or total % parts:
        raise InputError(
            f"--total_train_batch_size {total} cannot be divided by {devices} device(s) x {accumulation} accumulation "
            f"step(s): give a multiple of {parts}, or another --gradient_accumulation_steps or number of processes."
        )
    if per_device not in (None, total // parts):
        raise InputError(
            f"--per_device_train_batch_size {per_device} contradicts --total_train_batch_size {total}, from which it is "
            f"derived ({total // parts}): to save memory give --gradient_accumulation_steps, for another batch give "
            "--total_train_batch_size."
        )
    return total // parts


def seed_streams(seed: int) -> dict[str, int]:
    """Three independent random streams from one seed: initialisation, data order, dropout.

    They are the children of `numpy.random.SeedSequence(seed)`, in this order. The data seed has 62 bits, because
    accelerate seeds epoch `e`'s order with `data_seed + e`: small neighbouring seeds would share epochs' orders. The
    other two have 32 bits, as many as numpy's `seed` takes.

    Args:
        seed: the run's seed, a non-negative integer.

    Returns:
        `{"init_seed": ..., "data_seed": ..., "dropout_seed": ...}`
    """
    init, data, dropout = np.random.SeedSequence(seed).spawn(3)
    return {
        "init_seed": int(init.generate_state(1)[0]),
        "data_seed": int(data.generate_state(1, np.uint64)[0] >> np.uint64(2)),
        "dropout_seed": int(dropout.generate_state(1)[0]),
    }
