"""How do blocks make a language model?"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from maxserve.core.layers.linear import Embedding, Linear
from maxserve.core.layers.norm import RMSNorm
from maxserve.core.layers.rotary import Rotary
from maxserve.core.model.config import ModelConfig
from maxserve.core.nouns import Batch


class Decoder(nn.Module):
    """Embedding, blocks and last norm, under the names checkpoints use."""

    def __init__(self, config: ModelConfig, block: type[nn.Module]) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.dim, config.eps)


class DecoderModel(nn.Module):
    """A decoder-only language model; a subclass says which `Block` it is made of.

    A block is built with (config, layer number) and called with the hidden states [T, dim] and the batch, whose
    `turn` gives queries and keys their positions and whose `attend` is the way to the cache. Build it on the meta
    device, load, then call `prepare`.
    """

    Block: ClassVar[type[nn.Module]]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config, self.Block)
        self.lm_head = Linear(config.dim, config.vocab_size)
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.rotary = Rotary(config)

    def prepare(self) -> None:
        """Computes what no checkpoint holds; called once, when the weights are on their device."""
        self.rotary.prepare(self.model.norm.weight.device)

    def forward(self, batch: Batch) -> Tensor:
        """Hidden states after the last norm, [T, dim]."""
        x = self.embed(batch)
        turning = self.rotary(batch, x.dtype)
        for block in self.model.layers:
            x = block(x, turning)
        out: Tensor = self.model.norm(x)
        return out

    def embed(self, batch: Batch) -> Tensor:
        """What the first block is given, [T, dim]."""
        out: Tensor = self.model.embed_tokens(batch.input_ids)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, dim] to [rows, vocab_size]."""
        out: Tensor = self.lm_head(hidden)
        return out
