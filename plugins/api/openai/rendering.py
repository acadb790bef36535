"""POST /v1/chat/completions/render and /v1/completions/render: the tokens that a request would be answered from."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex
from typing import Any

from fastapi import APIRouter, Request

from maxserve.interfaces.request import Image
from maxserve.plugins.api.common.answering import Answering
from maxserve.plugins.api.common.bodies import ChatBody, TextBody
from maxserve.plugins.api.common.json_body import later_schema, read_body
from maxserve.plugins.api.openai.chat import Chat
from maxserve.plugins.api.openai.completions import Completions


class Rendering:
    """What routers ask that know which server has which prefix; the words are those of vLLM's answers."""

    def __init__(self, answering: Answering, completions: Completions) -> None:
        self._answering = answering
        self._completions = completions
        self._chat_body = answering.body(ChatBody)
        self._completion_body = answering.body(completions.body)

    def add_to(self, router: APIRouter) -> None:
        for route, answer, body in (
            (Chat, self.chat, self._chat_body),
            (Completions, self.completions, self._completion_body),
        ):
            path = f"{route.path}/render"
            router.add_api_route(path, answer, methods=["POST"], response_model=None, openapi_extra=later_schema(body))

    async def chat(self, request: Request) -> dict[str, Any]:
        body = await read_body(request, self._chat_body)
        warnings = await self._answering.admit(body)
        ids, images = await self._answering.rendered(body)
        return self._rendered(body, Chat.id_prefix, ids, warnings, images)

    async def completions(self, request: Request) -> list[dict[str, Any]]:
        body = await read_body(request, self._completion_body)
        warnings = await self._answering.admit(body)
        prompts = await self._completions.prompts(body)
        return [self._rendered(body, Completions.id_prefix, ids, warnings) for ids in prompts]

    def _rendered(
        self, body: TextBody, prefix: str, ids: list[int], warnings: Sequence[str], images: Sequence[Image] = ()
    ) -> dict[str, Any]:
        return {
            "request_id": prefix + (body.request_id or token_hex(16)),
            "model": self._answering.context.names.get(body.model).name,
            "token_ids": ids,
            "features": _features(images) if images else None,
            **({"warnings": warnings} if warnings else {}),
        }


def _features(images: Sequence[Image]) -> dict[str, Any]:
    """The images by their digests, and where they stand in the tokens."""
    return {
        "mm_hashes": {"image": [image.digest.hex() for image in images]},
        "mm_placeholders": {"image": [{"offset": image.start, "length": image.length} for image in images]},
    }
