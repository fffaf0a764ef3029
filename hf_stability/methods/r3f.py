"""R3F: a little noise on the embeddings must not move the predictions.

Aghajanyan et al., "Better Fine-Tuning by Reducing Representational Collapse" (ICLR 2021, arXiv 2008.03156); the released
code: fairseq, examples/rxf.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ..errors import InputError
from .base import ComputeLoss, Method, Range
from .r_drop import check_classifier, refuse_label_smoothing, refuse_regression, symmetric_kl, twice


NOISES = ("normal", "uniform")
IGNORED_LABEL = -100


def r3f(
    compute_loss: Callable[[dict], tuple[Tensor, Any]],
    inputs: Mapping[str, Any],
    embedding: nn.Module,
    strength: float,
    eps: float = 1e-5,
    noise: str = "uniform",
) -> tuple:
    """A batch's loss with R3F's term.

        L = CE(f(x)) + lambda (KL(f(x) || f(x + z)) + KL(f(x + z) || f(x)))        z ~ N(0, eps^2), or U(-eps, eps)

    f(x + z) is the model on token embeddings with noise, through which no gradient goes into the embeddings (as in the
    released code); means over examples. Both passes are made at once, with a batch of
    twice the size, so that they differ in their dropout too, as in the released code: with dropout on, most of the term is
    R-Drop's.

    Args:
        compute_loss: inputs -> mean loss over the examples whose label is not -100 (0-d), and the model's outputs with
            `logits` `(examples, classes)`.
        inputs: a batch, name -> tensor, examples first, with `input_ids` and `labels`.
        embedding: the model's input embeddings, token ids -> vectors.
        strength: lambda, 0 or more; fairseq's default: 1.
        eps: 1e-5, the paper's.
        noise: `uniform` (the released code's default for sentences) or `normal`.

    Returns:
        the loss (0-d), and the outputs: of x, then of x + z.

    Raises:
        InputError: the noise is not known, or the model has a single output (a regression).
    """
    if noise not in NOISES:
        raise InputError(f"--r3f_noise {noise}: give {' or '.join(NOISES)}")
    if strength == 0:
        return compute_loss(dict(inputs))
    both = twice({name: value for name, value in inputs.items() if name != "input_ids"})
    clean = embedding(inputs["input_ids"])
    z = torch.randn_like(clean) * eps if noise == "normal" else (2 * torch.rand_like(clean) - 1) * eps
    both["inputs_embeds"] = torch.cat([clean, clean.detach() + z])
    both["labels"] = torch.cat([inputs["labels"], torch.full_like(inputs["labels"], IGNORED_LABEL)])
    loss, outputs = compute_loss(both)
    logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[1]
    if logits.ndim != 2 or logits.shape[-1] < 2:
        raise InputError("--r3f: the model gives no distribution over classes (a regression?); give 0")
    return loss + strength * symmetric_kl(*logits.chunk(2)), outputs


@dataclass
class R3FArguments:
    """The arguments of [`R3F`]."""

    r3f: float = field(
        default=0.0,
        metadata={
            "help": "R3F's lambda (Aghajanyan et al. 2021): predictions must not move under noise on the embeddings. Twice "
            "the time. 0: no."
        },
    )
    r3f_eps: float = field(default=1e-5, metadata={"help": "R3F's noise: its standard deviation, or half its range."})
    r3f_noise: str = field(
        default="uniform", metadata={"help": "The distribution of R3F's noise.", "choices": list(NOISES)}
    )


class R3F(Method):
    """[`r3f`] as the loss of every batch of training."""

    Arguments = R3FArguments
    ranges = {"r3f": Range(), "r3f_eps": Range()}

    def check(self, args: Mapping[str, Any]) -> None:
        refuse_label_smoothing("r3f", args)

    def check_model(self, config: Any, task: Any) -> None:
        refuse_regression("r3f", self.settings.r3f, task)

    def loss(self, compute_loss: ComputeLoss, inputs: Mapping[str, Any], trainer: Any) -> tuple[Tensor, Any]:
        check_classifier("r3f", trainer, inputs)
        # A decoder's classifier finds an example's last token by its padding tokens. Encoders are those with a masked LM.
        config = trainer.model.config
        if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or config.is_encoder_decoder:
            raise InputError(
                f"--r3f: a {config.model_type} looks for padding in the tokens, which noise takes away; give 0"
            )
        embedding, own = trainer.model.get_input_embeddings(), self.settings
        return r3f(compute_loss, inputs, embedding, own.r3f, own.r3f_eps, own.r3f_noise)
