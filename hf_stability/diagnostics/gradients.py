"""Gradient norms by layer: embeddings, each encoder layer, pooler, classifier.

Mosbach et al. (ICLR 2021, section 5.1) see failed runs by their vanishing gradients: in the lower layers the norm falls
by orders of magnitude, and stays there. These are the norms they plot, of any model, from one pass over the gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


POOLERS = ("pooler", "pre_classifier")  # pre_classifier: DistilBERT's name for it
EMBEDDINGS = ("wte", "wpe", "shared")  # GPT-2's and T5's, whose names do not say "embed"


def layer_grad_norms(model: nn.Module) -> dict[str, Tensor]:
    """L2 norm of the gradient of each layer, as it stands in `.grad` now.

    After `accelerator.backward` and before clipping these are the paper's; after clipping they are scaled down.
    No host synchronisation: the values stay on the device.

    Args:
        model: any module after a backward pass. Parameters without a gradient count as zero; frozen ones
            (`requires_grad=False`) belong to no layer. Sharded (DTensor) gradients are reduced over their mesh.

    Returns:
        layer name -> norm, a 0-d tensor, from input to output; the names as in [`layers_of`].
    """
    meter = GradientMeter(model)
    norms = meter.layer_norms(meter.parameter_norms())
    return dict(zip(meter.names, norms.unbind(), strict=True))


class GradientMeter:
    """[`layer_grad_norms`] for every update step: the parameters are grouped once, when the meter is made.

    Args:
        model: any module, its frozen parameters already frozen.

    Attributes:
        names: names of the layers, from input to output.
        parameters: the trainable parameters, in the model's order.
    """

    def __init__(self, model: nn.Module):
        layers = layers_of(model)
        layer_of = {id(p): i for i, group in enumerate(layers.values()) for p in group}
        self.names = list(layers)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.frozen = [p for p in model.parameters() if not p.requires_grad]
        self.index = torch.tensor([layer_of[id(p)] for p in self.parameters])
        self.present: list[int] = []  # parameters with a gradient, as of the last measure
        self.same_kind = True  # whether these gradients are of one device, precision and layout
        self._present_index = self.index[:0]

    def gradients(self) -> list[Tensor]:
        """The gradients that there are now, in the model's order."""
        present = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        grads = [self.parameters[i].grad for i in present]
        if grads and (present != self.present or self._present_index.device != grads[0].device):
            self._present_index = self.index[present].to(grads[0].device)
            self.same_kind = len({(grad.device, grad.dtype, grad.layout) for grad in grads}) == 1
        self.present = present
        return grads

    def is_whole(self) -> bool:
        """Whether the gradients are of one kind, and no other parameter has one (frozen when the meter was made)."""
        return bool(self.gradients()) and self.same_kind and all(p.grad is None for p in self.frozen)

    def parameter_norms(self) -> Tensor:
        """Norm of each parameter that has a gradient now, `(len(self.present),)`, in the model's order."""
        grads = self.gradients()
        return tensor_norms(grads) if grads else torch.zeros(0)

    def layer_norms(self, parameter_norms: Tensor) -> Tensor:
        """Norm of each layer, `(len(self.names),)`, from [`parameter_norms`]."""
        if not self.present:
            return torch.zeros(len(self.names))
        return group_norms(parameter_norms, self._present_index, len(self.names))


def tensor_norms(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm of each tensor, shape `(len(tensors),)`, on the first one's device, in the tensors' own precision.

    The kernel is the one `torch.nn.utils.clip_grad_norm_` uses, so that a total made of these is bitwise its total.
    """
    norms = torch._foreach_norm(list(tensors))
    norms = [norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]
    return torch.stack([norm.to(norms[0].device) for norm in norms])


def group_norms(norms: Tensor, index: Tensor, num_groups: int) -> Tensor:
    """Norms of groups of tensors from the tensors' own: `sqrt(sum of squares)` within each group, in float32.

    Args:
        norms: `(..., P)`; leading axes (seeds) are kept.
        index: `(P,)` group of each tensor, `0 ... num_groups - 1`.

    Returns:
        `(..., num_groups)`; a group without tensors is 0.
    """
    squares = norms.float().square()
    return squares.new_zeros((*norms.shape[:-1], num_groups)).index_add_(-1, index, squares).sqrt_()


def layers_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters of a model by layer, from input to output, grouped from the module tree.

    | name | what |
    | --- | --- |
    | `embeddings` | everything called embedding, ELECTRA's and ALBERT's projections of it included |
    | `layer_00` ... | one for each element of the encoder's layer list; two digits, so that they sort |
    | `shared_layer_00` ... | the same where one layer is used many times (ALBERT: one for each group) |
    | `encoder_layer_00`, `decoder_layer_00` ... | where there are two stacks |
    | `pooler` | the pooler; DistilBERT's `pre_classifier` |
    | `classifier` | everything outside the base model |

    In a plain `nn.Module`, without Hugging Face's `base_model_prefix`, what is none of these goes by the name of its
    outermost submodule. Frozen parameters are left out.
    """
    stacks = _layer_stacks(model)
    prefix = getattr(model, "base_model_prefix", "")
    if not (prefix and hasattr(model, prefix)):
        prefix = None  # a plain module, or the base model itself
    shared = hasattr(getattr(model, "config", None), "num_hidden_groups")  # ALBERT
    layers: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layers.setdefault(_layer_name(name, stacks, prefix, shared), []).append(parameter)
    return layers


def _layer_stacks(model: nn.Module) -> list[str]:
    """Names of the outermost module lists that hold a model's layers."""
    stacks: dict[str, int] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(stack + ".") for stack in stacks)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            same_class = len({type(child) for child in module}) == 1
            compound = all(next(child.children(), None) is not None for child in module)
            if same_class and compound:
                stacks[name] = sum(p.numel() for p in module.parameters())
    largest = max(stacks.values(), default=0)
    return [name for name, size in stacks.items() if 10 * size >= largest]  # a list of small heads is no encoder


def _layer_name(parameter: str, stacks: Iterable[str], prefix: str | None, shared: bool) -> str:
    stacks = list(stacks)
    for stack in stacks:
        if parameter.startswith(stack + "."):
            number = int(parameter[len(stack) + 1 :].split(".")[0])
            side = f"{stack.split('.')[-2]}_" if len(stacks) > 1 and "." in stack else ""
            return f"{side}{'shared_' if shared else ''}layer_{number:02d}"
    parts = parameter.split(".")[:-1] or [parameter]
    if any("embed" in part.lower() or part in EMBEDDINGS for part in parts):
        return "embeddings"
    if any(part in POOLERS for part in parts):
        return "pooler"
    if prefix is None:
        return parts[0]
    if prefix not in parts:
        return "classifier"
    return (parts[parts.index(prefix) + 1 :] or [prefix])[0]
