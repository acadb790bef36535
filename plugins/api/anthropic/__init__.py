"""Anthropic's routes: messages, and the counting of their tokens."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.routes import Routes


@hookimpl
def maxserve_routes() -> Iterable[Routes]:
    yield Routes(
        name="anthropic",
        build="maxserve.plugins.api.anthropic.router:router",
        prefix="/",
        default=True,
        failures={"/v1/messages": "maxserve.plugins.api.anthropic.failures:failure_response"},
        summary="/v1/messages, /v1/messages/count_tokens",
    )
