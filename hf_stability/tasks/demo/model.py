"""The demo's small models before pretraining: families, tokenizers, and models with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from .grammar import WORDS


# BERT's 0.02 is made for hidden size 768. At size 64, twelve layers of such weights hardly change their input.
INITIALIZER_RANGE = 0.05
MAX_LENGTH = 64  # tokens; the longest pair has fewer than 50


@dataclass(frozen=True)
class Architecture:
    """The settings in which the families differ.

    Args:
        model_class: name of the pretraining model in `transformers`.
        special_tokens: the first entries of the vocabulary. The id of each is its position.
        roles: names of the special tokens for the tokenizer (`pad_token=...`).
        single: template of `tokenizers` for one sentence.
        pair: template of `tokenizers` for two sentences; `:1` is the token type.
        pair_label: the model's keyword for the sentence-pair label. None if it is not trained on pairs.
        pair_task: `"same"`: does the second sentence belong to the first? (In half of the pairs it does not.) `"order"`: are
            the two in order? None: no task. Except with `"same"`, the two always belong together, like the consecutive
            text of the original models.
        config: further values of the model's configuration.
        fine_tuning: values that replace these in the SAVED configuration, for fine-tuning: the family's usual ones.
    """

    model_class: str
    special_tokens: tuple[str, ...]
    roles: dict[str, str]
    single: str
    pair: str
    pair_label: str | None
    pair_task: str | None
    config: dict
    fine_tuning: dict


_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_BERT_ROLES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_USUAL = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02}

ARCHITECTURES = {
    "bert": Architecture(
        model_class="BertForPreTraining",
        special_tokens=_BERT_SPECIAL,
        roles=_BERT_ROLES,
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        pair_label="next_sentence_label",
        pair_task="same",
        config={"max_position_embeddings": MAX_LENGTH},
        fine_tuning=_USUAL,
    ),
    # No task on pairs: two sentences are just a longer text. Positions count from pad_token_id + 1.
    "roberta": Architecture(
        model_class="RobertaForMaskedLM",
        special_tokens=("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
        roles={
            "bos_token": "<s>",
            "cls_token": "<s>",
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "sep_token": "</s>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
        },
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        pair_label=None,
        pair_task=None,
        config={"max_position_embeddings": MAX_LENGTH + 2, "type_vocab_size": 1},
        fine_tuning=_USUAL,
    ),
    # The weights of one layer, used twelve times. Dropout 0 is ALBERT v2's own value for fine-tuning.
    "albert": Architecture(
        model_class="AlbertForPreTraining",
        special_tokens=_BERT_SPECIAL,
        roles=_BERT_ROLES,
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        pair_label="sentence_order_label",
        pair_task="order",
        config={"max_position_embeddings": MAX_LENGTH, "embedding_size": 32, "classifier_dropout_prob": 0.0},
        fine_tuning={
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "classifier_dropout_prob": 0.1,
            "initializer_range": 0.02,
        },
    ),
}
SIZES = {"hidden_size": 64, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 256}


def build_tokenizer(architecture: str) -> PreTrainedTokenizerFast:
    """A tokenizer of the language's words: ids 0 to 4 are special tokens, then `grammar.WORDS` follow in order."""
    family = ARCHITECTURES[architecture]
    vocabulary = {word: index for index, word in enumerate([*family.special_tokens, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=family.roles["unk_token"]))
    tokenizer.pre_tokenizer = Whitespace()  # separates punctuation from words, too
    tokenizer.post_processor = TemplateProcessing(
        single=family.single,
        pair=family.pair,
        special_tokens=[(token, vocabulary[token]) for token in family.special_tokens],
    )
    input_names = ["input_ids", "attention_mask"]
    if ":1" in family.pair:
        input_names.insert(1, "token_type_ids")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=input_names, model_max_length=MAX_LENGTH, **family.roles
    )


def build_model(
    architecture: str, tokenizer: PreTrainedTokenizerFast, **overrides: Any
) -> transformers.PreTrainedModel:
    """The pretraining model with random weights, drawn from torch's global state. `overrides` go to its config."""
    family = ARCHITECTURES[architecture]
    model_class = getattr(transformers, family.model_class)
    special_ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_dropout_prob": 0.0,  # text that never repeats cannot be overfitted
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": INITIALIZER_RANGE,
        **SIZES,
        **special_ids,
        **family.config,
        **overrides,
    }
    return model_class(model_class.config_class(**settings))
