"""BERT: an encoder whose tokens see their whole text, for embeddings and, with a classifier, for scores of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from maxserve.architectures.layers import EncoderModel, Linear
from maxserve.architectures.layers.encoder_config import EncoderConfig, encoder_config, scorer_config


class Model(EncoderModel):
    pass


class ScoringModel(EncoderModel):
    """The first token's vector, through the pooler, gives the score of a text of two parts."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.pooler = nn.ModuleDict({"dense": Linear(config.dim, config.dim, bias=True)})
        self.classifier = Linear(config.dim, 1, bias=True)

    def scores(self, first: Tensor) -> Tensor:
        """[B, dim] to [B]."""
        out: Tensor = self.classifier(self.pooler["dense"](first).tanh())
        return out[:, 0]


def config(raw: Mapping[str, Any]) -> EncoderConfig:
    return encoder_config(raw)


def scoring_config(raw: Mapping[str, Any]) -> EncoderConfig:
    return scorer_config(encoder_config(raw))
