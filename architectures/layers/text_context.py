"""What an encoder is, and the steps of whole texts that it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from maxserve.interfaces.inputs import StepInputs
from maxserve.interfaces.step_context import StepContext

if TYPE_CHECKING:
    import torch

    from maxserve.interfaces.attention import Index


__all__ = ["Encoder", "Scorer", "TextAttention", "TextContext", "TextInputs"]


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
