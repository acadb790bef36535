"""Request fields that say what an answer must be: OpenAI's, vLLM's of today and before, SGLang's and llama.cpp's."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from pydantic import Field

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.common.fields import Body
from maxserve.plugins.api.constraints.text import canonical


class NamedSchema(Body):
    """A schema with its name, as OpenAI's clients send it. `strict` asks for what is always so here."""

    name: str | None = None
    description: str | None = None
    # Any, and not an object: what is wrong with a schema is named with its keyword and path.
    schema_: Any = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's, and with `schema` that of llama.cpp and others: JSON of a schema without a name."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema_: Any = Field(None, alias="schema")


class StructuredOutputs(Body):
    """vLLM's. The last two ask for what is always so here: there is no other back end, and hardly a blank."""

    json_: Any = Field(None, alias="json")
    regex: Any = None
    choice: Any = None
    grammar: Any = None
    json_object: bool | None = None
    disable_fallback: bool | None = None
    disable_any_whitespace: bool | None = None


class ConstraintFields(Body):
    """Fields that constrain the text of an answer; of several that are given, all must say the same."""

    response_format: ResponseFormat | None = Field(None, description="text, any JSON object, or JSON of a schema")
    structured_outputs: StructuredOutputs | None = Field(
        None, description="one of json (a schema), regex, choice, grammar (Lark or GBNF), json_object"
    )
    guided_json: Any = Field(None, description="structured_outputs.json in its older spelling")
    guided_regex: Any = Field(None, description="structured_outputs.regex in its older spelling")
    guided_choice: Any = Field(None, description="structured_outputs.choice in its older spelling")
    guided_grammar: Any = Field(None, description="structured_outputs.grammar in its older spelling")
    json_schema: Any = Field(None, description="structured_outputs.json in SGLang's and llama.cpp's spelling")
    regex: Any = Field(None, description="structured_outputs.regex in SGLang's spelling")
    ebnf: Any = Field(None, description="structured_outputs.grammar in SGLang's spelling")
    grammar: Any = Field(None, description="structured_outputs.grammar in llama.cpp's spelling")


class Asked(msgspec.Struct, frozen=True):
    """A constraint as the request says it: its kind, its value, and the field that holds it."""

    kind: str
    value: Any
    param: str


def constraint_asked(body: ConstraintFields) -> Asked | None:
    """What the request asks for, None when it does not care.

    Clients that do not know the server say the same in several spellings. RequestError where they differ, and for
    unknown words.
    """
    found = [*_of_format(body.response_format), *_of_outputs(body.structured_outputs), *_of_older(body)]
    for other in found[1:]:
        if not _same(found[0], other):
            both = f"{found[0].param} and {other.param}"
            message = f"{both} differ and exclude each other; give one"
            raise RequestError(message, param=other.param, code="invalid_value")
    return found[0] if found else None


def _same(one: Asked, other: Asked) -> bool:
    if one.kind != other.kind:
        return False
    return canonical(one.kind, one.value, one.param) == canonical(other.kind, other.value, other.param)


def _of_format(given: ResponseFormat | None) -> list[Asked]:
    if given is None:
        return []
    _validate_known(given, "response_format")
    if given.type == "text":
        return _nothing_beside_text(given)
    if given.schema_ is not None:
        if given.json_schema is not None:
            where = "response_format.schema"
            raise RequestError(f"{where} is for requests without json_schema", param=where, code="invalid_value")
        return [Asked("json_schema", given.schema_, "response_format.schema")]
    if given.type == "json_schema":
        return _of_named_schema(given.json_schema)
    if given.json_schema is not None:
        raise _beside(given, "json_schema")
    return [Asked("json_object", None, "response_format")]


def _nothing_beside_text(given: ResponseFormat) -> list[Asked]:
    for name, value in (("json_schema", given.json_schema), ("schema", given.schema_)):
        if value is not None:
            raise _beside(given, name)
    return []


def _beside(given: ResponseFormat, name: str) -> RequestError:
    where = f"response_format.{name}"
    return RequestError(f"{where} is not for type {given.type}", param=where, code="invalid_value")


def _of_named_schema(given: NamedSchema | None) -> list[Asked]:
    param = "response_format.json_schema"
    if given is None:
        raise RequestError(f"{param}: type json_schema needs it", param=param, code="invalid_value")
    _validate_known(given, param)
    if given.schema_ is None:
        raise RequestError(f"{param}.schema is missing", param=f"{param}.schema", code="invalid_schema")
    return [Asked("json_schema", given.schema_, f"{param}.schema")]


def _of_outputs(given: StructuredOutputs | None) -> list[Asked]:
    if given is None:
        return []
    _validate_known(given, "structured_outputs")
    kinds = {"json": "json_schema", "regex": "regex", "choice": "choice", "grammar": "grammar"}
    values = {"json": given.json_, "regex": given.regex, "choice": given.choice, "grammar": given.grammar}
    found = [Asked(kinds[k], v, f"structured_outputs.{k}") for k, v in values.items() if v is not None]
    if given.json_object:
        found.append(Asked("json_object", None, "structured_outputs.json_object"))
    if not found:
        message = "structured_outputs: give one of json, regex, choice, grammar, json_object"
        raise RequestError(message, param="structured_outputs", code="invalid_value")
    return found


def _of_older(body: ConstraintFields) -> list[Asked]:
    fields = (
        ("guided_json", "json_schema"),
        ("guided_regex", "regex"),
        ("guided_choice", "choice"),
        ("guided_grammar", "grammar"),
        ("json_schema", "json_schema"),
        ("regex", "regex"),
        ("ebnf", "grammar"),
        ("grammar", "grammar"),
    )
    return [Asked(kind, value, f) for f, kind in fields if (value := getattr(body, f)) is not None]


def _validate_known(given: Body, where: str) -> None:
    """A word that is not understood might be a constraint: answering without it would be wrong."""
    for name in given.unknown():
        param = f"{where}.{name[:64]}"
        raise RequestError(f"{param} is not supported", param=param, code="unsupported_parameter")
