"""Qwen 3 against transformers: normed queries and keys, wide heads, windows."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import Qwen3Config

from maxserve.testing.architecture import QuirkChecks


def tiny(**changes: Any) -> Qwen3Config:
    sizes = {
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 16,
        "max_position_embeddings": 64,
    }
    return Qwen3Config(**{**sizes, **changes})


class TestQwen3(QuirkChecks):
    architecture = "Qwen3ForCausalLM"
    hf_configs: ClassVar = {
        "tied": tiny(tie_word_embeddings=True),
        "bias": tiny(attention_bias=True),
        "one key head": tiny(num_key_value_heads=1),
        "a key head each": tiny(num_key_value_heads=6),
        "yarn": tiny(
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1000000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        ),
        "windows": tiny(use_sliding_window=True, sliding_window=7, max_window_layers=1),
    }
