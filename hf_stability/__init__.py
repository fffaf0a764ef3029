"""hf_stability: stable fine-tuning of BERT-like models on small data sets.

After Mosbach, Andriushchenko & Klakow, "On the Stability of Fine-tuning BERT", ICLR 2021.

The names below are imported when they are first used: importing the package alone costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__


if TYPE_CHECKING:
    from .callback import StabilityCallback
    from .diagnostics.gradients import layer_grad_norms
    from .diagnostics.step_record import read_steps, steps_frame
    from .methods.adamw import AdamW
    from .recipe import load_recipe
    from .trainer import StabilityMixin, StableTrainer
    from .training_args import StableTrainingArguments


__all__ = [
    "AdamW",
    "StabilityCallback",
    "StabilityMixin",
    "StableTrainer",
    "StableTrainingArguments",
    "__version__",
    "layer_grad_norms",
    "load_recipe",
    "read_steps",
    "steps_frame",
]

_HOME = {
    "AdamW": ".methods.adamw",
    "StabilityCallback": ".callback",
    "StabilityMixin": ".trainer",
    "StableTrainer": ".trainer",
    "StableTrainingArguments": ".training_args",
    "layer_grad_norms": ".diagnostics.gradients",
    "load_recipe": ".recipe",
    "read_steps": ".diagnostics.step_record",
    "steps_frame": ".diagnostics.step_record",
}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
