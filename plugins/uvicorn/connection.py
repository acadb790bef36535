"""One client's connection: uvicorn's HTTP protocol within bounds of size, time and number.

A connection is idle, receives the header of a request, receives its body, or is answered. Each of the first three has a
time limit. An answer has none, however long it streams, as long as the client reads it.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import httptools
from starlette.datastructures import Headers
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from maxserve.http import Failure, unavailable

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from maxserve.plugins.uvicorn.options import ConnectionLimits

log = logging.getLogger("maxserve.server")

MOST_FIELDS = 256  # of a header
MOST_PIPELINED = 16  # requests that may wait for the answer to one before them
MOST_TINY_CHUNKS = 10_000  # pieces of a body of less than TINY bytes on average
TINY = 16
RESERVED_FILES = 256  # descriptors that are left for other things than connections
LINGER_SECONDS = 2.0  # for which a client that was refused may go on sending, so that it gets to read why
LINGER_BYTES = 8 << 20
UNWANTED_BYTES = 64 << 20  # of a body that may follow an answer which did not wait for it,
UNWANTED_SECONDS = 30.0  # and for how long
EXTENSION = "maxserve.cycle"  # of an ASGI scope of HTTP/1.0: uvicorn's state of the answer
_OFFER = frozenset({b"connection", b"upgrade", b"http2-settings"})  # fields by which a client offers one
_SLICE = 16 * 1024

MakesRefusal = Callable[[Failure, Headers], Response]


def allow_connections(wanted: int) -> int:
    """Has the system let this process open as many files as so many connections take; how many it then may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FILES
    if soft < needed and soft != resource.RLIM_INFINITY:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = max(1, soft - RESERVED_FILES)
    log.warning(
        "--max-connections %d is more than the limit of open files allows (ulimit -n) and is lowered to %d",
        wanted,
        allowed,
    )
    return allowed


class EvictableConnections:
    """The connections that may be closed to make room, the one that has been idle or receiving for longest first: no
    request of theirs is complete and not answered yet."""

    def __init__(self) -> None:
        self._members: dict[Connection, None] = {}

    def add(self, connection: Connection) -> None:
        """Puts it last."""
        self._members.pop(connection, None)
        self._members[connection] = None

    def remove(self, connection: Connection) -> None:
        self._members.pop(connection, None)

    def make_room(self) -> bool:
        """Closes the first one; whether there is any."""
        first = next(iter(self._members), None)
        if first is None:
            return False
        del self._members[first]
        first.evict()
        return True


class Connection(HttpToolsProtocol):
    """Answers 408, 414 or 431 where a limit is passed, and closes. `refusal` makes these answers."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
        refusal: MakesRefusal,
        evictable: EvictableConnections,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = log
        self.access_log = False
        self._limits, self._refusal = limits, refusal
        self._in_header = self._in_body = False
        self._offered = False  # another protocol, which is passed over
        self._ignoring = False  # what still comes is thrown away
        self._failure: Failure | None = None  # why a callback of the parser gave up
        self._header_bytes = self._fields = self._received = 0
        self._body_bytes = self._body_pieces = self._unwanted_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_is_for = ""
        self._send_timer: asyncio.TimerHandle | None = None
        self._evictable = evictable

    # --- a connection's life ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer("header", self._limits.header_timeout, self._on_header_timeout)
        full = len(self.connections) > self._limits.max_connections
        if not full or self._evictable.make_room():
            self._evictable.add(self)
        else:
            self._ignoring = True
            failure = unavailable("all connections are taken (--max-connections); try again later")
            transport.write(self._answer(failure))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._evictable.remove(self)
        self._stop_timer()
        self._unset_keepalive_if_required()
        if self._send_timer is not None:
            self._send_timer.cancel()
        super().connection_lost(exc)

    def evict(self) -> None:
        """Closes the connection at once."""
        self.connections.discard(self)
        self.transport.abort()

    # --- what comes ---------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._ignoring:
            self._unwanted_bytes += len(data)
            if self._unwanted_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        try:
            self._feed(data)
        except httptools.HttpParserUpgrade:
            self._stop_timer()
            self._evictable.remove(self)
            self._ignoring = True  # the transport has another protocol now
            self.handle_websocket_upgrade()
        except httptools.HttpParserError:
            self._refuse(
                self._failure or Failure(status=400, message="this is no HTTP/1.1 request", code="bad_request")
            )
        if not self._ignoring and self.parser is not None:
            self._watch()

    def _feed(self, data: bytes) -> None:
        """Gives the parser a header in slices: it joins what it has of a field with each piece that comes."""
        start = 0
        while start < len(data):
            end = len(data) if self._in_body else start + _SLICE
            part = data[start:end]
            start = end
            if self._in_header:
                self._header_bytes += len(part)
                self._check_header()
            try:
                self.parser.feed_data(part)
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    raise
                data, start = self._without_offer() + part[upgrade.args[0] :] + data[start:], 0

    def _without_offer(self) -> bytes:
        """The header again as if the client had not offered another protocol, such as h2c, for a parser that begins
        anew: that one takes the body for something of the other protocol."""
        if self.scope["method"] == "CONNECT":
            self._give_up(Failure(status=405, message="this server is no proxy", code="method_not_supported"))
        fields = [field for field in self.headers if field[0] not in _OFFER]
        lines = [name + b": " + value + b"\r\n" for name, value in fields]
        self._offered = False
        self.parser = httptools.HttpRequestParser(self)
        return b"".join((self.scope["method"].encode(), b" ", self.url, b" HTTP/1.1\r\n", *lines, b"\r\n"))

    def _check_header(self) -> None:
        most = self._limits.max_header_bytes
        if self._header_bytes > most:
            long_line = len(self.url) * 2 > self._header_bytes
            what, status = ("URL", 414) if long_line else ("header", 431)
            message = f"the {what} is longer than the {most} bytes this server takes (--max-header-bytes)"
            self._give_up(Failure(status=status, message=message, code="header_too_large"))
        if self._fields > MOST_FIELDS:
            message = f"the header has more than {MOST_FIELDS} fields"
            self._give_up(Failure(status=431, message=message, code="header_too_large"))

    def _give_up(self, failure: Failure) -> None:
        """Ends the parsing of what was received; `data_received` tells the client."""
        self._failure = failure
        raise httptools.HttpParserError(failure.message)

    # --- callbacks of the parser --------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._in_header, self._in_body = True, False
        self._header_bytes = self._fields = self._body_bytes = self._body_pieces = self._unwanted_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._offered = self.parser.should_upgrade() and not self._should_upgrade()
        if self._offered:
            self.scope["method"] = self.parser.get_method().decode()
            return
        self._header_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self._check_header()
        if len(self.pipeline) >= MOST_PIPELINED:
            message = f"more than {MOST_PIPELINED} requests wait for an answer on this connection"
            self._give_up(Failure(status=429, message=message, code="too_many_requests"))
        self._in_header, self._in_body = False, True
        self._stop_timer()
        super().on_headers_complete()
        if self.scope.get("http_version") == "1.0":
            self.scope["extensions"] = {EXTENSION: self.cycle}  # type: ignore[dict-item]

    def on_body(self, body: bytes) -> None:
        self._received += len(body)
        self._body_bytes += len(body)
        self._body_pieces += 1
        if self._body_pieces > MOST_TINY_CHUNKS and self._body_bytes < self._body_pieces * TINY:
            self._give_up(Failure(status=400, message="the body comes in too many tiny chunks", code="bad_request"))
        if self.cycle is not None and self.cycle.response_complete:
            self._unwanted_bytes += len(body)
            if self._unwanted_bytes > UNWANTED_BYTES:
                self.transport.abort()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offered:
            return
        self._in_body = False
        if not self.cycle.response_complete:
            self._evictable.remove(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self._evictable.add(self)
        if self._in_body and not self._ignoring:
            self._watch()

    # --- time limits --------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Starts the timer of what is being received now, unless it runs already, and stops any other."""
        if self._in_header:
            self._start_timer("header", self._limits.header_timeout, self._on_header_timeout)
        elif self._in_body and self.cycle is not None and self.cycle.response_complete:
            self._start_timer("unwanted", UNWANTED_SECONDS, self.transport.close)
        elif self._in_body:
            self._start_timer("body", self._limits.body_timeout, self._on_body_tick, self._received)
        else:
            self._stop_timer()

    def _start_timer(self, kind: str, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        if self._timer_is_for != kind:
            self._stop_timer()
            if seconds:
                self._timer_is_for = kind
                self._timer = self.loop.call_later(seconds, call, *arguments)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_is_for = None, ""

    def _on_header_timeout(self) -> None:
        if not self._in_header:  # nothing came at all
            self.transport.close()
            return
        seconds = self._limits.header_timeout
        message = f"the header of the request did not come within {seconds:g} s (--header-timeout)"
        self._refuse(Failure(status=408, message=message, code="request_timeout"))

    def _on_body_tick(self, before: int) -> None:
        """Compares what came of the body since the last look with the least rate, unless it is us who do not read."""
        seconds, rate = self._limits.body_timeout, self._limits.min_body_rate
        self._stop_timer()
        if self.flow.read_paused or self._received - before >= rate * seconds:
            self._start_timer("body", seconds, self._on_body_tick, self._received)
            return
        message = f"less than {rate} bytes per second of the body came for {seconds:g} s (--min-body-rate)"
        self._refuse(Failure(status=408, message=message, code="request_timeout"))

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._limits.send_timeout and self._send_timer is None:
            self._send_timer = self.loop.call_later(self._limits.send_timeout, self._on_send_timeout)

    def resume_writing(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        super().resume_writing()

    def _on_send_timeout(self) -> None:
        log.info("a client did not read its answer for %g s (--send-timeout) and is cut off", self._limits.send_timeout)
        self.transport.abort()

    # --- rejections ---------------------------------------------------------------------------------------------

    def _refuse(self, failure: Failure) -> None:
        """Receives no more, tells why where that is possible, and closes."""
        self._stop_timer()
        self._ignoring = True
        cycle, receiving = self.cycle, self._in_body
        if cycle is not None and not cycle.response_complete and not receiving:
            cycle.keep_alive = False  # the client gets the answers to what it asked before; uvicorn closes then
            self.flow.pause_reading()
            return
        if cycle is not None and receiving:
            started = cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
            if started:
                self.transport.abort()
                return
        if not self.transport.is_closing():
            self._send_refusal(failure)

    def _send_refusal(self, failure: Failure) -> None:
        """Writes the answer, and then waits a moment for the client to read it: closing at once would reset the
        connection while the client still sends, and take the answer away."""
        self.transport.write(self._answer(failure))
        self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _answer(self, failure: Failure) -> bytes:
        response = self._refusal(failure, Headers(raw=self.headers or []))
        response.headers.update({"date": formatdate(usegmt=True), "connection": "close"})
        lines = b"".join(b"%b: %b\r\n" % field for field in response.raw_headers)
        return b"HTTP/1.1 %d %b\r\n%b\r\n" % (failure.status, failure.phrase.encode(), lines) + bytes(response.body)


class CloseDelimited:
    """ASGI middleware for clients of HTTP/1.0, which know no chunks: an answer without a length ends where the
    connection does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle = scope.get("extensions", {}).get(EXTENSION)
        if cycle is None:
            await self._app(scope, receive, send)
            return
        unframed = False

        async def send_unframed(message: Message) -> None:
            nonlocal unframed
            if message["type"] == "http.response.start":
                unframed = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
                cycle.chunked_encoding = False if unframed else None
            elif unframed:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, send_unframed)
