"""The addresses of the ranks that share a model: beside those of the worker, which is the first of them."""

from __future__ import annotations

import msgspec

from maxserve.core.config.values import cpu_ranks
from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.interfaces.executor import Endpoints
from maxserve.core.runtime.messages import Start
from maxserve.core.runtime.ranks import Rank

IPC, NO_FILE = "ipc://", "ipc://@"


def first_rank(worker: Endpoints, devices: str, timeout: float, group: str) -> Rank | None:
    """The first of the ranks that `--devices` asks for; None where it asks for one, which is none of several."""
    size = cpu_ranks(devices)
    if size == 1:
        return None
    base = worker.requests
    if not base.startswith(IPC) or base.startswith(NO_FILE):
        raise SettingsError(
            f"--devices {devices}: steps travel between processes of one machine, by files over ipc://; leave "
            "--zmq-endpoint-base out, or name ipc://PATH"
        )
    steps = tuple(f"{base}-steps{number}" for number in range(1, size))
    meeting = f"{base.removeprefix(IPC)}-meeting"
    return Rank(number=0, size=size, steps=steps, meeting=meeting, timeout=timeout, group=group)


def follower_starts(start: Start) -> list[Start]:
    """What the other ranks are started with."""
    first = start.rank
    if first is None:
        return []
    return [
        msgspec.structs.replace(
            start, endpoints=_beside(start.endpoints, number), rank=msgspec.structs.replace(first, number=number)
        )
        for number in range(1, first.size)
    ]


def _beside(worker: Endpoints, number: int) -> Endpoints:
    return Endpoints(requests=f"{worker.requests}-rank{number}", outputs=f"{worker.outputs}-rank{number}")
