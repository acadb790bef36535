"""Mixtral against transformers: few and many experts, a window, one expert a token."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import MixtralConfig

from maxserve.testing.architecture import QuirkChecks


def tiny(**changes: Any) -> MixtralConfig:
    sizes = {
        "vocab_size": 83,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
    return MixtralConfig(**{**sizes, **changes})


class TestMixtral(QuirkChecks):
    architecture = "MixtralForCausalLM"
    hf_configs: ClassVar = {
        "window": tiny(sliding_window=7),
        "many experts": tiny(num_local_experts=13, num_experts_per_tok=5),
        "one expert a token": tiny(num_experts_per_tok=1),
        "all experts": tiny(num_experts_per_tok=4),
        "tied, wide heads, gelu": tiny(tie_word_embeddings=True, head_dim=12, hidden_act="gelu"),
    }
