"""Child-Tuning: only a part of the gradient, that of a child network, reaches the optimizer.

Xu et al., "Raise a Child in Large Language Model: Towards Effective and Generalizable Fine-tuning" (EMNLP 2021, arXiv
2109.05687); the released code: github.com/alibaba/AliceMind, ChildTuning. As there, gradients are masked inside the optimizer,
after clipping: Adam's momentum, and weight decay, move the other weights too.

    F (task-free)      g <- g Bernoulli(p) / p      a new child at every step
    D (task-driven)    g <- g [F_i >= threshold]    one child: the weights of the encoder's layers with the largest p of
                                                    the Fisher information F_i = mean over batches of (dL/dw_i)^2
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle
from tqdm.auto import tqdm

from ..errors import InputError
from ..utils.layers import layers_of
from .base import Method, Range
from .component_clip import CLIP_EPS


FORMS = ("F", "D")


@torch.no_grad()
def mask_gradients(
    parameters: Sequence[nn.Parameter], share: float, seed: int, steps_done: int, masks: Sequence[Tensor] | None = None
) -> None:
    """Mask `.grad`, in place, for the next update step.

    Args:
        parameters: those that are masked: of form F all that are trained, of form D the encoder's layers.
        share: p, of the gradient's entries that are kept, in (0, 1]; 1 changes nothing.
        seed: of the random masks of form F. Masks depend on the seed and the number of the step alone, so that processes
            and a resumed run draw the same.
        steps_done: update steps before this one.
        masks: of form D, one a parameter, bool; None is form F.
    """
    if share == 1:
        return
    if masks is not None:
        for parameter, mask in zip(parameters, masks, strict=True):
            if parameter.grad is not None:
                parameter.grad.mul_(mask.to(parameter.grad.device))
        return
    generators: dict[torch.device, torch.Generator] = {}
    for parameter in parameters:
        if parameter.grad is None:
            continue
        device = parameter.grad.device
        if device not in generators:
            # large prime: neighbouring seeds share no step's masks
            state = (seed * 1_000_003 + steps_done + 1) % 2**63
            generators[device] = torch.Generator(device).manual_seed(state)
        mask = torch.empty_like(parameter.grad).bernoulli_(share, generator=generators[device])
        parameter.grad.mul_(mask / share)


def fisher_information(
    parameters: Sequence[nn.Parameter], losses: Iterable[Tensor], max_grad_norm: float | None = None
) -> list[Tensor]:
    """Diagonal of the empirical Fisher information: mean over batches of the squared gradient of the batch's loss.

    As in the released code the gradient is a batch's, not an example's (it is the smaller, the larger the batch), and each
    parameter's gradient is clipped by its own norm before it is squared.

    Args:
        parameters: whose information is wanted.
        losses: the loss of each batch (0-d), with its graph; a generator, so that one is alive at a time.
        max_grad_norm: of each parameter's gradient; None: not clipped.

    Returns:
        one tensor a parameter, of its shape, float32.

    Raises:
        InputError: there is no batch.
    """
    information, batches = [torch.zeros_like(p, dtype=torch.float32) for p in parameters], 0
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
        for total, gradient in zip(information, gradients, strict=True):
            if gradient is not None:
                factor = (
                    1.0 if max_grad_norm is None else (max_grad_norm / (gradient.norm() + CLIP_EPS)).clamp(max=1.0)
                )
                total.add_((gradient * factor).float().square())
        batches += 1
    if not batches:
        raise InputError("--child_tuning D: there are no training examples to estimate the Fisher information on")
    return [total / batches for total in information]


def child_masks(information: Sequence[Tensor], share: float) -> list[Tensor]:
    """The weights with the largest information, over all tensors together.

    Args:
        information: one tensor a parameter.
        share: p, of all weights, in (0, 1]. With ties at the threshold a few more are kept, as in the released code.

    Returns:
        bool tensors of the same shapes.
    """
    every = torch.cat([part.flatten() for part in information])
    kept = max(1, round(share * every.numel()))
    threshold = every.kthvalue(every.numel() - kept + 1).values
    return [part >= threshold for part in information]


class ChildTuning:
    """Masks gradients before an optimizer's step.

    Args:
        parameters, share, seed, masks: see [`mask_gradients`].
        steps_done: update steps before this one (a resumed run).

    Raises:
        InputError: `share` is outside of (0, 1], or there is no parameter.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        share: float,
        seed: int = 0,
        masks: Sequence[Tensor] | None = None,
        steps_done: int = 0,
    ):
        if not 0 < share <= 1:
            raise InputError(f"--child_tuning_share {share}: give a share of the weights, above 0 and up to 1")
        if not parameters:
            raise InputError("--child_tuning: no parameter to mask was found in this model")
        self.parameters, self.share, self.seed, self.masks = list(parameters), share, seed, masks
        self.steps_done = steps_done

    def mask_gradients(self) -> None:
        """Mask `.grad`, in place, for the next update step: see [`mask_gradients`]."""
        mask_gradients(self.parameters, self.share, self.seed, self.steps_done, self.masks)
        self.steps_done += 1

    def attach(self, optimizer: torch.optim.Optimizer, steps_done: Callable[[], int] | None = None) -> RemovableHandle:
        """Make it part of every `optimizer.step()`; the handle's `remove()` ends it.

        Args:
            steps_done: says how many update steps lie behind, where somebody else counts them.
        """

        def before_step(*_: Any) -> None:
            self.steps_done = self.steps_done if steps_done is None else steps_done()
            self.mask_gradients()

        return optimizer.register_step_pre_hook(before_step)


@dataclass
class ChildTuningArguments:
    """The arguments of [`ChildTuningMethod`]."""

    child_tuning: str = field(
        default="none",
        metadata={
            "help": "Child-Tuning (Xu et al. 2021): a part of the gradient is kept. F: at random, another part each step. D: in "
            "the encoder's layers, the weights with the largest Fisher information, from one pass over the training set.",
            "choices": ["none", *FORMS],
        },
    )
    child_tuning_share: float = field(
        default=0.3,
        metadata={
            "help": "Child-Tuning's p: the share of the gradient's entries that are kept (D: of the encoder's layers)."
        },
    )


class ChildTuningMethod(Method):
    """[`ChildTuning`] at every update step; form D chooses its weights when training begins."""

    Arguments = ChildTuningArguments
    ranges = {"child_tuning_share": Range(0, 1, takes_high=True)}
    needs_whole_gradients = True

    def check(self, args: Mapping[str, Any]) -> None:
        if self.settings.child_tuning == "D" and args.get("label_smoothing_factor"):
            raise InputError(
                "--child_tuning D with --label_smoothing_factor: its Fisher information is of the model's own loss; give F, or 0"
            )

    def begin_training(self, model: nn.Module, trainer: Any) -> None:
        args, share = trainer.args, self.settings.child_tuning_share
        seed = getattr(args, "dropout_seed", None)
        seed = args.seed if seed is None else seed
        if self.settings.child_tuning == "F":
            self.child = ChildTuning([p for p in model.parameters() if p.requires_grad], share, seed)
            return
        if trainer.label_smoother is not None or trainer.compute_loss_func is not None:
            raise InputError(
                "--child_tuning D: its Fisher information is of the model's own loss; give F, or that loss"
            )
        layers = {k: group for k, group in layers_of(model).items() if k not in ("embeddings", "pooler", "classifier")}
        parameters = [parameter for group in layers.values() for parameter in group]
        masks = None
        if share < 1:
            losses = batch_losses(model, trainer, seed)
            information = fisher_information(parameters, losses, args.max_grad_norm or None)
            if args.world_size > 1:  # kernels need not be deterministic: all processes must have one mask
                for part in information:
                    torch.distributed.broadcast(part, 0)
            masks = child_masks(information, share)
        self.child = ChildTuning(parameters, share, seed, masks)

    def before_step(self, optimizer: torch.optim.Optimizer, steps_done: int) -> None:
        self.child.steps_done = steps_done
        self.child.mask_gradients()


def batch_losses(model: nn.Module, trainer: Any, seed: int) -> Iterator[Tensor]:
    """The loss of each batch of the training set, in its order, every process all of them; dropout on, as in training."""
    args, data = trainer.args, trainer.train_dataset
    if hasattr(data, "column_names"):
        data = trainer._remove_unused_columns(data, description="training")
    loader = DataLoader(data, batch_size=args.train_batch_size, collate_fn=trainer.data_collator)
    was_training = model.training
    model.to(args.device).train()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for batch in tqdm(loader, desc="Fisher information", disable=args.disable_tqdm):
            yield model(**{name: value.to(args.device) for name, value in batch.items()}).loss
    model.train(was_training)
