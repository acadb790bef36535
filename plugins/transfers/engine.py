"""An engine that computes prompts for other servers, or has them computed by others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from maxserve.interfaces.cache import PrefixHold, SupportsHolds
from maxserve.interfaces.engine import GenerationContext, ServedEngine
from maxserve.interfaces.errors import RequestError, SettingsError
from maxserve.interfaces.observer import StepStats
from maxserve.interfaces.request import AdapterChange, Encoded, EncodeRequest, Output, Request
from maxserve.interfaces.transport import Transport, TransportContext
from maxserve.plugins.transfers import messages
from maxserve.plugins.transfers.addresses import FIELD, PARAMS, host_of, source_of, wants_prefill_only
from maxserve.plugins.transfers.counts import Counts
from maxserve.plugins.transfers.fetching import Fetches
from maxserve.plugins.transfers.identity import model_digest
from maxserve.plugins.transfers.leases import Leases
from maxserve.plugins.transfers.mailbox import Mailbox, Peer
from maxserve.plugins.transfers.options import DECODE, PREFILL, RoleOptions, TransferSettings

log = logging.getLogger("maxserve.transfers")

LONGEST_PAUSE = 60.0  # seconds
ASKING = 0.002  # seconds between two looks at a transport that does not wake
FREE = 0.1  # of the cache's pages, that are to be had when a request begins to fetch its own


class TransferringEngine:
    """A ServedEngine around the one that computes. One thread uses it, as it does that one.

    Requests whose prompts are computed elsewhere wait here, while others run, and are then handed on as requests that
    find their prefix in the cache. Prompts for others are requests of one token, whose prefixes are held.
    """

    def __init__(self, engine: ServedEngine, context: GenerationContext) -> None:
        self._engine = engine
        self._own = context.config(TransferSettings)
        self._role = context.config(RoleOptions).pipeline_role
        cache = context.cache
        if not isinstance(cache, SupportsHolds) or engine.info.without_prefixes:
            why = engine.info.without_prefixes or type(cache).__name__
            raise SettingsError(
                f"--pipeline-role, --transfers.bind: keys and values are exchanged as prefixes, which {why} has not; "
                "leave one of them out, or take --cache-strategy paged with a model without windows"
            )
        unsupported = {field: why for field, why in engine.info.unsupported.items() if field != PARAMS}
        self.info = replace(engine.info, unsupported=unsupported)
        self.empty_steps = engine.empty_steps
        self._cache = cache
        self._wake: Callable[[], None] = _nothing
        self._holds: list[PrefixHold] = []  # of requests that were handed on since the last step
        self._keeps: set[str] = set()  # requests over HTTP whose prefixes are for others
        self._rejected: list[tuple[str, RequestError]] = []
        self.counts = Counts()
        self._mailbox = Mailbox(self._own.address(self._role), self._stir)
        try:
            self._build(engine, context)
        except BaseException:
            self._mailbox.close()
            raise

    def _build(self, engine: ServedEngine, context: GenerationContext) -> None:
        own = self._own
        bound = own.address(self._role)
        self._advertised = own.advertised(self._mailbox.address)
        host = None if bound is None else host_of(bound)
        found = context.components.of(Transport).get(own.transport)
        self._transport = context.components.build(
            found, TransportContext(sections=context.sections, host=host, wake=self._stir)
        )
        identity = messages.Identity(
            protocol=messages.PROTOCOL,
            model=model_digest(context.files),
            layout=self._cache.layout,
            transport=own.transport,
        )
        shared: dict[str, Any] = {
            "identity": identity,
            "cache": self._cache,
            "salt": context.salt,
            "adapters": self._adapters,
            "send": self._send,
            "transport": self._transport,
            "counts": self.counts,
        }
        self.leases = Leases(add=engine.add, abort=engine.abort, lease=own.lease, **shared)
        self.fetches = Fetches(
            admit=self._admit,
            reject=lambda id, error: self._rejected.append((id, error)),
            drop=self._mailbox.drop,
            room=self._has_room,
            patience=own.timeout,
            recompute=own.on_failure == "recompute",
            **shared,
        )

    # --- what a worker asks -------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return self._engine.busy or self._mailbox.waiting or len(self.fetches) > 0 or len(self.leases) > 0

    @property
    def pause(self) -> float | None:
        """Until the engine has something to do, a message comes, or a lease or patience ends."""
        if self._mailbox.waiting or self._rejected:
            return 0.0
        due = [each for each in (self.leases.deadline, self.fetches.deadline) if each is not None]
        pauses = [each - time.monotonic() for each in due]
        if (own := self._engine.pause) is not None:
            pauses.append(own)
        if self.fetches.pulling and not self._transport.wakes:
            pauses.append(ASKING)
        if pauses:
            return min(max(0.0, min(pauses)), LONGEST_PAUSE)
        return LONGEST_PAUSE if self.busy else None

    def add(self, request: Request | EncodeRequest) -> None:
        if isinstance(request, EncodeRequest):
            self._engine.add(request)
            return
        transfer, request = request.transfer, replace(request, transfer={})
        if request.id in self.fetches:
            raise RequestError(f"request id {request.id!r} is in use; ids must be unique")
        if wants_prefill_only(transfer):
            self._add_prefill(request)
            return
        if self._role == PREFILL:
            raise RequestError(
                f"this server computes prompts for others only (--pipeline-role prefill_only): {PARAMS} must say "
                "do_remote_decode: true",
                param=PARAMS,
                code="invalid_value",
            )
        source = source_of(transfer)
        if source is None and self._role == DECODE and self._own.on_failure == "fail":
            raise RequestError(
                f"this server has prompts computed by others (--pipeline-role decode_only): {FIELD} must say where, as "
                "tcp://HOST:PORT; with --transfers.on-failure recompute it computes prompts itself without it",
                param=FIELD,
                code="missing_required_parameter",
            )
        if source is None or request.images or request.params.prompt_logprobs is not None:
            self._engine.add(request)  # what is to be known of every token of a prompt is computed here
        else:
            self.fetches.begin(request, source, time.monotonic())

    def abort(self, ids: Iterable[str]) -> None:
        ids = tuple(ids)
        for id in ids:
            self.fetches.cancel(id)
            self.leases.drop(id)
            self._keeps.discard(id)
        self._engine.abort(ids)

    def step(self) -> Sequence[Output | Encoded]:
        """Reads messages, and runs a step of the engine where it has something to do."""
        now = time.monotonic()
        self._read(now)
        self.fetches.poll(now)
        self.fetches.tick(now)
        self.leases.expire(now)
        self.leases.fill(now)
        self.fetches.fill(now)
        if not (self._engine.busy or self.empty_steps):
            return []
        outputs = self._engine.step()
        while self._holds:  # not for longer: pages that wait for each other would be held for ever
            self._holds.pop().release()
        given = [each for each in outputs if isinstance(each, Output)]
        self.leases.advance(given, time.monotonic())
        if self._keeps:
            return [self._with_transfer(each) if isinstance(each, Output) else each for each in outputs]
        return outputs

    def stats(self) -> StepStats:
        own = self._engine.stats()
        return replace(own, deferred=own.deferred + len(self.fetches), series=(*own.series, *self.counts.series))

    def reset_prefix_cache(self) -> int:
        return self._engine.reset_prefix_cache()

    def serve_grammars(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._engine.serve_grammars(wake)

    def close(self) -> None:
        """Keeps what was computed until it is taken, or its lease ends; new prompts are refused meanwhile."""
        self.fetches.close()
        self.leases.ending = True
        while len(self.leases):
            if self.step() or self._engine.busy:
                continue
            time.sleep(min(self.pause or 0.0, ASKING))
        self._mailbox.close()
        self._transport.close()
        self._engine.close()

    # --- adapters and memory: the engine's ----------------------------------------------------------------------

    @property
    def adapters(self) -> Mapping[str, str]:
        return self._adapters()

    def change_adapter(self, change: AdapterChange) -> None:
        self._engine.change_adapter(change)  # type: ignore[attr-defined]

    def rejected_changes(self) -> Sequence[tuple[str, RequestError]]:
        """Those of the engine, and requests whose prompts could not be had."""
        found, self._rejected = self._rejected, []
        return [*self._engine.rejected_changes(), *found]  # type: ignore[attr-defined]

    def give_back(self) -> None:
        self._engine.give_back()  # type: ignore[attr-defined]

    # --- between them -------------------------------------------------------------------------------------------

    def _adapters(self) -> Mapping[str, str]:
        found: Mapping[str, str] = getattr(self._engine, "adapters", {})
        return found

    def _stir(self) -> None:
        self._wake()

    def _send(self, peer: Peer, message: messages.Message) -> None:
        self._mailbox.send(peer, [messages.encode(message)])

    def _read(self, now: float) -> None:
        for letter in self._mailbox.receive():
            try:
                self._read_one(letter.peer, letter.frames, now)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                log.warning("what another server sent is no message of transfers: %s", error)

    def _read_one(self, peer: Peer, frames: Sequence[bytes] | None, now: float) -> None:
        if isinstance(peer, bytes):
            assert frames is not None, "only addresses can be unreachable"
            self.leases.receive(peer, messages.decode_asked(frames[-1]), now)
        else:
            self.fetches.receive(peer, None if frames is None else messages.decode_told(frames[-1]), now)

    def _add_prefill(self, request: Request) -> None:
        """A prompt that came over HTTP, to be kept for who decodes it."""
        if not self._advertised:
            raise RequestError(
                f"{PARAMS}: this server keeps no prompts for others; start it with --transfers.bind",
                param=PARAMS,
                code="unsupported_parameter",
            )
        if self.leases.ending:
            raise RequestError("the server is stopping", code="service_unavailable", status=503)
        if request.images:
            raise RequestError(f"{PARAMS}: prompts with images are not exchanged", param=PARAMS)
        self.leases.keep(request)
        try:
            self._engine.add(request)
        except RequestError:
            self.leases.drop(request.id)
            raise
        self._keeps.add(request.id)

    def _with_transfer(self, output: Output) -> Output:
        """What a server that decodes takes as it is, in the words of vLLM."""
        if output.finish is None or output.id not in self._keeps:
            return output
        self._keeps.discard(output.id)
        host, _, port = self._advertised.rpartition(":")
        params = {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": self._advertised,
            "remote_block_ids": [],
            "remote_request_id": output.id,
            "remote_host": host,
            "remote_port": int(port),
            "tp_size": 1,
        }
        return msgspec.structs.replace(output, transfer=params)

    def _admit(self, request: Request, hold: PrefixHold) -> None:
        """Hands a request on; its prefix is held until it could have had a row."""
        self._engine.add(request)
        self._holds.append(hold)

    def _has_room(self) -> bool:
        """Whether one more may begin to fetch: a batch has a place for it, and a tenth of the pages can be had."""
        state = self._engine.stats()
        size = state.cache
        return (
            state.running + state.waiting + len(self.fetches) <= self.info.max_batch_size
            and size.available >= FREE * size.total
        )


def _nothing() -> None:
    pass


def engine_built(engine: ServedEngine, context: GenerationContext) -> ServedEngine | None:
    """The engine with transfers, where the options ask for them."""
    own, role = context.config(TransferSettings), context.config(RoleOptions).pipeline_role
    return TransferringEngine(engine, context) if own.wanted(role) else None
