"""DeepSeek V2 against transformers: with and without a rank of queries, groups of experts, dense layers, yarn."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from transformers import DeepseekV2Config

from maxserve.architectures.deepseek_v2 import config
from maxserve.core.interfaces.errors import ModelError
from maxserve.testing.architecture import QuirkChecks


def tiny(**changes: Any) -> DeepseekV2Config:
    sizes = {
        "vocab_size": 73,
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 10,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
    }
    return DeepseekV2Config(**{**sizes, **changes})


YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "mscale": 0.707,
    "mscale_all_dim": 0.8,
}
GROUPS = {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}


class TestDeepseekV2(QuirkChecks):
    architecture = "DeepseekV2ForCausalLM"
    hf_configs: ClassVar = {
        "a dense layer before those of experts": tiny(),
        "queries at once": tiny(q_lora_rank=None),
        "groups": tiny(**GROUPS, num_experts_per_tok=3, routed_scaling_factor=1.7),
        "yarn": tiny(rope_parameters=YARN),
        "biases, all layers sparse": tiny(attention_bias=True, mlp_bias=True, first_k_dense_replace=0),
        "tied, wide values": tiny(tie_word_embeddings=True, v_head_dim=24, kv_lora_rank=20),
    }


SIZES = tiny(**GROUPS).to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topk_method": "noaux_tc"}, "topk_method 'noaux_tc' is not known"),
        ({"n_group": 3}, "8 experts in 3 groups"),
        ({"num_experts_per_tok": 5}, "5 cannot be chosen from 2 groups"),
        ({"topk_method": "greedy", "num_experts_per_tok": 9}, "9 experts for each token are more than the 8"),
        ({"moe_layer_freq": 2}, "moe_layer_freq"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        config({**SIZES, **changes})


def test_a_token_keeps_its_latent_vector_and_one_key() -> None:
    layer = config(SIZES).cache_layers[0]
    assert layer.token_size == 16 + 8
