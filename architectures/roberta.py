"""RoBERTa and XLM-RoBERTa: a BERT whose positions are counted as fairseq does, with a classifier of two layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from maxserve.architectures.layers import EncoderModel, Linear
from maxserve.architectures.layers.encoder_config import EncoderConfig, encoder_config, scorer_config


class Model(EncoderModel):
    pass


class ScoringModel(EncoderModel):
    """The first token's vector gives the score of a text of two parts."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        dense, out_proj = Linear(config.dim, config.dim, bias=True), Linear(config.dim, 1, bias=True)
        self.classifier = nn.ModuleDict({"dense": dense, "out_proj": out_proj})

    def scores(self, first: Tensor) -> Tensor:
        """[B, dim] to [B]."""
        out: Tensor = self.classifier["out_proj"](self.classifier["dense"](first).tanh())
        return out[:, 0]


def config(raw: Mapping[str, Any]) -> EncoderConfig:
    pad = raw.get("pad_token_id")
    return encoder_config(raw, pad=1 if pad is None else int(pad))


def scoring_config(raw: Mapping[str, Any]) -> EncoderConfig:
    return scorer_config(config(raw))
