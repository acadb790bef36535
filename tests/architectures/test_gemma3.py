"""Gemma 3, text, against transformers: a rope for each kind of layer, normed queries and keys, windows."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import Gemma3TextConfig

from maxserve.testing.architecture import QuirkChecks


def tiny(**changes: Any) -> Gemma3TextConfig:
    sizes = {
        "vocab_size": 83,
        "hidden_size": 48,
        "intermediate_size": 72,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "head_dim": 20,
        "query_pre_attn_scalar": 24,
        "sliding_window": 7,
        "pad_token_id": 0,
    }
    return Gemma3TextConfig(**{**sizes, **changes})


class TestGemma3(QuirkChecks):
    architecture = "Gemma3ForCausalLM"
    hf_configs: ClassVar = {
        "every other layer sees everything": tiny(sliding_window_pattern=2),
        "no layer sees everything": tiny(sliding_window_pattern=6),
        "every layer sees everything": tiny(layer_types=["full_attention"] * 4),
        "untied, biases": tiny(tie_word_embeddings=False, attention_bias=True, sliding_window_pattern=2),
        "soft cap of logits, one key head": tiny(
            final_logit_softcapping=30.0, num_key_value_heads=1, sliding_window_pattern=3
        ),
        "soft cap of scores, which counts for nothing": tiny(attn_logit_softcapping=1.0),
        "a key head each, odd width": tiny(num_key_value_heads=6, head_dim=10, sliding_window_pattern=2),
        "stretched where everything is seen": tiny(
            sliding_window_pattern=2,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        ),
        "both stretched": tiny(
            sliding_window_pattern=2,
            rope_parameters={
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 1e6,
                    "factor": 4.0,
                    "original_max_position_embeddings": 16,
                },
                "sliding_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
            },
        ),
    }
