"""The bricks that model families are built from. Importing this imports torch."""

from __future__ import annotations

from maxserve.core.layers.attention import Attention, WholeNormAttention
from maxserve.core.layers.block import PostNormBlock, PreNormBlock, SandwichBlock
from maxserve.core.layers.decoder import DecoderModel
from maxserve.core.layers.encoder import EncoderModel
from maxserve.core.layers.linear import Embedding, Linear
from maxserve.core.layers.mla import LatentAttention
from maxserve.core.layers.mlp import GatedMLP
from maxserve.core.layers.moe import ExpertLinear, Experts, Mixture
from maxserve.core.layers.norm import LayerNorm, OffsetRMSNorm, RMSNorm
from maxserve.core.layers.rotary import LayerTurns, Rotary, RotaryBatch

__all__ = [
    "Attention",
    "DecoderModel",
    "Embedding",
    "EncoderModel",
    "ExpertLinear",
    "Experts",
    "GatedMLP",
    "LatentAttention",
    "LayerNorm",
    "LayerTurns",
    "Linear",
    "Mixture",
    "OffsetRMSNorm",
    "PostNormBlock",
    "PreNormBlock",
    "RMSNorm",
    "Rotary",
    "RotaryBatch",
    "SandwichBlock",
    "WholeNormAttention",
]
