"""One change in the middle of a training: what would have happened if ...?

A run with a seed is the same, bit for bit, up to the step of the change. So a changed run is a branch of the unchanged one, and
needs no checkpoint of it. Training goes on for as many update steps as without the change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ..errors import InputError
from ..methods.adamw import UNCORRECTED_START, AdamW
from ..methods.base import Method, Range
from ..utils.layers import parameters_with_layers
from ..utils.optimizers import inner_optimizer


INTERVENTIONS: dict[str, str] = {
    "correction_on": "Adam's bias correction is on from this step, with the count of all update steps",
    "correction_off": "Adam's bias correction is off from this step",
    "reset_moments": "Adam's two running means start again at 0, and its step count with them",
    "quarter_rate": "the learning rate is a quarter from this step",
    "beta2_98": "Adam's beta2 is 0.98 from this step",
    "eps_1e-12": "Adam's eps is 1e-12 from this step",
    "lower_third_back": "the lower third of the layers gets its pretrained weights again",
    "upper_third_back": "the upper third of the layers gets its pretrained weights again",
}
"""Name -> meaning."""

QUARTER = 0.25
BETA2 = 0.98
EPS = 1e-12


@dataclass
class InterventionArguments:
    """The arguments of `Intervention`."""

    intervention: str = field(
        default="none",
        metadata={
            "help": f"A change in the middle of training: {', '.join(INTERVENTIONS)}.",
            "choices": ["none", *INTERVENTIONS],
        },
    )
    intervene_at: int = field(
        default=0, metadata={"help": "Number of update steps before --intervention. 0: before the first one."}
    )


class Intervention(Method):
    """A change of the optimizer, the learning rate or the weights before one update step of training.

    `correction_on` at step 0 gives the update steps of `--bias_correction true`, bit for bit. A change of the optimizer or of
    the weights is part of each later checkpoint. So a killed run goes on after it.
    """

    Arguments = InterventionArguments
    ranges = {"intervene_at": Range()}

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self._pretrained: dict[str, torch.Tensor] = {}
        self._model: nn.Module | None = None

    def check(self, args: Mapping[str, Any]) -> None:
        corrects = args.get("bias_correction", True)
        name = self.settings.intervention
        if name == "correction_on" and corrects:
            raise InputError(
                "--intervention correction_on: the correction is on already; give --bias_correction false"
            )
        if name == "correction_off" and not corrects:
            raise InputError("--intervention correction_off: it is off already; give --bias_correction true")
        if args.get("lr_bias_correction", False) and name.startswith("correction"):
            raise InputError(f"--intervention {name}: not with --lr_bias_correction; leave that out")

    def prepare_model(self, model: nn.Module, trainer: Any, generator: torch.Generator | None = None) -> None:
        self._model = model
        if not self.settings.intervention.endswith("_back"):
            return
        wanted = third_of_layers(model, self.settings.intervention.removesuffix("_third_back"))
        self._pretrained = {
            name: parameter.detach().clone()
            for layer, name, parameter in parameters_with_layers(model)
            if layer in wanted
        }

    def change_optimizer(self, optimizer_cls: Any, kwargs: dict[str, Any], args: Any) -> tuple[Any, dict[str, Any]]:
        # Ours is torch's AdamW bit for bit, and its step counts can be switched.
        return (AdamW, kwargs) if optimizer_cls is torch.optim.AdamW else (optimizer_cls, kwargs)

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        if not isinstance(optimizer, AdamW):
            raise InputError(
                f"--intervention {self.settings.intervention}: needs torch's AdamW; give --optim adamw_torch"
            )

    def change_scheduler(self, scheduler: Any, trainer: Any, passed_in: bool) -> Any:
        if self.settings.intervention != "quarter_rate":
            return scheduler
        if passed_in or not isinstance(scheduler, LambdaLR):
            raise InputError(
                "--intervention quarter_rate: needs a schedule that is a function of the step, such as linear"
            )
        at = self.settings.intervene_at

        def quartered(shape: Callable[[int], float]) -> Callable[[int], float]:
            return lambda done: shape(done) * (QUARTER if done >= at else 1.0)

        return LambdaLR(scheduler.optimizer, [quartered(shape) for shape in scheduler.lr_lambdas])

    def before_step(self, optimizer: torch.optim.Optimizer, steps_done: int) -> None:
        name, at = self.settings.intervention, self.settings.intervene_at
        if steps_done == at:
            intervene(name, inner_optimizer(optimizer), steps_done)
            if self._pretrained and self._model is not None:
                put_back(self._model, self._pretrained)
        elif (
            steps_done == at + 1 == 1
        ):  # the counts of the first step are made; the groups say again what the arguments say
            _set_correction(inner_optimizer(optimizer), name == "correction_off")


def intervene(name: str, optimizer: torch.optim.Optimizer, steps_done: int) -> None:
    """Change the optimizer. Names that change nothing in it are passed over.

    Whether a parameter's step is corrected is decided by its own step count, see `AdamW`. So the switch adds
    `UNCORRECTED_START` to it, or takes it away.

    Args:
        name: of `INTERVENTIONS`.
        optimizer: our `AdamW`, with the state of `steps_done` update steps.
        steps_done: number of update steps so far. With 0, the first step has not made its counts yet.
    """
    for group in optimizer.param_groups:
        if name == "beta2_98":
            group["betas"] = (group["betas"][0], BETA2)
        elif name == "eps_1e-12":
            group["eps"] = EPS
    if name in ("correction_on", "correction_off"):
        if steps_done == 0:
            _set_correction(optimizer, name == "correction_on")
        for state in optimizer.state.values():
            state["step"].add_(-UNCORRECTED_START if name == "correction_on" else UNCORRECTED_START)
    if name == "reset_moments":
        for state in optimizer.state.values():
            state["exp_avg"].zero_()
            state["exp_avg_sq"].zero_()
            state["step"].fill_(UNCORRECTED_START if state["step"] >= UNCORRECTED_START else 0)


def _set_correction(optimizer: torch.optim.Optimizer, on: bool) -> None:
    for group in optimizer.param_groups:
        group["bias_correction"] = on


def third_of_layers(model: nn.Module, which: str) -> list[str]:
    """The names of the lower or upper third of the encoder's layers, at least one, without embeddings and head.

    Args:
        model: a Hugging Face encoder with a head.
        which: "lower" or "upper".

    Raises:
        InputError: its layers are shared, or there are none.
    """
    names = list(dict.fromkeys(layer for layer, _, _ in parameters_with_layers(model)))
    layers = [name for name in names if name.startswith("layer_")]
    if not layers:
        raise InputError(f"--intervention {which}_third_back: this model has no layers of its own; leave it out")
    third = max(1, len(layers) // 3)
    return layers[:third] if which == "lower" else layers[-third:]


@torch.no_grad()
def put_back(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy these weights into the model's parameters of the same names. Adam's running means stay as they are."""
    for _, name, parameter in parameters_with_layers(model):
        if name in weights:
            parameter.copy_(weights[name])
