"""OLMo against transformers: norms that have no weight, clipped projections, biases."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import OlmoConfig

from maxserve.testing.architecture import QuirkChecks


def tiny(**changes: Any) -> OlmoConfig:
    sizes = {
        "vocab_size": 83,
        "hidden_size": 48,
        "intermediate_size": 72,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 1,
    }
    return OlmoConfig(**{**sizes, **changes})


class TestOlmo(QuirkChecks):
    architecture = "OlmoForCausalLM"
    hf_configs: ClassVar = {
        "clipped": tiny(clip_qkv=0.7),
        "tied, biases, clipped": tiny(tie_word_embeddings=True, attention_bias=True, clip_qkv=1.0),
        "one key head": tiny(num_key_value_heads=1),
        "a key head each": tiny(num_key_value_heads=6, hidden_act="relu"),
        "linear": tiny(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
    }
