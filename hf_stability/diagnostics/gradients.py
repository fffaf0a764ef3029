"""Gradient norms by layer: embeddings, each encoder layer, pooler, classifier.

Mosbach et al. (ICLR 2021, section 5.1) recognise failed runs by their vanishing gradients: in the lower layers the norm
falls by orders of magnitude and stays there. This file computes the norms that they plot, for any model, in one pass over
the gradients.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..utils.layers import layers_of


logger = logging.getLogger(__name__)

# Attributes that DeepSpeed sets on a parameter: ZeRO 3 sets the first two, ZeRO 1 and 2 the third.
DEEPSPEED_MARKS = ("ds_id", "ds_tensor", "_hp_mapping")


def layer_grad_norms(model: nn.Module, seed_axis: bool = False) -> dict[str, Tensor]:
    """L2 norm of each layer's gradient, read from `.grad`.

    Call it after the backward pass and before clipping to get the norms of Mosbach et al. (ICLR 2021); after clipping
    they are scaled down. With fp16, first call `accelerator.unscale_gradients()` or `scaler.unscale_(optimizer)`.
    The values stay on the device, without host synchronisation.

    The layers are `embeddings`, `layer_00`, `layer_01` and so on, `pooler` and `classifier`. ALBERT's shared layer is
    `shared_layer_00`; a model with two stacks has `encoder_layer_00` and `decoder_layer_00`. In a plain `nn.Module`, a
    parameter outside of these belongs to its outermost submodule.

    Args:
        model: any module after a backward pass, also inside DistributedDataParallel or `torch.compile`. A parameter
            without a gradient counts as zero. A frozen parameter (`requires_grad=False`) belongs to no layer. Gradients
            sharded by `fully_shard` (DTensor) are reduced over their mesh; then all processes must call this together.
        seed_axis: whether the model holds many runs. Each trainable parameter then has the shape `(seeds, ...)`, as
            `torch.func.stack_module_state` stacks them.

    Returns:
        layer name -> norm, from input to output. A norm is 0-d, or `(seeds,)` with `seed_axis`.

    Raises:
        InputError: `.grad` does not show the gradients (DeepSpeed, FullyShardedDataParallel), or `seed_axis` is set and
            the parameters are not stacked.

    Example:
        ```python
        loss.backward()
        norms = layer_grad_norms(model)
        print({layer: norm.item() for layer, norm in norms.items()})
        ```
    """
    reason = hidden_gradients(model)
    if reason is not None:
        raise InputError(f"layer_grad_norms: {reason}")
    meter = GradientMeter(model, seed_axis)
    norms = meter.layer_norms(meter.parameter_norms())
    return dict(zip(meter.names, norms.unbind(-1), strict=True))


class GradientMeter:
    """`layer_grad_norms` for every update step: the parameters are grouped once, when the meter is made.

    If `.grad` does not show the gradients (DeepSpeed), the meter warns once and its norms are NaN.

    Args:
        model: any module. Parameters that stay frozen must be frozen already.
        seed_axis: whether each trainable parameter has the shape `(seeds, ...)`. Norms are then `(seeds, ...)` too.

    Attributes:
        names: names of the layers, from input to output.
        parameters: the trainable parameters, in the model's order.
        hidden: why the gradients cannot be read, see `hidden_gradients`. None if they can.
    """

    def __init__(self, model: nn.Module, seed_axis: bool = False) -> None:
        layers = layers_of(model)
        layer_of = {id(p): i for i, group in enumerate(layers.values()) for p in group}
        self.names = list(layers)
        self._trained = [(p, p.requires_grad) for p in model.parameters()]
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.frozen = [p for p in model.parameters() if not p.requires_grad]
        self.index = torch.tensor([layer_of[id(p)] for p in self.parameters])
        self.seed_axis = seed_axis
        self.seed_shape = _seed_shape(model) if seed_axis else ()
        self.hidden = hidden_gradients(model)
        if self.hidden is not None and os.environ.get("RANK", "0") == "0":  # only one process warns
            logger.warning(f"Gradient norms are NaN: {self.hidden}")
        self.present: list[int] = []  # parameters with a gradient, as of the last measure
        self.same_kind = True  # whether these gradients are of one device, precision and layout
        self._present_index = self.index[:0]

    def gradients(self) -> list[Tensor]:
        """The current gradients, in the model's order. Empty if they are hidden."""
        found = (
            [(i, p.grad) for i, p in enumerate(self.parameters) if p.grad is not None] if self.hidden is None else []
        )
        present, grads = [i for i, _ in found], [grad for _, grad in found]
        if grads and (present != self.present or self._present_index.device != grads[0].device):
            self._present_index = self.index[present].to(grads[0].device)
            self.same_kind = len({(grad.device, grad.dtype, grad.layout) for grad in grads}) == 1
        self.present = present
        return grads

    def is_current(self) -> bool:
        """Whether the same parameters are trained as when the meter was made: none was frozen or unfrozen since."""
        return all(p.requires_grad is trained for p, trained in self._trained)

    def is_whole(self) -> bool:
        """Whether the gradients have one kind, and no parameter that was frozen when the meter was made has a gradient."""
        return bool(self.gradients()) and self.same_kind and all(p.grad is None for p in self.frozen)

    def parameter_norms(self) -> Tensor:
        """Norm of each parameter that has a gradient now, `(..., len(self.present))`, in the model's order."""
        grads = self.gradients()
        if not grads:
            return torch.zeros((*self.seed_shape, 0), device=self._device())
        return tensor_norms(grads, self.seed_axis)

    def layer_norms(self, parameter_norms: Tensor) -> Tensor:
        """Norm of each layer, `(..., len(self.names))`, from `parameter_norms`."""
        if not self.present:
            unseen = 0.0 if self.hidden is None else torch.nan
            return torch.full((*self.seed_shape, len(self.names)), unseen, device=self._device())
        return group_norms(parameter_norms, self._present_index, len(self.names))

    def _device(self) -> torch.device:
        return self.parameters[0].device if self.parameters else torch.device("cpu")


def hidden_gradients(model: nn.Module) -> str | None:
    """Why `.grad` does not show this model's gradients, and where to read them instead. None if `.grad` shows them.

    DeepSpeed keeps gradients in its own buffers. FullyShardedDataParallel gives each process a part of a flat gradient.
    This check does not wait for another process.
    """
    if _is_a(model, "DeepSpeedEngine") or any(
        hasattr(p, mark) for p in model.parameters() for mark in DEEPSPEED_MARKS
    ):
        return (
            "`.grad` does not show DeepSpeed's gradients. Between its backward and its step, call "
            "deepspeed.utils.safe_get_full_grad(parameter) for each parameter, on all ranks (on some ranks alone it hangs)."
        )
    if any(_is_a(module, "FullyShardedDataParallel") for module in model.modules()):
        return (
            "FullyShardedDataParallel gives each process only a part of the gradients. In your own loop, shard with "
            "torch.distributed.fsdp.fully_shard instead: its gradients can be read. Under a Trainer, FSDP has no norms."
        )
    return None


def is_sharded(args: Any) -> bool:
    """Whether a process sees only a part of the gradients."""
    flags = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    return bool(args.fsdp or args.deepspeed) or any(os.environ.get(flag, "").lower() == "true" for flag in flags)


def tensor_norms(tensors: Sequence[Tensor], seed_axis: bool = False) -> Tensor:
    """L2 norm of each tensor, shape `(len(tensors),)`, on the first tensor's device, in the tensors' own precision.

    The kernel is that of `torch.nn.utils.clip_grad_norm_`. A total computed from these norms equals its total bit for bit.

    Args:
        tensors: tensors of any shapes, sharded ones (DTensor) included.
        seed_axis: whether the first axis of each tensor is the seed. Norms are then `(seeds, len(tensors))`.
    """
    if seed_axis:
        norms = [torch.linalg.vector_norm(tensor.reshape(len(tensor), -1), dim=1) for tensor in tensors]
    elif any(hasattr(tensor, "full_tensor") for tensor in tensors):  # one kernel cannot take tensors of several meshes
        norms = [torch.linalg.vector_norm(tensor) for tensor in tensors]
    else:
        norms = list(torch._foreach_norm(list(tensors)))
    norms = [norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]
    return torch.stack([norm.to(norms[0].device) for norm in norms], dim=-1)


def group_norms(norms: Tensor, index: Tensor, num_groups: int) -> Tensor:
    """Norms of groups of tensors, from the tensors' norms: `sqrt(sum of squares)` within each group, in float32.

    Args:
        norms: `(..., P)`. Leading axes (seeds) are kept.
        index: `(P,)` group of each tensor, `0 ... num_groups - 1`.

    Returns:
        `(..., num_groups)`. A group without tensors is 0.
    """
    squares = norms.float().square()
    return squares.new_zeros((*norms.shape[:-1], num_groups)).index_add_(-1, index, squares).sqrt_()


def _is_a(module: nn.Module, class_name: str) -> bool:
    """`isinstance` by the name of a class. The class need not be importable."""
    return any(cls.__name__ == class_name for cls in type(module).__mro__)


def _seed_shape(model: nn.Module) -> tuple[int, ...]:
    """`(seeds,)`, the first axis of all trainable parameters. `()` without trainable parameters."""
    shapes = [(name, tuple(p.shape)) for name, p in model.named_parameters() if p.requires_grad]
    for name, shape in shapes:
        first_name, first = shapes[0]
        if not shape or shape[0] != first[0]:
            raise InputError(
                f"seed_axis=True: {name} has the shape {shape} and {first_name} {first}, but the first axis of each "
                "trainable parameter must be the seed. Stack the models with torch.func.stack_module_state."
            )
    return shapes[0][1][:1] if shapes else ()
