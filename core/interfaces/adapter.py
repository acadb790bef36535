"""Adapters: corrections of projections that each request chooses for itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from maxserve.core.interfaces.component import Component, Context

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from maxserve.core.interfaces.architecture import WeightMap
    from maxserve.core.interfaces.component import Components, Declaration, Ref
    from maxserve.core.interfaces.errors import RequestError
    from maxserve.core.interfaces.inputs import AdapterRows
    from maxserve.core.interfaces.request import AdapterChange
    from maxserve.core.interfaces.runner import Runner


__all__ = [
    "Adapter",
    "AdapterContext",
    "AdapterPool",
    "AdapterPoolContext",
    "AdapterSlots",
    "AdapterTable",
    "Correction",
    "LatentCorrection",
    "Location",
    "LowRank",
    "PooledAdapter",
    "Projection",
    "ProjectionKind",
    "SaysChanges",
    "SlottedAdapter",
]

ProjectionKind: TypeAlias = Literal["linear", "head", "embedding", "experts", "latent"]
"""What a projection is called with, and gives.

"linear": rows [T, inputs] of the step. "head": rows [R, inputs] whose logits are wanted; the projection makes these.
"embedding": token ids [T] int64 below `inputs`. "experts": rows [N, inputs], those of one expert after those of the one
before, with ExpertRows, which say which are whose. "latent" makes keys and values of latent vectors and is called as
LatentCorrection says.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter(Component):
    """A way to adapt a model to requests. `build(AdapterContext)` gives an AdapterTable.

    `kinds` are those of the projections that it can adapt; it hears of no others. `pool(AdapterPoolContext)` gives the
    AdapterSlots that serve it: they have the table built, and give its slots to those that requests name.
    `wanted(Context)` says whether the operator's settings ask for such adapters; without it, the pool's slots do.
    """

    kind: ClassVar[str] = "adapter"

    kinds: tuple[ProjectionKind, ...] = ("linear",)
    pool: Ref = "maxserve.adapters:slot_pool"
    wanted: Ref | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A projection of the model by its name; `parts` are the sizes of what is fused in its outputs, by name.

    `tied`: the embedding whose table is the weight of a head, "" for none. `experts` have a weight each.
    """

    name: str
    inputs: int
    outputs: int
    parts: Mapping[str, int] = field(default_factory=dict)
    kind: ProjectionKind = "linear"
    tied: str = ""
    experts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a weight of a checkpoint is in the model: a projection, and the part of it where it is not the whole.

    `expert` is the one that has it, None where it has all of them. `change`, where there is one, is what is done to the
    rows of the weight when it is loaded.
    """

    projection: str
    part: str = ""
    expert: int | None = None
    change: Callable[[torch.Tensor], torch.Tensor] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterContext(Context):
    """What an AdapterTable is made of; the model has no weights yet.

    `compute` is the type of what projections take and give, `rows` the one that rows are rounded to before the model's
    weights multiply them. `projections` are those of the model by name.
    `locate(name)` finds the weight of a module by its name in checkpoints, such as "model.layers.0.mlp.up_proj":
    several parts where the model has it in several projections, none where it has no projection of the name.
    `find(name)` is where the sources of plugins have the adapter that the operator names so, None where none has it.
    """

    compute: torch.dtype
    rows: torch.dtype
    device: torch.device
    projections: Mapping[str, Projection] = field(default_factory=dict)
    locate: Callable[[str], tuple[Location, ...]] = lambda name: ()
    find: Callable[[str], str | None] = lambda name: None


class Correction(Protocol):
    """What adapters change in the outcome of one projection."""

    def __call__(self, x: torch.Tensor, out: torch.Tensor, rows: Any) -> torch.Tensor:
        """The outcome to go on with, of inputs [T, inputs] and outcome [T, outputs], or as the projection's kind says.

        `rows` are AdapterRows, those of experts ExpertRows. Rows without an adapter stay as they are, to the bit.
        Called only in steps in which some row has one.
        """
        ...


class LatentCorrection(Protocol):
    """What adapters change where one weight makes keys and values of all heads of a latent vector [inputs].

    Its outputs are, head by head, those of the key and those of the value. Keys and values are never made: queries are
    multiplied by the keys' part before attention, and sums of latent vectors by the values' part behind it.
    """

    def to_latent(self, q: torch.Tensor, out: torch.Tensor, rows: AdapterRows) -> torch.Tensor:
        """The queries for latent vectors to go on with, [T, heads, inputs], of queries for keys [T, heads, key size].

        As in a Correction, rows without an adapter stay as they are in `out`.
        """
        ...

    def to_values(self, seen: torch.Tensor, out: torch.Tensor, rows: AdapterRows) -> torch.Tensor:
        """The sums of values [T, heads, value size] to go on with, of sums of latent vectors [T, heads, inputs]."""
        ...


@runtime_checkable
class LowRank(Protocol):
    """A Correction that compiled layers carry out by themselves: out += x · down · up, part by part of the outputs.

    Entry s - 1 is slot s's: `down` [slots, …] begins there with the numbers [inputs, parts, rank], `up` [slots, …]
    with [rank, outputs]; both float32, or both bfloat16 where rows are rounded to it, finite numbers all (rows of
    others are multiplied by them and by 0); those of a slot contiguous, and in one place for as long as this lives.
    `ranks` [slots] int64, on the host, are multiples of 16, 0 where the slot's adapter does not change the projection.
    `parts` are the sizes of the parts, one or more.

    After `lay_in_panels` a slot begins with matrices in panels of 16 columns instead: `down` with that of [inputs,
    parts * rank], inputs filled up with zeros to a multiple of 32, `up` with one of [rank, size] for each part, sizes
    filled up to a multiple of 16. A panel has its numbers row by row, in bfloat16 by two rows, the two numbers of a
    column beside each other.
    """

    down: torch.Tensor
    up: torch.Tensor
    ranks: torch.Tensor
    parts: tuple[int, ...]

    def __call__(self, x: torch.Tensor, out: torch.Tensor, rows: AdapterRows) -> torch.Tensor: ...

    def lay_in_panels(self) -> None:
        """From now on factors lie so. By compiled layers, before a slot holds anything; again it changes nothing."""


class AdapterTable(Protocol):
    """What loads adapters, and the slots in which steps find those that they use.

    One thread uses it, but for `load`, which runs in another one, beside steps and `place`, once at a time.
    """

    @property
    def slots(self) -> int:
        """How many adapters steps can use at once; 0: adapters are not served."""
        ...

    def initial(self) -> Mapping[str, str]:
        """The adapters to load at the start: where each is found, by its name."""
        ...

    def memory(self) -> int:
        """Bytes that the slots will take on the device."""
        ...

    def correction(self, projection: Projection) -> Correction | LatentCorrection | None:
        """What corrects a projection; None where no adapter ever will. Asked once, when the slots are made."""
        ...

    def load(self, name: str, source: str) -> Any:
        """The adapter found at `source`, in host memory; RequestError for one that cannot be served."""
        ...

    def place(self, adapter: Any, slot: int) -> None:
        """Has a slot (1 … slots) hold an adapter that `load` gave; no step that is on its way uses the slot."""


@runtime_checkable
class SaysChanges(Protocol):
    """An AdapterTable that says what an adapter changes; one of another kind is taken to change all that it could."""

    def changes(self, adapter: Any) -> Collection[str]:
        """The names of the projections that an adapter, as `load` gave it, changes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPoolContext(Context):
    """The kind of adapters that a pool is for, and the model, whose weights are not loaded yet.

    `weights` says how the model's parameters are called in checkpoints, and `path` is the folder with its config; the
    types are those of AdapterContext.
    """

    adapter: Declaration[Adapter]
    components: Components
    model: torch.nn.Module
    weights: WeightMap
    compute: torch.dtype
    rows: torch.dtype
    device: torch.device
    path: str


class PooledAdapter(Protocol):
    """One loaded adapter, a generation of its name. `slot` 0: it has none now."""

    name: str
    slot: int
    requests: int  # that are open and are computed with it; who adds one calls `end` of the pool for it


class AdapterPool(Protocol):
    """The adapters of a model, for engines of plugins: those that requests may name, and the slots of those in use.

    The engine's thread uses it. `wake`, where it is set, is called in another one when there is something in `reports`.
    """

    wake: Callable[[], None] | None
    done: list[str]  # ids of changes that are made and not reported yet
    rejected: list[tuple[str, RequestError]]  # likewise, of those that cannot be made though they were begun

    @property
    def slots(self) -> int: ...
    @property
    def memory(self) -> int:
        """Bytes that the slots take on the device."""
        ...

    @property
    def sources(self) -> dict[str, str]:
        """Where each of those that are served was found, by its name."""
        ...

    @property
    def changing(self) -> bool:
        """Whether something is being read, or a change is made and not reported yet."""
        ...

    @property
    def reports(self) -> bool:
        """Whether a step has something to do or to say for changes: `collect`, and then `done`."""
        ...

    def named(self, name: str) -> PooledAdapter | None:
        """The adapter a new request is computed with, "" for none; RequestError for one that is not there."""
        ...

    def end(self, adapter: Any) -> None:
        """A request with this adapter is over."""

    def enter(self, adapter: Any) -> bool:
        """Gives the adapter a slot until `leave`; False where others have all of them."""
        ...

    def leave(self, adapter: Any) -> None: ...
    def change(self, change: AdapterChange) -> None:
        """Begins a change; its id is in `done` once it is made, or in `rejected`. RequestError if it cannot begin."""

    def collect(self) -> None:
        """Serves what has been read."""

    def adapt_rows(self, slots: NDArray[np.int64] | None, device: torch.device) -> None:
        """Has projections correct rows of which these are the slots, 0 for none, until it is called again."""

    def close(self) -> None: ...


class SlottedAdapter(PooledAdapter, Protocol):
    """A PooledAdapter as generation sees it: a `generation` of its name. `images`: it changes their features."""

    generation: int
    images: bool
    pool: AdapterSlots


class AdapterSlots(AdapterPool, Protocol):
    """An AdapterPool with all that generation asks of it. One without `slots` is asked for nothing else."""

    def named(self, name: str) -> SlottedAdapter | None: ...
    def correct(self) -> None:
        """Has them correct the model's projections, once these have their weights and before layers are compiled."""

    def load_initial(self) -> None:
        """Loads those that are to be served from the start; SettingsError for one that cannot be."""

    def has_room(self, adapter: Any) -> bool:
        """Whether `enter` would give it a slot now."""
        ...

    def use(self) -> tuple[tuple[str, int, int], ...]:
        """Of each adapter with requests its name, how many have a slot and how many wait."""
        ...

    def wait(self, seconds: float) -> None:
        """Sleeps until there is something to `collect`, or that long."""

    def rows(self, slots: NDArray[np.int64], device: torch.device) -> AdapterRows | None:
        """The rows by adapter, of rows with these slots; None where none has an adapter."""
        ...

    def around(self, runner: Runner) -> Runner:
        """A Runner that has projections correct the rows of each step; `logits` takes the slots of its rows, too."""
        ...
