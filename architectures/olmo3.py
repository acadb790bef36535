"""OLMo 3: an OLMo 2 with windows in three of four layers, whose rope is not stretched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxserve.architectures import olmo2
from maxserve.architectures.layers.config import ModelConfig, read_fields, windows_of
from maxserve.architectures.layers.config_keys import number, size
from maxserve.architectures.layers.rope_config import read_ropes

DEFAULTS: Mapping[str, Any] = {**olmo2.DEFAULTS, "sliding_window": 4096}
THETA = 500000.0


class Model(olmo2.Model):
    pass


def config(raw: Mapping[str, Any]) -> ModelConfig:
    """The config in `raw`, the content of config.json, with OLMo 3's defaults.

    As in transformers, a `rope_theta` beside the ropes' own tables is that of the layers that see everything.
    """
    given = {**DEFAULTS, **raw}
    layers, kinds = size(given, "num_hidden_layers"), given.get("layer_types")
    if kinds is None:
        kinds = ["sliding_attention" if (i + 1) % 4 else "full_attention" for i in range(layers)]
    thetas = {"full_attention": number(given, "rope_theta", THETA), "sliding_attention": THETA}
    ropes = read_ropes(given, size(given, "max_position_embeddings", 2048), thetas)
    windows = windows_of(kinds, given["sliding_window"], layers)
    return ModelConfig(
        **read_fields(
            given,
            mlp_bias=False,
            windows=windows,
            rope=ropes["full_attention"],
            ropes=tuple(ropes[kind] for kind in kinds[:layers]),
        )
    )
