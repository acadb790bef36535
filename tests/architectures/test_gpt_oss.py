"""GPT-OSS against transformers: windows and sinks, yarn, biases, the clamped gate; and MXFP4 checkpoints."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import GptOssConfig

from maxserve.testing.architecture import QuirkChecks


def tiny(**changes: Any) -> GptOssConfig:
    sizes = {
        "vocab_size": 71,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "sliding_window": 7,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
    }
    return GptOssConfig(**{**sizes, **changes})


YARN = {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 4.0, "original_max_position_embeddings": 16}


class TestGptOss(QuirkChecks):
    architecture = "GptOssForCausalLM"
    hf_configs: ClassVar = {
        "yarn": tiny(rope_parameters={**YARN, "truncate": False, "beta_fast": 16.0, "beta_slow": 2.0}),
        "no rope scaling, no biases": tiny(
            rope_parameters={"rope_type": "default", "rope_theta": 1e4}, attention_bias=False
        ),
        "low limit": tiny(swiglu_limit=0.5, swiglu_alpha=1.3),
        "windows in all layers": tiny(layer_types=["sliding_attention"] * 2, sliding_window=3),
        "tied, four experts a token": tiny(tie_word_embeddings=True, num_experts_per_tok=4),
    }
