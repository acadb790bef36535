"""Anthropic's routes over a scripted engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from maxserve.core.http.app import create_app
from maxserve.core.interfaces.routes import ServerContext
from maxserve.plugins.api.anthropic.router import router
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
    return create_app(context, [("/", router(context), "builtin.anthropic")])


@pytest.fixture
def events() -> Callable[[str], list[Any]]:
    """The data of each event of a stream, whose name is that of its type."""

    def parse(text: str) -> list[Any]:
        assert text.endswith("\n\n")
        found = []
        for lines in text[:-2].split("\n\n"):
            name, data = lines.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
        return found

    return parse


@pytest.fixture
def message() -> Callable[..., dict[str, Any]]:
    """The body of a message with more fields."""

    def body(**fields: Any) -> dict[str, Any]:
        return {"model": "acme/tiny", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}], **fields}

    return body
