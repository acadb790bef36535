"""Requests for what another kind of model does."""

from __future__ import annotations

from maxserve.interfaces.engine import SCORING, TEXT, ModelInfo
from maxserve.interfaces.errors import RequestError


def require_text(info: ModelInfo) -> None:
    """RequestError for a model that encodes texts and generates none."""
    if info.task == TEXT:
        return
    gives, path = ("scores", "/v1/rerank") if info.task == SCORING else ("embeddings", "/v1/embeddings")
    message = (
        f"{info.name!r} ({info.architecture}) gives {gives} and generates no text; ask {path}, or a server that has a "
        "language model"
    )
    raise RequestError(message, param="model", code="unsupported_model")


def no_vectors(info: ModelInfo) -> RequestError:
    """What to say to who wants vectors, or scores, of a model that generates text."""
    message = (
        f"{info.name!r} ({info.architecture}) generates text and gives no embeddings; "
        "ask a server that has an embedding model"
    )
    return RequestError(message, param="model", code="unsupported_model")
