"""Which model does a request mean?"""

from __future__ import annotations

from maxserve.core.errors import RequestError
from maxserve.core.interfaces import ModelInfo


def require_served(name: str | None, info: ModelInfo) -> None:
    """RequestError 404 for another model's name; none, or an empty one, stands for the served model."""
    if name and name != info.name:
        raise unknown_model(name, info)


def unknown_model(name: str, info: ModelInfo) -> RequestError:
    message = f"the model {name[:200]!r} does not exist; this server has {info.name!r}"
    return RequestError(message, param="model", code="model_not_found", status=404)
