"""Constraints in their canonical form, within limits that keep every compilation short."""

from __future__ import annotations

import json
from typing import Any

from maxserve.interfaces.errors import RequestError

LARGEST = 256 * 1024  # bytes of a canonical form
DEEPEST = 64  # levels of a schema
MOST_CHOICES = 1000


def canonical(kind: str, value: Any, param: str) -> str:
    """`value` as the text of its kind; RequestError with `param` for a wrong type, or too much of it."""
    text = _TEXTS.get(kind, _plain)(value, param)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise RequestError(f"{param}: it is not valid Unicode", param=param, code="invalid_value") from None
    if size > LARGEST:
        raise RequestError(f"{param}: it has {size} bytes; at most {LARGEST} are taken", param=param, code="too_large")
    return text


def _schema(value: Any, param: str) -> str:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{param}: it is no JSON: {error}", param=param, code="invalid_schema") from None
    if not isinstance(value, dict | bool):
        raise RequestError(
            f"{param}: a schema is an object, a boolean, or the JSON text of one", param=param, code="invalid_schema"
        )
    if _deeper(value, DEEPEST):
        raise RequestError(f"{param}: nested more than {DEEPEST} deep", param=param, code="invalid_schema")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _any_object(value: Any, param: str) -> str:
    return "{}"


def _choice(value: Any, param: str) -> str:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise RequestError(f"{param}: a list of strings is expected", param=param, code="invalid_value")
    if not value or len(value) > MOST_CHOICES:
        message = f"{param}: give 1 to {MOST_CHOICES} strings to choose from, not {len(value)}"
        raise RequestError(message, param=param, code="invalid_value")
    if not all(value):
        raise RequestError(f"{param}: an empty string is no choice", param=param, code="invalid_value")
    return json.dumps(list(dict.fromkeys(value)), ensure_ascii=False)


def _plain(value: Any, param: str) -> str:
    if not isinstance(value, str) or not value:
        raise RequestError(f"{param}: a string with something in it is expected", param=param, code="invalid_value")
    return value


def _deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        return levels == 0 or any(_deeper(each, levels - 1) for each in value.values())
    if isinstance(value, list):
        return levels == 0 or any(_deeper(each, levels - 1) for each in value)
    return False


_TEXTS = {"json_schema": _schema, "json_object": _any_object, "choice": _choice}
