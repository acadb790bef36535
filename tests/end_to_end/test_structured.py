"""Constrained answers over HTTP, from a real server: every spelling, every kind of refusal."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from maxserve.testing.live import LiveServer

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def ask(server: LiveServer, **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 150, "seed": 3, **fields}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)


def text_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert "warnings" not in answer.json()
    return str(choice["message"]["content"])


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA, "strict": True}}},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"guided_json": SCHEMA},
    ],
)
def test_a_schema_in_every_spelling(server: LiveServer, fields: dict[str, Any]) -> None:
    found = json.loads(text_of(ask(server, **fields)))
    assert len(found["name"]) <= 5
    assert 0 <= found["age"] <= 99


@pytest.mark.parametrize("spelling", ["structured_outputs", "guided"])
def test_the_other_kinds(server: LiveServer, spelling: str) -> None:
    def give(kind: str, value: Any) -> dict[str, Any]:
        return {"structured_outputs": {kind: value}} if spelling == "structured_outputs" else {f"guided_{kind}": value}

    expression = r"^[+-]?[0-9]{1,3}(\.[0-9]{1,2})?$"
    assert re.fullmatch(expression, text_of(ask(server, **give("regex", expression))))
    assert text_of(ask(server, **give("choice", ["日本", "red"]))) in ("日本", "red")
    assert text_of(ask(server, **give("grammar", 'start: "a" | "b" start'))).strip("b") in ("", "a")
    assert set(text_of(ask(server, **give("grammar", 'root ::= "x" ("y" | "z")')))) <= set("xyz")


def test_n_answers_and_a_stream(server: LiveServer) -> None:
    wanted = {"structured_outputs": {"choice": ["one", "two", "three"]}}
    answer = ask(server, n=3, **wanted)
    assert all(c["message"]["content"] in ("one", "two", "three") for c in answer.json()["choices"])
    lines = ask(server, stream=True, **wanted).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    text = "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
    assert text == answer.json()["choices"][0]["message"]["content"]


def test_text_is_no_constraint(server: LiveServer) -> None:
    assert ask(server, response_format={"type": "text"}).status_code == 200


def schema_of(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


PARAM = "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        (
            schema_of({"type": "object", "properties": {"a": {"not": {"type": "null"}}}}),
            PARAM,
            ["'not'", "$.properties.a"],
        ),
        (
            schema_of({"type": "object", "properties": {"a": {"if": {}, "then": False}}}),
            PARAM,
            ["'if'", "$.properties.a"],
        ),
        (schema_of({"type": "string", "minLength": 5, "maxLength": 2}), PARAM, ["'minLength'"]),
        (schema_of({"type": "integer", "minimum": 5, "maximum": 2}), PARAM, ["'minimum'"]),
        (schema_of({"enum": []}), PARAM, ["'enum'"]),
        (schema_of(False), PARAM, ["false"]),
        (schema_of({"$ref": "#"}), PARAM, ["'$ref'"]),
        (schema_of({"$ref": "http://x.org/y"}), PARAM, ["'$ref'"]),
        (schema_of({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}), PARAM, ["finite"]),
        (schema_of({"type": "string", "pattern": "(?=a)b"}), PARAM, ["'pattern'"]),
        (schema_of([]), PARAM, ["schema"]),
        ({"response_format": []}, "response_format", []),
        ({"response_format": {"type": "xml"}}, "response_format.type", []),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", []),
        ({"structured_outputs": []}, "structured_outputs", []),
        ({"structured_outputs": {}}, "structured_outputs", ["one of"]),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", []),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs.regex", ["exclude"]),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "guided_choice", ["exclude"]),
        ({"guided_choice": []}, "guided_choice", []),
        ({"guided_choice": "a"}, "guided_choice", ["list"]),
        ({"guided_choice": [1]}, "guided_choice", ["list"]),
        ({"guided_regex": "\\"}, "guided_regex", []),
        ({"guided_regex": "(a)\\1"}, "guided_regex", []),
        ({"guided_regex": "a{1000000}"}, "guided_regex", ["10000"]),
        ({"guided_regex": 3}, "guided_regex", []),
        ({"guided_grammar": "root ::= "}, "guided_grammar", []),
        ({"guided_grammar": 'start: start "a"'}, "guided_grammar", []),
        ({"guided_grammar": "start: absent"}, "guided_grammar", ["absent"]),
    ],
)
def test_what_cannot_be_kept_is_refused(
    server: LiveServer, fields: dict[str, Any], param: str, words: list[str]
) -> None:
    for streamed in (False, True):
        answer = ask(server, stream=streamed, **fields)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"] == param
        assert param in error["message"]
        assert all(word in error["message"] for word in words), error["message"]


ANNOTATED: dict[str, Any] = {
    "$id": "urn:x",
    "type": "object",
    "properties": {
        "a": {"enum": ["x"], "example": "x", "nullable": True},
        "b": {"type": "integer", "format": "int64", "minimum": 0, "maximum": 9223372036854775807},
        "pet": {
            "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
            "discriminator": {"propertyName": "k", "mapping": {"cat": "#/$defs/cat", "dog": "#/$defs/dog"}},
        },
    },
    "required": ["a", "pet"],
    "additionalProperties": False,
    "x-order": 1,
    "$defs": {
        kind: {"type": "object", "properties": {"k": {"const": kind}}, "required": ["k"], "additionalProperties": False}
        for kind in ("cat", "dog")
    },
}
LEFT_OUT = ("'x-order'", "'example'", "'nullable'", "'int64'", "'discriminator'")


@pytest.mark.parametrize("fields", [schema_of(ANNOTATED), {"guided_json": ANNOTATED}])
def test_annotations_are_taken_and_named_in_warnings(server: LiveServer, fields: dict[str, Any]) -> None:
    answer = ask(server, **fields)
    assert answer.status_code == 200, answer.text
    warnings = " ".join(answer.json()["warnings"])
    assert all(name in warnings for name in LEFT_OUT), warnings
    assert json.loads(answer.json()["choices"][0]["message"]["content"])["pet"]["k"] in ("cat", "dog")


def test_annotations_in_the_parameters_of_a_tool(server: LiveServer) -> None:
    schema = {"$id": "urn:x", "type": "object", "properties": {"a": {"enum": ["x"], "x-o": 1}}, "required": ["a"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    answer = ask(server, tools=tools, tool_choice="required")
    assert answer.status_code == 200, answer.text
    (call,) = answer.json()["choices"][0]["message"]["tool_calls"][:1]
    assert json.loads(call["function"]["arguments"]) == {"a": "x"}
    assert "'x-o'" in answer.json()["warnings"][0]


def test_strict_fields_refuse_annotations(serving: Any, model_folder: Any) -> None:
    with serving("--model", str(model_folder()), "--strict-fields") as server:
        refused = ask(server, **schema_of(ANNOTATED))
        assert refused.status_code == 400
        assert "--strict-fields" in refused.json()["error"]["message"]
        assert ask(server, **schema_of(SCHEMA)).status_code == 200


def test_equal_constraints_in_two_spellings_are_one(server: LiveServer) -> None:
    for new, old, value in (
        ("grammar", "guided_grammar", 'start: "yes" | "no"'),
        ("regex", "regex", "[ab]{3}"),
        ("choice", "guided_choice", ["a", "b"]),
        ("json", "guided_json", {"enum": [1, 2]}),
    ):
        assert ask(server, structured_outputs={new: value}, **{old: value}).status_code == 200
    answer = ask(server, response_format={"type": "json_object", "schema": SCHEMA})
    assert set(json.loads(text_of(answer))) == {"name", "age"}
    assert text_of(ask(server, ebnf='root ::= "yes"')) == "yes"


LARK = "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(5000)) + '\nr5000: "b"\n'
GBNF = "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1}" for i in range(3000)) + '\nr3000 ::= "b"\n'


@pytest.mark.parametrize("grammar", [LARK, LARK.replace("r", "T").replace("staTt: T0", "start: T0"), GBNF])
def test_a_long_chain_of_rules_is_refused_and_the_server_goes_on(server: LiveServer, grammar: str) -> None:
    refused = ask(server, structured_outputs={"grammar": grammar})
    assert refused.status_code == 400
    assert "at most" in refused.json()["error"]["message"]
    assert text_of(ask(server, guided_choice=["a"])) == "a"


def test_a_strangers_back_end_serves(serving: Any, model_folder: Any, plugin_folder: Any) -> None:
    module = plugin_folder.module(
        "acme_grammar",
        """
        from maxserve import GrammarBackend, hookimpl

        class Matcher:
            def __init__(self, context, text):
                self.context, self.left = context, list(text.encode())

            def accept(self, token):
                for byte in self.context.vocabulary[token]:
                    assert self.left.pop(0) == byte

            def rollback(self, count):
                raise NotImplementedError

            def fill(self, row):
                row[:] = 0
                for id, token in enumerate(self.context.vocabulary):
                    if token and bytes(self.left).startswith(token):
                        row.view("uint32")[id // 32] |= 1 << (id % 32)

            def finished(self):
                return not self.left

        class Compiler:
            def __init__(self, context):
                self.context = context

            def check(self, kind, text): ...

            def cached(self, kind, text):
                return True

            def compile(self, kind, text):
                return lambda: Matcher(self.context, text)

        @hookimpl
        def maxserve_grammar_backends():
            yield GrammarBackend(name="acme", build=Compiler, accepts=frozenset({"regex"}), rollback=False)
        """,
    )
    options = ("--plugin", str(module), "--structured-output-backend", "acme")
    with serving("--model", str(model_folder()), *options) as server:
        assert text_of(ask(server, guided_regex="just+this")) == "just+this"
        refused = ask(server, guided_choice=["a"])
        assert refused.status_code == 400
        assert "'acme' does not take choice" in refused.json()["error"]["message"]


def test_switched_off_it_is_refused(serving: Any, model_folder: Any) -> None:
    with serving("--model", str(model_folder()), "--no-enable-structured-output") as server:
        refused = ask(server, guided_choice=["a"])
        assert refused.status_code == 400
        assert "--no-enable-structured-output" in refused.json()["error"]["message"]
        assert ask(server, response_format={"type": "text"}).status_code == 200


def test_an_unknown_back_end_stops_the_start(max_cli: Any, model_folder: Any) -> None:
    ran = max_cli("generate", "--model", str(model_folder()), "--structured-output-backend", "outline", "--prompt", "x")
    assert ran.status == 2
    assert "did you mean 'outlines'?" in ran.err
