"""OLMo 3 against transformers: windows in three of four layers, a rope for each kind of layer."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import Olmo3Config

from maxserve.testing.architecture import QuirkChecks


def tiny(**changes: Any) -> Olmo3Config:
    sizes = {
        "vocab_size": 83,
        "hidden_size": 48,
        "intermediate_size": 72,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 1,
        "sliding_window": 7,
    }
    return Olmo3Config(**{**sizes, **changes})


class TestOlmo3(QuirkChecks):
    architecture = "Olmo3ForCausalLM"
    hf_configs: ClassVar = {
        "tied, biases, one key head": tiny(tie_word_embeddings=True, attention_bias=True, num_key_value_heads=1),
        "layer types": tiny(layer_types=["full_attention", "sliding_attention"] * 2, num_key_value_heads=6),
        "no windows": tiny(layer_types=["full_attention"] * 4),
        "yarn where everything is seen": tiny(
            rope_parameters={
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 5e5,
                    "factor": 8.0,
                    "original_max_position_embeddings": 16,
                    "attention_factor": 1.2,
                    "beta_fast": 32.0,
                    "beta_slow": 1.0,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
            }
        ),
        "two thetas": tiny(
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 7e4},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
            }
        ),
    }
