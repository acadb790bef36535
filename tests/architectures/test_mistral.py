"""Mistral against transformers: with and without a window, tied and untied heads, ratios of heads."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import MistralConfig

from maxserve.testing.architecture import QuirkChecks


def tiny(**changes: Any) -> MistralConfig:
    sizes = {
        "vocab_size": 89,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "sliding_window": None,
    }
    return MistralConfig(**{**sizes, **changes})


class TestMistral(QuirkChecks):
    architecture = "MistralForCausalLM"
    hf_configs: ClassVar = {
        "no window": tiny(),
        "window": tiny(sliding_window=7),
        "window longer than prompts": tiny(sliding_window=63),
        "tied, one key head": tiny(tie_word_embeddings=True, num_key_value_heads=1),
        "wide heads, theta": tiny(head_dim=20, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    }
