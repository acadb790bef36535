"""Granite against transformers: each multiplier by itself and all together."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import GraniteConfig

from maxserve.testing.architecture import QuirkChecks


def tiny(**changes: Any) -> GraniteConfig:
    sizes = {
        "vocab_size": 83,
        "hidden_size": 48,
        "intermediate_size": 72,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return GraniteConfig(**{**sizes, **changes})


class TestGranite(QuirkChecks):
    architecture = "GraniteForCausalLM"
    hf_configs: ClassVar = {
        "embeddings": tiny(embedding_multiplier=12.0),
        "scores": tiny(attention_multiplier=0.0625),
        "residuals": tiny(residual_multiplier=0.22),
        "logits": tiny(logits_scaling=8.0),
        "all, tied, biases": tiny(
            embedding_multiplier=12.0,
            attention_multiplier=0.0625,
            residual_multiplier=0.22,
            logits_scaling=8,
            tie_word_embeddings=True,
            attention_bias=True,
            mlp_bias=True,
        ),
        "one key head": tiny(num_key_value_heads=1, attention_multiplier=0.125),
        "a key head each, theta": tiny(
            num_key_value_heads=6, rope_parameters={"rope_type": "default", "rope_theta": 5e6}
        ),
    }
