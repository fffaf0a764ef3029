"""hf_stability: stable fine-tuning of BERT-like models on small data sets.

After Mosbach, Andriushchenko & Klakow, "On the Stability of Fine-tuning BERT", ICLR 2021.

The names below are imported when they are first used: importing the package alone costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__


if TYPE_CHECKING:  # for editors and type checkers: the same names as in _HOME
    from .callback import StabilityCallback as StabilityCallback
    from .diagnostics.gradients import layer_grad_norms as layer_grad_norms
    from .diagnostics.step_record import read_steps as read_steps
    from .diagnostics.step_record import steps_frame as steps_frame
    from .methods.adamw import AdamW as AdamW
    from .recipe import load_recipe as load_recipe
    from .restarting.stock import train_with_restarts as train_with_restarts
    from .study.api import StudyPlan as StudyPlan
    from .study.api import plan_study as plan_study
    from .study.api import run_study as run_study
    from .trainer import StabilityMixin as StabilityMixin
    from .trainer import StableTrainer as StableTrainer
    from .training_args import StableTrainingArguments as StableTrainingArguments

_HOME = {
    "AdamW": ".methods.adamw",
    "StabilityCallback": ".callback",
    "StabilityMixin": ".trainer",
    "StableTrainer": ".trainer",
    "StableTrainingArguments": ".training_args",
    "StudyPlan": ".study.api",
    "layer_grad_norms": ".diagnostics.gradients",
    "load_recipe": ".recipe",
    "plan_study": ".study.api",
    "read_steps": ".diagnostics.step_record",
    "run_study": ".study.api",
    "steps_frame": ".diagnostics.step_record",
    "train_with_restarts": ".restarting.stock",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
