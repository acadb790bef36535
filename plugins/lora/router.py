"""Routes that load, replace and unload adapters while the server runs."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Annotated, Any, TypeVar
from uuid import uuid4

from cachetools import TTLCache
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from pydantic import Field

from maxserve.interfaces.adapter_source import AdapterSourceContext, FindsAdapters, ListsAdapters, adapter_sources
from maxserve.interfaces.errors import MaxserveError, RequestError
from maxserve.interfaces.request import AdapterChange
from maxserve.interfaces.routes import ServerContext
from maxserve.interfaces.served_names import ServedName
from maxserve.plugins.api.common.fields import Body
from maxserve.plugins.api.common.json_body import later_schema, read_body
from maxserve.plugins.api.common.options import AnswerOptions
from maxserve.plugins.api.common.threads import Threads
from maxserve.plugins.api.common.unsupported import warnings_of
from maxserve.plugins.lora.folders import NAMES, is_name, is_short, real_folder
from maxserve.plugins.lora.loaded import LoadedAdapters, most_loaded
from maxserve.plugins.lora.options import LoRAOptions

log = logging.getLogger("maxserve.lora")

B = TypeVar("B", bound=Body)

FINDING = 4  # threads in which sources look for adapters
REFUSED = 5.0  # seconds for which an adapter that could not be served is not read again for requests
REFUSALS = 1024  # that are kept for so long


class LoadBody(Body):
    """What vLLM's and MAX's clients send."""

    lora_name: Annotated[str, Field(description="name under which requests ask for the adapter, as their model")]
    lora_path: Annotated[str, Field(description="folder of the adapter, on the server's machine")]
    load_inplace: Annotated[bool, Field(description="take the place of the adapter that has the name")] = False
    pinned: Annotated[bool, Field(description="never lose the slot to another adapter")] = False


class UnloadBody(Body):
    """What vLLM's and MAX's clients send."""

    lora_name: Annotated[str, Field(description="name of the adapter")]
    wait: Annotated[
        bool, Field(description="answer when its last request has ended; false: 409 while there are requests")
    ] = True


class Adapters:
    """Changes of the adapters that are served, and of the names in /v1/models with them."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._options = context.config(LoRAOptions)
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count()  # of changes, in the order in which the worker gets them
        self._loaded: dict[str, int] = {}  # the number of the last load that was made, by name
        self._first_uses: dict[str, asyncio.Task[None]] = {}  # loads that requests wait for, by name
        self._refused: TTLCache[str, RequestError] = TTLCache[str, RequestError](REFUSALS, REFUSED)
        self._sources = adapter_sources(
            context.components, AdapterSourceContext(sections=context.sections, path=context.model.path)
        )
        self._threads = context.owned(Threads(FINDING, "adapter-source"))
        self._in_memory = LoadedAdapters(context.names, most_loaded(self._options, len(context.model.adapters)))
        self._room = asyncio.Lock()  # one after the other makes room
        context.names.track_with(self._in_memory.track)
        context.names.load_with(self.first_use)
        for source in self._sources:
            for name in source.names() if isinstance(source, ListsAdapters) else ():
                context.names.offer(ServedName.of_adapter(name, source=name, parent=context.model.name))

    async def load(self, body: LoadBody) -> PlainTextResponse:
        """Serves an adapter from now on: 404 where there is none, 400 if it cannot be served, 409 for a name in use."""
        name, warnings = self._valid(body.lora_name), self._warnings(body)
        change = AdapterChange(
            id=uuid4().hex,
            action="load",
            name=name,
            source=await self._source(body.lora_path, self._options.lora_dir),
            replace=body.load_inplace,
            pinned=body.pinned,
        )
        await self._to_the_end(self._load(change))
        return _success(f"{name!r} added", warnings)

    async def _source(self, path: str, within: str) -> str:
        """Where the worker finds it: a real folder, unless adapters are those of another plugin."""
        return await asyncio.to_thread(real_folder, path, within) if self._options.enable_lora else path

    async def first_use(self, name: str) -> None:
        """Loads the adapter that a source has under the name, once for all requests that ask for it; none: it returns.

        RequestError 400 with the reason for one that cannot be served.
        """
        if not is_short(name):
            return
        if (refused := self._refused.get(name)) is not None:
            raise _of_model(refused)
        task = self._first_uses.get(name)
        if task is None:
            task = self._first_uses[name] = asyncio.create_task(self._use(name))
            task.add_done_callback(lambda task: self._first_uses.pop(name))
        try:
            await asyncio.shield(task)
        except RequestError as error:
            raise _of_model(error) from error

    async def _use(self, name: str) -> None:
        found = ""
        try:
            for finder in self._sources:
                found = await self._found(finder, name) or ""
                if found:
                    found = await self._source(found, "")
                    change = AdapterChange(id=uuid4().hex, action="load", name=name, source=found, pinned=None)
                    await self._load(change)
                    return
        except RequestError as error:  # clients are told names, and not the folders of the operator
            message = error.message.replace(found, name).replace(found[:200], name) if found else error.message
            told = RequestError(message, code=error.code, status=error.status)
            if error.status == 400:
                self._refused[name] = told
            raise told from None

    async def _found(self, finder: FindsAdapters, name: str) -> str | None:
        """What a source says; one that fails has nothing, so that a name which nothing has stays a 404."""
        try:
            return await self._threads.run(partial(finder.find, name))
        except MaxserveError:
            raise
        except Exception:
            log.exception("the adapter source %s failed over %s", type(finder).__name__, name)
            return None

    async def unload(self, body: UnloadBody) -> PlainTextResponse:
        """Serves an adapter no longer: 404 for one that is not there, 409 while it is in use and one does not wait."""
        warnings = self._warnings(body)
        change = AdapterChange(id=uuid4().hex, action="unload", name=body.lora_name, wait=body.wait)
        await self._to_the_end(self._unload(change))
        return _success(f"{body.lora_name!r} removed", warnings)

    def _valid(self, name: str) -> str:
        if not is_name(name):
            raise RequestError(f"{name[:200]!r} is no name for an adapter; names are {NAMES}", param="lora_name")
        if any(served.name == name != served.adapter for served in self._context.names):
            raise RequestError(f"{name!r} is the name of a model that is not it", param="lora_name", status=409)
        return name

    def _warnings(self, body: Body) -> list[str]:
        return warnings_of(body.unknown(), strict=self._context.config(AnswerOptions).strict_fields, unsupported={})

    async def _to_the_end(self, work: Coroutine[Any, Any, None]) -> None:
        """A change is followed to its end though the client goes: names are those that the worker knows."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _load(self, change: AdapterChange) -> None:
        first_use = change.pinned is None
        async with self._room:
            if change.name not in self._in_memory:
                await self._make_room(change.name, status=503 if first_use else 409)
            self._in_memory.begin(change.name)
        try:
            await self._send_load(change)
            self._in_memory.loaded(change.name, first_use=first_use)
        finally:
            self._in_memory.end(change.name)

    async def _make_room(self, name: str, *, status: int) -> None:
        """Has there be memory for one adapter more; RequestError where all that there are stay."""
        memory = self._in_memory
        for unused in memory.unused:
            if memory.full and unused in memory.unused:  # as it was before others went
                log.info("adapter %s makes room for %s, since %d may be in memory", unused, name, memory.most)
                await self._evict(unused)
        if memory.full:
            raise RequestError(
                f"there is no memory for the adapter {name!r}: --max-cpu-loras is {memory.most}, and the adapters that "
                "are loaded are in use, or stay because they were loaded by name; try again later, unload one "
                "(/v1/unload_lora_adapter), or raise --max-cpu-loras",
                code="service_unavailable" if status == 503 else None,
                status=status,
            )

    async def _evict(self, name: str) -> None:
        """Unloads an adapter that no request uses. Who asks for it from now on has it loaded again."""
        served = next(each for each in self._context.names if each.name == name)
        self._context.names.remove(name)
        try:
            await self._unload(AdapterChange(id=uuid4().hex, action="unload", name=name, wait=False))
        except RequestError as error:  # a request uses it that began earlier
            if error.status != 404 and name not in self._context.names:
                self._context.names.add(served)

    async def _send_load(self, change: AdapterChange) -> None:
        context, number = self._context, next(self._numbers)
        await context.engine.change_adapter(change)
        self._loaded[change.name] = number
        made = ServedName.of_adapter(change.name, source=change.source, parent=context.model.name)
        before = context.names.get(change.name) if change.name in context.names else None
        if before is None or (before.adapter == change.name and (change.replace or before.root != made.root)):
            if before is not None:
                context.names.remove(change.name)
            context.names.add(made)

    async def _unload(self, change: AdapterChange) -> None:
        """The name goes, unless the adapter was loaded anew while requests with the old one ended."""
        number = next(self._numbers)
        await self._context.engine.change_adapter(change)
        if self._loaded.get(change.name, -1) > number:
            return
        self._loaded.pop(change.name, None)
        if change.name in self._context.names:
            self._context.names.remove(change.name)


def _of_model(error: RequestError) -> RequestError:
    """The same about the `model` of a request."""
    return RequestError(error.message, param="model", code=error.code, status=error.status)


def _success(what: str, warnings: list[str]) -> PlainTextResponse:
    return PlainTextResponse("\n".join((f"Success: LoRA adapter {what} successfully.", *warnings)))


def router(context: ServerContext) -> APIRouter:
    routes, adapters = APIRouter(), Adapters(context)
    _add(routes, "/v1/load_lora_adapter", LoadBody, adapters.load)
    _add(routes, "/v1/unload_lora_adapter", UnloadBody, adapters.unload)
    return routes


def _add(routes: APIRouter, path: str, body: type[B], change: Callable[[B], Awaitable[PlainTextResponse]]) -> None:
    async def answer(request: Request) -> PlainTextResponse:
        return await change(await read_body(request, body))

    routes.add_api_route(
        path,
        answer,
        methods=["POST"],
        response_class=PlainTextResponse,
        name=path,
        description=inspect.getdoc(change) or "",
        openapi_extra=later_schema(body),
    )
