"""The side that prefills: prompts that are computed and kept for others, each under a lease."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from maxserve.interfaces.cache import PrefixHold, SupportsHolds
from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.request import Output, Request, SamplingParams
from maxserve.interfaces.transport import MovesPieces
from maxserve.plugins.transfers import messages
from maxserve.plugins.transfers.counts import Counts
from maxserve.plugins.transfers.mailbox import Peer
from maxserve.plugins.transfers.messages import Identity

log = logging.getLogger("maxserve.transfers")

UNCLAIMED = None
MOST_KEPT = 0.9  # of the pages; what is kept cannot be evicted, and prompts need some to be computed
FULL = "as many prompts are kept for others as there are pages for; try again later"
ENDING = "this server is stopping; ask another one"


class Lease(msgspec.Struct, kw_only=True):
    """A prompt that is kept. `peer` is who claimed it, and knows of `told` tokens.

    `until` is when it ends unless it is renewed: None while what came over HTTP is computed.
    """

    id: str
    digest: bytes
    hold: PrefixHold
    pages: int
    peer: Peer | None
    until: float | None
    told: int = -1
    computing: bool = True
    pieces: dict[int, bytes] = msgspec.field(default_factory=dict)


class Leases:
    """Answers who decodes. `add` and `abort` are the engine's, `send` the mailbox's; times are those of `now`."""

    def __init__(
        self,
        *,
        identity: Identity,
        cache: SupportsHolds,
        salt: Callable[[Request], str],
        add: Callable[[Request], None],
        abort: Callable[[Iterable[str]], None],
        adapters: Callable[[], Any],
        send: Callable[[Peer, Any], None],
        transport: MovesPieces,
        lease: float,
        counts: Counts,
    ) -> None:
        self._identity, self._cache, self._salt = identity, cache, salt
        self._add, self._abort, self._adapters = add, abort, adapters
        self._send, self._transport = send, transport
        self._lease, self._counts = lease, counts
        self._leases: dict[str, Lease] = {}
        self._waiting: dict[str, tuple[Peer, messages.Prefill, float]] = {}  # for room; with when they were wanted last
        self.ending = False

    def __len__(self) -> int:
        return len(self._leases) + len(self._waiting)

    @property
    def deadline(self) -> float | None:
        """When the next lease ends."""
        return min((lease.until for lease in self._leases.values() if lease.until is not None), default=None)

    def keep(self, request: Request) -> None:
        """A request that came over HTTP: what it computes is kept for who will claim it."""
        if not self._has_room(request.prompt):
            raise RequestError(FULL, code="queue_full", status=503)
        self._leases[request.id] = self._opened(request, request.id, UNCLAIMED, None)

    def drop(self, id: str) -> None:
        """Its client is gone, before it had an answer."""
        if (lease := self._leases.get(id)) is not None and lease.computing:
            self._end(lease)

    def receive(self, peer: Peer, message: Any, now: float) -> None:
        match message:
            case messages.Meet(identity=identity):
                self._greet(peer, identity)
            case messages.Prefill():
                self._begin(peer, message, now)
            case messages.Pull(id=id):
                self._offer(peer, message)
            case messages.Taken(id=id) | messages.Cancel(id=id):
                self._take_back(id, message)
            case messages.Beat(ids=ids):
                for id in ids:
                    if id in self._waiting:
                        self._waiting[id] = (*self._waiting[id][:2], now)
                    if (lease := self._leases.get(id)) is not None:
                        lease.until = now + self._lease
                self._send(
                    peer,
                    messages.Lost(ids=tuple(id for id in ids if id not in self._leases and id not in self._waiting)),
                )
            case _:
                log.debug("%r is no message to who prefills", message)

    def advance(self, outputs: Iterable[Output], now: float) -> None:
        """Tells of pages that a step has filled, and of prompts that it has ended."""
        for output in outputs:
            lease = self._leases.get(output.id)
            if lease is not None and output.finish is not None:
                self._computed(lease, output, now)
        for lease in self._leases.values():
            if lease.computing:
                self._tell(lease)

    def fill(self, now: float) -> None:
        """Begins prompts that have waited for room, in order."""
        while self._waiting:
            peer, asked, wanted = next(iter(self._waiting.values()))
            if not self._has_room(asked.prompt) and wanted + self._lease > now:
                return
            del self._waiting[asked.id]
            if wanted + self._lease > now:
                self._begin(peer, asked, now)

    def _has_room(self, prompt: Sequence[int]) -> bool:
        """Whether the cache has pages for a prompt beside those that are kept already, and some that move."""
        kept = sum(lease.pages for lease in self._leases.values())
        return not kept or kept + self._pages(prompt) <= MOST_KEPT * self._cache.sizes().total

    def _pages(self, prompt: Sequence[int]) -> int:
        return -(-len(prompt) // self._cache.page_size)

    def expire(self, now: float) -> None:
        """Ends the leases that were not renewed in time."""
        for lease in [each for each in self._leases.values() if each.until is not None and each.until <= now]:
            self._counts.leases_expired += 1
            log.warning(
                "the lease of %s has expired after %g s: who decodes it has not been heard", lease.id, self._lease
            )
            self._cancel(lease)

    def close(self) -> None:
        self._waiting.clear()
        for lease in list(self._leases.values()):
            self._cancel(lease)

    def _greet(self, peer: Peer, identity: Identity) -> None:
        """The other side decides: it knows the request that fails if they do not match."""
        met = messages.Met(
            identity=self._identity, page_size=self._cache.page_size, peer=self._transport.peer, lease=self._lease
        )
        self._send(peer, met)
        if (why := self._identity.unlike(identity)) is not None:
            log.warning("a server that wants prompts prefilled does not match: %s", why)

    def _begin(self, peer: Peer, asked: messages.Prefill, now: float) -> None:
        try:
            if asked.prompt:
                self._compute(peer, asked, now)
            else:
                self._claim(peer, asked, now)
        except RequestError as error:
            self._send(peer, messages.Refused(id=asked.id, why=error.message))

    def _compute(self, peer: Peer, asked: messages.Prefill, now: float) -> None:
        if self.ending:
            raise RequestError(ENDING)
        if asked.id in self._leases or asked.id in self._waiting:
            raise RequestError(f"the id {asked.id!r} is in use")
        if asked.adapter and (own := self._adapters().get(asked.adapter)) != asked.adapter_source:
            raise RequestError(
                f"the adapter {asked.adapter!r} is from {asked.adapter_source!r} there, and here from {own!r}"
                if own
                else f"the adapter {asked.adapter!r} is not loaded there"
            )
        if not self._has_room(asked.prompt):
            self._waiting[asked.id] = peer, asked, now
            return
        request = Request(
            id=asked.id,
            prompt=asked.prompt,
            params=SamplingParams(max_tokens=1, ignore_eos=True),
            salt=asked.salt,
            user=asked.user,
            priority=asked.priority,
            adapter=asked.adapter,
        )
        self._leases[asked.id] = lease = self._opened(request, asked.id, peer, now + self._lease)
        try:
            self._add(request)
        except RequestError:
            self._end(lease)
            raise

    def _claim(self, peer: Peer, asked: messages.Prefill, now: float) -> None:
        lease = self._leases.get(asked.id)
        if lease is None:
            raise RequestError("its keys and values are not kept there (any more); was it started anew?")
        if lease.digest != asked.digest:
            raise RequestError("the prompt is another one than the one that was prefilled: are templates different?")
        lease.peer, lease.until = peer, now + self._lease
        self._tell(lease, again=True)

    def _opened(self, request: Request, id: str, peer: Peer | None, until: float | None) -> Lease:
        prompt = np.asarray(request.prompt, dtype=np.int64)
        hold = self._cache.hold(prompt[:-1], self._salt(request))
        pages = self._pages(request.prompt)
        return Lease(id=id, digest=digest_of(prompt), hold=hold, pages=pages, peer=peer, until=until)

    def _computed(self, lease: Lease, output: Output, now: float) -> None:
        lease.computing = False
        lease.until = now + self._lease
        lease.hold.extend()
        if output.finish in ("error", "abort"):
            self._refuse(lease, output.error or "it was aborted")
        else:
            self._tell(lease, again=True)

    def _refuse(self, lease: Lease, why: str) -> None:
        if lease.peer is not None:
            self._send(lease.peer, messages.Refused(id=lease.id, why=f"the prompt failed there: {why}"))
        self._end(lease)

    def _tell(self, lease: Lease, *, again: bool = False) -> None:
        length = lease.hold.extend()
        if lease.peer is not None and (again or length > max(lease.told, 0)):
            lease.told = length
            self._send(lease.peer, messages.Ready(id=lease.id, tokens=length, final=not lease.computing))

    def _offer(self, peer: Peer, asked: messages.Pull) -> None:
        lease = self._leases.get(asked.id)
        if lease is None or not 0 <= asked.start < asked.stop <= lease.hold.length:
            self._send(peer, messages.Refused(id=asked.id, why="the keys and values are not there (any more)"))
            return
        where = self._transport.offer(lease.hold.read(asked.start, asked.stop))
        lease.pieces[asked.start] = where
        self._send(peer, messages.Piece(id=asked.id, start=asked.start, stop=asked.stop, where=where))

    def _take_back(self, id: str, message: messages.Taken | messages.Cancel) -> None:
        self._waiting.pop(id, None)
        lease = self._leases.get(id)
        if lease is None:
            return
        if isinstance(message, messages.Taken) and message.start is not None:
            if (where := lease.pieces.pop(message.start, None)) is not None:
                self._transport.withdraw(where)
        else:
            self._cancel(lease)

    def _cancel(self, lease: Lease) -> None:
        if lease.computing and lease.peer is not None:
            self._abort((lease.id,))
        self._end(lease)

    def _end(self, lease: Lease) -> None:
        self._leases.pop(lease.id, None)
        lease.hold.release()
        for where in lease.pieces.values():
            self._transport.withdraw(where)


def digest_of(prompt: NDArray[np.int64]) -> bytes:
    """What says that two prompts are the same."""
    return blake2b(prompt.tobytes(), digest_size=16).digest()
