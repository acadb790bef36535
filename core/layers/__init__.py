"""The bricks that model families are built from. Importing this imports torch."""

from __future__ import annotations

from maxserve.core.layers.attention import Attention
from maxserve.core.layers.decoder import DecoderModel
from maxserve.core.layers.encoder import EncoderModel
from maxserve.core.layers.linear import Embedding, Linear
from maxserve.core.layers.mlp import GatedMLP
from maxserve.core.layers.norm import RMSNorm
from maxserve.core.layers.rotary import Rotary, RotaryBatch

__all__ = [
    "Attention",
    "DecoderModel",
    "Embedding",
    "EncoderModel",
    "GatedMLP",
    "Linear",
    "RMSNorm",
    "Rotary",
    "RotaryBatch",
]
