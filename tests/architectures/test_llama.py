"""Llama against transformers: every rope scaling, tied and untied heads, biases, ratios of heads."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import LlamaConfig

from maxserve.testing.architecture import QuirkChecks

LONGROPE = {"short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5], "long_factor": [1.0, 1.5, 2, 3, 4, 6, 8, 9]}


def tiny(**changes: Any) -> LlamaConfig:
    sizes = {
        "vocab_size": 101,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return LlamaConfig(**{**sizes, **changes})


def rope(kind: str, **fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **fields}}


class TestLlama(QuirkChecks):
    architecture = "LlamaForCausalLM"
    hf_configs: ClassVar = {
        "tied": tiny(tie_word_embeddings=True),
        "biases": tiny(attention_bias=True, mlp_bias=True),
        "one key head": tiny(num_key_value_heads=1),
        "a key head each": tiny(num_key_value_heads=4),
        "wide heads": tiny(head_dim=32),
        "narrow heads": tiny(head_dim=8),
        "tanh gelu, large eps": tiny(hidden_act="gelu_pytorch_tanh", rms_norm_eps=1e-2),
        "pretraining_tp": tiny(pretraining_tp=2),
        "theta": tiny(rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
        "linear": tiny(**rope("linear", factor=4.0)),
        "dynamic": tiny(**rope("dynamic", factor=2.0)),
        "llama3": tiny(
            **rope(
                "llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=16,
            )
        ),
        "yarn": tiny(**rope("yarn", factor=4.0, original_max_position_embeddings=16)),
        "yarn, mscale": tiny(
            **rope(
                "yarn",
                factor=4.0,
                original_max_position_embeddings=16,
                mscale=0.7,
                mscale_all_dim=1.0,
                truncate=False,
                beta_fast=16.0,
                beta_slow=2.0,
            )
        ),
        "yarn, attention factor": tiny(
            **rope("yarn", factor=4.0, original_max_position_embeddings=16, attention_factor=0.8)
        ),
        "longrope, beyond": tiny(**rope("longrope", factor=4.0, original_max_position_embeddings=16, **LONGROPE)),
        "longrope, attention factor": tiny(
            **rope("longrope", attention_factor=1.4, original_max_position_embeddings=31, **LONGROPE)
        ),
        "longrope as in Phi 3": tiny(original_max_position_embeddings=24, **rope("longrope", **LONGROPE)),
        "longrope, within": tiny(**rope("longrope", factor=4.0, original_max_position_embeddings=64, **LONGROPE)),
    }
