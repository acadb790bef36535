"""A plugin for tests of processes: GET /count streams what the engine gives, a line per output; GET /length."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from uuid import uuid4

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from maxserve import Routes, hookimpl
from maxserve.core.interfaces.errors import RequestError, WorkerDied
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.interfaces.routes import ServerContext


@hookimpl
def maxserve_routes() -> Iterable[Routes]:
    yield Routes(name="stub_routes", build=router, prefix="/")


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()

    async def count(kind: int = 0, n: int | None = None) -> StreamingResponse:
        request = Request(id=uuid4().hex, prompt=(kind,), params=SamplingParams(max_tokens=n))

        async def lines() -> AsyncIterator[str]:
            try:
                async for output in context.engine.generate(request):
                    yield f"{output.tokens[0]}\n"
            except WorkerDied as error:
                yield f"died: {error}\n"
            except RequestError as error:
                yield f"refused: {error}\n"

        return StreamingResponse(lines())

    async def length() -> int:
        return context.model.max_length

    routes.add_api_route("/count", count)
    routes.add_api_route("/length", length)
    return routes
