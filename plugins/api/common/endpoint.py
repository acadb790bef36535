"""One path that answers with generated text: reading, measuring, and giving up when the client has gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.responses import Response

from maxserve.http import Failure, failure_of, log_unforeseen
from maxserve.interfaces.observer import StatsObserver
from maxserve.plugins.api.common.disconnect import ClientGone, unless_gone
from maxserve.plugins.api.common.json_body import later_schema, read_body
from maxserve.plugins.api.common.meter import Meter

B = TypeVar("B", bound=BaseModel)


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request: its id, its headers, the meter that follows it, and what its path says.

    What is done with all of a `large` body belongs into a thread.
    """

    id: str
    headers: Headers
    meter: Meter
    path: Mapping[str, str] = msgspec.field(default_factory=dict)
    large: bool = False


class _AsItIs(APIRoute):
    """Calls what it is given with the request and sends what that answers. FastAPI would look for a body, arguments
    and dependencies of its own first, which is a tenth of what a short request costs."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


class Endpoint(msgspec.Struct, Generic[B], frozen=True, kw_only=True):
    """POST `path` with a JSON `body`. `run` answers; `failed` makes the answer of a failure, if not OpenAI's, with the
    request's id."""

    path: str
    body: type[B]
    run: Callable[[B, Call], Awaitable[Response]]
    observers: Iterable[StatsObserver] = ()
    failed: Callable[[Failure, str], Response] | None = None

    def add_to(self, router: APIRouter) -> None:
        router.add_api_route(
            self.path,
            self.answer,
            methods=["POST"],
            response_model=None,
            name=self.path,
            openapi_extra=later_schema(self.body, self.path),
            route_class_override=_AsItIs,
        )

    async def answer(self, request: Request) -> Response:
        request_id = request.scope["state"]["request_id"]
        meter = Meter(self.observers, self.path, request_id)
        try:
            body = await read_body(request, self.body)
            meter.model = getattr(body, "model", None) or request.path_params.get("name", "")
            large = request.scope["state"].get("large", False)
            call = Call(id=request_id, headers=request.headers, meter=meter, path=request.path_params, large=large)
            return await unless_gone(request.receive, _awaited(self.run(body, call)))
        except ClientGone:
            meter.finish(499)
            raise
        except Exception as error:
            failure = failure_of(error)
            meter.finish(failure.status)
            if self.failed is None:
                raise
            log_unforeseen(error, self.path)
            return self.failed(failure, request_id)


async def _awaited(answer: Awaitable[Response]) -> Response:
    return await answer
