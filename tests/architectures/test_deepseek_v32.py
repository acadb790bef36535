"""DeepSeek V3.2 against transformers: tokens that choose few of many before them, and all of few."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from maxserve.architectures import deepseek_v32
from maxserve.core.interfaces.errors import ModelError
from maxserve.testing.architecture import QuirkChecks

pytest.importorskip("transformers.models.deepseek_v32", reason="this transformers has no DeepSeek V3.2")


def tiny(**changes: Any) -> Any:
    from transformers import DeepseekV32Config

    sizes = {
        "vocab_size": 73,
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 10,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 1,
        "index_topk": 5,
        "index_head_dim": 20,
        "index_n_heads": 16,
    }
    return DeepseekV32Config(**{**sizes, **changes})


YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "beta_fast": 32,
    "beta_slow": 1,
}


class TestDeepseekV32(QuirkChecks):
    architecture = "DeepseekV32ForCausalLM"
    hf_configs: ClassVar = {
        "five of all": lambda: tiny(),
        "one of all, an index no larger than what is rotated": lambda: tiny(index_topk=1, index_head_dim=8),
        "more than there are": lambda: tiny(index_topk=100),
        "yarn": lambda: tiny(rope_parameters=YARN),
        "biases, sparse layers by a list": lambda: tiny(
            attention_bias=True, mlp_layer_types=["sparse", "dense", "sparse"]
        ),
    }


RAW = tiny().to_dict()


def test_what_cannot_be_is_named() -> None:
    for changes, reason in (
        ({"q_lora_rank": None}, "'q_lora_rank' is null"),
        ({"index_head_dim": 4}, "'index_head_dim' 4 is less than 'qk_rope_head_dim' 8"),
        ({"mlp_layer_types": ["dense"]}, "'mlp_layer_types' must say dense or sparse for each of 3 layers"),
        ({"index_topk": 0}, "'index_topk' is 0"),
    ):
        with pytest.raises(ModelError, match=reason):
            deepseek_v32.config({**RAW, **changes})


def test_a_published_config_takes_little_room() -> None:
    """Of a token 512 latent numbers, 64 that are rotated and 128 of the index, for all heads."""
    config = deepseek_v32.config({})
    assert {layer.token_size for layer in config.cache_layers} == {512 + 64 + 128}
    assert (config.index_heads, config.index_top, len(config.cache_layers)) == (64, 2048, 61)
