"""A head that drafts on top of a target: what the heads of all families have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from maxserve.architectures.layers.config import ModelConfig
from maxserve.architectures.layers.norm import RMSNorm
from maxserve.architectures.layers.rotary import LayerRotary, RotaryEmbedding
from maxserve.interfaces.architecture import Model, SharesEmbedding, SharesHead, TensorChange, WeightMap
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.runner import ModelOutput
from maxserve.interfaces.step_context import StepContext
from maxserve.loading import DraftChain, Embedding, Linear

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from maxserve.interfaces.speculator import DraftHeadContext

C = TypeVar("C", bound=ModelConfig)


class DraftHeadModel(nn.Module):
    """A DraftHead that reads the target's last hidden state; a subclass has the layers, `config.layers` of them.

    Embedding and head are the target's, unless a subclass makes an `embed_tokens` or an `lm_head` of its own. Where
    `cell` is one module that computes a draft, all drafts of a step are one call of a layer compiler that can do so:
    `share` comes before the layers are compiled.
    """

    def __init__(self, config: ModelConfig, weights: WeightMap) -> None:
        super().__init__()
        self.config, self.weights = config, weights
        self.cache_layers = config.cache_layers
        self.aux_layers: tuple[int, ...] = ()
        self.embed_tokens: Embedding | None = None
        self.lm_head: Linear | None = None
        self.rotary: RotaryEmbedding = LayerRotary(config)
        self.chain: DraftChain | None = None  # where a cell computes all that a draft needs
        self._target: tuple[Model, Callable[[Tensor], Tensor] | None] | None = None  # no modules of this one

    def share(self, target: Model) -> None:
        """Takes embedding and head of the target, where they are not its own."""
        embedding = target.get_input_embeddings() if isinstance(target, SharesEmbedding) else None
        if self.embed_tokens is None and embedding is None:
            raise ModelError(
                f"a draft head without an embedding needs that of its target, and {type(target).__name__} has no "
                "get_input_embeddings; take a head with one of its own"
            )
        self._target = target, embedding
        shared = target.get_output_embeddings() if isinstance(target, SharesHead) else None
        head = self.lm_head or shared
        cell = self.cell(head) if isinstance(head, Linear) else None
        self.chain = self.chain if cell is None else DraftChain(cell)

    def cell(self, head: Linear) -> DraftCell | None:
        """What makes state and logits by way of that `head`; None where several layers do, which are not one call."""
        return None

    def prepare(self) -> None:
        """Computes what no checkpoint holds; called once, when the weights are on their device."""
        self.rotary.prepare(next((each.device for each in self.parameters()), torch.device("cpu")))

    def rotary_changes(self, rope_type: str, architecture: str) -> tuple[TensorChange, ...]:
        """What `--rope-type` asks for."""
        return self.config.rotary_changes(rope_type, architecture)

    def combine(self, output: ModelOutput) -> Tensor:
        """What it reads of rows that the target has computed: what the target's own head does."""
        return output.hidden

    def embed(self, step: StepContext) -> Tensor:
        """Rows of the tokens that follow, [T, dim]."""
        own, ids = self.embed_tokens, step.inputs.input_ids
        if own is not None:
            rows: Tensor = own(ids)
            return rows
        assert self._target is not None, "called before `share`"
        assert self._target[1] is not None, "`share` has seen to it"
        return self._target[1](ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, dim] to [rows, tokens]."""
        if self.lm_head is not None:
            found: Tensor = self.lm_head(hidden)
            return found
        assert self._target is not None, "called before `share`"
        return self._target[0].logits(hidden)

    def token_ids(self, drawn: Tensor) -> Tensor:
        """The target's ids of tokens that were drawn: the same, but in a vocabulary of its own."""
        own = self.own_ids()
        return drawn if own is None else own.to(drawn.device)[drawn]

    def draft(
        self,
        first: StepContext,
        hidden: Tensor,
        lasts: NDArray[np.int64],
        then: StepContext | None,
        on: NDArray[np.int64],
    ) -> Tensor | None:
        """The likeliest drafts; None where no `chain` of this head is compiled."""
        table = self._table()
        if self.chain is None or self.chain.fused is None or table is None:
            return None
        x = torch.cat((self.embed(first), hidden), dim=-1)
        contexts = [None if step is None else self.rotary(step, x.dtype)[0] for step in (first, then)]
        assert contexts[0] is not None
        return self.chain.fused(x, contexts[0], lasts, contexts[1], on, table, self.own_ids())

    def _table(self) -> Embedding | None:
        """What embeds, where that is a table."""
        table = self.embed_tokens or (None if self._target is None else self._target[1])
        return table if isinstance(table, Embedding) else None

    def own_ids(self) -> Tensor | None:
        """The target's ids of the tokens of a vocabulary of its own."""
        return None


class DraftCell(nn.Module):
    """What a head computes for one draft: hidden state and logits side by side, [T, dim + tokens].

    `block` is called with the embedding of the token that follows and the hidden state side by side. `normed`: the
    head goes on from the normed state.
    """

    def __init__(self, block: nn.Module, norm: nn.Module, head: nn.Module, *, normed: bool = False) -> None:
        super().__init__()
        self.block, self.norm, self.head, self.normed = block, norm, head, normed

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        """[T, 2 * dim] to [T, dim + tokens]."""
        x = self.block(x, step)
        normed = self.norm(x)
        return torch.cat((normed if self.normed else x, self.head(normed)), dim=-1)


class ProjectedPair(nn.Module):
    """Embedding and hidden state, each normed, both projected, and a block behind that.

    `hidden_first`: which of the two comes first in the projection.
    """

    def __init__(
        self, norms: tuple[nn.Module, nn.Module], projection: Linear, block: nn.Module, *, hidden_first: bool = False
    ) -> None:
        super().__init__()
        self.embedding_norm, self.hidden_norm = norms
        self.projection, self.block, self.hidden_first = projection, block, hidden_first

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        """[T, 2 * dim], embedding and state side by side, to [T, dim]."""
        if isinstance(self.embedding_norm, nn.Identity) and isinstance(self.hidden_norm, nn.Identity):
            return self._behind(x, step)
        embedded, hidden = x.chunk(2, dim=-1)
        pair = self.embedding_norm(embedded), self.hidden_norm(hidden)
        return self._behind(torch.cat(pair[::-1] if self.hidden_first else pair, dim=-1), step)

    def _behind(self, pair: Tensor, step: StepContext) -> Tensor:
        out: Tensor = self.block(self.projection(pair), step)
        return out


class NextTokenHead(DraftHeadModel):
    """One decoder layer over embedding and hidden state, each normed and both projected, and a norm behind it.

    That is how families predict further tokens with layers that they were trained with (multi-token prediction); its
    parts are called as DeepSeek calls them. `hidden_first`: which of the two comes first in `eh_proj`.
    """

    hidden_first = False

    def __init__(
        self, config: ModelConfig, weights: WeightMap, block: type[nn.Module], norm: type[nn.Module] = RMSNorm
    ) -> None:
        super().__init__(config, weights)
        self.enorm, self.hnorm = norm(config.dim, config.eps), norm(config.dim, config.eps)
        self.eh_proj = Linear(2 * config.dim, config.dim)
        self.layers = nn.ModuleList([block(config, 0)])
        self.norm = norm(config.dim, config.eps)

    def cell(self, head: Linear) -> DraftCell:
        """All of it."""
        norms = self.enorm, self.hnorm
        pair = ProjectedPair(norms, self.eh_proj, self.layers[0], hidden_first=self.hidden_first)
        return DraftCell(pair, self.norm, head, normed=True)

    def forward(self, step: StepContext, hidden: Tensor) -> Tensor:
        """[T, dim], at positions whose following tokens are the step's, to [T, dim]."""
        pair = self.enorm(self.embed(step)), self.hnorm(hidden)
        x = self.eh_proj(torch.cat(pair[::-1] if self.hidden_first else pair, dim=-1))
        out: Tensor = self.norm(self.layers[0](x, self.rotary(step, x.dtype)[0]))
        return out


def head_config(config: C, context: DraftHeadContext, **own: object) -> C:
    """The config of a head of one layer, where `config` is that of a whole model; ModelError for another size.

    Its rotary positions reach as far as the target's. `own` are fields that a family sets besides.
    """
    target, ref = context.target, context.checkpoint.ref
    for what, ours, theirs in (
        ("hidden size", config.dim, target.dim),
        ("vocabulary", config.vocab_size, target.vocab_size),
    ):
        if ours != theirs:
            raise ModelError(
                f"the draft head of {ref} is for another target: its {what} is {ours}, that of the target {theirs}"
            )
    length = max(config.max_length, target.max_length)
    one = {"layers": 1, "windows": (), "ropes": (), "max_length": length}
    return replace(config, **{**one, **own})  # type: ignore[arg-type]
