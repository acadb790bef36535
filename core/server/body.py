"""How does the body of a request become a validated object?"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from maxserve.core.errors import RequestError
from maxserve.core.server.disconnect import ClientGone

M = TypeVar("M", bound=BaseModel)

_NO_OBJECT = frozenset({"dict_type", "model_type", "model_attributes_type"})


async def read_body(request: Request, model: type[M]) -> M:
    """The JSON body as a `model`.

    RequestError 415 for another content type; 400 for what is not UTF-8, not JSON, or nested too deeply. What the
    model refuses is a ValidationError, which the application answers with 400. A body that declares another type is
    not read, because a page in a browser may send those to a local server without asking; none declared is JSON,
    unless a page sent it.
    """
    _check_type(request.headers.get("content-type", ""), from_page="origin" in request.headers)
    try:
        body = await request.body()
    except ClientDisconnect:
        raise ClientGone from None
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise RequestError(f"the body is not valid JSON: {first['msg']}", code="invalid_json") from None
        if not first["loc"] and first["type"] in _NO_OBJECT:
            raise RequestError("the body must be a JSON object", code="invalid_json") from None
        raise


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """What a route that uses `read_body` gives as `openapi_extra`, so that /openapi.json shows its fields."""
    schema = model.model_json_schema()
    schema = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _check_type(declared: str, *, from_page: bool) -> None:
    media = declared.partition(";")[0].strip().lower()
    if not media and not from_page:
        return
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise RequestError(f"the content type must be application/json, got {declared[:100]!r}", status=415)


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """`node` with every reference replaced by what it refers to; our models are not recursive."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {**definitions[node["$ref"].rpartition("/")[2]], **{k: v for k, v in node.items() if k != "$ref"}}
    return {key: _inlined(value, definitions) for key, value in node.items()}
