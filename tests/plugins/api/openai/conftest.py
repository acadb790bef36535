"""OpenAI's routes over a scripted engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from maxserve.core.http.app import create_app
from maxserve.core.http.failures import FailureDialects
from maxserve.core.interfaces.routes import ServerContext
from maxserve.plugins.api.openai.failures import failure_response
from maxserve.plugins.api.openai.router import router
from maxserve.testing.scripted import (  # noqa: F401 (fixtures)
    anyio_backend,
    client,
    context,
    engine,
    host,
    recorder,
    server,
    tokenizer,
)


@pytest.fixture
def app(context: ServerContext) -> Any:  # noqa: F811
    dialects = FailureDialects([("builtin.openai", {"/": failure_response})])
    return create_app(context, [("/", router(context), "builtin.openai")], dialects)


@pytest.fixture
def events() -> Callable[[str], list[Any]]:
    """The data of each event of a stream; every event but [DONE] is JSON."""

    def parse(text: str) -> list[Any]:
        assert text.endswith("\n\n")
        lines = text[:-2].split("\n\n")
        assert all(line.startswith("data: ") for line in lines)
        return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]

    return parse


@pytest.fixture
def chat() -> Callable[..., dict[str, Any]]:
    """A chat body with more fields."""

    def body(**fields: Any) -> dict[str, Any]:
        return {"model": "acme/tiny", "messages": [{"role": "user", "content": "Hi"}], **fields}

    return body
