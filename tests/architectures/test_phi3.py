"""Phi 3 against transformers: fused projections, longrope about its border, heads rotated in part, windows."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import Phi3Config

from maxserve.testing.architecture import QuirkChecks


def longrope(pairs: int) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0 + 0.1 * i for i in range(pairs)],
        "long_factor": [1.0 + 0.9 * i for i in range(pairs)],
    }


def tiny(**changes: Any) -> Phi3Config:
    sizes = {
        "vocab_size": 83,
        "hidden_size": 64,
        "intermediate_size": 72,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "original_max_position_embeddings": 64,
    }
    return Phi3Config(**{**sizes, **changes})


class TestPhi3(QuirkChecks):
    architecture = "Phi3ForCausalLM"
    hf_configs: ClassVar = {
        "tied, one key head": tiny(tie_word_embeddings=True, num_key_value_heads=1),
        "a key head each, window": tiny(num_key_value_heads=4, sliding_window=7),
        "half rotated": tiny(partial_rotary_factor=0.5),
        "an odd share rotated": tiny(partial_rotary_factor=0.32, rope_parameters={"rope_theta": 1e5}),
        "longrope": tiny(original_max_position_embeddings=24, rope_parameters=longrope(8)),
        "longrope, within": tiny(rope_parameters=longrope(8)),
        "longrope, three quarters rotated, tied": tiny(
            original_max_position_embeddings=33,
            rope_parameters=longrope(6),
            partial_rotary_factor=0.75,
            tie_word_embeddings=True,
        ),
        "longrope, window, factor": tiny(
            original_max_position_embeddings=24, sliding_window=9, rope_parameters={**longrope(8), "factor": 3.0}
        ),
    }
