"""Tiny models of many families, with random weights: built from transformers' own configurations, in a second each."""

from typing import Any

import numpy as np
from transformers import AutoConfig, PreTrainedConfig

VOCABULARY = 96
POSITIONS = 128
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 48,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": POSITIONS,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "ffn_dim": 48,
    "word_embed_proj_dim": 64,
    "n_inner": 48,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Sizes by the names that configurations have for them; those that one does not have are left out."""
SENSES = ("vision_config", "audio_config")
LATENT = {"num_key_value_heads": 4, "head_dim": 8}
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
CHUNKED = {"attention_chunk_size": 16, "no_rope_layers": [1, 0], "intermediate_size_mlp": 48}
MIXED = ["sliding_attention", "full_attention"]
TOLD: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "axk1", "minicpm3", "youtu", "longcat_flash", "glm4_moe_lite"), LATENT),
    "codegen": {"rotary_dim": 8},
    "gemma2": {"layer_types": MIXED, "query_pre_attn_scalar": 16},
    "gemma3_text": {"layer_types": MIXED, "sliding_window": POSITIONS},
    "gemma4_text": {"layer_types": MIXED, "sliding_window": POSITIONS},
    "gpt_oss": {"layer_types": MIXED},
    "gptj": {"rotary_dim": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "llama4_text": {"layer_types": ["chunked_attention", "full_attention"], **CHUNKED},
    "phi3": {"sliding_window": None},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"], **LINEAR},
}
"""What a family needs besides."""
NESTED = {"gemma3": "gemma3_text", "llama4": "llama4_text", "qwen3_5": "qwen3_5_text", "gemma4": "gemma4_text"}
"""Families that nest their text part, and what that is."""


def shape(kind: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a tiny model of a family."""
    default = AutoConfig.for_model(kind)
    if kind in NESTED:
        parts = {name: _senses(kind, name) for name in SENSES if getattr(default, name, None) is not None}
        text = shape(NESTED[kind], **changes).to_dict()
        return AutoConfig.for_model(kind, text_config=text, **parts)
    theirs = default.to_dict().keys() | default.attribute_map.keys()
    known = {name: value for name, value in SMALL.items() if name in theirs}
    return AutoConfig.for_model(kind, **{**known, **TOLD.get(kind, {}), **changes})


def _senses(kind: str, name: str) -> dict[str, Any]:
    default = getattr(AutoConfig.for_model(kind), name)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    return {size: value for size, value in sizes.items() if hasattr(default, size)}


def example(length: int, seed: int = 0) -> Any:
    """Random tokens, none of them a special one."""
    return np.random.default_rng(seed).integers(4, VOCABULARY, size=length, dtype=np.int32)
