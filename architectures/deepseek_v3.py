"""DeepSeek V3: a V2 whose experts are chosen by sigmoids with a learnt correction."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from maxserve.architectures import deepseek_v2
from maxserve.architectures.deepseek_v2 import (
    DeepseekConfig,
    DeepseekMixture,
    deepseek_fields,
    expert_groups,
)
from maxserve.architectures.layers import DecoderModel, GatedMLP
from maxserve.architectures.layers.config_keys import number, size
from maxserve.architectures.layers.draft_head import NextTokenHead, head_config
from maxserve.architectures.layers.routing import Choice, corrected_sigmoid
from maxserve.architectures.weight_maps import LATENT
from maxserve.interfaces.architecture import WeightMap
from maxserve.interfaces.errors import ModelError
from maxserve.loading import ExactLinear, layer_pattern, weight

if TYPE_CHECKING:
    from maxserve.interfaces.speculator import DraftHeadContext

# What transformers' DeepseekV3Config has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "max_position_embeddings": 4096,
    "eos_token_id": 1,
    "first_k_dense_replace": 3,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "moe_intermediate_size": 2048,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "mlp_bias": False,
    "num_nextn_predict_layers": 1,
}


class CorrectedRouter(ExactLinear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.e_score_correction_bias = weight(outputs)


class V3Mixture(DeepseekMixture):
    gate: CorrectedRouter

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__(config)
        self.gate = CorrectedRouter(config.dim, config.experts)

    def choose(self, logits: Tensor) -> Choice:
        config, correction = self.config, self.gate.e_score_correction_bias
        assert config.groups is not None
        return corrected_sigmoid(
            logits,
            correction,
            config.top_k,
            config.groups,
            normalised=config.normalised,
            scale=config.routed_scale,
        )


class Block(deepseek_v2.Block):
    def feed_forward(self, config: DeepseekConfig, layer: int) -> nn.Module:
        return V3Mixture(config) if config.is_sparse(layer) else GatedMLP(config)


class Model(DecoderModel):
    Block = Block


def config(raw: Mapping[str, Any]) -> DeepseekConfig:
    """The config in `raw`, the content of config.json, with the defaults of DeepSeek V3."""
    given = {**DEFAULTS, **raw, "mlp_bias": False}
    groups = expert_groups(given)
    if given["n_routed_experts"] // groups.count < 2:
        raise ModelError("config.json: groups of experts need two each: n_routed_experts is too small for n_group")
    return DeepseekConfig(
        **deepseek_fields(given),
        routed_scale=number(given, "routed_scaling_factor", 2.5),
        normalised=bool(given.get("norm_topk_prob", True)),
        groups=groups,
        interleaved=bool(given.get("rope_interleave", True)),
        next_layers=size(given, "num_nextn_predict_layers", 0),
    )


def weights(config: DeepseekConfig) -> WeightMap:
    """Where a checkpoint of that config has the parameters."""
    optional = (layer_pattern(config.layers, max(config.next_layers, 1)),)  # 0 switches it off; checkpoints keep it
    return replace(LATENT, optional=optional, exact=(r"\.e_score_correction_bias$",))


def draft_head(
    context: DraftHeadContext,
    read: Callable[[Mapping[str, Any]], DeepseekConfig] = config,
    named: Callable[[DeepseekConfig], WeightMap] = weights,
) -> NextTokenHead | None:
    """The first layer that predicts further tokens: behind the model's, or the only one of a checkpoint of its own."""
    names = context.checkpoint.tensors
    found = (re.search(r"(?:^|\.)layers\.(\d+)\.eh_proj\.weight$", name) for name in names)
    numbers = [int(match[1]) for match in found if match]
    if not numbers:
        return None
    layer = rf"(?:^|\.)layers\.{min(numbers)}\."
    sparse = any(re.search(layer + r"mlp\.(gate\.|experts\.)", name) for name in names)
    made = head_config(read(context.checkpoint.config), context, sparse=(sparse,))
    return NextTokenHead(made, _head_weights(named(made), layer), Block)


def _head_weights(found: WeightMap, layer: str) -> WeightMap:
    """Where the head has its parameters: in one layer. Its embedding and last projection are copies."""
    parts = (
        (rf"^.*{layer}shared_head\.norm\.", "norm."),
        (rf"^.*{layer}(enorm|hnorm|eh_proj)\.", r"\1."),
        (rf"^.*{layer}", "layers.0."),
    )
    return replace(
        found,
        renames=(*parts, *found.renames),
        ignored=(rf"^(?!.*{layer})", rf"{layer}(embed_tokens|shared_head\.head)\.", *found.ignored),
        optional=(),
    )
