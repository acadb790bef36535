"""What one of several ranks has of a model: tensor parallelism.

A model is built with its whole sizes while a Shard is current, as it is built while the meta device is; its bricks keep
the Shard, and the weights that they get are cut. Without one, which is how a model of one rank is built, nothing of
this file is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from maxserve.core.interfaces.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from maxserve.core.interfaces.cache import CacheLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Rank `rank` of `size`, which meet in the `group`; without one, it can be asked for shares and nothing else.

    What meets must be called by all ranks in one order.
    """

    rank: int
    size: int
    group: ProcessGroup | None = None

    def of(self, count: int) -> tuple[int, int]:
        """The first of this rank's share of `count` things, and the one after its last."""
        return self.rank * count // self.size, (self.rank + 1) * count // self.size

    def heads(self, count: int) -> int:
        """How many of `count` heads of queries this rank has; ModelError where they cannot be shared out."""
        if count % self.size:
            raise ModelError(f"the model has {count} attention heads, which {self.size} ranks cannot share equally")
        return count // self.size

    def kv_heads(self, count: int) -> int:
        """How many of `count` heads of keys and values it has: one, which others have too, where there are too few."""
        if count % self.size and self.size % count:
            raise ModelError(f"the model has {count} heads of keys and values, which {self.size} ranks cannot share")
        return max(1, count // self.size)

    def cache_layers(self, layers: Iterable[CacheLayer]) -> tuple[CacheLayer, ...]:
        """What this rank keeps of a token."""
        return tuple(replace(layer, kv_heads=self.kv_heads(layer.kv_heads)) for layer in layers)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all ranks, the same bits on each, in place of `x`."""
        out = x.contiguous()
        self._group.allreduce([out]).wait()
        return out

    def gather(self, x: Tensor, count: int) -> Tensor:
        """[..., count] of the shares [..., n] of the last axis that the ranks have, on each of them."""
        most = -(-count // self.size)
        own = F.pad(x, (0, most - x.shape[-1])).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        self._group.allgather([parts], [own]).wait()
        sizes = [stop - start for start, stop in (replace(self, rank=rank).of(count) for rank in range(self.size))]
        return torch.cat([part[..., :size] for part, size in zip(parts, sizes, strict=True)], dim=-1)

    @property
    def _group(self) -> ProcessGroup:
        assert self.group is not None, "this rank has no group to meet the others in"
        return self.group


_current: ContextVar[Shard | None] = ContextVar("shard", default=None)


def current_shard() -> Shard | None:
    """That of the model which is being built; None where it is built for one rank."""
    return _current.get()


@contextmanager
def shared_by(shard: Shard | None) -> Iterator[None]:
    """Models that are built while the block runs are the rank's part of them."""
    before = _current.set(shard)
    try:
        yield
    finally:
        _current.reset(before)
