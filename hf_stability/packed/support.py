"""Which models and training arguments the packed step supports. All others are refused by name, before the first step.

| `model_type` | what is called |
| --- | --- |
| `bert`, `roberta`, `xlm-roberta`, `camembert`, `electra` | layers of BERT's form |
| `albert` | layers of ALBERT's form |

The model must be Hugging Face's own `...ForSequenceClassification`, with or without adapters (PEFT): its head reads position 0
only. Its linear layers may be replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from torch import nn
from transformers import PretrainedConfig

from ..errors import InputError
from ..utils.layers import base_model, unwrapped, without_adapters


HF, PACKED = STEPS = ("hf", "packed")
"""Values of `step`."""

MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "albert")

CONFIG = {
    "is_decoder": False, "add_cross_attention": False, "output_hidden_states": False, "output_attentions": False,
    "chunk_size_feed_forward": 0, "position_embedding_type": "absolute",
}  # fmt: skip
"""Fields that a model's config must have at these values, if it has them."""

REFUSED = (
    "output_hidden_states", "output_attentions", "encoder_hidden_states", "cache", "past_key_values", "use_cache", "head_mask",
)  # fmt: skip
"""Keywords of a forward pass that ask for more than the state of position 0."""

ARGUMENTS = ("gradient_checkpointing", "neftune_noise_alpha", "fsdp", "deepspeed")
"""Training arguments that need Hugging Face's forward pass: they wrap its layers, or read a batch's padded size."""


def refuse(reason: str) -> NoReturn:
    """Raise InputError for what a packed step cannot do."""
    raise InputError(f"--step packed: {reason}. Give --step hf.")


def check_arguments(args: Mapping[str, Any]) -> None:
    """Refuse a `step` that is not known, and training arguments that do not work with a packed one.

    Args:
        args: training arguments by name. Missing ones have their defaults.

    Raises:
        InputError: names the arguments, and the way out.
    """
    if args.get("step", HF) not in STEPS:
        raise InputError(f"--step {args['step']}: give one of {', '.join(STEPS)}")
    if args.get("step") != PACKED:
        return
    for name in ARGUMENTS:
        if args.get(name):
            refuse(f"does not work with --{name}")


def check_config(config: PretrainedConfig) -> None:
    """Refuse a model by its config.

    Raises:
        InputError: another model type, a decoder, or a config that asks for more than position 0.
    """
    if config.model_type not in MODEL_TYPES:
        refuse(f"a {config.model_type} model has no packed step; {', '.join(MODEL_TYPES)} have one")
    for name, needed in CONFIG.items():
        value = getattr(config, name, needed)
        if value != needed:
            refuse(f"this {config.model_type} model's config has {name} {value}, and the packed step needs {needed}")


def check_model(model: nn.Module) -> nn.Module:
    """Refuse a model that is not Hugging Face's own sequence classifier, or in which a part of its code was replaced.

    Returns:
        its encoder.

    Raises:
        InputError: names the part.
    """
    classifier: Any = without_adapters(unwrapped(model))
    config = getattr(classifier, "config", None)
    if not isinstance(config, PretrainedConfig):
        refuse(f"{type(model).__name__} is not a model of transformers")
    check_config(config)
    name = config.model_type.replace("-", "_")
    home = f"transformers.models.{name}.modeling_{name}"
    head = any(cls.__name__.endswith("ForSequenceClassification") for cls in type(classifier).__mro__)
    if not head or type(classifier).forward.__module__ != home:
        refuse(
            f"{type(classifier).__name__} is not a ...ForSequenceClassification with transformers' own forward pass"
        )
    if any(getattr(module, "gradient_checkpointing", False) for module in classifier.modules()):
        refuse("does not work with gradient checkpointing")
    encoder: Any = base_model(model)[1]
    has_pooler = getattr(encoder, "pooler", None) is not None
    for path, module in classifier.named_modules():
        of_one_state = has_pooler and path.split(".")[0] == "classifier"  # it gets position 0 only
        if not of_one_state and not _is_known(module, home):
            refuse(f"{path} is a {type(module).__name__}, which this step does not know")
    return encoder


def _is_known(module: nn.Module, home: str) -> bool:
    """Whether a module is the model's own, or acts on each row alone.

    Args:
        home: the module of transformers that has the model's code.
    """
    where = type(module).forward.__module__
    if isinstance(module, (nn.Linear, nn.ModuleList, nn.ModuleDict)) or where == home or where.startswith("peft."):
        return True
    is_leaf = next(module.children(), None) is None
    return is_leaf and where.startswith(("torch.nn.", "transformers.activations"))
