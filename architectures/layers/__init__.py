"""The bricks that model families are built from, and the configs they read; imported when they are asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maxserve.architectures.layers.attention import Attention, WholeNormAttention
    from maxserve.architectures.layers.block import PostNormBlock, PreNormBlock, SandwichBlock
    from maxserve.architectures.layers.config import ModelConfig, from_transformers
    from maxserve.architectures.layers.decoder import DecoderModel
    from maxserve.architectures.layers.draft_head import DraftCell, DraftHeadModel, NextTokenHead, ProjectedPair
    from maxserve.architectures.layers.encoder import EncoderModel
    from maxserve.architectures.layers.expert_linear import ExpertLinear
    from maxserve.architectures.layers.mla import LatentAttention
    from maxserve.architectures.layers.mlp import GatedMLP
    from maxserve.architectures.layers.moe import Experts, Mixture
    from maxserve.architectures.layers.norm import LayerNorm, OffsetRMSNorm, RMSNorm
    from maxserve.architectures.layers.rotary import LayerRotary, Rotary
    from maxserve.architectures.layers.text_context import Encoder, Scorer, TextAttention, TextContext, TextInputs
    from maxserve.loading import Embedding, Linear, Part

__all__ = [
    "Attention",
    "DecoderModel",
    "DraftCell",
    "DraftHeadModel",
    "Embedding",
    "Encoder",
    "EncoderModel",
    "ExpertLinear",
    "Experts",
    "GatedMLP",
    "LatentAttention",
    "LayerNorm",
    "LayerRotary",
    "Linear",
    "Mixture",
    "ModelConfig",
    "NextTokenHead",
    "OffsetRMSNorm",
    "Part",
    "PostNormBlock",
    "PreNormBlock",
    "ProjectedPair",
    "RMSNorm",
    "Rotary",
    "SandwichBlock",
    "Scorer",
    "TextAttention",
    "TextContext",
    "TextInputs",
    "WholeNormAttention",
    "from_transformers",
]

LAZY = {
    "Attention": "maxserve.architectures.layers.attention",
    "DecoderModel": "maxserve.architectures.layers.decoder",
    "DraftCell": "maxserve.architectures.layers.draft_head",
    "DraftHeadModel": "maxserve.architectures.layers.draft_head",
    "Embedding": "maxserve.core.loading.linear",
    "Encoder": "maxserve.architectures.layers.text_context",
    "EncoderModel": "maxserve.architectures.layers.encoder",
    "ExpertLinear": "maxserve.architectures.layers.expert_linear",
    "Experts": "maxserve.architectures.layers.moe",
    "GatedMLP": "maxserve.architectures.layers.mlp",
    "LatentAttention": "maxserve.architectures.layers.mla",
    "LayerNorm": "maxserve.architectures.layers.norm",
    "LayerRotary": "maxserve.architectures.layers.rotary",
    "Linear": "maxserve.core.loading.linear",
    "Mixture": "maxserve.architectures.layers.moe",
    "ModelConfig": "maxserve.architectures.layers.config",
    "NextTokenHead": "maxserve.architectures.layers.draft_head",
    "OffsetRMSNorm": "maxserve.architectures.layers.norm",
    "Part": "maxserve.core.loading.linear",
    "PostNormBlock": "maxserve.architectures.layers.block",
    "PreNormBlock": "maxserve.architectures.layers.block",
    "ProjectedPair": "maxserve.architectures.layers.draft_head",
    "RMSNorm": "maxserve.architectures.layers.norm",
    "Rotary": "maxserve.architectures.layers.rotary",
    "SandwichBlock": "maxserve.architectures.layers.block",
    "Scorer": "maxserve.architectures.layers.text_context",
    "TextAttention": "maxserve.architectures.layers.text_context",
    "TextContext": "maxserve.architectures.layers.text_context",
    "TextInputs": "maxserve.architectures.layers.text_context",
    "WholeNormAttention": "maxserve.architectures.layers.attention",
    "from_transformers": "maxserve.architectures.layers.config",
}


def __getattr__(name: str) -> Any:
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
