"""DeepSeek V3.2: a V3 whose tokens look at those alone that an indexer chooses (arXiv 2512.02556)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from maxserve.architectures import deepseek_v3
from maxserve.architectures.deepseek_v2 import DeepseekConfig
from maxserve.architectures.deepseek_v3 import Model
from maxserve.architectures.layers.config_keys import size
from maxserve.interfaces.architecture import WeightMap
from maxserve.interfaces.errors import ModelError

if TYPE_CHECKING:
    from maxserve.architectures.layers.draft_head import NextTokenHead
    from maxserve.interfaces.speculator import DraftHeadContext

__all__ = ["Model", "config", "weights"]

# What transformers' DeepseekV32Config has where config.json says nothing, as far as it is not what V3 has.
DEFAULTS: Mapping[str, Any] = {
    "max_position_embeddings": 163840,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 64,
}


def config(raw: Mapping[str, Any]) -> DeepseekConfig:
    """The config in `raw`, the content of config.json, with the defaults of DeepSeek V3.2."""
    given = {**DEFAULTS, **raw, "rope_interleave": True}
    made = deepseek_v3.config(given)
    if made.q_rank is None:
        raise ModelError("config.json: 'q_lora_rank' is null, but the indexer of DeepSeek V3.2 needs such queries")
    index_dim = size(given, "index_head_dim")
    if index_dim < made.rope_dim:
        raise ModelError(
            f"config.json: 'index_head_dim' {index_dim} is less than 'qk_rope_head_dim' {made.rope_dim}, which "
            "rope rotates of it"
        )
    return replace(
        made,
        sparse=_sparse(given, made),
        index_heads=size(given, "index_n_heads"),
        index_dim=index_dim,
        index_top=size(given, "index_topk"),
    )


def weights(config: DeepseekConfig) -> WeightMap:
    """Where a checkpoint of that config has the parameters."""
    found = deepseek_v3.weights(config)
    return replace(found, exact=(*found.exact, r"\.indexer\.weights_proj\."))


def draft_head(context: DraftHeadContext) -> NextTokenHead | None:
    """The first layer that predicts further tokens, of a V3 or V3.2: exported alone, both have the class of V3's."""
    if not any(".indexer." in name for name in context.checkpoint.tensors):
        return deepseek_v3.draft_head(context)
    return deepseek_v3.draft_head(context, _read_head, weights)


def _read_head(raw: Mapping[str, Any]) -> DeepseekConfig:
    """The config, where the list of mixtures may be the model's: which the head is, its tensors say."""
    return config({**raw, "mlp_layer_types": None})


def _sparse(given: Mapping[str, Any], made: DeepseekConfig) -> tuple[bool, ...]:
    """Which layers are mixtures, where config.json lists it."""
    kinds = given.get("mlp_layer_types")
    if kinds is None:
        return made.sparse
    if len(kinds) != made.layers or not set(kinds) <= {"dense", "sparse"}:
        raise ModelError(f"config.json: 'mlp_layer_types' must say dense or sparse for each of {made.layers} layers")
    return tuple(kind == "sparse" for kind in kinds)
