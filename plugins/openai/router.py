"""Which of OpenAI's paths are served, and by what."""

from __future__ import annotations

from fastapi import APIRouter

from maxserve.core.interfaces import ServerContext
from maxserve.core.server.body import body_schema
from maxserve.core.server.constraints import Constraints
from maxserve.core.server.fields import RequestFields
from maxserve.plugins.openai.chat import Chat
from maxserve.plugins.openai.completions import Completions
from maxserve.plugins.openai.exchange import TextRoute
from maxserve.plugins.openai.models import Models
from maxserve.plugins.openai.version import version


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()
    models = Models(context.model)
    routes.add_api_route("/v1/models", models.list, methods=["GET"], response_model=None)
    routes.add_api_route("/v1/models/{name:path}", models.one, methods=["GET"], response_model=None)
    routes.add_api_route("/version", version, methods=["GET"], response_model=None)
    fields = RequestFields(context.host, context.model)
    constraints = Constraints(context)
    for wording in (Chat(context), Completions(context)):
        text = TextRoute(context, fields, constraints, wording)
        schema = body_schema(text.body)
        routes.add_api_route(
            text.path, text.answer, methods=["POST"], response_model=None, name=text.path, openapi_extra=schema
        )
    return routes
