"""OLMo 2 against transformers: norms after each part, queries and keys normed over all heads."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import Olmo2Config

from maxserve.testing.architecture import QuirkChecks


def tiny(**changes: Any) -> Olmo2Config:
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
    return Olmo2Config(**{**sizes, **changes})


class TestOlmo2(QuirkChecks):
    architecture = "Olmo2ForCausalLM"
    hf_configs: ClassVar = {
        "tied, biases": tiny(tie_word_embeddings=True, attention_bias=True),
        "one key head, wide eps": tiny(num_key_value_heads=1, rms_norm_eps=1e-2),
        "a key head each": tiny(num_key_value_heads=6),
        "theta": tiny(rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
    }
