"""What runs in the API process once a worker is on its way. The HTTP server, the supervisor, and what joins them."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import uvloop

from maxserve.core.assembly.params import request_params
from maxserve.core.config.components import with_required
from maxserve.core.http.app import create_app
from maxserve.core.http.failures import FailureDialects
from maxserve.core.http.health_gate import HealthGate, all_probes
from maxserve.core.http.middleware import MiddlewareStack
from maxserve.core.interfaces.balancer import Balancer, BalancerContext, BalancesReplicas
from maxserve.core.interfaces.chat_template import ChatTemplate, ChatTemplateContext
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.http_server import HttpServer, HttpServerContext
from maxserve.core.interfaces.images import ReadsImages
from maxserve.core.interfaces.middleware import MiddlewareContext
from maxserve.core.interfaces.observer import ObserverContext
from maxserve.core.interfaces.routes import ServerContext
from maxserve.core.interfaces.tokenizer import Tokenizer, TokenizerContext
from maxserve.core.loading.images import image_reader
from maxserve.core.runtime.heap import settle_heap
from maxserve.core.runtime.observing import Observers
from maxserve.core.runtime.ports import is_local, url
from maxserve.core.runtime.restored import packed

if TYPE_CHECKING:
    from fastapi import FastAPI

    from maxserve.core.config import Settings
    from maxserve.core.interfaces.engine import ModelFiles, ModelInfo
    from maxserve.core.interfaces.http_server import ServesHttp
    from maxserve.core.interfaces.process import Display
    from maxserve.core.interfaces.routes import Routes
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host
    from maxserve.core.runtime.fleet import Fleet

log = logging.getLogger("maxserve.server")

STOPPING = "the server is stopping"
GRACE = 5.0  # seconds that requests have to finish once the server is asked to stop
LAST_WORDS = 2.0  # seconds for clients to read why theirs did not, before connections are cut


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one server is made of; `routes` are those to be served. `files` None: the worker finds the model itself."""

    settings: Settings
    host: Host
    files: ModelFiles | None
    routes: Sequence[Entry[Routes]]
    listening: Sequence[socket.socket]  # none where there is no HTTP
    fleet: Fleet
    display: Display


class TextSide(NamedTuple):
    """What makes prompts of requests, and texts of answers."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    images: ReadsImages | None


class Serving:
    """Runs a server to its end. It is the fleet's Watcher: the gate opens and closes with the workers."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._dialects = FailureDialects(
            (entry.plugin, {path: plan.host.load(entry, ref) for path, ref in entry.component.failures.items()})
            for entry in plan.routes
        )
        self._probes = all_probes((entry.plugin, entry.component.probes) for entry in plan.routes)
        self._gate = HealthGate(self._probes, self._dialects)
        sections = plan.host.section_values(plan.settings)
        wrapping = MiddlewareContext(
            sections=sections, host=plan.settings.server.host, response=self._dialects.response
        )
        self._middleware = MiddlewareStack.build(plan.host, wrapping, self._dialects)
        serving = HttpServerContext(sections=sections, grace=GRACE + LAST_WORDS, refusal=self._middleware.refusal)
        entry = plan.host.of(HttpServer).get(plan.settings.server.http_server)
        self._http: ServesHttp = plan.host.build(entry, serving)
        self._display, self._phase = plan.display, ""
        self._ready: asyncio.Queue[ModelInfo] = asyncio.Queue()
        self._served: ServerContext | None = None  # that of the application there is

    def run(self) -> None:
        """Returns after SIGINT or SIGTERM; UsageError or EngineError when there is no point in going on."""
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._run())
        finally:
            self._replace(None)
            self._display.clear()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        http = asyncio.ensure_future(self._http.serve(self._middleware.around(self._gate), self._plan.listening))
        supervised = asyncio.ensure_future(self._plan.fleet.run(self))
        opening = asyncio.ensure_future(self._open())
        opening.add_done_callback(self._on_opened)
        await asyncio.wait((http, supervised, self._over), return_when=asyncio.FIRST_COMPLETED)
        opening.cancel()
        failed = supervised.done() and supervised.exception()
        deserted = http.done() and not supervised.done() and not self._over.done()
        self._gate.fail(str(failed)) if failed else self._gate.close(STOPPING)
        await self._close(http, supervised)
        if deserted:
            raise PluginError("the HTTP server has stopped by itself, although no signal came; see --http-server")

    async def _close(self, http: asyncio.Future[None], supervised: asyncio.Future[None]) -> None:
        """Lets requests finish first, for which the worker is needed, and then ends the worker."""
        self._http.stop(at_once=False)
        _, unfinished = await asyncio.wait((http,), timeout=GRACE)
        if unfinished:
            log.warning("%d requests still run after %g s and are cut off", self._plan.fleet.open, GRACE)
            self._plan.fleet.end_requests()
        await http
        self._plan.fleet.stop()
        await supervised
        if self._over.done():
            self._over.result()

    def _on_signal(self) -> None:
        if self._over.done():
            log.info("stopping at once")
            self._http.stop(at_once=True)
            self._plan.fleet.stop()
            self._plan.fleet.kill()
            return
        log.info("stopping; %d requests are running", self._plan.fleet.open)
        self._over.set_result(None)

    # --- from nothing to an open gate ---------------------------------------------------------------------------

    async def _open(self) -> None:
        """Makes the application while the worker loads, as far as that goes, and opens the gate at each worker's ready.

        Memory is planned anew by each worker: what the model holds may differ, and then so does the application.
        """
        files = self._plan.files
        text = None if files is None else await asyncio.to_thread(self._load, files.path, files.architecture)
        app: FastAPI | None = None
        made_for: ModelInfo | None = None
        while True:
            info = await self._ready.get()
            if text is None:
                text = await asyncio.to_thread(self._load, info.path, info.architecture)
            if app is None or made_for is None or not _is_like(info, made_for):
                app = self._build_app(info, text)
                settle_heap()  # modules and vocabulary stay for good
            if made_for is not None and self._served is not None:
                self._served.names.leave_out(self._plan.fleet.left_out)
                self._served.names.restore(info)
            if self._plan.fleet.ready:
                self._gate.open(app)
            if made_for is None:
                for listening in self._plan.listening:
                    self._display.ready(info, url(listening), local=is_local(listening))
                if not self._plan.listening:
                    log.info("the worker is ready, without HTTP (--headless)")
            else:
                log.info("the worker is back")
            made_for = info

    def _load(self, path: str, architecture: str) -> TextSide:
        """The text side of the model in a folder; also imports what routes are built by. Runs in a thread."""
        plan = self._plan
        for entry in plan.routes:
            plan.host.load(entry, entry.component.build)
        sections, trusted = plan.host.section_values(plan.settings), plan.settings.model.trust_remote_code
        files = plan.host.tokenizer(TokenizerContext(sections=sections, path=path, trust_remote_code=trusted))
        tokenizer = files.load()
        images = image_reader(plan.settings, plan.host, path, architecture, tokenizer)
        context = ChatTemplateContext(sections=sections, path=path)
        return TextSide(tokenizer, plan.host.chat_template(context), images)

    def _build_app(self, info: ModelInfo, text: TextSide) -> FastAPI:
        plan = self._plan
        settings = self._settings(info)
        sections = plan.host.section_values(settings)
        if not plan.fleet.observers:  # they count on over all workers
            context = ObserverContext(sections=sections, model=info.name, max_length=info.max_length)
            plan.fleet.observers = Observers(plan.host.build(entry, context) for entry in plan.host.observers)
        self._balance(settings)
        served = ServerContext(
            sections=sections,
            components=plan.host,
            model=info,
            engine=plan.fleet.engine,
            tokenizer=text.tokenizer,
            template=text.template,
            images=text.images,
            params=request_params(plan.host, settings),
            grammars=settings.sampling.grammars,
            plugins=packed(plan.host, settings),
            observers=plan.fleet.observers,
        )
        routers = [(entry.component.prefix, plan.host.build(entry, served), entry.plugin) for entry in plan.routes]
        app = create_app(served, routers, self._dialects, self._probes, self._middleware.inner)
        self._replace(served)
        return app

    def _balance(self, settings: Settings) -> None:
        """Has requests spread over the replicas, where there are several; that goes on over all workers."""
        fleet, host = self._plan.fleet, self._plan.host
        if len(fleet.clients) > 1 and fleet.engine is fleet.clients[0]:
            context = BalancerContext(sections=host.section_values(settings), replicas=fleet.clients)
            balancer: BalancesReplicas = host.build(host.of(Balancer).get(settings.server.balancer), context)
            fleet.engine, fleet.together = balancer, balancer.on_replica_step

    def _replace(self, served: ServerContext | None) -> None:
        """Closes what the application before had; its requests are those of a worker that is gone."""
        before, self._served = self._served, served
        if before is not None:
            before.close()

    def _settings(self, info: ModelInfo) -> Settings:
        """The settings the worker has: an architecture's own values may be known only now."""
        plan = self._plan
        if plan.files is not None:
            return plan.settings
        architecture = plan.host.architectures.get(info.architecture).component
        return with_required(plan.settings, architecture, plan.host.plugin_sections(), tell=False)

    def _on_opened(self, opening: asyncio.Future[None]) -> None:
        if not opening.cancelled() and (error := opening.exception()) and not self._over.done():
            self._over.set_exception(error)

    # --- what the supervisor tells ------------------------------------------------------------------------------

    def on_progress(self, phase: str, fraction: float | None) -> None:
        if phase != self._phase:
            self._phase = phase
            self._display.phase(phase)
        if fraction is not None:
            self._display.advance(fraction)
        self._gate.progress(phase, fraction)

    def on_ready(self, info: ModelInfo) -> None:
        self._clear()
        self._ready.put_nowait(info)

    def on_death(self, message: str) -> None:
        self._clear()
        self._gate.close(message)

    def _clear(self) -> None:
        self._display.clear()
        self._phase = ""


def _is_like(info: ModelInfo, before: ModelInfo) -> bool:
    """Whether an application for one serves the other, too: adapters come and go."""
    same = replace(info, created=before.created, adapters=before.adapters, adapter_sources=before.adapter_sources)
    return same == before
