"""The ranks of a model as one of them sees them: where they meet, and how the steps of the first reach the others.

Steps travel by a ZMQ PUSH/PULL pair for each follower, which binds. All ranks are started at once; the file by which
they find each other is the first message.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeAlias, runtime_checkable

import torch
import zmq

from maxserve.adapters import SharedPool
from maxserve.interfaces.errors import SettingsError
from maxserve.loading import Shard
from maxserve.plugins.executors.process_group import file_store, process_group
from maxserve.plugins.executors.steps import (
    Beside,
    Frame,
    LeadingRunner,
    SharedPlan,
    decode_plan,
    encode_adapter,
    encode_copies,
    encode_end,
    encode_plan,
    follow,
    lent,
    table_of,
)

if TYPE_CHECKING:
    from maxserve.interfaces.adapter import AdapterSlots
    from maxserve.interfaces.architecture import Model
    from maxserve.interfaces.cache import Cache
    from maxserve.interfaces.memory import PlannedMemory
    from maxserve.interfaces.runner import Runner
    from maxserve.runtime import Rank


Copy: TypeAlias = Callable[[bool, Sequence[tuple[int, int]]], None]
"""Copies pages of the device to the host, or from there: pairs of a device page and a host page."""


@runtime_checkable
class SharedCopies(Protocol):
    """A Cache with copies of pages in host memory, which each rank that shares the model makes of its part."""

    def lead_copies(self, tell: Copy) -> None:
        """From now on the first rank tells of each copy, in the order in which they are made."""

    def follow_copies(self) -> Copy:
        """What makes a copy that the first rank has told of."""
        ...


class LocalGroup:
    """A RankGroup of processes of this machine.

    `failed` is called with an error after which the ranks have not computed the same, and does not return.
    """

    def __init__(self, rank: Rank, failed: Callable[[Exception], NoReturn]) -> None:
        self._failed = failed
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._steps: list[zmq.Socket[bytes]] = []
        self._sending = threading.Lock()
        self._beside = Beside()
        self.leads = rank.number == 0
        if self.leads:
            for address in rank.steps:
                self._socket(zmq.PUSH).connect(address)
            meeting = f"{rank.meeting}-{os.getpid()}-{time.monotonic_ns()}"
            self.send([meeting.encode()])
        else:
            self._socket(zmq.PULL).bind(rank.steps[rank.number - 1])
            meeting = self._receive()[0].decode()
        store = file_store(meeting, rank.size)
        self.shard = Shard(
            rank=rank.number, size=rank.size, group=process_group(store, rank.number, rank.size, rank.timeout)
        )
        self.shard.sum(torch.zeros(1))
        if self.leads:
            with suppress(FileNotFoundError):
                os.unlink(meeting)  # all have read it

    def adapt(self, adapters: AdapterSlots) -> None:
        """What the first rank has in a slot, the others have, too: messages of the same stream as steps."""
        if not isinstance(adapters, SharedPool):
            raise SettingsError(
                f"{type(adapters).__name__}: these adapters do not go with several ranks, which a SharedPool does; "
                "leave them out, or name one device in --devices"
            )
        if self.leads:
            adapters.lead(lambda slot, data: self.send(encode_adapter(slot, data)))
        else:
            self._beside.take = adapters.follow()

    def mirror(self, cache: Cache) -> None:
        """Copies of pages to host memory and back are messages of the same stream."""
        if not isinstance(cache, SharedCopies):
            raise SettingsError(
                f"--enable-kvcache-swapping-to-host: the copies of a {type(cache).__name__} do not go with several "
                "ranks, which SharedCopies do; leave the option out, or name one device in --devices"
            )
        if self.leads:
            cache.lead_copies(lambda to_host, pairs: self.send(encode_copies(to_host, pairs)))
        else:
            self._beside.copy = cache.follow_copies()

    def lend(self, model: Model) -> Model:
        """The model as the first rank's drafter calls it."""
        if self.leads:
            return lent(model, self)
        self._beside.embed = table_of(model)
        return model

    # --- of the first rank ------------------------------------------------------------------------------------------

    def lead(self, runner: Runner) -> Runner:
        """The runner, with which the others run."""
        return LeadingRunner(runner, self)

    def send(self, frames: Sequence[Frame]) -> None:
        with self._sending:  # steps may be sent by the thread that runs them
            for follower in self._steps:
                follower.send_multipart(frames)

    def fail(self, error: Exception) -> NoReturn:
        self._failed(error)

    # --- of all -----------------------------------------------------------------------------------------------------

    def plan(self, make: Callable[[], PlannedMemory]) -> PlannedMemory:
        """The first rank's plan, which it makes; the others have as many pages."""
        if not self.leads:
            return self._received_plan()
        plan = make()
        self.send(encode_plan(plan))
        return plan

    def follow(self, runner: Runner) -> None:
        """Runs what the first rank sends; returns when that has come to its end."""
        follow(runner, self._receive, self._beside)

    def close(self) -> None:
        """Lets the others end, if this is the first."""
        if self.leads:
            self.send(encode_end())
        for each in self._steps:
            each.close(linger=1000)
        self._context.term()

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        """One without a high-water mark: a send never waits."""
        made = self._context.socket(kind)
        made.setsockopt(zmq.SNDHWM, 0)
        made.setsockopt(zmq.RCVHWM, 0)
        self._steps.append(made)
        return made

    def _receive(self) -> list[bytes]:
        return self._steps[0].recv_multipart()

    def _received_plan(self) -> SharedPlan:
        return decode_plan(self._receive())
