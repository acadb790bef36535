"""The side that decodes: requests that wait while keys and values of their prompts come from elsewhere."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from maxserve.interfaces.cache import PrefixHold, SupportsHolds
from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.request import Request
from maxserve.interfaces.transport import MovesPieces
from maxserve.plugins.transfers import messages
from maxserve.plugins.transfers.addresses import Source, host_of
from maxserve.plugins.transfers.counts import Counts
from maxserve.plugins.transfers.leases import digest_of
from maxserve.plugins.transfers.messages import Identity

log = logging.getLogger("maxserve.transfers")

PIECE = 8 << 20  # bytes that are pulled at once, in whole pages
PIECES = 2  # of a request that are on their way at once
GONE = "it cannot be reached, or not any more"
SILENT = "it has not answered for {:g} s"


class Fetch(msgspec.Struct, kw_only=True, eq=False):
    """A request that waits. `name` is what both sides call it; `wanted` tokens are to be there before it is admitted.

    `asked` tokens are there or on their way; `ready` ones can be pulled, and where that is `final` there will be no
    more. `pieces` are on their way: the token behind their last, by their first; `arrived` are those that wait for one
    before them.
    """

    request: Request
    name: str
    source: Source
    tokens: NDArray[np.int64]
    hold: PrefixHold
    wanted: int
    began: float
    address: str = ""
    tried: int = 0
    asked: int = 0
    ready: int = 0
    final: bool = False
    pieces: dict[int, int] = msgspec.field(default_factory=dict)
    arrived: dict[int, bytes] = msgspec.field(default_factory=dict)


class Link(msgspec.Struct, kw_only=True):
    """A server that prefills. `met` is None until it has said who it is; `heard` is when it last said anything."""

    heard: float
    beat: float
    met: messages.Met | None = None
    fetches: dict[str, Fetch] = msgspec.field(default_factory=dict)


class Fetches:
    """Requests that wait outside of the engine. `admit(request)` hands one on, `reject(id, why)` gives one up."""

    def __init__(
        self,
        *,
        identity: Identity,
        cache: SupportsHolds,
        salt: Callable[[Request], str],
        admit: Callable[[Request, PrefixHold], None],
        reject: Callable[[str, RequestError], None],
        adapters: Callable[[], Any],
        send: Callable[[str, Any], None],
        drop: Callable[[str], None],
        transport: MovesPieces,
        room: Callable[[], bool],
        patience: float,
        recompute: bool,
        counts: Counts,
    ) -> None:
        self._identity, self._cache, self._salt = identity, cache, salt
        self._admit, self._reject, self._adapters = admit, reject, adapters
        self._send, self._drop, self._transport = send, drop, transport
        self._room, self._patience, self._recompute = room, patience, recompute
        self._counts = counts
        self._links: dict[str, Link] = {}
        self._waiting: deque[tuple[Request, Source]] = deque()  # not begun, for want of room
        self._fetches: dict[str, Fetch] = {}  # begun, by the request's id
        self._pulls: dict[int, tuple[Fetch, int, str]] = {}  # by the transport's number: first token, where it is from

    def __len__(self) -> int:
        return len(self._fetches) + len(self._waiting)

    def __contains__(self, id: str) -> bool:
        return id in self._fetches or any(request.id == id for request, _ in self._waiting)

    @property
    def pulling(self) -> bool:
        """Whether pieces are on their way."""
        return bool(self._pulls)

    @property
    def deadline(self) -> float | None:
        """When something is due if nothing comes: a beat, or the end of patience."""
        due = [min(link.beat, link.heard + self._patience) for link in self._links.values() if link.fetches]
        return min(due, default=None)

    def begin(self, request: Request, source: Source, now: float) -> None:
        """The request waits from now on; what it lacks is asked for at once where there is room."""
        self._salt(request)  # RequestError for an adapter that there is not
        self._waiting.append((request, source))
        self.fill(now)

    def fill(self, now: float) -> None:
        """Begins those for which there is room, in order."""
        while self._waiting and (not self._fetches or self._room()):
            request, source = self._waiting.popleft()
            try:
                self._start(request, source, now)
            except RequestError as error:  # its adapter has gone while it waited
                self._reject(request.id, error)

    def cancel(self, id: str) -> bool:
        """Its client is gone. Whether it was here."""
        for each in self._waiting:
            if each[0].id == id:
                self._waiting.remove(each)
                return True
        fetch = self._fetches.pop(id, None)
        if fetch is None:
            return False
        self._leave(fetch, messages.Cancel(id=fetch.name))
        fetch.hold.release()
        return True

    def receive(self, address: str, message: Any, now: float) -> None:
        """What a server that prefills says; None: it cannot be reached."""
        link = self._links.get(address)
        if link is None:
            return
        if message is None:
            self._cut(address, GONE, now)
            return
        link.heard = now
        match message:
            case messages.Met():
                self._met(address, link, message, now)
            case messages.Ready(id=name, tokens=tokens, final=final):
                if (fetch := link.fetches.get(name)) is not None:
                    fetch.ready, fetch.final = max(fetch.ready, tokens), final
                    self._pull(fetch, now)
            case messages.Piece(id=name):
                if (fetch := link.fetches.get(name)) is not None and message.start in fetch.pieces:
                    self._take(fetch, link, message)
            case messages.Refused(id=name, why=why):
                if (fetch := link.fetches.get(name)) is not None:
                    self._fail(fetch, why, now)
            case messages.Lost(ids=names):
                for name in names:
                    if (fetch := link.fetches.get(name)) is not None:
                        self._fail(fetch, "it does not know the request (any more); was it started anew?", now)

    def poll(self, now: float) -> None:
        """Stores what the transport has got."""
        for number, data in self._transport.poll():
            fetch, start, address = self._pulls.pop(number, (None, 0, ""))
            if fetch is None or self._fetches.get(fetch.request.id) is not fetch or fetch.address != address:
                continue
            if start not in fetch.pieces or start in fetch.arrived:
                continue  # it was given twice
            wanted = (fetch.pieces[start] - start) * self._cache.token_bytes
            if data is None or len(data) != wanted:
                found = "could not be pulled" if data is None else f"are {len(data)} bytes where {wanted} were wanted"
                self._leave(fetch, messages.Cancel(id=fetch.name))
                self._fail(fetch, f"its keys and values {found}", now)
                continue
            self._send(address, messages.Taken(id=fetch.name, start=start))
            self._counts.bytes += len(data)
            fetch.arrived[start] = data
            self._store(fetch, now)

    def tick(self, now: float) -> None:
        """Sends beats that are due, and gives up on who has been silent for too long."""
        for address, link in list(self._links.items()):
            if not link.fetches:
                continue
            if now >= link.heard + self._patience:
                self._cut(address, SILENT.format(self._patience), now)
            elif now >= link.beat:
                link.beat = now + self._pace(link)
                if link.met is not None:
                    self._send(address, messages.Beat(ids=tuple(link.fetches)))

    def _pace(self, link: Link) -> float:
        lease = self._patience if link.met is None else link.met.lease
        return min(lease, self._patience) / 3

    # --- a request's way ----------------------------------------------------------------------------------------

    def _start(self, request: Request, source: Source, now: float) -> None:
        size = self._cache.page_size
        tokens = np.asarray(request.prompt, dtype=np.int64)
        wanted = (len(tokens) - 1) // size * size
        fetch = Fetch(
            request=request,
            name=source.id or request.id,
            source=source,
            tokens=tokens,
            hold=self._cache.hold(tokens[:wanted], self._salt(request)),
            wanted=wanted,
            began=now,
        )
        self._fetches[request.id] = fetch
        if fetch.hold.length >= wanted:
            if source.id:
                self._send(source.addresses[0], messages.Taken(id=source.id))
            self._done(fetch)
        else:
            self._ask(fetch, now)

    def _ask(self, fetch: Fetch, now: float) -> None:
        """Asks the next address for what it lacks."""
        fetch.address = fetch.source.addresses[fetch.tried]
        fetch.tried += 1
        fetch.asked, fetch.ready, fetch.final = fetch.hold.length, 0, False
        fetch.pieces.clear()
        fetch.arrived.clear()
        link = self._links.get(fetch.address)
        if link is None:
            link = self._links[fetch.address] = Link(heard=now, beat=now)
            self._send(fetch.address, messages.Meet(identity=self._identity))
        if not link.fetches:
            link.heard = now  # nothing was expected before
            link.beat = now + self._pace(link)
        if fetch.name in link.fetches:  # n answers of one prompt that was prefilled once: the first fetches for all
            self._follow(fetch, link)
            return
        link.fetches[fetch.name] = fetch
        if link.met is not None:
            self._send(fetch.address, self._prefill(fetch))

    def _follow(self, fetch: Fetch, link: Link) -> None:
        """It is one of several with the same prompt: it has its own name, and is prefilled like any other."""
        fetch.name, fetch.source = fetch.request.id, Source(addresses=fetch.source.addresses)
        link.fetches[fetch.name] = fetch
        if link.met is not None:
            self._send(fetch.address, self._prefill(fetch))

    def _prefill(self, fetch: Fetch) -> messages.Prefill:
        request = fetch.request
        if fetch.source.id:
            return messages.Prefill(id=fetch.name, digest=digest_of(fetch.tokens), have=fetch.hold.length)
        return messages.Prefill(
            id=fetch.name,
            prompt=request.prompt,
            have=fetch.hold.length,
            salt=request.salt,
            user=request.user,
            priority=request.priority,
            adapter=request.adapter,
            adapter_source=self._adapters().get(request.adapter, ""),
        )

    def _met(self, address: str, link: Link, met: messages.Met, now: float) -> None:
        if (why := self._identity.unlike(met.identity)) is not None:
            self._cut(address, why, now)
            return
        link.met = met
        link.beat = now + self._pace(link)
        for fetch in link.fetches.values():
            self._send(address, self._prefill(fetch))

    def _pull(self, fetch: Fetch, now: float) -> None:
        """Asks for pieces that are ready, whole pages of this side, as many at once as may be on their way."""
        size = self._cache.page_size
        most = max(1, PIECE // max(1, self._cache.token_bytes * size)) * size
        usable = min(fetch.ready, fetch.wanted) // size * size
        while len(fetch.pieces) < PIECES and fetch.asked < usable:
            start, fetch.asked = fetch.asked, min(fetch.asked + most, usable)
            fetch.pieces[start] = fetch.asked
            self._send(fetch.address, messages.Pull(id=fetch.name, start=start, stop=fetch.asked))
        if fetch.final and not fetch.pieces:
            self._counts.transfers += 1
            self._counts.seconds += now - fetch.began
            self._leave(fetch, messages.Taken(id=fetch.name))
            self._done(fetch)

    def _take(self, fetch: Fetch, link: Link, piece: messages.Piece) -> None:
        assert link.met is not None, "nothing is asked of it before"
        number = self._transport.pull(host_of(fetch.address), link.met.peer, piece.where)
        self._pulls[number] = fetch, piece.start, fetch.address

    def _store(self, fetch: Fetch, now: float) -> None:
        """Puts pieces into the cache, in order."""
        while fetch.arrived and (start := min(fetch.arrived)) == min(fetch.pieces):
            data = fetch.arrived.pop(start)
            del fetch.pieces[start]
            if not fetch.hold.write(start, data):
                log.info("%s: no pages are left for its prompt, of which %d tokens are there", fetch.request.id, start)
                self._counts.failures += 1
                self._leave(fetch, messages.Cancel(id=fetch.name))
                self._done(fetch)  # it waits for pages as others do
                return
        self._pull(fetch, now)

    def _done(self, fetch: Fetch) -> None:
        del self._fetches[fetch.request.id]
        try:
            self._admit(fetch.request, fetch.hold)
        except RequestError as error:
            fetch.hold.release()
            self._reject(fetch.request.id, error)

    def _leave(self, fetch: Fetch, last: messages.Taken | messages.Cancel) -> None:
        """It wants nothing more of the server that prefills."""
        link = self._links.get(fetch.address)
        if link is not None and link.fetches.pop(fetch.name, None) is not None and link.met is not None:
            self._send(fetch.address, last)

    # --- failures -----------------------------------------------------------------------------------------------

    def _cut(self, address: str, why: str, now: float) -> None:
        """Ends the connection, and fails all that wait for it; the next request tries it anew."""
        link = self._links.pop(address)
        self._drop(address)
        for fetch in list(link.fetches.values()):
            self._fail(fetch, why, now)

    def _fail(self, fetch: Fetch, why: str, now: float) -> None:
        self._counts.failures += 1
        log.warning("request %s could not be prefilled at %s: %s", fetch.request.id, fetch.address, why)
        if (link := self._links.get(fetch.address)) is not None:
            link.fetches.pop(fetch.name, None)
        if fetch.tried < len(fetch.source.addresses):
            self._ask(fetch, now)
        elif self._recompute:
            self._done(fetch)
        else:
            del self._fetches[fetch.request.id]
            fetch.hold.release()
            message = f"the prompt could not be prefilled at {fetch.address}: {why}"
            self._reject(fetch.request.id, RequestError(message, code="prefill_failed", status=503))

    def close(self) -> None:
        for id in [*self._fetches, *(request.id for request, _ in self._waiting)]:
            self.cancel(id)
