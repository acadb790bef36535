"""All routes for text over a scripted engine."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from maxserve.core.http.app import create_app
from maxserve.core.http.failures import FailureDialects
from maxserve.core.interfaces.routes import ServerContext
from maxserve.plugins.api.anthropic.router import router as anthropic
from maxserve.plugins.api.kserve.router import router as kserve
from maxserve.plugins.api.openai.failures import failure_response
from maxserve.plugins.api.openai.router import router as openai
from maxserve.plugins.api.sagemaker.router import router as sagemaker
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

ROUTERS = {"openai": openai, "anthropic": anthropic, "kserve": kserve, "sagemaker": sagemaker}


@pytest.fixture
def app(context: ServerContext) -> Any:  # noqa: F811
    # Room for the description of tools, which templates that know none are given as text.
    context = dataclasses.replace(context, model=dataclasses.replace(context.model, max_length=4096))
    routes = [("/", router(context), f"builtin.{name}") for name, router in ROUTERS.items()]
    return create_app(context, routes, FailureDialects([("builtin.openai", {"/": failure_response})]))
