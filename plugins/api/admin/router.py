"""Routes about the state of a running server."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.routes import ServerContext


class PrefixCache:
    """Lets the worker forget what it keeps of past requests."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def reset(self) -> PlainTextResponse:
        """Forgets the cached prefixes that no running request uses, the copies in host memory included.

        The answer comes when the worker has done it: requests sent after it find nothing of what was sent before.
        """
        if option := self._context.model.without_prefixes:
            raise RequestError(f"this server keeps no prefixes ({option}), so there is nothing to reset")
        await self._context.engine.reset_prefix_cache()
        return PlainTextResponse("Success")


class Load:
    """How busy the server is."""

    def __init__(self, context: ServerContext) -> None:
        self._engine = context.engine

    async def answer(self) -> dict[str, int]:
        """The requests that are open, in the words of vLLM; each of several answers counts as one."""
        return {"server_load": self._engine.open}


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()
    routes.add_api_route("/load", Load(context).answer, methods=["GET"], response_model=None)
    reset = PrefixCache(context).reset
    routes.add_api_route("/reset_prefix_cache", reset, methods=["POST"], response_class=PlainTextResponse)
    return routes
