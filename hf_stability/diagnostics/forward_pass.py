"""A model's forward passes as the recorder sees them: the hook, and the loss, logits and labels in one."""

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
    """A model's forward hook that a copy of the model does not take along: copied or pickled, it does nothing.

    Args:
        recorder: the [`Recorder`][hf_stability.diagnostics.recorder.Recorder] that it tells of each forward pass; None: nobody.
    """

    def __init__(self, recorder: Any = None):
        self.recorder = recorder

    @torch.compiler.disable  # else it is compiled again for each number of micro-batches
    def __call__(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        if self.recorder is not None:
            self.recorder.observe_forward(module, kwargs, output)

    def is_live(self) -> bool:
        """Whether its training is going on: another callback's, on the same model."""
        loop = self.recorder.loop if self.recorder is not None else None
        return loop is not None and loop.is_running()

    def __reduce__(self) -> tuple[type[ForwardHook], tuple[()]]:
        return ForwardHook, ()

    def __deepcopy__(self, memo: Any) -> ForwardHook:
        return ForwardHook()


def remove_hooks(model: nn.Module) -> None:
    """Take the hooks of earlier trainings off a model."""
    for key, hook in list(model._forward_hooks.items()):
        if isinstance(hook, ForwardHook) and not hook.is_live():
            model._forward_hooks.pop(key)
            getattr(model, "_forward_hooks_with_kwargs", {}).pop(key, None)


def loss_logits_labels(kwargs: Mapping, output: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The visible part of a forward pass: loss (0-d), logits `(examples, outputs)`, labels `(examples,)`, or None for each."""
    labels = kwargs.get("labels")
    if isinstance(output, Mapping):
        loss, logits = output.get("loss"), output.get("logits")
    else:
        outputs = output if isinstance(output, tuple) else (output,)
        loss, logits = (
            (outputs[0], outputs[1] if len(outputs) > 1 else None) if labels is not None else (None, outputs[0])
        )
    # A copy: with several processes the Trainer multiplies the loss in place by their number.
    loss = loss.detach().clone() if isinstance(loss, Tensor) and loss.ndim == 0 else None
    logits = logits if isinstance(logits, Tensor) and logits.ndim == 2 else None
    labels = labels if isinstance(labels, Tensor) and labels.ndim == 1 else None
    return loss, logits, labels


def divides_by_num_items(model: nn.Module) -> bool:
    """Whether a model's loss is a sum over tokens / `num_items_in_batch`, so that a step's micro-batches add up.

    Many take the argument, and leave it: T5 and BERT's classifiers have a cross entropy of their own, others (Qwen2's
    classifier) do not hand it on to `self.loss_function`. Read off the source; where there is none (a class made in a
    notebook or by `exec`) the answer is no.
    """
    model = without_adapters(model)
    if not isinstance(model, PreTrainedModel):
        return False
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(type(model).forward)))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError, ValueError):  # no source, or one whose docstring begins at the margin
        return False
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    losses = [call for call in calls if getattr(call.func, "attr", None) == "loss_function"]
    return any(keyword.arg in (None, "num_items_in_batch") for call in losses for keyword in call.keywords)
