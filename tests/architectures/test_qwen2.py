"""Qwen 2 against transformers: biased projections, windows in the layers that have them, yarn."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import Qwen2Config

from maxserve.testing.architecture import QuirkChecks


def tiny(**changes: Any) -> Qwen2Config:
    sizes = {
        "vocab_size": 97,
        "hidden_size": 56,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return Qwen2Config(**{**sizes, **changes})


class TestQwen2(QuirkChecks):
    architecture = "Qwen2ForCausalLM"
    hf_configs: ClassVar = {
        "tied, a key head each": tiny(tie_word_embeddings=True, num_key_value_heads=4),
        "windows": tiny(use_sliding_window=True, sliding_window=7, max_window_layers=1),
        "windows by layer": tiny(
            use_sliding_window=True,
            sliding_window=5,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        "unused windows, one key head": tiny(use_sliding_window=False, sliding_window=7, num_key_value_heads=1),
        "yarn": tiny(
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1000000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        ),
    }
