"""EXAONE 4 against transformers: hybrids, which rotate nothing where everything is seen, and others."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import Exaone4Config

from maxserve.testing.architecture import QuirkChecks


def tiny(**changes: Any) -> Exaone4Config:
    sizes = {
        "vocab_size": 83,
        "hidden_size": 48,
        "intermediate_size": 72,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "sliding_window": 7,
        "sliding_window_pattern": 2,
    }
    return Exaone4Config(**{**sizes, **changes})


class TestExaone4(QuirkChecks):
    architecture = "Exaone4ForCausalLM"
    hf_configs: ClassVar = {
        "hybrid": tiny(),
        "hybrid of four, tied": tiny(sliding_window_pattern=4, tie_word_embeddings=True),
        "no windows": tiny(sliding_window=None, layer_types=["full_attention"] * 4),
        "nothing rotated": tiny(layer_types=["full_attention"] * 4),
        "everything rotated": tiny(layer_types=["sliding_attention"] * 4),
        "one key head, wide heads": tiny(num_key_value_heads=1, head_dim=20),
        "a key head each, llama3": tiny(
            num_key_value_heads=6,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 1e6,
                "factor": 16.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        ),
    }
