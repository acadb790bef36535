"""Speculative methods: draft tokens, which the model verifies several at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from maxserve.core.interfaces.component import Component, Context

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from maxserve.core.interfaces.architecture import Model, ModelSpec
    from maxserve.core.interfaces.attention import Attention
    from maxserve.core.interfaces.cache import CacheLayer
    from maxserve.core.interfaces.component import Ref
    from maxserve.core.interfaces.inputs import StepInputs
    from maxserve.core.interfaces.model_source import Checkpoint
    from maxserve.core.interfaces.runner import ModelOutput


__all__ = [
    "DraftModels",
    "DraftNeeds",
    "DraftSequence",
    "DraftStep",
    "Drafter",
    "NeedsContext",
    "Speculator",
    "SpeculatorContext",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculator(Component):
    """A speculative method. `build(SpeculatorContext)` gives a Drafter.

    `needs(NeedsContext)` gives the DraftNeeds, before memory is planned; without it the drafter needs nothing.
    """

    kind: ClassVar[str] = "speculator"

    needs: Ref | None = None


class DraftModels(Protocol):
    """Whole models that draft: found, built and filled as the target is. Errors are ModelErrors in one line."""

    def folder(self, model: Checkpoint) -> str:
        """The folder with config and tokenizer of the model that is named, which is downloaded if need be."""
        ...

    def spec(self, model: Checkpoint) -> ModelSpec:
        """What its architecture makes of its config."""
        ...

    def weight_bytes(self, model: Checkpoint) -> int:
        """The memory that its weights will take."""
        ...

    def load(self, model: Checkpoint) -> Model:
        """The model with its weights, on the target's device, computing in the target's type."""
        ...

    def attention(self) -> Attention:
        """What the layers of a loaded model attend with: its layer 0 is the first of `DraftNeeds.layers`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsContext(Context):
    """`spec` is the target model's, `raw` the content of its config.json, and `path` its folder."""

    spec: ModelSpec
    raw: Mapping[str, Any]
    path: str
    draft_tokens: int
    models: DraftModels


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftNeeds:
    """What a drafter needs beside its own objects.

    `layers` are kept by the cache behind those of the model, in the same pages: what is shared, preempted or taken back
    is so for both. `aux_layers` are the model's layers whose outputs `ModelOutput.aux_hidden` shall have, ascending.
    `weight_bytes` is the memory that the drafter's weights take.
    """

    layers: tuple[CacheLayer, ...] = ()
    aux_layers: tuple[int, ...] = ()
    weight_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculatorContext(Context):
    """`draft_tokens` is the most that may be proposed for a sequence in a step.

    `model` is the target, with its weights; its embedding and head may be shared. The drafter's own cache layers are
    those from `first_layer` on, in the calls of `attention`. `dtype` is the type in which the model computes. `path` is
    the target's folder, and `step_tokens` the most tokens that a step of the target computes.
    """

    draft_tokens: int
    model: Model
    attention: Attention
    first_layer: int
    vocab_size: int
    max_length: int
    step_tokens: int
    dtype: torch.dtype
    device: torch.device
    path: str
    models: DraftModels


class DraftSequence(Protocol):
    """A sequence, as drafters see it. `tokens` [n] int64 are its prompt and its text, the last of them just drawn."""

    @property
    def id(self) -> str: ...
    @property
    def prompt_length(self) -> int: ...
    @property
    def tokens(self) -> NDArray[np.int64]: ...
    @property
    def salt(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftStep:
    """What the model has computed in a step, and what is wanted of the drafter: B sequences, as `inputs` has them.

    Sequence i has `kept[i]` rows in `inputs` and `output` that stand; those behind them were rejected drafts. It is 0
    for one that is over, whose pages may be another's by now. `wanted` is the most draft tokens that each may have: 0
    while its prompt is not computed. Where the
    drafter has layers, they have room for so many tokens from the last one of `tokens` on, which was just drawn.

    `passes(who, starts, stops, input_ids)` are the inputs of a pass of the drafter's own: of tokens `starts[j]` …
    `stops[j]` - 1 of the sequences `who[j]`, ascending, whose ids lie one after another in `input_ids`. Its logit rows
    are the last of each.
    """

    inputs: StepInputs
    output: ModelOutput
    sequences: Sequence[DraftSequence]
    kept: NDArray[np.int64]  # [B]
    wanted: NDArray[np.int64]  # [B]
    passes: Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], torch.Tensor], StepInputs]


class Drafter(Protocol):
    """Proposes tokens that the model may go on with. One thread owns it.

    The text never depends on what is proposed, its speed does: each draft is compared with the token that is drawn in
    its place, as it would be without a draft.
    """

    def propose(self, step: DraftStep) -> Sequence[Sequence[int]]:
        """Up to `wanted` token ids for each of the B sequences.

        One with `layers` or `aux_layers` is called after every step that did not fail, others after those of which
        drafts are wanted or in which a sequence ended.
        What is beyond `wanted`, not in the vocabulary, or not allowed by a request's grammar is cut off, with all that
        follows. When it raises, nothing is proposed.
        """
        ...
