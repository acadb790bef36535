"""DeepSeek V2: latent attention, and mixtures with experts that every token uses beside those it chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from maxserve.architectures.layers import DecoderModel, GatedMLP, LatentAttention, Mixture, PreNormBlock
from maxserve.architectures.layers.config import read_fields
from maxserve.architectures.layers.config_keys import number, size
from maxserve.architectures.layers.latent_config import LatentConfig
from maxserve.architectures.layers.routing import Choice, ExpertGroups, group_limited_softmax, softmax_top_k
from maxserve.interfaces.errors import ModelError
from maxserve.loading import ExactLinear

# What transformers' DeepseekV2Config has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 102400,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "first_k_dense_replace": 0,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "moe_intermediate_size": 1407,
    "topk_method": "greedy",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepseekConfig(LatentConfig):
    """`shared` experts are used by every token. Weights are multiplied by `routed_scale`; `normalised` ones sum to 1.

    `groups` are those within which experts are chosen, None for all at once. Checkpoints have `next_layers` more layers
    than the model, which predict further tokens.
    """

    shared: int
    routed_scale: float
    normalised: bool = False
    groups: ExpertGroups | None = None
    next_layers: int = 0


class DeepseekMixture(Mixture):
    config: DeepseekConfig

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__(config)
        self.gate = ExactLinear(config.dim, config.experts)
        self.shared_experts = GatedMLP(replace(config, ffn_dim=config.shared * config.expert_dim))

    def choose(self, logits: Tensor) -> Choice:
        config = self.config
        if config.groups is None:
            return softmax_top_k(logits, config.top_k, normalised=False, scale=config.routed_scale)
        return group_limited_softmax(logits, config.top_k, config.groups, scale=config.routed_scale)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x) + self.shared_experts(x)
        return out


class Block(PreNormBlock):
    def attention(self, config: DeepseekConfig, layer: int) -> LatentAttention:
        return LatentAttention(config, layer)

    def feed_forward(self, config: DeepseekConfig, layer: int) -> nn.Module:
        return DeepseekMixture(config) if config.is_sparse(layer) else GatedMLP(config)


class Model(DecoderModel):
    Block = Block


def config(raw: Mapping[str, Any]) -> DeepseekConfig:
    """The config in `raw`, the content of config.json, with the defaults of DeepSeek V2."""
    given = {**DEFAULTS, **raw}
    method = given["topk_method"]
    if method not in ("greedy", "group_limited_greedy"):
        raise ModelError(
            f"config.json: topk_method {method!r} is not known for DeepSeek V2; known: greedy, group_limited_greedy"
        )
    groups = None if method == "greedy" else expert_groups(given)
    return DeepseekConfig(
        **deepseek_fields(given), routed_scale=number(given, "routed_scaling_factor", 1.0), groups=groups
    )


def deepseek_fields(given: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    """What V2 and V3 have in common; `own` are fields that the family reads by itself."""
    if given.get("moe_layer_freq", 1) != 1:
        raise ModelError("config.json: 'moe_layer_freq' is not 1: mixtures in some layers only are not supported")
    fields = read_fields({**given, "head_dim": given["qk_rope_head_dim"]}, windows=(), **own)
    first, layers = size(given, "first_k_dense_replace", 0), fields["layers"]
    return {
        **fields,
        "experts": size(given, "n_routed_experts"),
        "top_k": size(given, "num_experts_per_tok"),
        "expert_dim": size(given, "moe_intermediate_size"),
        "shared": size(given, "n_shared_experts"),
        "sparse": tuple(i >= first for i in range(layers)),
        "kv_rank": size(given, "kv_lora_rank"),
        "q_rank": None if given["q_lora_rank"] is None else size(given, "q_lora_rank"),
        "nope_dim": size(given, "qk_nope_head_dim"),
        "rope_dim": size(given, "qk_rope_head_dim"),
        "value_dim": size(given, "v_head_dim"),
    }


def expert_groups(given: Mapping[str, Any]) -> ExpertGroups:
    """The groups of experts; ModelError where they cannot be of equal size, or have too few experts to choose from."""
    count, top = size(given, "n_group", 1), size(given, "topk_group", 1)
    experts, chosen = size(given, "n_routed_experts"), size(given, "num_experts_per_tok")
    if experts % count or top > count or chosen > top * (experts // count):
        raise ModelError(
            f"config.json: of {experts} experts in {count} groups, {chosen} cannot be chosen from {top} groups; see "
            "n_routed_experts, n_group, num_experts_per_tok and topk_group"
        )
    return ExpertGroups(count=count, top=top)
