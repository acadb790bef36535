"""Speculative methods: draft tokens, which the model verifies several at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, overload, runtime_checkable

from maxserve.core.interfaces.component import Component, Context

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from maxserve.core.interfaces.architecture import Model, ModelSpec, WeightMap
    from maxserve.core.interfaces.attention import Attention
    from maxserve.core.interfaces.cache import CacheLayer
    from maxserve.core.interfaces.component import Components, Ref
    from maxserve.core.interfaces.engine import LoadsModels
    from maxserve.core.interfaces.inputs import StepInputs
    from maxserve.core.interfaces.model_source import Checkpoint
    from maxserve.core.interfaces.runner import ModelOutput
    from maxserve.core.interfaces.step_context import StepContext
    from maxserve.core.interfaces.tokenizer import Tokenizer


__all__ = [
    "DraftCheckpoint",
    "DraftHead",
    "DraftHeadContext",
    "DraftLengths",
    "DraftModels",
    "DraftModelsContext",
    "DraftNeeds",
    "DraftSequence",
    "DraftStep",
    "DraftedStep",
    "Drafter",
    "Drafts",
    "DraftsAtOnce",
    "ForeseesDrafts",
    "NeedsContext",
    "RestingDrafter",
    "Speculator",
    "SpeculatorContext",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculator(Component):
    """A speculative method. `build(SpeculatorContext)` gives a Drafter.

    `needs(NeedsContext)` gives the DraftNeeds, before memory is planned; without it the drafter needs nothing.
    `offers(NeedsContext)`, asked where no method is named, says in one line what of the target's checkpoint the method
    would draft with, for the log, or gives None.
    `honours` names the options up to speculative methods (`Option(used_by="speculator")`), such as `draft_model_path`,
    that this one acts on: beside others they stop the start. Without the `required` ones of them it does, too, unless
    the model's source has `companions` for the method. `combines` names options whose values are other methods that
    this one combines: what these act on and require it does, too. Two that act on the same option, which one of
    them requires, are refused together: it has one value. `lengths(SpeculatorContext)` gives the DraftLengths that
    serve unless `--no-adaptive-speculation` asks for as many drafts as there can be. `models(DraftModelsContext)`
    gives the DraftModels that it finds and loads its models by. `draws`:
    its drafts may be drawn, so that memory is planned for what they are drawn from; False where they never are.
    """

    kind: ClassVar[str] = "speculator"

    needs: Ref | None = None
    honours: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    combines: tuple[str, ...] = ()
    offers: Ref | None = None
    draws: bool = True
    lengths: Ref = "maxserve.speculation:AdaptiveLengths"
    models: Ref = "maxserve.speculation:LoadedDrafts"


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftCheckpoint:
    """A checkpoint whose class need not be one that is served: `config` is the content of its config.json.

    `tensors` are the shapes of its tensors by name, `architecture` what serves models of its class, if something does.
    """

    ref: str
    path: str
    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]
    architecture: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftHeadContext:
    """The checkpoint that a head is in, and the target that it is for."""

    checkpoint: DraftCheckpoint
    target: ModelSpec


class DraftHead(Protocol):
    """Layers on top of a target, which draft: an nn.Module, built on the meta device.

    At each position it reads what the target has computed there, by way of `combine`, and the token that follows. What
    it computes there is what it reads at the next position, where the target has not been yet, and `logits` makes the
    token after next of it. `cache_layers` are kept by the cache; in calls of the attention they count from 0.
    `aux_layers` are the layers of the target whose outputs it reads, ascending. `weights` says how its parameters are
    called in the checkpoint.
    """

    cache_layers: tuple[CacheLayer, ...]
    aux_layers: tuple[int, ...]
    weights: WeightMap

    def share(self, target: Model) -> None:
        """Takes what it has not itself, embedding or head, from the target; called once, when that has its weights.

        Those of the head may come afterwards. ModelError where the target does not give it.
        """

    def prepare(self) -> None:
        """Computes what no checkpoint holds, as a model's."""

    def combine(self, output: ModelOutput) -> torch.Tensor:
        """What it reads of rows that the target has computed, [T, dim]."""
        ...

    def forward(self, step: StepContext, hidden: torch.Tensor) -> torch.Tensor:
        """[T, dim], at positions whose following tokens are the step's `input_ids`, to [T, dim]."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, dim] to [rows, tokens]."""
        ...

    def token_ids(self, drawn: torch.Tensor) -> torch.Tensor:
        """The target's ids of tokens [rows] that were drawn by the logits, whose vocabulary may be smaller."""
        ...


@runtime_checkable
class DraftsAtOnce(Protocol):
    """A DraftHead that computes all drafts of a step in one call, where its layers are compiled so."""

    def draft(
        self,
        first: StepContext,
        hidden: torch.Tensor,
        lasts: NDArray[np.int64],
        then: StepContext | None,
        on: NDArray[np.int64],
    ) -> torch.Tensor | None:
        """The likeliest tokens, those of a sequence one after another; None where they are not computed at once.

        `first` and `hidden` [T, dim] are what `forward` gets: rows that the target has computed, of which `lasts` [n]
        are the last of each sequence that drafts. Row j of `then` is where draft j is read that another one follows:
        of the sequences `on` [m] among those, ascending, and of each as many rows as it has drafts but one. Its ids
        are not known yet.
        """
        ...


class DraftModels(Protocol):
    """Models that draft: found, built and filled as the target is. Errors are ModelErrors in one line.

    Whole models have a class that is served. Of others, such as heads on top of the target, there is a `checkpoint`,
    whose tensors fill any module: None stands for the target's own.
    """

    def folder(self, model: Checkpoint) -> str:
        """The folder with config and tokenizer of the model that is named, which is downloaded if need be."""
        ...

    def spec(self, model: Checkpoint) -> ModelSpec:
        """What its architecture makes of its config."""
        ...

    def tokenizer(self, folder: str) -> Tokenizer:
        """The tokenizer in the folder of a model, the target's or another one."""
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

    def behind(self, layers: int) -> DraftModels:
        """The same for a drafter whose layers come behind so many of others."""
        ...

    def checkpoint(self, model: Checkpoint | None) -> DraftCheckpoint:
        """What is known of a checkpoint before anything is read of its weights."""
        ...

    def head(self, model: Checkpoint | None, target: ModelSpec) -> DraftHead | None:
        """What the architecture of a checkpoint makes of layers in it that predict further tokens: its `draft_head`."""
        ...

    def build(self, make: Callable[[], DraftHead]) -> DraftHead:
        """The head that is made, on the meta device, in the type in which the target computes."""
        ...

    def head_bytes(self, model: Checkpoint | None, head: DraftHead) -> int:
        """The memory that the weights of a head will take."""
        ...

    def fill(self, model: Checkpoint | None, head: DraftHead) -> None:
        """Gives a head its weights, on the target's device, and compiles its layers where the target's are."""

    def tensor(self, model: Checkpoint | None, name: str) -> torch.Tensor:
        """One tensor of a checkpoint as it is there, on the CPU: what is no weight of a module."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftModelsContext(Context):
    """`loader` is the target's, which knows further checkpoints.

    What attends, from which of its layers on the drafter's are, and how many positions texts have at most, is known
    once the cache is there.
    """

    loader: LoadsModels
    components: Components
    attention: Attention | None = None
    first_layer: int = 0
    max_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsContext(Context):
    """`spec` is the target model's, `raw` the content of its config.json, and `path` its folder.

    `components` are those of all plugins: other speculative methods, say.
    """

    spec: ModelSpec
    raw: Mapping[str, Any]
    path: str
    draft_tokens: int
    models: DraftModels
    components: Components


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

    `model` is the target, with its weights; its embedding and head may be shared. `spec` is what its architecture makes
    of its config. The drafter's own cache layers are
    those from `first_layer` on, in the calls of `attention`. `dtype` is the type in which the model computes. `path` is
    the target's folder, `step_tokens` the most tokens that a step of the target computes, and `page_size` the tokens of
    a page of its cache. `components` are those of all plugins.
    """

    draft_tokens: int
    model: Model
    spec: ModelSpec
    attention: Attention
    first_layer: int
    vocab_size: int
    max_length: int
    step_tokens: int
    page_size: int
    dtype: torch.dtype
    device: torch.device
    path: str
    models: DraftModels
    components: Components


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


def _unheard(seconds: float) -> None:
    """What is told where times do not matter."""


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

    `draw(who, logits)` draws the next draft of each of the sequences `who` [n], ascending, by what the drafter makes
    of the token that follows: logits [n, ids], of the target's ids from 0 on, in any float type, which may be written
    to. It gives their ids [n], on the same device. The first call for a sequence draws its first draft, and so on up
    to `wanted`. Samplers and grammar of the request have their say as they do when the target draws, and where it
    draws at random without a seed, drafts that are proposed as they were drawn stand as often as can be. A draft that
    was drawn may be left out for what came before it, but not for what it is.

    `caught_up(seconds)` is to be told how long it took to compute what the drafter had left out of earlier steps, which
    is not what drafts cost.

    Where `greedy`, no sampler and no grammar has a say in what `draw` would give: the likeliest token of the logits is
    a draft as good, without a call.

    Unless `foreseen`, no drafts are to be expected for sequences that begin in the step: a drafter with layers need not
    follow them. Of a sequence that it does not follow it sets `wanted` to 0: nothing was asked of it then.
    """

    inputs: StepInputs
    output: ModelOutput
    sequences: Sequence[DraftSequence]
    kept: NDArray[np.int64]  # [B]
    wanted: NDArray[np.int64]  # [B]
    passes: Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], torch.Tensor], StepInputs]
    draw: Callable[[NDArray[np.int64], torch.Tensor], torch.Tensor]
    greedy: NDArray[np.bool_]  # [B]
    caught_up: Callable[[float], object] = _unheard
    foreseen: bool = True


class Drafts(Sequence[int]):
    """Drafts of a drafter that draws them itself, with what each was drawn from: `probs` [len(tokens), vocab_size].

    Rows are distributions; the draw was a fresh one, and no draft is left out for what it is.
    """

    __slots__ = ("probs", "tokens")

    def __init__(self, tokens: Sequence[int], probs: torch.Tensor) -> None:
        self.tokens = tokens
        self.probs = probs

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Drafts: ...
    def __getitem__(self, index: int | slice) -> int | Drafts:
        if isinstance(index, slice):
            return Drafts(self.tokens[index], self.probs[index])
        return self.tokens[index]


@dataclass(slots=True, kw_only=True)
class DraftedStep:
    """A step that was run: `rows` tokens were computed, in `seconds` with what came before the drafter.

    The sequences that drew are `sequences` [B]; `slots` [B] are their numbers, each one's own until it is over, and the
    same array as in the step before where these drew, too. Each had `tried` drafts [B], of which `stood` [B] stood;
    None where there were none, as in a step that computes tokens of `prompts`. Drafts that had to stand do not count.
    It is the last of so many `steps`; the others, after which none had drafts to expect, are not told of.
    """

    rows: int
    seconds: float
    prompts: bool
    sequences: Sequence[DraftSequence]
    slots: NDArray[np.int64]
    tried: NDArray[np.int64] | None = None
    stood: NDArray[np.int64] | None = None
    steps: int = 1


class DraftLengths(Protocol):
    """Decides how many drafts each sequence may have, up to `draft_tokens`. One thread owns it."""

    def measuring(self) -> AbstractContextManager[None]:
        """There are no drafts while the block runs: steps of ever more sequences show what their rows cost."""
        ...

    def choose(self, step: DraftedStep) -> NDArray[np.int64] | None:
        """The most drafts [B] for each of the step's sequences, now that it was run; None: none for any."""
        ...

    def learn_drafter(
        self,
        step: DraftedStep,
        slots: NDArray[np.int64],
        wanted: NDArray[np.int64],
        proposed: NDArray[np.int64],
        seconds: float,
    ) -> None:
        """What the drafter took after the step, and `proposed` [n] where `wanted` [n] was asked of the sequences in
        `slots` [n]: 0 of each where it only followed the step."""


@runtime_checkable
class ForeseesDrafts(Protocol):
    """DraftLengths that know before texts begin whether drafts will be wanted of them."""

    def foresees(self, sequences: int) -> bool:
        """Whether texts like those before will have drafts, where so many are computed at once."""
        ...


class Drafter(Protocol):
    """Proposes tokens that the model may go on with. One thread owns it.

    What is proposed changes how fast a text comes, and never which texts come how often. That of a greedy request, or
    of one with a seed, it does not change at all, unless a sampler of the request draws random numbers of its own
    (`owner.generator`): it does so for drafts that do not stand, too.
    """

    def propose(self, step: DraftStep) -> Sequence[Sequence[int]]:
        """Up to `wanted` token ids for each of the B sequences, plain, as `draw` gave them, or `Drafts`.

        One with `layers` or `aux_layers` is called after every step that did not fail, unless it is a RestingDrafter
        and rests; others are after those of which drafts are wanted or in which a sequence ended.
        What is beyond `wanted`, not in the vocabulary, or not allowed by a request's grammar is cut off, with all that
        follows. When it raises, nothing is proposed.
        """
        ...


@runtime_checkable
class RestingDrafter(Protocol):
    """A Drafter that need not see every step: at times there is no sequence that it drafts for."""

    @property
    def rests(self) -> bool:
        """Whether it drafts for no sequence now; it is called again when a prompt is computed, and not before."""
        ...
