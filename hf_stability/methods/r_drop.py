"""R-Drop: two passes with other dropout must agree.

Liang et al., "R-Drop: Regularized Dropout for Neural Networks" (NeurIPS 2021, arXiv 2106.14448,
github.com/dropreg/R-Drop).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..utils.layers import without_weights
from .base import ComputeLoss, Method, Range


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """`KL(P || Q) + KL(Q || P)` of the two softmaxes, mean over examples: `(..., examples, classes)` -> `(...)`, nats."""
    log_p, log_q = F.log_softmax(first.float(), -1), F.log_softmax(second.float(), -1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean(-1)


def check_dropout(model: nn.Module, alpha: float) -> None:
    """Refuse a model without dropout, whose two passes are the same.

    Raises:
        InputError: the model has none.
    """
    attention = getattr(getattr(model, "config", None), "attention_probs_dropout_prob", 0.0) or 0.0
    if not (attention > 0 or any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())):
        raise InputError(
            f"--r_drop {alpha}: this {type(model).__name__} has no dropout, so that its two passes are the same; "
            "give 0, or a dropout (model_config in a recipe)"
        )


def twice(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A batch followed by itself: one pass gives each example two draws of dropout."""
    return {name: torch.cat([v, v]) if isinstance(v, Tensor) and v.ndim else v for name, v in inputs.items()}


def r_drop(compute_loss: Callable[[dict], tuple[Tensor, Any]], inputs: Mapping[str, Any], alpha: float) -> tuple:
    """A batch's loss with R-Drop's term.

        L = (CE_1 + CE_2) / 2 + alpha (KL(P_1 || P_2) + KL(P_2 || P_1)) / 2

    over two passes; means over examples. In these units, with B examples per batch, the released code has three alphas:

    - 0.5 in fairseq, for RoBERTa (`--reg-alpha` 1, both losses are sums);
    - 0.25 B in transformers' BERT, 4 at a batch of 16: a sum of the KL over the batch is added to a mean;
    - 1.4 B in transformers' RoBERTa, 22.4 at 16: the same, and the cross entropy is that of the first pass only.

    (The paper's text has CE_1 + CE_2: twice this L, with twice the alpha.) Both passes are made at once, with a batch of
    twice the size: twice the time, and the memory of it. They share what is drawn once a pass (Mixout's neurons). The
    diagnostics count each example twice.

    Args:
        compute_loss: inputs -> mean loss over them (0-d), and the model's outputs with `logits` `(examples, classes)`.
        inputs: a batch, name -> tensor, examples first.
        alpha: 0 or more.

    Returns:
        the loss (0-d), and the outputs of both passes, one after the other.

    Raises:
        InputError: the model has a single output (a regression): there is no distribution to compare.
    """
    if alpha == 0:
        return compute_loss(dict(inputs))
    loss, outputs = compute_loss(twice(inputs))
    logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[1]
    if logits.ndim != 2 or logits.shape[-1] < 2:
        raise InputError("--r_drop: the model gives no distribution over classes (a regression?); give 0")
    return loss + alpha / 2 * symmetric_kl(*logits.chunk(2)), outputs


@dataclass
class RDropArguments:
    """The argument of [`RDrop`]."""

    r_drop: float = field(
        default=0.0,
        metadata={
            "help": "R-Drop's alpha, half of that in Liang et al. (2021), whose loss is the sum over both passes and not the mean: "
            "two dropout passes must agree. Twice the time. 0: no."
        },
    )


class RDrop(Method):
    """[`r_drop`] as the loss of every batch of training."""

    Arguments = RDropArguments
    ranges = {"r_drop": Range()}

    def check(self, args: Mapping[str, Any]) -> None:
        if args.get("r3f"):
            raise InputError("--r_drop and --r3f: both add a second pass over the batch; give one of them")
        refuse_label_smoothing("r_drop", args)

    def check_model(self, config: Any, task: Any) -> None:
        refuse_regression("r_drop", self.settings.r_drop, task)
        check_dropout(without_weights(config), self.settings.r_drop)

    def prepare_model(self, model: nn.Module, trainer: Any, generator: torch.Generator | None = None) -> None:
        check_dropout(model, self.settings.r_drop)

    def loss(self, compute_loss: ComputeLoss, inputs: Mapping[str, Any], trainer: Any) -> tuple[Tensor, Any]:
        check_classifier("r_drop", trainer, inputs)
        return r_drop(compute_loss, inputs, self.settings.r_drop)


def refuse_label_smoothing(name: str, args: Mapping[str, Any]) -> None:
    """Refuse `--label_smoothing_factor`, with which such a loss is not known."""
    if args.get("label_smoothing_factor"):
        raise InputError(f"--{name} with --label_smoothing_factor: not known together; give one of them")


def refuse_regression(name: str, value: float, task: Any) -> None:
    """Refuse a task without classes."""
    if task.is_regression:
        raise InputError(f"--{name} {value}: {task.name} is a regression, without classes to compare; give 0")


def check_classifier(name: str, trainer: Any, inputs: Mapping[str, Any]) -> None:
    """Refuse all but a `...ForSequenceClassification` with its own loss and one label per example, in one device per process."""
    config, labels = trainer.model.config, inputs.get("labels")
    single = getattr(config, "problem_type", None) in (None, "single_label_classification") and config.num_labels > 1
    whole = labels is not None and labels.ndim == 1 and not labels.is_floating_point()
    if not (trainer.has_classifier_loss() and single and whole):
        raise InputError(
            f"--{name}: needs a ...ForSequenceClassification with one label an example, and its own loss; give 0"
        )
    if trainer.args.n_gpu > 1:
        raise InputError(f"--{name}: not with DataParallel ({trainer.args.n_gpu} GPUs in one process); use torchrun")
