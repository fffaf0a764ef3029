"""Averaged weights: the run ends with a mean of its weights, not with the last ones (EMA and SWA, arXiv 1803.05407)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from ..errors import InputError
from .base import Method, Range


FORMS = ("ema", "swa")
AVERAGE, LAST = "average", "last_weights"
"""Names in the optimizer's state of a parameter: the average so far; after the last update step, the last weights."""


def first_step(share: float, max_steps: int) -> int:
    """The share of training in update steps, rounded up."""
    return math.ceil(share * max_steps - 1e-9)  # 0.1 x 30 is 3.0000000000000004


@torch.no_grad()
def add_to_average(
    averages: Sequence[Tensor], weights: Sequence[Tensor], count: int, form: str, decay: float = 0.999
) -> None:
    """Add weights to their average, in place: the equation of `Averaging`.

    Args:
        averages: one tensor per parameter.
        weights: of the same shapes.
        count: how many weights the average has so far, 1 or more.
        form: `ema` or `swa`.
        decay: of `ema`.
    """
    add = get_ema_multi_avg_fn(decay) if form == "ema" else get_swa_multi_avg_fn()
    add(list(averages), list(weights), count)


@dataclass
class AveragingArguments:
    """The arguments of `Averaging`."""

    average: str = field(
        default="none",
        metadata={
            "help": "End the run with averaged weights. ema: exponential moving average; swa: plain mean (Izmailov et al. 2018).",
            "choices": ["none", *FORMS],
        },
    )
    average_from: float = field(
        default=0.25, metadata={"help": "Average from this share of the update steps on, 0 or more, and below 1."}
    )
    average_decay: float = field(
        default=0.999,
        metadata={
            "help": "Decay of --average ema per update step: the average looks back over about 1 / (1 - this) steps."
        },
    )


class Averaging(Method):
    """Averaged weights: the run ends with the mean of its weights over the steps, not with the last ones.

    The mean lies nearer to the middle of the region that training moves in. There are two forms. SWA is the plain mean:
    Izmailov, Podoprikhin, Garipov, Vetrov & Wilson, "Averaging Weights Leads to Wider Optima and Better Generalization" (UAI
    2018, [arXiv 1803.05407](https://arxiv.org/abs/1803.05407)). EMA is the exponential moving average (Polyak & Juditsky 1992
    have the idea). Both were baselines for unstable fine-tuning in DENI
    ([arXiv 2406.12471](https://arxiv.org/abs/2406.12471)).

    Equation:
        ema    a <- d a + (1 - d) w
        swa    a <- a + (w - a) / (n + 1)

        a    average; at first the weights after step ceil(s T) + 1
        w    weights after an update step
        n    number of weights in the average
        d    average_decay
        s    average_from; T is the number of update steps

        After step T the model's weights are a.

    When to use it:
        - Try it where the score jumps between the last evaluations.
        - Set `average_decay` by the length of training. At 0.999, a run of 200 steps ends close to its first average.
        - Evaluations before the last step are those of the weights in training. After the last step the model has the average:
          it is evaluated, saved and judged.
        - A run that ends before its last step (an alarm, early stopping) keeps the weights of that step.
        - `load_best_model_at_end` is refused, as its checkpoints do not have the average. DeepSpeed and FSDP are refused, too.

    Cost:
        Time: one more pass over the weights per update step. Memory: one copy of the weights. It is in the optimizer's state,
        so checkpoints have it, and a resumed run goes on bit for bit. After the last step the last weights are there:
        `optimizer.state[parameter]["last_weights"]`.

    Differences:
        Izmailov et al. keep the learning rate constant or cyclical while they average, and average once per epoch. Here the
        schedule stays, and every update step counts.

    Measured here:
        Not run yet. [The protocol](remedies.md#not-run-yet) says how it will be.
    """

    Arguments = AveragingArguments
    ranges = {"average_from": Range(0, 1), "average_decay": Range(0, 1)}
    needs_whole_gradients = True

    def check(self, args: Mapping[str, Any]) -> None:
        if args.get("load_best_model_at_end"):
            raise InputError(
                f"--average {self.settings.average} with --load_best_model_at_end: checkpoints before the last do not have the "
                "average. Leave out one of them."
            )
        if args.get("head_first", 0.0) > self.settings.average_from:
            raise InputError(
                f"--average_from {self.settings.average_from} with --head_first {args['head_first']}: average when all weights "
                f"train. Give --average_from {args['head_first']} or more."
            )

    def begin_training(self, model: nn.Module, trainer: Any) -> None:
        self.max_steps = lambda: trainer.state.max_steps

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, steps_done: int) -> None:
        own, total = self.settings, self.max_steps()
        count = steps_done - first_step(own.average_from, total)
        if count < 0:
            return
        # A parameter without a gradient has not moved. Its state must stay empty until the optimizer fills it.
        moved = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        for p in moved:
            if count == 0 or AVERAGE not in optimizer.state[p]:
                optimizer.state[p][AVERAGE] = p.detach().clone()
        if count > 0:
            averages = [optimizer.state[p][AVERAGE] for p in moved]
            add_to_average(averages, moved, count, own.average, own.average_decay)
        if steps_done + 1 == total:
            for p in moved:
                average, optimizer.state[p][LAST] = optimizer.state[p].pop(AVERAGE), p.detach().clone()
                p.copy_(average)
