"""Rank and score routes over a scripted engine."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from maxserve.core.http.app import create_app
from maxserve.core.interfaces.engine import VectorInfo
from maxserve.core.interfaces.routes import ServerContext
from maxserve.plugins.embeddings.rerank.router import router
from maxserve.testing.scripted import (  # noqa: F401 (fixtures)
    anyio_backend,
    client,
    context,
    engine,
    host,
    recorder,
    tokenizer,
)


@pytest.fixture
def task() -> str:
    return "scoring"


@pytest.fixture
def vectors() -> VectorInfo | None:
    return VectorInfo()


@pytest.fixture
def app(context: ServerContext, engine: Any, task: str, vectors: VectorInfo | None) -> Any:  # noqa: F811
    """A server whose model says of a pair how many tokens it has."""
    engine.size = 1 if vectors is None else vectors.size
    served = dataclasses.replace(context, model=dataclasses.replace(context.model, task=task, vectors=vectors))
    return create_app(served, [("/", router(served), "builtin.rerank")])
