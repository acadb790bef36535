"""In which fields does a request say what its answer must be? In the words of OpenAI, vLLM, and older vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from maxserve.core.errors import RequestError
from maxserve.core.server.fields import Body


class NamedSchema(Body):
    """A schema with its name, as OpenAI's clients send it. `strict` asks for what is always so here."""

    name: str | None = None
    description: str | None = None
    # Any, and not an object: what is wrong with a schema is told with its keyword and path.
    schema_: Any = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class StructuredOutputs(Body):
    json_: Any = Field(None, alias="json")
    regex: Any = None
    choice: Any = None
    grammar: Any = None
    json_object: bool | None = None


class ConstraintFields(Body):
    """Fields that constrain the text of an answer; at most one of them may be used."""

    response_format: ResponseFormat | None = Field(None, description="text, any JSON object, or JSON of a schema")
    structured_outputs: StructuredOutputs | None = Field(
        None, description="one of json (a schema), regex, choice, grammar (Lark or GBNF), json_object"
    )
    guided_json: Any = Field(None, description="structured_outputs.json in its older spelling")
    guided_regex: Any = Field(None, description="structured_outputs.regex in its older spelling")
    guided_choice: Any = Field(None, description="structured_outputs.choice in its older spelling")
    guided_grammar: Any = Field(None, description="structured_outputs.grammar in its older spelling")


@dataclass(frozen=True, slots=True)
class Asked:
    """A constraint as the request says it: its kind, its value, and the field that holds it."""

    kind: str
    value: Any
    param: str


def constraint_asked(body: ConstraintFields) -> Asked | None:
    """What the request asks for, None when it does not care; RequestError for two at once and for unknown words."""
    found = [*_of_format(body.response_format), *_of_outputs(body.structured_outputs), *_of_older(body)]
    if len(found) > 1:
        both = " and ".join(each.param for each in found[:2])
        raise RequestError(f"{both} exclude each other; give one", param=found[1].param, code="invalid_value")
    return found[0] if found else None


def _of_format(given: ResponseFormat | None) -> list[Asked]:
    if given is None:
        return []
    _refuse_unknown(given, "response_format")
    if given.type != "json_schema":
        if given.json_schema is not None:
            where = "response_format.json_schema"
            raise RequestError(f"{where} is for type json_schema, not {given.type}", param=where, code="invalid_value")
        return [Asked("json_object", None, "response_format")] if given.type == "json_object" else []
    param = "response_format.json_schema"
    if given.json_schema is None:
        raise RequestError(f"{param}: type json_schema needs it", param=param, code="invalid_value")
    _refuse_unknown(given.json_schema, param)
    if given.json_schema.schema_ is None:
        raise RequestError(f"{param}.schema is missing", param=f"{param}.schema", code="invalid_schema")
    return [Asked("json_schema", given.json_schema.schema_, f"{param}.schema")]


def _of_outputs(given: StructuredOutputs | None) -> list[Asked]:
    if given is None:
        return []
    _refuse_unknown(given, "structured_outputs")
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
    )
    return [Asked(kind, value, f) for f, kind in fields if (value := getattr(body, f)) is not None]


def _refuse_unknown(given: Body, where: str) -> None:
    """A word that is not understood might be a constraint: answering without it would be wrong."""
    for name in given.unknown():
        param = f"{where}.{name[:64]}"
        raise RequestError(f"{param} is not supported", param=param, code="unsupported_parameter")
