"""Ranks of a model in threads of one process, which meet by gloo as those of a server do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from torch import Tensor, nn

from maxserve.core.loading.shard import Shard
from maxserve.core.runtime.process_group import process_group, thread_store
from maxserve.plugins.weights.shards import layouts

__all__ = ["in_ranks", "take_shares"]

T = TypeVar("T")
SECONDS = 20.0  # that one rank waits for another


def in_ranks(size: int, work: Callable[[Shard], T]) -> list[T]:
    """What `work` gives each of `size` ranks, which do it at the same time; raises what one of them did."""
    store = thread_store()

    def run(rank: int) -> T:
        return work(Shard(rank=rank, size=size, group=process_group(store, rank, size, SECONDS)))

    with ThreadPoolExecutor(size) as threads:
        return [done.result() for done in [threads.submit(run, rank) for rank in range(size)]]


def take_shares(module: nn.Module, whole: Mapping[str, Tensor], shard: Shard) -> None:
    """Gives a module that was built for a rank its part of the parameters `whole`, by their names."""
    shares = layouts(module, whole, shard)
    for name, tensor in whole.items():
        path, _, own = name.rpartition(".")
        value = shares[name].share(tensor) if name in shares else tensor
        setattr(module.get_submodule(path), own, nn.Parameter(value.clone(), requires_grad=False))
