"""Ranks of a model in threads of one process, which meet by gloo as those of a server do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, TypeVar

from torch import Tensor, nn

from maxserve.core.assembly.assemble import build_follower
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.shard import Shard
from maxserve.core.registry.protocol import Host
from maxserve.core.runtime.ranks import Rank
from maxserve.plugins.executors.group import LocalGroup
from maxserve.plugins.executors.process_group import process_group, thread_store
from maxserve.plugins.weights.shards import layouts
from maxserve.testing.served import Served, served_settings

__all__ = ["in_ranks", "served_in_ranks", "take_shares"]

T = TypeVar("T")
SECONDS = 20.0  # that one rank waits for another


def in_ranks(size: int, work: Callable[[Shard], T]) -> list[T]:
    """What `work` gives each of `size` ranks, which do it at the same time; raises what one of them did."""
    store = thread_store()

    def run(rank: int) -> T:
        return work(Shard(rank=rank, size=size, group=process_group(store, rank, size, SECONDS)))

    with ThreadPoolExecutor(size) as threads:
        return [done.result() for done in [threads.submit(run, rank) for rank in range(size)]]


def served_in_ranks(folder: Path, host: Host, size: int, work: Callable[[Served], T], **options: Any) -> T:
    """What `work` gives with the model of a folder in an engine of `size` ranks, each a thread of this process."""
    devices = "cpu:" + ",".join(map(str, range(size)))
    settings, files = served_settings(folder, host, devices=devices, **options)

    def raised(error: Exception) -> NoReturn:
        raise error

    with TemporaryDirectory() as place, ThreadPoolExecutor(size) as threads:
        steps = tuple(f"ipc://{place}/steps{number}" for number in range(1, size))
        ranks = [
            Rank(number=number, size=size, steps=steps, meeting=f"{place}/meeting", timeout=SECONDS)
            for number in range(size)
        ]

        def lead() -> T:
            group = LocalGroup(ranks[0], raised)
            try:
                served = Served(folder, host, group=group, devices=devices, **options)
                try:
                    return work(served)
                finally:
                    served.engine.close()
            finally:
                group.close()

        def follow(rank: Rank) -> None:
            group = LocalGroup(rank, raised)
            try:
                group.follow(build_follower(settings, host, files, progress=NullProgress(), group=group))
            finally:
                group.close()

        others = [threads.submit(follow, rank) for rank in ranks[1:]]
        found = threads.submit(lead)
        for other in others:
            other.result()
        return found.result()


def take_shares(module: nn.Module, whole: Mapping[str, Tensor], shard: Shard) -> None:
    """Gives a module that was built for a rank its part of the parameters `whole`, by their names."""
    shares = layouts(module, whole, shard)
    for name, tensor in whole.items():
        path, _, own = name.rpartition(".")
        value = shares[name].share(tensor) if name in shares else tensor
        setattr(module.get_submodule(path), own, nn.Parameter(value.clone(), requires_grad=False))
