"""Which paths of the Open Inference Protocol are served, and by what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version as version_of
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from maxserve.http import failure_of
from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.routes import ServerContext
from maxserve.interfaces.served_names import ServedNames
from maxserve.plugins.api.common.answering import Answering
from maxserve.plugins.api.common.endpoint import Call, Endpoint
from maxserve.plugins.api.common.fields import Body
from maxserve.plugins.api.common.text_route import TextRoute
from maxserve.plugins.api.kserve.bodies import INPUTS, OUTPUTS, GenerateBody, InferBody
from maxserve.plugins.api.kserve.completing import VERSION, Completing, named_by
from maxserve.plugins.api.kserve.failures import failure_response
from maxserve.plugins.api.kserve.generate import Generate
from maxserve.plugins.api.kserve.infer import Infer

# The longer ones first: a model's name may have slashes, so that what ends with a version would match both.
MODELS = ("/v2/models/{name:path}/versions/{version}", "/v2/models/{name:path}")


class Facts:
    """What may be asked of the server and its model without generating anything."""

    def __init__(self, names: ServedNames) -> None:
        self._names = names

    async def server(self) -> dict[str, Any]:
        return {"name": "maxserve", "version": version_of("maxserve"), "extensions": ["generate"]}

    async def model(self, request: Request) -> Response:
        return self._about(request, {"versions": [VERSION], "platform": "pytorch", **_tensors()})

    async def ready(self, request: Request) -> Response:
        """The gate lets no request in while the model is not ready."""
        return self._about(request, {"ready": True})

    def _about(self, request: Request, facts: dict[str, Any]) -> Response:
        try:
            served = named_by(request.path_params, self._names)
        except RequestError as error:
            return failure_response(failure_of(error))
        return Response(msgspec.json.encode({"name": served.name, **facts}), media_type="application/json")


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()
    facts, completing = Facts(context.names), Completing(context.once(Answering))
    routes.add_api_route("/v2", facts.server, methods=["GET"], response_model=None)
    runs: tuple[tuple[str, type[Body], Callable[[Any, Call], Awaitable[Response]]], ...] = (
        ("infer", InferBody, TextRoute(Infer(completing, context.names)).answer),
        ("generate", GenerateBody, TextRoute(Generate(completing, stream=False)).answer),
        ("generate_stream", GenerateBody, TextRoute(Generate(completing, stream=True)).answer),
    )
    for model in MODELS:
        for name, body, run in runs:
            endpoint: Endpoint[Any] = Endpoint(
                path=f"{model}/{name}", body=body, run=run, observers=context.observers, failed=failure_response
            )
            endpoint.add_to(routes)
        routes.add_api_route(f"{model}/ready", facts.ready, methods=["GET"], response_model=None)
    for model in MODELS:
        routes.add_api_route(model, facts.model, methods=["GET"], response_model=None)
    return routes


def _tensors() -> dict[str, Any]:
    named = {"inputs": INPUTS[:1], "outputs": OUTPUTS}
    return {key: [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in names] for key, names in named.items()}
