"""MPNet: a BERT without parts of a text, in which the distance of two tokens adds to the scores of attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maxserve.architectures.layers import EncoderModel
from maxserve.architectures.layers.encoder_config import EncoderConfig, encoder_config
from maxserve.architectures.layers.text_context import TextContext

PAD = 1  # whatever config.json says, as in transformers
BUCKETS, FARTHEST = 32, 128  # likewise


class Model(EncoderModel):
    def bias(self, step: TextContext) -> Tensor:
        """[heads, longest, longest]: one number per head for each distance, from a bucket of distances."""
        length, device = step.longest, step.inputs.input_ids.device
        distances = torch.arange(1 - length, length, device=device)  # of the one that is seen from the one that sees
        table = self.encoder.relative_attention_bias
        assert table is not None, "the config of this family always has buckets"
        by_distance: Tensor = table(bucket(distances)).T  # [heads, distances]
        positions = torch.arange(length, device=device)
        return by_distance[:, positions[None, :] - positions[:, None] + length - 1]


def bucket(distances: Tensor) -> Tensor:
    """Numbers of buckets: half for each direction, of which half hold one distance and the others ever more.

    As T5 does (Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 2.1).
    """
    half = BUCKETS // 2
    exact = half // 2
    far = distances.abs()
    growth = torch.log(far.float() / exact) / math.log(FARTHEST / exact) * (half - exact)
    large = (exact + growth.clamp(min=0).long()).clamp(max=half - 1)
    return torch.where(far < exact, far, large) + (distances > 0) * half


def config(raw: Mapping[str, Any]) -> EncoderConfig:
    return encoder_config(raw, pad=PAD, buckets=int(raw.get("relative_attention_num_buckets") or BUCKETS))
