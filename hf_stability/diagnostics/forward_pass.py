"""A model's forward passes as the recorder sees them: the hook, and the loss, logits and labels of a pass."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..utils.layers import without_adapters


class ForwardHook:
    """A model's forward hook. In a copied or pickled model it does nothing.

    Args:
        recorder: the `Recorder` that gets each forward pass. None for no recorder.
    """

    def __init__(self, recorder: Any = None) -> None:
        self.recorder = recorder

    @torch.compiler.disable  # otherwise it is compiled again for each number of micro-batches
    def __call__(self, module: nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Any) -> None:
        if self.recorder is not None:
            self.recorder.observe_forward(module, kwargs, output)

    def is_live(self) -> bool:
        """Whether its training is running: then the hook belongs to another callback on the same model."""
        loop = self.recorder.loop if self.recorder is not None else None
        return loop is not None and loop.is_running()

    def __reduce__(self) -> tuple[type[ForwardHook], tuple]:
        return ForwardHook, ()

    def __deepcopy__(self, memo: dict) -> ForwardHook:
        return ForwardHook()


def remove_hooks(model: nn.Module) -> None:
    """Remove the hooks of earlier trainings from a model."""
    for key, hook in list(model._forward_hooks.items()):
        if isinstance(hook, ForwardHook) and not hook.is_live():
            model._forward_hooks.pop(key)
            getattr(model, "_forward_hooks_with_kwargs", {}).pop(key, None)


def loss_logits_labels(kwargs: Mapping, output: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Loss (0-d), logits `(examples, outputs)` and labels `(examples,)` of a forward pass. None for each that it lacks."""
    labels = kwargs.get("labels")
    if isinstance(output, Mapping):
        loss, logits = output.get("loss"), output.get("logits")
    else:
        outputs = output if isinstance(output, tuple) else (output,)
        loss, logits = (
            (outputs[0], outputs[1] if len(outputs) > 1 else None) if labels is not None else (None, outputs[0])
        )
    # A copy, because with several processes the Trainer multiplies the loss in place by their number.
    loss = loss.detach().clone() if isinstance(loss, Tensor) and loss.ndim == 0 else None
    logits = logits if isinstance(logits, Tensor) and logits.ndim == 2 else None
    labels = labels if isinstance(labels, Tensor) and labels.ndim == 1 else None
    return loss, logits, labels


def divides_by_num_items(model: nn.Module) -> bool:
    """Whether a model's loss is a sum over tokens / `num_items_in_batch`, so that a step's micro-batches add up.

    Many models accept this argument but ignore it. T5 and BERT's classifiers compute their own cross entropy; Qwen2's
    classifier and others do not pass it to `self.loss_function`. The answer is read from the source code. It is no if
    there is no source code (a class made in a notebook or by `exec`).
    """
    model = without_adapters(model)
    if not isinstance(model, PreTrainedModel):
        return False
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(type(model).forward)))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError, ValueError):  # no source, or a docstring that begins at the margin
        return False
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    losses = [call for call in calls if getattr(call.func, "attr", None) == "loss_function"]
    return any(keyword.arg in (None, "num_items_in_batch") for call in losses for keyword in call.keywords)
