"""SageMaker's route over a scripted engine."""

from __future__ import annotations

from typing import Any

import pytest

from maxserve.core.http.app import create_app
from maxserve.core.interfaces.routes import ServerContext
from maxserve.plugins.api.sagemaker.router import router
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
    return create_app(context, [("/", router(context), "builtin.sagemaker")])
