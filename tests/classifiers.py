"""The sequence classifiers of transformers: their configs, whole and tiny."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES


TYPES = list(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)

NOT_HERE = {"layoutlmv2": "needs detectron2, which has no package for this Python"}
"""Types that cannot be built, with the reason."""

ROPE = {"rope_type": "default", "rope_theta": 10000.0}

WHOLE: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"rope_parameters": {f"{kind}_attention": ROPE for kind in ("full", "sliding")}},
    "esm": {"vocab_size": 33, "pad_token_id": 1},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 48},
}
"""Values without which a type's default config builds no model."""

SMALL = {
    **dict.fromkeys(("vocab_size", "type_vocab_size"), 60),
    **dict.fromkeys(
        ("hidden_size", "d_model", "dim", "n_embd", "emb_dim", "embedding_size", "pooler_hidden_size"), 48
    ),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers", "n_layer", "num_decoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "attn_layer_period", "full_attention_interval"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_heads", "n_head", "num_key_value_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("intermediate_size", "d_ff", "hidden_dim", "dff", "d_inner", "n_inner", "ffn_dim"), 32),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size"), 32),
    **dict.fromkeys(("head_dim", "d_head", "d_kv"), 24),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "attn_layer_offset", "n_group", "topk_group"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    **{"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 2, "use_cache": False},
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    **{"rotary_dim": 8, "entity_vocab_size": 10, "num_hash_buckets": 64, "default_language": "en_XX"},
    **{"coordinate_size": 8, "shape_size": 8, "xpath_unit_hidden_size": 8, "max_depth": 4},
    **{"pronunciation_vocab_size": 60, "shape_vocab_size": 60, "d_latents": 32, "num_latents": 8},
    **{"num_self_attends_per_block": 2, "axial_pos_embds": False, "block_sizes": [2, 2], "image_size": 32},
}
"""Fields of many configs, under all their names."""

OWN: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "t5": {"decoder_start_token_id": 0},
    **dict.fromkeys(("zamba", "zamba2"), {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2}),
    "reformer": {"attn_layers": ["local", "lsh"], "num_buckets": 2},
    "cohere_compass_text": WHOLE["cohere_compass_text"],
}


def whole_config(model_type: str) -> Any:
    """The type's default config."""
    return AutoConfig.for_model(model_type, **WHOLE.get(model_type, {}))


def tiny_config(model_type: str) -> Any:
    """A config of this type with two small layers."""
    default = AutoConfig.for_model(model_type)
    return AutoConfig.for_model(model_type, **{**_small(default), **OWN.get(model_type, {})})


def _small(config: Any) -> dict[str, Any]:
    """Those of `SMALL` that this config has, and the same for the configs in it."""
    there = config.to_dict()
    values = {name: value for name, value in SMALL.items() if name in there}
    if "qk_rope_head_dim" in there:
        values.pop("head_dim", None)  # it is derived from this
    inner = {part: getattr(config, part, None) for part in config.sub_configs}
    return {**values, **{part: _small(own) for part, own in inner.items() if own is not None}}


def built(config: Any, device: str = "cpu") -> torch.nn.Module:
    with torch.device(device):
        return AutoModelForSequenceClassification.from_config(config)
