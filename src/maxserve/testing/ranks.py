"""Ranks of a model in threads of one process, which meet by gloo as those of a server do."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, TypeVar

from torch import Tensor, nn

from maxserve.core.assembly.assemble import build_follower
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.shard import Shard
from maxserve.core.registry.protocol import Host
from maxserve.core.runtime.ranks import Rank
from maxserve.plugins.executors.group import LocalGroup
from maxserve.plugins.executors.process_group import process_group, thread_store
from maxserve.plugins.weights.shards import layouts
from maxserve.testing.served import GREEDY, Answer, Served, served_settings

__all__ = ["assert_same_texts", "in_ranks", "served_in_ranks", "take_shares", "texts"]

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


def texts(served: Served, adapter: str = "", tokens: int = 24) -> list[Answer]:
    """What greedy and seeded requests are answered, all of them running at once; of an adapter, if it is named."""
    ids = map(str, itertools.count())
    answers = {}
    for length, fields in itertools.product((5, 37, 18), (GREEDY, {"temperature": {"temperature": 1.0}})):
        prompt = tuple((7 * length + i * i) % 60 + 3 for i in range(length))
        params = SamplingParams(max_tokens=tokens, ignore_eos=True, logprobs=0, fields=fields, seed=length)
        request = Request(id=next(ids), prompt=prompt, params=params, adapter=adapter)
        answers[request.id] = Answer()
        served.engine.add(request)
    while served.engine.busy:
        for output in served.engine.next_outputs():
            answer = answers[output.id]
            answer.tokens += output.tokens
            answer.logprobs += [entry.logprob for entry in output.logprobs]
            answer.error = output.error or answer.error
    return list(answers.values())


def assert_same_texts(found: list[Answer], due: list[Answer], tolerance: float = 1e-4) -> None:
    """Asserts that the texts are those of one rank, and nearly as likely."""
    for answer, expected in zip(found, due, strict=True):
        assert answer.error is expected.error is None, answer.error or expected.error
        assert answer.tokens == expected.tokens, "the text is not that of one rank"
        error = max(abs(a - b) for a, b in zip(answer.logprobs, expected.logprobs, strict=True))
        assert error <= tolerance, f"log-probabilities differ by {error:.2e}"
