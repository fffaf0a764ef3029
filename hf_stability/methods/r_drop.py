"""R-Drop: two passes with different dropout must agree (arXiv 2106.14448)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..utils.layers import without_weights
from .base import Method, Range


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """`KL(P || Q) + KL(Q || P)` of two softmaxes, mean over examples: `(..., examples, classes)` -> `(...)`, nats."""
    log_p, log_q = F.log_softmax(first.float(), -1), F.log_softmax(second.float(), -1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean(-1)


def check_dropout(model: nn.Module, alpha: float) -> None:
    """Refuse a model without dropout: its two passes are the same.

    Raises:
        InputError: the model has no dropout.
    """
    attention = getattr(getattr(model, "config", None), "attention_probs_dropout_prob", 0.0) or 0.0
    if not (attention > 0 or any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())):
        raise InputError(
            f"--r_drop {alpha}: this {type(model).__name__} has no dropout, so its two passes are the same. "
            "Set --r_drop 0, or switch dropout on (model_config in a recipe)."
        )


def twice(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A batch followed by itself, so that one pass draws dropout twice for each example."""
    return {name: torch.cat([v, v]) if isinstance(v, Tensor) and v.ndim else v for name, v in inputs.items()}


def r_drop(
    compute_loss: Callable[[dict], tuple[Tensor, Any]], inputs: Mapping[str, Any], alpha: float
) -> tuple[Tensor, Any]:
    """The loss of a batch with R-Drop's term: the equation of `RDrop`.

    Both passes are one pass over a batch of twice the size. They share what is drawn once per pass (Mixout's neurons).

    Args:
        compute_loss: inputs -> mean loss over them (0-d), and the model's outputs with `logits` `(examples, classes)`.
        inputs: a batch, name -> tensor, examples first.
        alpha: 0 or more.

    Returns:
        The loss (0-d), and the outputs of both passes, one after the other.

    Raises:
        InputError: the model has a single output (a regression), so there is no distribution to compare.
    """
    if alpha == 0:
        return compute_loss(dict(inputs))
    loss, outputs = compute_loss(twice(inputs))
    logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[1]
    if logits.ndim != 2 or logits.shape[-1] < 2:
        raise InputError(
            "--r_drop: the model gives no distribution over classes. Is this a regression? Set --r_drop 0."
        )
    return loss + alpha / 2 * symmetric_kl(*logits.chunk(2)), outputs


@dataclass
class RDropArguments:
    """The argument of `RDrop`."""

    r_drop: float = field(
        default=0.0,
        metadata={
            "help": "R-Drop's alpha: two passes with different dropout must agree. It is half the alpha of Liang et al. (2021): "
            "their loss is the sum over both passes, this one the mean. Twice the time. 0: off."
        },
    )


class RDrop(Method):
    """R-Drop: two passes with different dropout must give the same prediction.

    Each batch goes through the model twice, and the loss has a term for the difference of the two predictions. This reduces
    the gap between training, with dropout, and use, without. Paper: Liang et al., "R-Drop: Regularized Dropout for Neural
    Networks" (NeurIPS 2021, [arXiv 2106.14448](https://arxiv.org/abs/2106.14448)).

    Equation:
        L = (CE_1 + CE_2) / 2 + alpha (KL(P_1 || P_2) + KL(P_2 || P_1)) / 2

        CE_i     cross entropy of pass i, mean over examples
        P_i      prediction of pass i; the KL is a mean over examples
        alpha    r_drop

    When to use it:
        - It may help where data are few and training is long enough to pay for twice the time.
        - It gained nothing here over restarts of the same cost, at alpha 1. Other values were not tried.
        - It needs a `...ForSequenceClassification` with one label per example, its own loss, and dropout. Regression, label
          smoothing, R3F beside it, and several GPUs in one process (DataParallel) are refused.

    Cost:
        Twice the time and activation memory per step: a batch of twice the size. `--gradient_accumulation_steps 2` halves
        the memory. The diagnostics count each example twice.

    Differences:
        The paper writes CE_1 + CE_2: twice this loss, with twice the alpha. The released code (github.com/dropreg/R-Drop) has
        three forms. In these units, with B examples per batch, their alphas are:

        - 0.5 in fairseq, for RoBERTa (`--reg-alpha` 1; both losses are sums);
        - 0.25 B in transformers' BERT, 4 at a batch of 16 (the KL is a sum over the batch, the cross entropy a mean);
        - 1.4 B in transformers' RoBERTa, 22.4 at 16 (the same, with the cross entropy of the first pass only).

    Measured here:
        On top of `devlin2019`, n = 20 per row: neither fewer failures nor a higher mean is shown on either task. For the same
        compute, restarts of `devlin2019` are as good. See [the remedies compared](remedies.md).
    """

    Arguments = RDropArguments
    ranges = {"r_drop": Range()}

    def check(self, args: Mapping[str, Any]) -> None:
        if args.get("r3f"):
            raise InputError("--r_drop and --r3f: both add a second pass over the batch. Use only one of them.")
        refuse_label_smoothing("r_drop", args)

    def check_model(self, config: Any, task: Any) -> None:
        refuse_other_tasks("r_drop", self.settings.r_drop, task)
        check_dropout(without_weights(config), self.settings.r_drop)

    def prepare_model(self, model: nn.Module, trainer: Any, generator: torch.Generator | None = None) -> None:
        check_dropout(model, self.settings.r_drop)

    def loss(
        self, compute_loss: Callable[[dict], tuple[Tensor, Any]], inputs: Mapping[str, Any], trainer: Any
    ) -> tuple[Tensor, Any]:
        check_classifier("r_drop", trainer, inputs)
        return r_drop(compute_loss, inputs, self.settings.r_drop)


def refuse_label_smoothing(name: str, args: Mapping[str, Any]) -> None:
    """Refuse `--label_smoothing_factor`: no paper defines such a loss with it."""
    if args.get("label_smoothing_factor"):
        raise InputError(f"--{name} with --label_smoothing_factor: they do not work together. Use only one of them.")


def refuse_other_tasks(name: str, value: float, task: Any) -> None:
    """Refuse a task without one class per example."""
    if task.is_regression:
        raise InputError(
            f"--{name} {value}: {task.name} is a regression and has no classes to compare. Set --{name} 0."
        )
    if task.multi_label:
        raise InputError(
            f"--{name} {value}: {task.name} has several labels per example, so there is no distribution over classes to "
            f"compare. Set --{name} 0."
        )


def check_classifier(name: str, trainer: Any, inputs: Mapping[str, Any]) -> None:
    """Refuse everything but a `...ForSequenceClassification` with its own loss, one label per example, one device per process."""
    config, labels = trainer.model.config, inputs.get("labels")
    single = getattr(config, "problem_type", None) in (None, "single_label_classification") and config.num_labels > 1
    whole = labels is not None and labels.ndim == 1 and not labels.is_floating_point()
    if not (trainer.has_classifier_loss() and single and whole):
        raise InputError(
            f"--{name}: needs a ...ForSequenceClassification with one label per example, and its own loss. Set --{name} 0."
        )
    if trainer.args.n_gpu > 1:
        raise InputError(
            f"--{name}: does not work with DataParallel ({trainer.args.n_gpu} GPUs in one process). Use torchrun."
        )
