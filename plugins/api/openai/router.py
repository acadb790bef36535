"""Which of OpenAI's paths are served, and by what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request

from maxserve.interfaces.routes import ServerContext
from maxserve.plugins.api.common.answering import Answering
from maxserve.plugins.api.common.endpoint import Endpoint
from maxserve.plugins.api.common.text_route import TextRoute
from maxserve.plugins.api.openai.chat import Chat
from maxserve.plugins.api.openai.choices import Choices
from maxserve.plugins.api.openai.completions import Completions
from maxserve.plugins.api.openai.embeddings import embeddings_endpoints
from maxserve.plugins.api.openai.models import Models, described
from maxserve.plugins.api.openai.rendering import Rendering
from maxserve.plugins.api.openai.responses import responses_endpoints
from maxserve.plugins.api.openai.tokenization import Tokenization
from maxserve.plugins.api.openai.tokenizer_info import TokenizerInfo
from maxserve.plugins.api.openai.version import version


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()
    answering = context.once(Answering)
    # Tried in this order: what is asked for most comes first.
    chat, completions = Chat(answering), Completions(answering)
    for path, route in ((chat.path, chat), ("/chat/completions", chat), (completions.path, completions)):
        Endpoint(
            path=path,
            body=answering.body(route.body),
            run=TextRoute(Choices(route, context.model)).answer,
            observers=context.observers,
        ).add_to(routes)
    for endpoint in (*responses_endpoints(answering), *embeddings_endpoints(context)):
        endpoint.add_to(routes)
    models = Models(answering)
    for prefix in ("/v1", ""):  # base URLs are often given without the version
        _get(routes, prefix + "/models", models.list)
    _get(routes, "/v1/models/{name:path}", models.one)
    routes.add_api_route("/version", version, methods=["GET"], response_model=None)
    info = TokenizerInfo(context)
    routes.add_api_route("/tokenizer_info", info.answer, methods=["GET"], response_model=None)
    Tokenization(answering).add_to(routes)
    Rendering(answering, completions).add_to(routes)
    return routes


def _get(routes: APIRouter, path: str, answer: Callable[[Request], Awaitable[dict[str, Any]]]) -> None:
    routes.add_api_route(path, answer, methods=["GET"], response_model=None, openapi_extra=described(path))
