"""The bricks that model families are built from. Importing this imports torch."""

from __future__ import annotations

from maxserve.core.layers.attention import Attention, WholeNormAttention
from maxserve.core.layers.block import PostNormBlock, PreNormBlock, SandwichBlock
from maxserve.core.layers.decoder import DecoderModel
from maxserve.core.layers.linear import Embedding, Linear
from maxserve.core.layers.mlp import GatedMLP
from maxserve.core.layers.norm import LayerNorm, OffsetRMSNorm, RMSNorm
from maxserve.core.layers.rotary import LayerTurns, Rotary, RotaryBatch

__all__ = [
    "Attention",
    "DecoderModel",
    "Embedding",
    "GatedMLP",
    "LayerNorm",
    "LayerTurns",
    "Linear",
    "OffsetRMSNorm",
    "PostNormBlock",
    "PreNormBlock",
    "RMSNorm",
    "Rotary",
    "RotaryBatch",
    "SandwichBlock",
    "WholeNormAttention",
]
