"""JSON bodies of requests: from bytes to a validated object, within bounds of number and time.

A small body is read in the event loop. A larger one is read beside it, after its values were counted: one takes up to a
hundred times the memory of its bytes, and validation holds the interpreter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from maxserve.http import BodySchema, LaterSchema
from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.routes import ServerContext
from maxserve.plugins.api.common.disconnect import ClientGone
from maxserve.plugins.api.common.threads import Threads

M = TypeVar("M", bound=BaseModel)

READING = 1  # threads that read large bodies: what they hold up is held up by one at a time
SMALL = 64 * 1024  # bytes of a body that is read in the event loop
MOST_CONTAINERS = 32_768  # objects and lists
MOST_STRINGS = 131_072  # keys included
MOST_ENTRIES = 1 << 20  # of all lists and objects together
# A pair of surrogates, a lone one, or any other escape: read from left to right, so that no escaped backslash deceives.
_ESCAPE = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\(u[dD][89a-fA-F]..)|\\.", re.DOTALL)
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_SLICE = 1 << 18  # bytes that are counted in one go


async def read_body(request: Request, model: type[M]) -> M:
    """The JSON body as a `model`.

    RequestError 415 for another content type, or one that is compressed; 400 for what is not UTF-8, not JSON, nested
    too deeply, or of too many values. What the model refuses is a ValidationError, which the application answers with
    400. A body that declares another type is not read, because a page in a browser may send those to a local server
    without asking; none declared is JSON, unless a page sent it.
    """
    _check_type(request.headers.get("content-type", ""), from_page="origin" in request.headers)
    if (coding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise RequestError(f"the body must not be compressed, got {coding[:100]!r}", status=415)
    try:
        pieces = [piece async for piece in request.stream()]
    except ClientDisconnect:
        raise ClientGone from None
    if sum(map(len, pieces)) <= SMALL:
        return _validated(b"".join(pieces), model)
    request.scope["state"]["large"] = True
    threads = request.app.state.context.once(body_threads)
    read: M = await threads.run(lambda: _validated_large(pieces, model))
    return read


def body_threads(context: ServerContext) -> Threads:
    """Those in which large bodies are read, of one application."""
    return context.owned(Threads(READING, "bodies"))


def _validated_large(pieces: list[bytes], model: type[M]) -> M:
    body = b"".join(pieces)
    pieces.clear()
    check_count(body)
    return _validated(body, model)


def _validated(body: bytes, model: type[M]) -> M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            whole = without_lone_surrogates(body)
            if whole != body:
                return _validated(whole, model)
            raise RequestError(f"the body is not valid JSON: {first['msg']}", code="invalid_json") from None
        if not first["loc"]:
            raise RequestError("the body must be a JSON object", code="invalid_json") from None
        raise


def without_lone_surrogates(body: bytes) -> bytes:
    """JSON in which an escape of half a character stands for U+FFFD, the character for what is none.

    Programs that cut texts by UTF-16 units, as those in JavaScript do, leave such halves in histories: every later
    request of the conversation would be refused for one emoji.
    """
    return _ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], body)


class _Count(NamedTuple):
    """What there is in some JSON."""

    containers: int = 0
    entries: int = 0
    quotes: int = 0

    def plus(self, text: bytes) -> _Count:
        containers = self.containers + text.count(b"{") + text.count(b"[")
        return _Count(containers, self.entries + text.count(b","), self.quotes + text.count(b'"'))

    def check(self) -> None:
        for what, found, most in (
            ("objects and lists", self.containers, MOST_CONTAINERS),
            ("entries of objects and lists", self.entries, MOST_ENTRIES),
            ("strings", self.quotes // 2, MOST_STRINGS),
        ):
            if found > most:
                raise RequestError(f"the body has more than {most} {what}; send less at once", code="too_many_values")


def check_count(body: bytes) -> None:
    """RequestError 400 for JSON of more values than are taken; in slices, and no further than it takes to know.

    At first what is within strings is counted too; only where that is too much is it distinguished from the rest.
    """
    try:
        _check_slices(body, 0, len(body), _Count())
    except RequestError:
        _check_strings(body)


def _check_slices(body: bytes, start: int, end: int, count: _Count) -> _Count:
    for first in range(start, end, _SLICE):
        count = count.plus(body[first : min(end, first + _SLICE)])
        count.check()
    return count


def _check_strings(body: bytes) -> None:
    count, start = _Count(), 0
    while (quote := body.find(b'"', start)) >= 0:
        count = _check_slices(body, start, quote + 1, count)
        start = _end_of_string(body, quote + 1)
        count = count._replace(quotes=count.quotes + 1)
    _check_slices(body, start, len(body), count).check()


def _end_of_string(body: bytes, start: int) -> int:
    """What comes after the quote that ends a string: the next one that is not escaped."""
    while (quote := body.find(b'"', start)) >= 0:
        if _backslashes(body, quote) % 2 == 0:
            return quote + 1
        start = quote + 1
    return len(body)


def _backslashes(body: bytes, end: int) -> int:
    """How many of them stand right before `end`."""
    count = 0
    while end > 0:
        part = body[max(0, end - 256) : end]
        run = len(part) - len(part.rstrip(b"\\"))
        count += run
        if run < len(part):
            break
        end -= len(part)
    return count


def body_schema(model: type[BaseModel], path: str = "") -> BodySchema:
    """What a route that uses `read_body` gives as `openapi_extra`, so that /openapi.json shows its fields.

    With the route's `path`, its parameters as well.
    """
    schema = _json_schema(model)
    definitions = schema.get("$defs", {})
    schema = _inlined({key: value for key, value in schema.items() if key != "$defs"}, definitions)
    described = BodySchema(requestBody={"required": True, "content": {"application/json": {"schema": schema}}})
    if parameters := path_parameters(path):
        described["parameters"] = parameters
    return described


def path_parameters(path: str) -> list[dict[str, Any]]:
    """The parameters in a path, which FastAPI does not find in a handler of the bare request."""
    text = {"type": "string"}
    return [{"name": each, "in": "path", "required": True, "schema": text} for each in _PARAMETER.findall(path)]


def later_schema(model: type[BaseModel], path: str = "") -> LaterSchema:
    """The same, made when /openapi.json is asked for."""
    return LaterSchema(partial(body_schema, model, path))


@lru_cache(maxsize=64)
def _json_schema(model: type[BaseModel]) -> Mapping[str, Any]:
    """The schema of a body, which several routes may have, and the routers of several plugins."""
    return model.model_json_schema()


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
