"""Models that encode texts: their batches, and what is known of their vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from maxserve.core.interfaces.inputs import StepInputs
from maxserve.core.interfaces.step_context import StepContext

if TYPE_CHECKING:
    import torch

    from maxserve.core.interfaces.attention import Index


__all__ = ["Encoder", "Scorer", "TextAttention", "TextContext", "TextInputs", "VectorInfo"]


@dataclass(slots=True, kw_only=True)
class TextInputs(StepInputs):
    """A step of whole texts, whose tokens see only each other: `slot_mapping` and `block_tables` are empty.

    In models without cache layers a token sees its whole text, in others what came before it. `token_types` are 1 in
    the second part of a pair.
    """

    token_types: torch.Tensor  # [T] int64


@dataclass(slots=True, kw_only=True)
class TextContext(StepContext):
    """What an encoder and its layers may ask for."""

    inputs: TextInputs  # pyright: ignore[reportIncompatibleVariableOverride]  # set once, when it is made
    attention: TextAttention  # pyright: ignore[reportIncompatibleVariableOverride]

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        sinks: torch.Tensor | None = None,
        index: Index | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As for every step. `bias` [heads, longest, longest] is added to the scores of each text, from its start."""
        return self.attention.attend(layer, q, k, v, self.inputs, sinks, index, bias)

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return int(self.inputs.seq_lens.max(initial=0))


class TextAttention(Protocol):
    """An Attention over the tokens of the batch itself, within each text."""

    def begin(self, inputs: StepInputs) -> None: ...
    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        inputs: StepInputs,
        sinks: torch.Tensor | None = None,
        index: Index | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As for every step; `bias` as TextContext says."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """An nn.Module that gives the vectors of tokens, for the task embeddings_generation. A Model is one too."""

    def prepare(self) -> None:
        """As a Model's."""
        ...

    def forward(self, step: TextContext) -> torch.Tensor:
        """The vector of every token, [T, dim]."""
        ...


@runtime_checkable
class Scorer(Encoder, Protocol):
    """An Encoder that also says how well the two parts of each text go together, for the task scoring."""

    def scores(self, first: torch.Tensor) -> torch.Tensor:
        """From the vectors of the texts' first tokens, [B, dim], one number each, [B]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorInfo:
    """What a model that encodes texts says of its vectors; one that scores gives a number for each pair.

    `size` is how many numbers a vector has, `sizes` which lengths it may be cut to: None is no other, empty is any.
    `pooled`: a text has one vector, else each of its tokens has. `prompts` are put before a text, by name.
    """

    size: int = 1
    sizes: tuple[int, ...] | None = None
    pooled: bool = True
    normalized: bool = False
    lower: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool = True
