"""Which models does this server answer for?"""

from __future__ import annotations

from typing import Any

from maxserve.core.errors import RequestError
from maxserve.core.interfaces import ModelInfo


class Models:
    def __init__(self, info: ModelInfo) -> None:
        self._info = info

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
        }


def require_served(name: str | None, info: ModelInfo) -> None:
    """RequestError 404 for another model's name; none, or an empty one, stands for the served model."""
    if name and name != info.name:
        raise unknown_model(name, info)


def unknown_model(name: str, info: ModelInfo) -> RequestError:
    message = f"the model {name[:200]!r} does not exist; this server has {info.name!r}"
    return RequestError(message, param="model", code="model_not_found", status=404)
