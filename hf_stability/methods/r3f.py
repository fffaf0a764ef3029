"""R3F: a little noise on the embeddings must not move the predictions (arXiv 2008.03156)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ..errors import InputError
from .base import Method, Range
from .r_drop import check_classifier, refuse_label_smoothing, refuse_other_tasks, symmetric_kl, twice


NOISES = ("normal", "uniform")
IGNORED_LABEL = -100


def r3f(
    compute_loss: Callable[[dict], tuple[Tensor, Any]],
    inputs: Mapping[str, Any],
    embedding: nn.Module,
    strength: float,
    eps: float = 1e-5,
    noise: str = "uniform",
) -> tuple[Tensor, Any]:
    """The loss of a batch with R3F's term: the equation of `R3F`.

    Both passes are one pass over a batch of twice the size.

    Args:
        compute_loss: inputs -> mean loss over the examples with a label other than -100 (0-d), and the model's outputs with
            `logits` `(examples, classes)`.
        inputs: a batch, name -> tensor, examples first, with `input_ids` and `labels`.
        embedding: the model's input embeddings, token ids -> vectors.
        strength: lambda, 0 or more; fairseq's default: 1.
        eps: size of the noise, 0 or more; the paper's: 1e-5.
        noise: `uniform` (the released code's default for sentences) or `normal`.

    Returns:
        The loss (0-d), and the outputs: of x, then of x + z.

    Raises:
        InputError: the noise is not known, or the model has a single output (a regression).
    """
    if noise not in NOISES:
        raise InputError(f"--r3f_noise {noise}: must be {' or '.join(NOISES)}.")
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
        raise InputError("--r3f: the model gives no distribution over classes. Is this a regression? Set --r3f 0.")
    return loss + strength * symmetric_kl(*logits.chunk(2)), outputs


@dataclass
class R3FArguments:
    """The arguments of `R3F`."""

    r3f: float = field(
        default=0.0,
        metadata={
            "help": "R3F's lambda: noise on the embeddings must not move the predictions (Aghajanyan et al. 2021; 1 is the "
            "default in fairseq). Twice the time. 0: off."
        },
    )
    r3f_eps: float = field(
        default=1e-5,
        metadata={"help": "Size of R3F's noise: its standard deviation, or half its range (the paper: 1e-5)."},
    )
    r3f_noise: str = field(
        default="uniform",
        metadata={"help": "Distribution of R3F's noise (fairseq, sentences: uniform).", "choices": list(NOISES)},
    )


class R3F(Method):
    """R3F: a little noise on the embeddings must not move the predictions.

    Each batch goes through the model twice, the second time with noise on its token embeddings. The loss has a term for the
    difference of the two predictions. This is meant to keep the pretrained representations from collapsing. Paper: Aghajanyan
    et al., "Better Fine-Tuning by Reducing Representational Collapse" (ICLR 2021,
    [arXiv 2008.03156](https://arxiv.org/abs/2008.03156)).

    Equation:
        L = CE(f(x)) + lambda (KL(f(x) || f(x + z)) + KL(f(x + z) || f(x)))

        f(x)      prediction for the embeddings x; means over examples
        z         noise, N(0, eps^2) or uniform in (-eps, eps)
        eps       r3f_eps
        lambda    r3f

        No gradient goes through x + z into the embeddings.

    When to use it:
        - With dropout on, the two passes differ in their dropout too, as in the released code. Most of the term is then that of
          R-Drop, which is simpler.
        - It helped with nothing here, at the paper's settings.
        - It needs an encoder with `...ForSequenceClassification`, one label per example, and its own loss. Decoders, regression,
          label smoothing, R-Drop beside it, and several GPUs in one process (DataParallel) are refused.

    Cost:
        Twice the time and activation memory per step: a batch of twice the size. `--gradient_accumulation_steps 2` halves
        the memory. The diagnostics count each example twice.

    Measured here:
        On top of `devlin2019`, n = 20 per row: neither fewer failures nor a higher mean is shown on either task. For the same
        compute, restarts of `devlin2019` are as good. See [the remedies compared](remedies.md).
    """

    Arguments = R3FArguments
    ranges = {"r3f": Range(), "r3f_eps": Range()}

    def check(self, args: Mapping[str, Any]) -> None:
        refuse_label_smoothing("r3f", args)

    def check_model(self, config: Any, task: Any) -> None:
        refuse_other_tasks("r3f", self.settings.r3f, task)

    def loss(
        self, compute_loss: Callable[[dict], tuple[Tensor, Any]], inputs: Mapping[str, Any], trainer: Any
    ) -> tuple[Tensor, Any]:
        check_classifier("r3f", trainer, inputs)
        # A decoder's classifier needs the padding tokens to find the last token. Encoders are the models with a masked LM.
        config = trainer.model.config
        if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or config.is_encoder_decoder:
            raise InputError(
                f"--r3f: a {config.model_type} looks for padding in the tokens, but R3F passes embeddings. Set --r3f 0."
            )
        embedding, own = trainer.model.get_input_embeddings(), self.settings
        return r3f(compute_loss, inputs, embedding, own.r3f, own.r3f_eps, own.r3f_noise)
