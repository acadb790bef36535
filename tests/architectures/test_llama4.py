"""Llama 4 against transformers: chunks, layers without positions, growing queries, dense layers between mixtures."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from transformers import Llama4ForCausalLM, Llama4TextConfig

from maxserve.testing.architecture import QuirkChecks

SIZES = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 40,
    "intermediate_size_mlp": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "attention_chunk_size": 10,
    "num_local_experts": 4,
    "no_rope_layer_interval": 2,
    "floor_scale": 5,
    "pad_token_id": None,
}


def tiny(**changes: Any) -> Llama4TextConfig:
    return Llama4TextConfig(**{**SIZES, **changes})


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


class TestLlama4(QuirkChecks):
    architecture = "Llama4ForCausalLM"
    hf_configs: ClassVar = {
        "chunks and growth that prompts meet": tiny(),
        "mixtures in every other layer": tiny(num_hidden_layers=4, interleave_moe_layer_step=2, use_qk_norm=False),
        "two experts a token, llama3": tiny(num_experts_per_tok=2, rope_parameters=LLAMA3),
        "no chunks, no growth": tiny(attention_chunk_size=None, attn_temperature_tuning=False),
        "layers named": tiny(moe_layers=[0], no_rope_layers=[0, 1], attn_scale=0.4),
        "biases, tied": tiny(attention_bias=True, tie_word_embeddings=True),
    }

    @classmethod
    def reference(cls, hf_config: Any) -> nn.Module:
        return Llama4ForCausalLM._from_config(hf_config, attn_implementation="eager")
