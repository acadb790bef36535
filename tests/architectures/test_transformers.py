"""The fallback against transformers itself, over families it was not written for."""

from __future__ import annotations

from typing import Any, ClassVar

import transformers

from maxserve.core.testing.architecture import ArchitectureChecks

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OLD: dict[str, Any] = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": 20,
    "factor": 3.2,
    "short_factor": [1.0, 1.2, 1.5, 2.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
}


def tiny(family: str, sizes: dict[str, Any] = SIZES, **more: Any) -> Any:
    return getattr(transformers, f"{family}Config")(**{**sizes, **more})


FAMILIES: dict[str, Any] = {
    "Cohere": tiny("Cohere", logit_scale=0.25),
    "Cohere2": tiny("Cohere2", sliding_window=7, head_dim=8),
    "StableLm": tiny("StableLm", partial_rotary_factor=0.5),
    "Starcoder2": tiny("Starcoder2", use_bias=True),
    "Phi": tiny("Phi", partial_rotary_factor=0.5),
    "GPTNeoX": tiny("GPTNeoX", OLD, rotary_pct=0.5),
    "Glm": tiny("Glm", head_dim=8, partial_rotary_factor=0.5),
    "Glm4": tiny("Glm4", head_dim=8, partial_rotary_factor=0.5),
    "Helium": tiny("Helium", head_dim=8),
    "Nemotron": tiny("Nemotron", head_dim=8),
    "SmolLM3": tiny("SmolLM3"),
    "Ernie4_5": tiny("Ernie4_5", head_dim=8),
    "SeedOss": tiny("SeedOss", head_dim=8),
    "Arcee": tiny("Arcee"),
    "HunYuanDenseV1": tiny("HunYuanDenseV1", head_dim=8),
    "Olmoe": tiny("Olmoe", **EXPERTS),
    "Qwen2Moe": tiny("Qwen2Moe", **EXPERTS, shared_expert_intermediate_size=32),
    "Dots1": tiny(
        "Dots1",
        head_dim=8,
        moe_intermediate_size=24,
        n_routed_experts=6,
        num_experts_per_tok=2,
        n_shared_experts=1,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        norm_topk_prob=True,
    ),
    "BitNet": tiny("BitNet"),
    "GPT2": transformers.GPT2Config(vocab_size=97, n_embd=48, n_layer=3, n_head=6, n_positions=64, eos_token_id=2),
    "OPT": tiny("OPT", OLD, ffn_dim=64, word_embed_proj_dim=24),
    "Phimoe, longrope": tiny(
        "Phimoe", num_local_experts=4, rope_parameters=LONGROPE | {"short_mscale": 1.0, "long_mscale": 1.0}
    ),
    "Llama": tiny("Llama", rope_parameters=LONGROPE),
    "Gemma2": tiny("Gemma2", head_dim=8, sliding_window=7, query_pre_attn_scalar=12),
    "GptOss": tiny("GptOss", head_dim=8, sliding_window=7, num_local_experts=4, num_experts_per_tok=2),
}


class TestFallback(ArchitectureChecks):
    architecture = "transformers"
    hf_configs: ClassVar = FAMILIES
