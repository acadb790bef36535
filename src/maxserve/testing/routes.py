"""Checks of HTTP routes, over an engine that says the same to every request.

class TestAcme(RoutesChecks):
    routes = "acme"
    requests = [("GET", "/count?text=ab", None, 200, '"tokens":2')]
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import httpx
from fastapi import APIRouter, FastAPI

from maxserve.core.http.app import create_app
from maxserve.core.interfaces.errors import QueueFullError, WorkerDied
from maxserve.core.interfaces.routes import Routes, ServerContext
from maxserve.core.interfaces.tokenizer import Tokenizer
from maxserve.core.registry.host import PluginHost
from maxserve.core.registry.options import PluginOptions
from maxserve.core.registry.protocol import Host
from maxserve.testing.resolve import load, resolve
from maxserve.testing.scripted import Recorder, ScriptedEngine, byte_tokenizer, server_context, speaking

SECONDS = 30.0

Case: TypeAlias = tuple[str, str, Any, int, str]  # method, path, JSON body or None, status, what the answer has in it


@cache
def _tokenizer() -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        return byte_tokenizer(Path(folder))


@cache
def _host() -> Host:
    return PluginHost.discover(PluginOptions(autoload=False), strict=True)


class RoutesChecks:
    """Subclass it and name registered `routes`, or give the `component` itself.

    `requests` are (method, path, JSON body or None, status, a text in the answer); paths begin below the prefix.
    `sections` are the plugin's settings, by schema; `reply` is what the engine says, a token per byte.
    """

    routes: ClassVar[str] = ""
    component: ClassVar[Routes | None] = None
    requests: ClassVar[Sequence[Case]] = ()
    sections: ClassVar[dict[type[Any], Any]] = {}
    reply: ClassVar[str] = "Hello there, friend."

    def declared(self) -> Routes:
        """The component under test."""
        return resolve(Routes, self.routes, self.component)

    @property
    def prefix(self) -> str:
        """Where the routes are in these checks."""
        return (self.declared().prefix or "/plugins/tested").rstrip("/")

    def app(self, engine: ScriptedEngine) -> FastAPI:
        """The application with these routes alone."""
        build: Callable[[ServerContext], APIRouter] = load(self.declared().build)
        context = server_context(_host(), engine, Recorder(), self.sections)
        router = build(context)
        assert isinstance(router, APIRouter), f"build gave a {type(router).__name__}, not an APIRouter"
        return create_app(context, [(self.prefix or "/", router, "tested")])

    def ask(self, engine: ScriptedEngine, case: Case) -> httpx.Response:
        """The answer to one request."""
        method, path, body, _, _ = case

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app(engine), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await asyncio.wait_for(client.request(method, self.prefix + path, json=body), SECONDS)

        return asyncio.run(ask())

    def engine(self) -> ScriptedEngine:
        """An engine that says `reply`."""
        return speaking(_tokenizer(), self.reply)

    def test_requests_are_answered(self) -> None:
        assert self.requests, f"{type(self).__name__} has no requests"
        for case in self.requests:
            engine = self.engine()
            answer = self.ask(engine, case)
            assert answer.status_code == case[3], f"{case[0]} {case[1]}: {answer.status_code} {answer.text}"
            assert case[4] in answer.text, f"{case[0]} {case[1]}"
            assert not engine.active, f"{case[0]} {case[1]}: requests stay open in the engine"

    def test_the_schema_can_be_made(self) -> None:
        assert self.app(self.engine()).openapi()["openapi"]

    def test_failures_of_the_engine_are_errors(self) -> None:
        """A queue that is full is a 429, and a worker that is gone no answer that looks whole."""
        for case in self.requests:
            engine = self.engine()
            self.ask(engine, case)
            if not engine.requests:
                continue  # it does without the engine
            full, gone = self.engine(), self.engine()
            full.refusal, gone.refusal = QueueFullError("the queue is full"), WorkerDied("the worker is gone")
            assert self.ask(full, case).status_code == 429
            assert self.ask(gone, case).status_code >= 500
