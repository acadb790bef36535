"""Which models does this server answer for?"""

from __future__ import annotations

from typing import Any

from maxserve.core.answers.answering import Answering
from maxserve.core.answers.bodies import ChatBody
from maxserve.core.answers.models import unknown_model
from maxserve.plugins.openai.completion_body import CompletionBody


class Models:
    def __init__(self, answering: Answering) -> None:
        self._info = answering.context.model
        self._capabilities = {
            "chat": answering.capabilities(answering.body(ChatBody)),
            "completions": answering.capabilities(answering.body(CompletionBody)),
        }

    async def list(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._card()]}

    async def one(self, name: str) -> dict[str, Any]:
        """The model by its name, or by the part of it after the last slash."""
        if name not in (self._info.name, self._info.name.rpartition("/")[2]):
            raise unknown_model(name, self._info)
        return self._card()

    def _card(self) -> dict[str, Any]:
        return {
            "id": self._info.name,
            "object": "model",
            "created": self._info.created,
            "owned_by": "maxserve",
            "max_model_len": self._info.max_length,
            "capabilities": self._capabilities,
        }
