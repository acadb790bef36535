"""Routes about the state of a running server."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.routes import ServerContext
from maxserve.loading import choose_strategy


class PrefixCache:
    """Lets the worker forget what it keeps of past requests."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def reset(self) -> PlainTextResponse:
        """Forgets the cached prefixes that no running request uses, the copies in host memory included.

        The answer comes when the worker has done it: requests sent after it find nothing of what was sent before.
        """
        refusal = _nothing_to_forget(self._context)
        if refusal:
            raise RequestError(refusal)
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


def _nothing_to_forget(context: ServerContext) -> str:
    """Why a reset would mean nothing; empty when it does mean something."""
    if not context.settings.kv_cache.enable_prefix_caching:
        return "this server keeps no prefixes (--no-enable-prefix-caching), so there is nothing to reset"
    strategy = choose_strategy(context.settings, context.host, context.model.architecture)
    if not strategy.component.shares_prefixes:
        return f"this server keeps no prefixes (--cache-strategy {strategy.name}), so there is nothing to reset"
    return ""
