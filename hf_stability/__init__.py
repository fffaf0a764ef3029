"""hf_stability: stable fine-tuning of BERT-like models on small data sets.

After Mosbach, Andriushchenko & Klakow, "On the Stability of Fine-tuning BERT", ICLR 2021.
"""

from .callback import StabilityCallback
from .diagnostics.gradients import layer_grad_norms
from .methods.adamw import AdamW
from .recipe import load_recipe
from .trainer import StabilityMixin, StableTrainer
from .training_args import StableTrainingArguments
from .version import __version__


__all__ = [
    "AdamW",
    "StabilityCallback",
    "StabilityMixin",
    "StableTrainer",
    "StableTrainingArguments",
    "__version__",
    "layer_grad_norms",
    "load_recipe",
]
