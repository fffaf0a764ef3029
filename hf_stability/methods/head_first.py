"""Head first: train the head alone for a share of the steps, then all weights (LP-FT, arXiv 2202.10054)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ..errors import InputError
from .averaging import first_step
from .base import Method, Range
from .prior_decay import pretrained_parameters


def head_steps(share: float, max_steps: int) -> int:
    """Number of update steps that train the head alone: the share, rounded up. One step is left for all weights."""
    return max(0, min(first_step(share, max_steps), max_steps - 1))


def two_schedules(
    shape: Callable[[float], float], done: int, first: int, max_steps: int, head_factor: float = 1.0
) -> float:
    """The factor on the learning rate: the whole schedule for the head, then the whole schedule again for all weights.

    Args:
        shape: the schedule over all of training: finished update steps -> factor.
        done: number of finished update steps.
        first: number of update steps that train the head alone.
        max_steps: number of update steps of training.
        head_factor: further factor on the head's learning rate in the first part.
    """
    if done < first:
        return head_factor * shape(max_steps * done / first)
    return shape(max_steps * (done - first) / max(1, max_steps - first))


@dataclass
class HeadFirstArguments:
    """The arguments of `HeadFirst`."""

    head_first: float = field(
        default=0.0,
        metadata={
            "help": "Train the head alone for this share of the update steps, then all weights (LP-FT, Kumar et al. 2022). Each "
            "part has the whole schedule of the learning rate. 0: off."
        },
    )
    head_first_lr: float = field(
        default=1e-3,
        metadata={"help": "Peak learning rate while the head trains alone. 0: that of --learning_rate."},
    )


class HeadFirst(Method):
    """Head first: the new head is trained on the pretrained encoder, and only then all weights.

    A new head is random, so its first gradients change the pretrained features for no good reason. A head that is trained
    already leaves them as they are. It is known as LP-FT, linear probing then fine-tuning. Paper: Kumar, Raghunathan, Jones,
    Ma & Liang, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution" (ICLR 2022,
    [arXiv 2202.10054](https://arxiv.org/abs/2202.10054)). They do not claim a smaller spread over seeds.

    Equation:
        update steps 1 ... ceil(s T)      only the head moves,
                                          at peak rate head_first_lr
        the others                        all weights move,
                                          at peak rate learning_rate

        s    head_first
        T    number of update steps
        Each part has its own warmup and decay, and new moments.

    When to use it:
        - Try it where fine-tuning changes the encoder more than it should: few data, a new head.
        - The encoder has fewer update steps. At equal length it pays for the head's part.
        - The head is all that the pretrained model lacks: BERT's pooler belongs to the encoder, the dense layer of RoBERTa's
          classifier belongs to the head.
        - It needs a schedule that is a function of the step. `lr_bias_correction`, a scheduler that you pass in, DeepSpeed and
          FSDP are refused.

    Cost:
        None. The first part takes as long per step as any other: gradients of the encoder are computed, recorded and then
        dropped. So the record shows them, and the early warning does not take a frozen encoder for vanished gradients. It is
        silent until the second warmup is over.

    Differences:
        Kumar et al. train the head until it has converged, with a learning rate of its own from a sweep. The share and the rate
        in the recipe are ours. The head's dropout stays on.

    Measured here:
        Not run yet. [The protocol](remedies.md#not-run-yet) says how it will be.
    """

    Arguments = HeadFirstArguments
    ranges = {"head_first": Range(0, 1), "head_first_lr": Range()}
    needs_whole_gradients = True

    @property
    def quiet_share(self) -> float:
        return self.settings.head_first

    def check(self, args: Mapping[str, Any]) -> None:
        if args.get("lr_bias_correction"):
            raise InputError(
                "--head_first with --lr_bias_correction: each part of training has its own correction. Give --bias_correction "
                "true in its place."
            )

    def begin_training(self, model: nn.Module, trainer: Any) -> None:
        self.trainer = trainer
        self.encoder = pretrained_parameters(model)
        if len(self.encoder) == sum(p.requires_grad for p in model.parameters()):
            raise InputError(
                "--head_first: this model has no new head to train first, or the head is frozen. Give --head_first 0."
            )

    def _steps(self, trainer: Any) -> int:
        return head_steps(self.settings.head_first, trainer.state.max_steps)

    def change_scheduler(self, scheduler: Any, trainer: Any, passed_in: bool) -> Any:
        if passed_in or not isinstance(scheduler, LambdaLR):
            raise InputError(
                "--head_first: needs a schedule that is a function of the step. Pass no scheduler, and give "
                "--lr_scheduler_type linear."
            )
        rate, own = trainer.args.learning_rate, self.settings.head_first_lr
        factor = own / rate if own and rate else 1.0

        def in_two(shape: Callable[..., float]) -> Callable[[int], float]:
            return lambda done: two_schedules(shape, done, self._steps(trainer), trainer.state.max_steps, factor)

        return LambdaLR(scheduler.optimizer, [in_two(shape) for shape in scheduler.lr_lambdas])

    def clip(self, gradients: Sequence[Tensor], norms: Tensor) -> Tensor:
        """Leave the encoder's gradients, which will be dropped, out of the norm by which all are clipped."""
        if self.trainer.state.global_step >= self._steps(self.trainer):
            return norms
        dropped = {p.grad.data_ptr() for p in self.encoder if p.grad is not None}
        return norms * norms.new_tensor([gradient.data_ptr() not in dropped for gradient in gradients])

    def before_step(self, optimizer: torch.optim.Optimizer, steps_done: int) -> None:
        first = self._steps(self.trainer)
        if steps_done < first:
            for p in self.encoder:
                p.grad = None  # the optimizer leaves such parameters alone: no step, no decay, no moments
        elif steps_done == first:
            optimizer.state.clear()
