"""Qwen 3 MoE against transformers: weights that sum to 1 or not, dense layers between, windows."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import Qwen3MoeConfig

from maxserve.testing.architecture import QuirkChecks


def tiny(**changes: Any) -> Qwen3MoeConfig:
    sizes = {
        "vocab_size": 79,
        "hidden_size": 32,
        "intermediate_size": 56,
        "moe_intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "num_experts": 8,
        "num_experts_per_tok": 3,
    }
    return Qwen3MoeConfig(**{**sizes, **changes})


class TestQwen3Moe(QuirkChecks):
    architecture = "Qwen3MoeForCausalLM"
    hf_configs: ClassVar = {
        "weights that sum to 1": tiny(norm_topk_prob=True, head_dim=16),
        "every other layer": tiny(num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[3]),
        "window": tiny(use_sliding_window=True, sliding_window=9),
        "biases, tied": tiny(attention_bias=True, tie_word_embeddings=True),
    }
