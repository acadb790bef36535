"""GET /v1/models: the model that this server answers for."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request

from maxserve.http import BodySchema
from maxserve.interfaces.engine import SCORING, VectorInfo
from maxserve.interfaces.served_names import ServedName
from maxserve.plugins.api.common.answering import Answering
from maxserve.plugins.api.common.bodies import ChatBody
from maxserve.plugins.api.common.json_body import path_parameters
from maxserve.plugins.api.openai.completion_body import CompletionBody
from maxserve.plugins.api.openai.embeddings import EmbeddingsBody

VERSION = "anthropic-version"
VERSION_HEADER = {"name": VERSION, "in": "header", "required": False, "schema": {"type": "string"}}


class Models:
    def __init__(self, answering: Answering) -> None:
        self._info = answering.context.model
        self._names = answering.context.names
        self._root = _root(self._info.ref or self._info.name)
        self._capabilities = _capabilities(answering)

    async def list(self, request: Request) -> dict[str, Any]:
        """The model and its adapters; as Anthropic lists them for its clients, who send a version of its API."""
        if VERSION not in request.headers:
            return {"object": "list", "data": [self._card(served) for served in self._names]}
        cards = [self._anthropic_card(served) for served in self._names]
        return {"data": cards, "has_more": False, "first_id": cards[0]["id"], "last_id": cards[-1]["id"]}

    async def one(self, request: Request) -> dict[str, Any]:
        """The model by its name, or by the part of it after the last slash."""
        served = self._names.find(request.path_params["name"])
        return self._anthropic_card(served) if VERSION in request.headers else self._card(served)

    def _anthropic_card(self, served: ServedName) -> dict[str, Any]:
        return {
            "type": "model",
            "id": served.name,
            "display_name": served.name,
            "created_at": datetime.fromtimestamp(self._info.created, UTC).isoformat().replace("+00:00", "Z"),
            "lifecycle": "active",
            "max_input_tokens": self._info.max_length,
            "max_tokens": self._info.max_length,
        }

    def _card(self, served: ServedName) -> dict[str, Any]:
        return {
            "id": served.name,
            "object": "model",
            "created": self._info.created,
            "owned_by": "maxserve",
            "root": served.root or (self._root if served.parent is None else served.name),
            "parent": served.parent,
            "permission": [],
            "max_model_len": self._info.max_length,
            "capabilities": self._capabilities,
        }


def described(path: str) -> BodySchema:
    """What /openapi.json says of a path of models, whose handlers take the bare request."""
    return BodySchema(parameters=[*path_parameters(path), VERSION_HEADER])


def _capabilities(answering: Answering) -> dict[str, Any]:
    """What a client may ask of the model, by kind of request."""
    info = answering.context.model
    if info.vectors is None:
        return {
            "chat": answering.capabilities(answering.body(ChatBody)),
            "completions": answering.capabilities(answering.body(CompletionBody)),
        }
    if info.task == SCORING:
        return {"scores": {"max_tokens": info.max_length}}
    return {"embeddings": {"fields": sorted(EmbeddingsBody.model_fields), **_vectors(info.vectors)}}


def _vectors(vectors: VectorInfo) -> dict[str, Any]:
    """`dimensions` tells the sizes to which vectors can be cut: "any", a list, or null where there are no others."""
    return {
        "size": vectors.size,
        "dimensions": "any" if vectors.sizes == () else vectors.sizes,
        "pooled": vectors.pooled,
        "normalized": vectors.normalized,
        "prompts": sorted(vectors.prompts),
        "default_prompt": vectors.default_prompt,
    }


def _root(ref: str) -> str:
    """What was loaded, as clients may know it: of a local folder or file its name, for its path is the operator's."""
    path = Path(ref).expanduser()
    return path.resolve().name if path.exists() else ref
