"""Adapters of a model that several ranks share: what each has of a projection, and how the first one's get to all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from maxserve.interfaces.adapter import Projection
from maxserve.loading import Layout, Shard, Shared, layout_of

Tell: TypeAlias = Callable[[int, bytes], None]
"""Has the other ranks place an adapter, as its table has encoded it, in a slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedProjection(Projection):
    """A Projection of which this rank has a part, `share`: its sizes are those of the whole.

    Its correction gets the rank's inputs and the rank's outcome; of a share of the inputs that is a part of a sum,
    which is made behind the correction. Tables of tokens are whole on all ranks, in this respect.
    """

    share: Layout

    @property
    def own(self) -> Projection:
        """With the sizes that the rank has."""
        sizes = [span.stop - span.start for span in self.share.spans]
        first, stop = self.share.inputs or (0, self.inputs)
        return Projection(
            name=self.name,
            inputs=stop - first,
            outputs=sum(sizes),
            parts=dict(zip(self.parts, sizes, strict=True)) if self.parts else {},
            kind=self.kind,
            tied=self.tied,
            experts=self.experts,
        )


@runtime_checkable
class InRanks(Shared, Protocol):
    """A module that ranks may share, and which of them this is; None: one has it all."""

    shard: Shard | None


@runtime_checkable
class SharesAdapters(Protocol):
    """An AdapterTable whose corrections take SharedProjections, and whose adapters can be sent to other processes.

    The first rank loads them; all place them, each in its own slots.
    """

    def encode(self, adapter: Any) -> bytes:
        """An adapter that `load` gave."""
        ...

    def decode(self, data: bytes) -> Any:
        """The same, to be placed."""
        ...


@runtime_checkable
class SharedPool(Protocol):
    """A pool of adapters that all ranks have: the first gives slots, and `tell`s the others what is in them."""

    def lead(self, tell: Tell) -> None:
        """From now on others have what this has. SettingsError for adapters that cannot be sent to them."""

    def follow(self) -> Tell:
        """What has a slot hold what the first rank's holds."""
        ...


def own_part(projection: Projection) -> Projection:
    """The projection with the sizes that it has on this rank."""
    return projection.own if isinstance(projection, SharedProjection) else projection


def shared(projection: Projection, module: object) -> Projection:
    """A SharedProjection where the rank has a part of the module."""
    if projection.kind == "embedding" or not isinstance(module, InRanks) or module.shard is None:
        return projection
    share = layout_of(module, "weight", (projection.outputs, projection.inputs), projection.name, module.shard)
    fields = {name: getattr(projection, name) for name in Projection.__slots__}
    return projection if share is None else SharedProjection(**fields, share=share)
