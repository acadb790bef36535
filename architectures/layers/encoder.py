"""An encoder made of blocks. BERT's, whose names its relatives' checkpoints get too."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maxserve.architectures.layers.attention import heads_of
from maxserve.architectures.layers.encoder_config import EncoderConfig
from maxserve.architectures.layers.mlp import ACTIVATIONS
from maxserve.architectures.layers.text_context import TextContext
from maxserve.loading import Embedding, Linear


class Residual(nn.Module):
    """A projection whose result is added to what was there, and normed."""

    def __init__(self, inputs: int, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = Linear(inputs, config.dim, bias=True, role="row")
        self.LayerNorm = nn.LayerNorm(config.dim, eps=config.eps)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(x).add_(before))
        return out


class Projections(nn.Module):
    """Queries, keys and values, in one weight."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.qkv = Linear(
            config.dim,
            3 * config.dim,
            bias=True,
            role="column",
            parts=heads_of(config.heads, config.heads, config.dim // config.heads),
        )


class SelfAttention(nn.Module):
    """Attention of a text over itself, added and normed."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, config.heads
        self.self = Projections(config)
        self.output = Residual(config.dim, config)

    def forward(self, x: Tensor, step: TextContext, bias: Tensor | None) -> Tensor:
        """[T, dim] to [T, dim]."""
        q, k, v = self.self.qkv(x).view(x.shape[0], 3, self.heads, -1).unbind(1)
        out: Tensor = self.output(step.attend(self.layer, q, k, v, bias=bias).flatten(1), x)
        return out


class EncoderLayer(nn.Module):
    """Attention over the whole text, then a feed-forward part; each is normed after it was added."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.attention = SelfAttention(config, layer)
        self.intermediate = nn.ModuleDict({"dense": Linear(config.dim, config.ffn_dim, bias=True, role="column")})
        self.output = Residual(config.ffn_dim, config)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor, step: TextContext, bias: Tensor | None) -> Tensor:
        """[T, dim] to [T, dim]."""
        x = self.attention(x, step, bias)
        out: Tensor = self.output(self.activation(self.intermediate["dense"](x)), x)
        return out


class TextEmbeddings(nn.Module):
    """What a token is, where it stands and in which part of its text: three rows, added and normed."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.dim, role="column")
        self.position_embeddings = Embedding(config.positions, config.dim)
        self.token_type_embeddings = Embedding(config.token_types, config.dim) if config.token_types else None
        self.LayerNorm = nn.LayerNorm(config.dim, eps=config.eps)
        self.pad = config.pad

    def forward(self, step: TextContext) -> Tensor:
        """[T, dim]."""
        x = self.word_embeddings(step.inputs.input_ids)
        if self.token_type_embeddings is not None:
            x = x + self.token_type_embeddings(step.inputs.token_types)
        out: Tensor = self.LayerNorm(x + self.position_embeddings(self._positions(step)))
        return out

    def _positions(self, step: TextContext) -> Tensor:
        """Counted from 0, or as fairseq does: from after the number of the pad token, which is not counted itself."""
        if self.pad is None:
            return step.inputs.positions
        real = step.inputs.input_ids.ne(self.pad).long()
        total = real.cumsum(0)
        starts = torch.from_numpy(step.inputs.query_start[:-1]).to(total.device)
        before = (total - real)[starts].repeat_interleave(torch.from_numpy(step.inputs.seq_lens).to(total.device))
        return (total - before) * real + self.pad


class EncoderLayers(nn.Module):
    """The layers, and what relative positions add to their scores, where they do."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(EncoderLayer(config, i) for i in range(config.layers))
        self.relative_attention_bias = Embedding(config.buckets, config.heads) if config.buckets else None


class EncoderModel(nn.Module):
    """An encoder, under the names that BERT's checkpoints use."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = TextEmbeddings(config)
        self.encoder = EncoderLayers(config)

    def prepare(self) -> None:
        """Everything is in the checkpoint."""

    def bias(self, step: TextContext) -> Tensor | None:
        """What is added to the scores of attention in every layer, [heads, longest, longest]."""
        return None

    def forward(self, step: TextContext) -> Tensor:
        """The vector of every token, [T, dim]."""
        x: Tensor = self.embeddings(step)
        bias = self.bias(step)
        for layer in self.encoder.layer:
            x = layer(x, step, bias)
        return x
