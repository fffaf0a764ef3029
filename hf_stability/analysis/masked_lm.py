"""Masked-LM perplexity: text with masked tokens, a model with its masked-LM head, and the loss on the masked tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import InputError
from ..utils.text import error_line


IGNORED = -100
MASKED_SHARE = 0.15
"""Share of the tokens that are masked, as in pretraining (Devlin et al. 2019)."""


@dataclass(frozen=True)
class MaskedText:
    """Blocks of tokens, some of them masked.

    Args:
        inputs: token ids of each block, `(tokens,)`, with the mask token at masked places.
        labels: the original ids at masked places, `IGNORED` elsewhere; same shapes.
        pad: id of the padding token.
    """

    inputs: list[np.ndarray]
    labels: list[np.ndarray]
    pad: int

    @property
    def masked(self) -> int:
        """Number of masked tokens."""
        return int(sum((label != IGNORED).sum() for label in self.labels))

    def batches(self, batch_size: int) -> Iterable[dict[str, torch.Tensor]]:
        """`input_ids`, `attention_mask` and `labels`, `(blocks, tokens)`; blocks of similar length together."""
        order = sorted(range(len(self.inputs)), key=lambda block: len(self.inputs[block]))
        for i in range(0, len(order), batch_size):
            chosen = order[i : i + batch_size]
            shape = (len(chosen), len(self.inputs[chosen[-1]]))
            ids, labels = np.full(shape, self.pad), np.full(shape, IGNORED)
            mask = np.zeros(shape, dtype=np.int64)
            for row, block in enumerate(chosen):
                size = len(self.inputs[block])
                ids[row, :size], labels[row, :size], mask[row, :size] = self.inputs[block], self.labels[block], 1
            yield {
                "input_ids": torch.from_numpy(ids),
                "attention_mask": torch.from_numpy(mask),
                "labels": torch.from_numpy(labels),
            }


def mask_tokens(
    blocks: Sequence[Sequence[int]],
    mask: int,
    pad: int,
    special: Iterable[int],
    share: float = MASKED_SHARE,
    seed: int = 0,
) -> MaskedText:
    """Replace a share of the tokens by the mask token; the places depend on the seed and the text alone.

    In pretraining, 80% of the chosen tokens are masked, 10% are replaced by random tokens, and 10% stay. Here all are masked.
    So no answer can be copied, and all tokens ask the same question.

    Args:
        blocks: token ids, with special tokens.
        mask: id of the mask token.
        pad: id of the padding token.
        special: ids that are never masked. Unknown words are among them.
        share: probability that a token is masked.
        seed: of the places.

    Raises:
        InputError: no token is masked.
    """
    rng = np.random.default_rng(seed)
    never = np.array(sorted(set(special)), dtype=np.int64)
    inputs, labels = [], []
    for block in blocks:
        ids = np.asarray(block, dtype=np.int64)
        chosen = (rng.random(len(ids)) < share) & ~np.isin(ids, never)
        inputs.append(np.where(chosen, mask, ids))
        labels.append(np.where(chosen, ids, IGNORED))
    text = MaskedText(inputs, labels, pad)
    if not text.masked:
        raise InputError("masked-LM perplexity: no token of the text is masked; give more text")
    return text


def tokenized_sentences(sentences: Sequence[str], tokenizer: Any, length: int) -> list[list[int]]:
    """Token ids of each sentence, with special tokens, cut to `length` tokens."""
    return tokenizer(list(sentences), truncation=True, max_length=length)["input_ids"]


def tokenized_blocks(lines: Iterable[str], tokenizer: Any, length: int, blocks: int = 0) -> list[list[int]]:
    """Token ids of a text in blocks of `length` tokens, each with a first and a last special token.

    Empty lines are left out. Lines are joined, as in pretraining. `<unk>`, as WikiText-2 has it, becomes the tokenizer's
    unknown token. A rest that is too short for a block is left out, unless it is all there is.

    Args:
        lines: of the text.
        tokenizer: the model's.
        length: tokens per block, at least 3.
        blocks: how many blocks to make at most; 0: all.
    """
    first, last = (
        next(value for value in pair if value is not None)
        for pair in (
            (tokenizer.cls_token_id, tokenizer.bos_token_id),
            (tokenizer.sep_token_id, tokenizer.eos_token_id),
        )
    )
    made: list[list[int]] = []
    ids: list[int] = []
    for line in lines:
        if not line.strip():
            continue
        words = line.replace("<unk>", str(tokenizer.unk_token))
        ids += tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
        while len(ids) >= length - 2:
            made.append([first, *ids[: length - 2], last])
            ids = ids[length - 2 :]
            if blocks and len(made) == blocks:
                return made
    return made or [[first, *ids, last]]


@torch.no_grad()
def masked_lm_loss(model: nn.Module, text: MaskedText, batch_size: int = 32, device: Any = "cpu") -> float:
    """Mean cross entropy in nats over all masked tokens. Its exponential is the perplexity.

    Args:
        model: with a masked-LM head, in evaluation mode.
        text: see `mask_tokens`.
        batch_size: blocks per batch.
        device: the model's.
    """
    total = 0.0
    for batch in text.batches(batch_size):
        labels = batch.pop("labels")
        logits = model(**{name: value.to(device) for name, value in batch.items()}).logits
        wanted = labels[labels != IGNORED]
        if len(wanted):
            chosen = logits[(labels != IGNORED).to(device)].float()
            loss = nn.functional.cross_entropy(chosen, wanted.to(device), reduction="none")
            total += loss.double().sum().item()
    return total / text.masked


# ---- the model ------------------------------------------------------------------------------------------------------


def load_masked_lm(model: str, dtype: str = "float32") -> Any:
    """A pretrained model with its own masked-LM head, in evaluation mode.

    Raises:
        InputError: it cannot be loaded, this model type has no such head, or the checkpoint has no weights for it.
    """
    from transformers import AutoModelForMaskedLM

    from ..study.run import quiet

    try:
        with quiet():
            loaded, info = AutoModelForMaskedLM.from_pretrained(
                model, dtype=getattr(torch, dtype), output_loading_info=True
            )
    except Exception as error:  # each library raises another error
        raise InputError(
            f"{model}: no masked-LM head can be loaded ({error_line(error)}); give a masked-LM checkpoint"
        ) from None
    if info["missing_keys"]:
        raise InputError(
            f"{model}: this checkpoint has no trained masked-LM head ({sorted(info['missing_keys'])[0]} is missing), so it has no "
            "masked-LM perplexity; study a model that was saved with its head"
        )
    return loaded.eval()


def untied(model: Any) -> str | None:
    """Give the output embeddings of a masked-LM model weights of their own, equal to the input embeddings.

    Returns:
        The name of the new parameter; None if the model does not tie them.
    """
    output, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    if output is None or output.weight is not inputs.weight:
        return None
    output.weight = nn.Parameter(inputs.weight.detach().clone())
    return next(name for name, value in model.named_parameters() if value is output.weight)


ALBERT_GROUP = re.compile(r"(?<=albert_layer_groups\.)\d+")


def unshared(model: Any) -> Any:
    """An ALBERT with weights of its own for each use of a layer, equal to the shared ones. Any other model as it is.

    It computes the same, because its configuration has a group of layers for each use.
    """
    config = model.config
    if getattr(config, "num_hidden_groups", config.num_hidden_layers) == config.num_hidden_layers:
        return model
    own = type(config).from_dict({**config.to_dict(), "num_hidden_groups": config.num_hidden_layers})
    made = type(model)(own).to(next(model.parameters()).dtype)
    state = model.state_dict()
    made.load_state_dict({name: state[shared_name(name, config)] for name in made.state_dict()})
    return made.train(model.training)


def shared_name(name: str, config: Any) -> str:
    """The name in a model with shared layers of a weight of its `unshared` model."""
    groups = getattr(config, "num_hidden_groups", None)
    if groups is None:
        return name
    # As in ALBERT's own forward pass.
    return ALBERT_GROUP.sub(lambda found: str(int(int(found[0]) / (config.num_hidden_layers / groups))), name)


def fine_tuned_weights(
    model: Any, tuned: Mapping[str, torch.Tensor], config: Any, decoder: str | None
) -> dict[str, torch.Tensor]:
    """The weights of a masked-LM model that a fine-tuned model has: the whole base model, and the tied output embeddings.

    Args:
        model: the masked-LM model, after `unshared` and `untied`.
        tuned: name -> weight of the fine-tuned model.
        config: of the model before `unshared`.
        decoder: name of the output embeddings, from `untied`.

    Raises:
        InputError: the fine-tuned model lacks one, or has another size.
    """
    prefix = f"{model.base_model_prefix}."
    tied_to = next(name for name, value in model.named_parameters() if value is model.get_input_embeddings().weight)
    found = {}
    for name, value in model.named_parameters():
        source = tied_to if name == decoder else shared_name(name, config)
        if not source.startswith(prefix):
            continue
        if source not in tuned or tuned[source].shape != value.shape:
            raise InputError(f"the fine-tuned model has no weight {source} of the pretrained model's size")
        found[name] = tuned[source].detach().to(value.device, value.dtype)
    return found
