"""A language model made of blocks."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from maxserve.architectures.layers.config import ModelConfig
from maxserve.architectures.layers.norm import RMSNorm
from maxserve.architectures.layers.rotary import LayerRotary, RotaryEmbedding
from maxserve.interfaces.step_context import StepContext
from maxserve.loading import Embedding, LayerStack, Linear, current_shard


class Decoder(nn.Module):
    """Embedding, blocks and last norm, under the names checkpoints use."""

    def __init__(self, config: ModelConfig, block: type[nn.Module], norm: type[nn.Module]) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.dim, role="column")
        self.norm = norm(config.dim, config.eps)
        self.layers = LayerStack((block(config, layer) for layer in range(config.layers)), last=self.norm)


class DecoderModel(nn.Module):
    """A decoder-only language model; a subclass says which `Block` it is made of, and which `Norm` is its last.

    A block is built with (config, layer number) and called with the hidden states [T, dim] and the step, whose
    `apply_rope` gives queries and keys their positions and whose `attend` is the way to the cache. Build it on the meta
    device, load, then call `prepare`.
    """

    Block: ClassVar[type[nn.Module]]
    Norm: ClassVar[type[nn.Module]] = RMSNorm

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.shard = current_shard()
        self.model = Decoder(config, self.Block, self.Norm)
        self.lm_head = Linear(config.dim, config.vocab_size, role="column")
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.rotary: RotaryEmbedding = LayerRotary(config)

    def prepare(self) -> None:
        """Computes what no checkpoint holds; called once, when the weights are on their device."""
        devices = (parameter.device for parameter in self.parameters())  # none, if a method keeps all the weights
        self.rotary.prepare(next(devices, torch.device("cpu")))

    def get_input_embeddings(self) -> Embedding:
        """What makes rows of token ids."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> Linear | None:
        """What makes logits, unless a subclass does something else with them, too."""
        return self.lm_head if type(self).logits is DecoderModel.logits else None

    def embed(self, step: StepContext) -> Tensor:
        """What goes into the first block, [T, dim]."""
        out: Tensor = self.model.embed_tokens(step.inputs.input_ids)
        return out

    def forward(self, step: StepContext) -> Tensor:
        """Hidden states after the last norm, [T, dim]."""
        x = self.embed(step)
        out: Tensor = self.model.layers(x, self.rotary(step, x.dtype), step)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, dim] to [rows, vocab_size]."""
        out: Tensor = self.lm_head(hidden)
        return out if self.shard is None else self.shard.gather(out, self.config.vocab_size)
