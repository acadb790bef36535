from __future__ import annotations

import json
from typing import Any

import pytest

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.json_files import check_limits


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1000000000, and no model has more than 4096"),
        ({"num_hidden_layers": -(10**9)}, "'num_hidden_layers' is -1000000000"),
        ({"n_layer": 10**6}, "'n_layer'"),
        ({"text_config": {"num_hidden_layers": 10**6}}, r"'text_config\.num_hidden_layers'"),
        ({"vision_config": {"depth": 10**6}}, r"'vision_config\.depth'"),
        ({"sub": [{"num_hidden_layers": 10**6}]}, r"'sub\.num_hidden_layers'"),
        ({"num_attention_heads": 10**9}, "'num_attention_heads'"),
        ({"n_routed_experts": 10**7}, "'n_routed_experts'"),
        ({"max_position_embeddings": 10**18}, "'max_position_embeddings'"),
        ({"hidden_size": 10**13}, "'hidden_size'"),
        ({"whatever": 10**30}, "a number of 31 digits"),
        (json.loads('{"a":' * 50 + "1" + "}" * 50), "nested deeper than the config of any model"),
    ],
)
def test_numbers_of_no_model_are_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        check_limits(config)


def test_those_of_large_models_are_not() -> None:
    check_limits(
        {
            "num_hidden_layers": 126,
            "hidden_size": 18432,
            "vocab_size": 262400,
            "max_position_embeddings": 10485760,
            "num_experts": 512,
            "sliding_window": 2**31 - 1,
            "time_step_limit": [0.0, float("inf")],
            "id2label": {"0": "a"},
            "max_window_layers": 28,
            "layer_types": ["full_attention"] * 126,
            "use_cache": True,
        }
    )
