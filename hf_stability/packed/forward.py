"""The packed forward pass: the same function as Hugging Face's, on the tokens that count.

Hugging Face computes every position of a padded batch, and every position of the last layer, although a sequence classifier
reads only position 0 ([CLS]). Here a batch of B examples, L positions each, becomes N rows:

- a row is a token that `attention_mask` keeps. Position 0 is always a row, because the head reads it;
- embeddings, linear layers, LayerNorm and activations run on N rows. Attention pads queries, keys and values, and runs per
  example;
- the last layer computes keys and values of all rows, but queries, output and feed-forward of position 0 only.

The encoder's own modules are called, with the model's own parameters. So hooks on them, adapters and Mixout work.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .support import PACKED, REFUSED, check_model, refuse


def use_step(model: nn.Module, step: str = PACKED, gpus: int = 1) -> None:
    """Let a sequence classifier use the packed forward pass, or Hugging Face's own again. In place.

    Only the encoder's `forward` changes, on this object. Parameters, their names, the head's code and what is saved stay as they
    are. A copy of the model keeps the packed pass; a model that was saved and loaded has Hugging Face's.

    Args:
        model: a model of a supported type, see `support`, with or without adapters (PEFT).
        step: "packed" or "hf".
        gpus: GPUs of this process.

    Raises:
        InputError: the packed step does not support this model, or several GPUs in one process.
    """
    for module in model.modules():
        if getattr(module.__dict__.get("forward"), "func", None) is packed_forward:
            del module.forward
    if step == PACKED:
        if gpus > 1:  # DataParallel's copies of a module share its `forward`, and so the first GPU's weights
            refuse(f"does not work with DataParallel ({gpus} GPUs in one process); torchrun does")
        encoder: Any = check_model(model)
        encoder.forward = partial(packed_forward, encoder)


@dataclass(frozen=True)
class Rows:
    """Where the rows of a batch are.

    Attributes:
        shape: (B, L) of the padded batch.
        kept: `(N,)`, the rows' places in the flattened batch, ascending. None if every place is a row.
        first: `(B,)`, the row of each example's position 0.
        mask: `(B, 1, 1, L)`, true where there is a key. None if every place has one.
    """

    shape: tuple[int, int]
    kept: Tensor | None
    first: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, attention_mask: Tensor) -> Rows:
        """The rows of an attention mask `(B, L)`, which is 0 at padding."""
        keys = attention_mask.bool()
        rows = keys.clone()
        rows[:, 0] = True
        number = rows.sum(1)
        whole = bool(keys.all())
        return cls(
            (keys.shape[0], keys.shape[1]),
            None if whole else rows.flatten().nonzero()[:, 0],
            number.cumsum(0) - number,
            None if whole else keys[:, None, None, :],
        )

    def take(self, padded: Tensor) -> Tensor:
        """`(B, L, ...)` -> `(N, ...)`."""
        flat = padded.flatten(0, 1)
        return flat if self.kept is None else flat.index_select(0, self.kept)

    def pad(self, rows: Tensor) -> Tensor:
        """`(N, width)` -> `(B, L, width)`, 0 at padding."""
        batch, length = self.shape
        if self.kept is not None:
            rows = rows.new_zeros(batch * length, rows.shape[-1]).index_copy(0, self.kept, rows)
        return rows.view(batch, length, -1)


def attend(query: Tensor, key: Tensor, value: Tensor, rows: Rows, heads: int, dropout: float = 0.0) -> Tensor:
    """Attention within each example: softmax(q k^T / sqrt(d)) v, with dropout on the softmax.

    Args:
        query: `(N, heads * d)`, or `(B, heads * d)` for position 0 of each example.
        key, value: `(N, heads * d)`.
        rows: of the batch.
        heads: number of heads.
        dropout: probability.

    Returns:
        the shape of `query`.
    """
    every = query.shape[0] == key.shape[0]
    padded = rows.pad(query) if every else query[:, None]
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (padded, rows.pad(key), rows.pad(value)))
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=rows.mask, dropout_p=dropout)
    context = context.transpose(1, 2).flatten(2)
    return rows.take(context) if every else context[:, 0]


def packed_forward(
    encoder: Any,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    position_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    **more: Any,
) -> BaseModelOutputWithPooling:
    """The forward pass of an encoder such as `BertModel`, in place of its own. See `use_step`.

    Args:
        encoder: of a supported model type, see `support`.
        input_ids, token_type_ids, position_ids: `(B, L)`, as Hugging Face's.
        attention_mask: `(B, L)`, 0 at padding on either side. Default: every token counts.
        inputs_embeds: `(B, L, width)`, in place of `input_ids`.
        more: other keywords. Those that ask for more than position 0 are refused.

    Returns:
        `last_hidden_state` `(B, 1, hidden)`, the state of position 0, and `pooler_output` of the encoder's own pooler.

    Raises:
        InputError: hidden states, attentions, a cache, a decoder, or a mask of another shape are asked for.
    """
    tokens = input_ids if input_ids is not None else inputs_embeds
    if tokens is None or (attention_mask is not None and attention_mask.shape != tokens.shape[:2]):
        refuse("needs tokens, and an attention mask of shape (examples, positions)")
    for name in REFUSED:
        if more.get(name) not in (None, False):
            refuse(f"the model is called with {name}, but this step computes the state of position 0 only")
    rows = Rows.of(tokens.new_ones(tokens.shape[:2]) if attention_mask is None else attention_mask)
    if position_ids is None:
        position_ids = positions(encoder.embeddings, input_ids, tokens)
    given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "token_type_ids": token_type_ids}
    given["position_ids"] = position_ids.expand(rows.shape)
    states = encoder.embeddings(**{name: rows.take(x)[None] for name, x in given.items() if x is not None})[0]
    if hasattr(encoder, "embeddings_project"):  # ELECTRA
        states = encoder.embeddings_project(states)
    if hasattr(encoder.encoder, "embedding_hidden_mapping_in"):  # ALBERT
        states = encoder.encoder.embedding_hidden_mapping_in(states)
    layers = layers_of(encoder)
    for number, layer in enumerate(layers, 1):
        states = apply_layer(layer, states, rows, only_first=number == len(layers))
    states = states[:, None]
    return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled(encoder, states))


def positions(embeddings: Any, input_ids: Tensor | None, tokens: Tensor) -> Tensor:
    """Position ids as Hugging Face's embeddings make them, `(B, L)` or `(1, L)`. RoBERTa's begin after `padding_idx`."""
    if not hasattr(embeddings, "create_position_ids_from_input_ids"):
        return embeddings.position_ids[:, : tokens.shape[1]]
    if input_ids is None:
        return embeddings.create_position_ids_from_inputs_embeds(tokens, embeddings.padding_idx)
    return embeddings.create_position_ids_from_input_ids(input_ids, embeddings.padding_idx)


def layers_of(encoder: Any) -> list[nn.Module]:
    """An encoder's layers, in the order in which they are applied. ALBERT applies one layer many times."""
    stack = encoder.encoder
    if not hasattr(stack, "albert_layer_groups"):
        return list(stack.layer)
    groups, depth = stack.albert_layer_groups, encoder.config.num_hidden_layers
    return [layer for i in range(depth) for layer in groups[int(i / (depth / len(groups)))].albert_layers]


def apply_layer(layer: Any, states: Tensor, rows: Rows, only_first: bool) -> Tensor:
    """A Transformer layer of BERT or ALBERT: `(N, hidden)` -> `(N, hidden)`, or `(B, hidden)` for position 0 only."""
    is_albert = hasattr(layer, "full_layer_layer_norm")
    own = layer.attention if is_albert else layer.attention.self
    wanted = states.index_select(0, rows.first) if only_first else states
    dropout = (own.attention_dropout if is_albert else own.dropout).p if own.training else 0.0
    context = attend(own.query(wanted), own.key(states), own.value(states), rows, own.num_attention_heads, dropout)
    if not is_albert:
        return layer.feed_forward_chunk(layer.attention.output(context, wanted))
    states = own.LayerNorm(wanted + own.output_dropout(own.dense(context)))
    return layer.full_layer_layer_norm(layer.ff_chunk(states) + states)


def pooled(encoder: Any, states: Tensor) -> Tensor | None:
    """The pooler's output, `(B, hidden)`. None for an encoder without one (RoBERTa, ELECTRA)."""
    if getattr(encoder, "pooler", None) is None:
        return None
    if hasattr(encoder, "pooler_activation"):  # ALBERT
        return encoder.pooler_activation(encoder.pooler(states[:, 0]))
    return encoder.pooler(states)
