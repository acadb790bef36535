"""Bodies that are wrong, or ask for what is not there: always a 4xx in OpenAI's shape, and the server goes on."""

from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

import httpx
import pytest

from maxserve.core.http.app import create_app
from maxserve.core.http.failures import FailureDialects
from maxserve.plugins.api.openai.failures import failure_response
from maxserve.plugins.api.openai.router import router

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


def check_error(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text[:500]
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert len(response.content) < 4000
    return error


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("temperature", 2.5, "temperature"),
        ("temperature", "hot", "temperature"),
        ("temperature", True, "temperature"),
        ("top_p", -0.1, "top_p"),
        ("top_k", 1.5, "top_k"),
        ("min_p", [], "min_p"),
        ("n", 0, "n"),
        ("n", 129, "n"),
        ("n", "2", "n"),
        ("seed", 2**63, "seed"),
        ("seed", 1.5, "seed"),
        ("max_tokens", 0, "max_tokens"),
        ("max_completion_tokens", -1, "max_completion_tokens"),
        ("stop", "", "stop"),
        ("stop", ["a", ""], "stop"),
        ("stop", ["a"] * 17, "stop"),
        ("stop", 7, "stop"),
        ("stop", ["x" * 1001], "stop"),
        ("stop_token_ids", [-1], "stop_token_ids[0]"),
        ("stop_token_ids", [2**40], "stop_token_ids[0]"),
        ("stream", "yes", "stream"),
        ("stream_options", [], "stream_options"),
        ("user", 5, "user"),
        ("chat_template_kwargs", [], "chat_template_kwargs"),
        ("messages", [], "messages"),
        ("messages", None, "messages"),
        ("messages", [{"role": "user"}], "messages[0].content"),
        ("messages", [{"role": "<wizard>", "content": "x"}], "messages[0].role"),
        ("messages", [{"content": "x"}], "messages[0].role"),
        ("messages", [{"role": "user", "content": 5}], "messages[0].content"),
        (
            "messages",
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "messages[0].content[0].image_url.url",
        ),
        ("messages", [{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ("top_k", 2**64, "top_k"),
        ("top_k", 10**400, "top_k"),
    ],
)
async def test_wrong_fields(client: httpx.AsyncClient, chat: Any, field: str, value: Any, param: str) -> None:
    assert check_error(await client.post(PATH, json=chat(**{field: value})))["param"] == param


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("echo", True),
        ("suffix", "x"),
        ("best_of", 2),
        ("audio", {"voice": "x"}),
        ("modalities", ["text", "audio"]),
        ("stop_regex", "a+"),
        ("typical_p", 0.9),
        ("lora_path", "x"),
        ("n_cmpl", 2),
        ("documents", [{"text": "x"}]),
        ("structural_tag", "x"),
        ("prompt_embeds", "x"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_fields_that_are_not_served_yet(
    client: httpx.AsyncClient, chat: Any, field: str, value: Any, stream: bool
) -> None:
    error = check_error(await client.post(PATH, json=chat(stream=stream, **{field: value})))
    assert (error["param"], error["message"]) == (field, f"{field} is not supported yet")


@pytest.mark.parametrize(
    ("field", "value", "cause"),
    [
        ("frequency_penalty", 2.5, "between -2 and 2"),
        ("presence_penalty", -2.5, "between -2 and 2"),
        ("repetition_penalty", 0, "above 0"),
        ("min_tokens", -1, "whole number"),
        ("logit_bias", {"1000000": 1}, "outside the vocabulary"),
        ("logit_bias", {"5": 101}, "between -100 and 100"),
        ("logit_bias", {"x": 1}, "no token id"),
        ("allowed_token_ids", [], "at least one"),
        ("allowed_token_ids", [1000000], "outside the vocabulary"),
        ("bad_words", [""], "none of them empty"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_samplers_refuse_before_anything_is_answered(
    client: httpx.AsyncClient, chat: Any, field: str, value: Any, cause: str, stream: bool
) -> None:
    error = check_error(await client.post(PATH, json=chat(stream=stream, **{field: value})))
    assert error["param"] == field
    assert cause in error["message"]


async def test_their_neutral_values_are_fine(client: httpx.AsyncClient, chat: Any) -> None:
    neutral = {
        "logprobs": False,
        "top_logprobs": 0,
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "echo": False,
        "suffix": "",
        "best_of": 1,
        "modalities": ["text"],
    }
    response = await client.post(PATH, json=chat(**neutral))
    assert response.status_code == 200
    assert "warnings" not in response.json()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"messages": "\xe9"}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b'{"messages": ' + b"[" * 300 + b"]" * 300 + b"}",
    ],
    ids=lambda body: repr(body[:20]),
)
async def test_bodies_that_are_no_objects(client: httpx.AsyncClient, body: bytes) -> None:
    check_error(await client.post(PATH, content=body, headers=JSON))


@pytest.mark.parametrize("prompt", [5, {}, [-1], [1.0], [True], [None], [1, "a"], [[1], "a"], [[-1]], [["a"]], [2**40]])
async def test_prompts_of_no_known_form(client: httpx.AsyncClient, prompt: Any) -> None:
    error = check_error(await client.post("/v1/completions", json={"prompt": prompt}))
    assert error["param"] == "prompt"
    assert error["message"].startswith("prompt: must be a string, a list of strings, a list of token ids")


class Unread:
    """A tokenizer that must not be asked for tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self.fewest_tokens = tokenizer.fewest_tokens
        self.special_tokens = tokenizer.special_tokens
        self.special_ids = tokenizer.special_ids
        self.token = tokenizer.token
        self.backend_tokenizer = None

    def encode(self, text: str, **options: Any) -> list[int]:
        raise AssertionError("encoding megabytes takes minutes")


async def test_endless_prompts_are_refused_unread(context: Any, chat: Any) -> None:
    unread = dataclasses.replace(context, tokenizer=Unread(context.tokenizer))
    dialects = FailureDialects([("builtin.openai", {"/": failure_response})])
    app = create_app(unread, [("/", router(unread), "builtin.openai")], dialects)
    long = "a " * 100_000
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        asked = [
            (PATH, chat(messages=[{"role": "user", "content": long}]), "messages"),
            ("/v1/completions", {"prompt": [long]}, "prompt"),
        ]
        for path, body, param in asked:
            error = check_error(await client.post(path, json=body))
            assert (error["code"], error["param"]) == ("context_length_exceeded", param)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
async def test_other_content_types(client: httpx.AsyncClient, chat: Any, kind: str) -> None:
    check_error(await client.post(PATH, content=json.dumps(chat()), headers={"Content-Type": kind}), 415)


async def test_no_content_type_is_taken_for_json(client: httpx.AsyncClient, chat: Any) -> None:
    assert (await client.post(PATH, content=json.dumps(chat()))).status_code == 200


async def test_answers_stay_small(client: httpx.AsyncClient, chat: Any) -> None:
    """Many wrong items, or one long one, must not make an answer many times the size of the body."""
    for wrong in ([7] * 100_000, ["x"] * 100_000, "x" * 1_000_000, [{"role": "w" * 100_000}]):
        check_error(await client.post(PATH, json=chat(messages=wrong)))
    check_error(await client.post(PATH, json=chat(model="m" * 1_000_000)), 404)
    for wrong in ([["x"] * 1000] * 100, [None] * 100_000):
        check_error(await client.post("/v1/completions", json={"prompt": wrong}))


FIELDS = (
    *("model", "messages", "prompt", "n", "max_tokens", "max_completion_tokens", "stop", "stop_token_ids", "seed"),
    *("stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "ignore_eos", "user", "cache_salt"),
    *("logprobs", "tools", "response_format", "chat_template_kwargs", "continue_final_message", "surprise", ""),
)


def nonsense(rng: random.Random, depth: int = 0) -> Any:
    """A random JSON value: wrong types, huge numbers, empty and nested things."""
    pick = rng.randrange(12 if depth < 4 else 9)
    if pick == 9:
        return [nonsense(rng, depth + 1) for _ in range(rng.randrange(4))]
    if pick >= 10:
        keys = ("role", "content", "type", "text", "include_usage", "x\u0000")
        return {rng.choice(keys): nonsense(rng, depth + 1) for _ in range(rng.randrange(4))}
    simple = (
        None,
        True,
        -1,
        10**40,
        1e308,
        float("nan"),
        float("-inf"),
        "",
        rng.choice(("user", "text", "\ud83e", "é")),
    )
    return simple[pick]


async def test_300_malformed_bodies(client: httpx.AsyncClient, chat: Any) -> None:
    rng = random.Random(7)
    statuses = set()
    for number in range(300):
        body = chat(prompt="x") if rng.random() < 0.7 else {}
        body.update({rng.choice(FIELDS): nonsense(rng) for _ in range(rng.randrange(1, 4))})
        content = json.dumps(body).encode()
        if number % 5 == 0:
            place = rng.randrange(len(content))
            content = content[:place] + rng.randbytes(rng.randrange(1, 5)) + content[place + 1 :]
        path = rng.choice((PATH, "/v1/completions"))
        response = await client.post(path, content=content, headers=JSON)
        assert response.status_code in (200, 400, 404), (content, response.text)
        statuses.add(response.status_code)
    assert {200, 400} <= statuses
    assert (await client.post(PATH, json=chat())).status_code == 200


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_more_than_the_most(client: httpx.AsyncClient, chat: Any, field: str) -> None:
    error = check_error(await client.post(PATH, json=chat(min_tokens=6, **{field: 5})))
    assert error["param"] == "min_tokens"
    assert (await client.post(PATH, json=chat(min_tokens=5, **{field: 5}))).status_code == 200


async def test_a_call_that_must_be_made_and_another_text(client: httpx.AsyncClient, chat: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    asked = chat(tools=tools, tool_choice="required", guided_regex="a+")
    assert check_error(await client.post(PATH, json=asked))["param"] == "guided_regex"


USER = [{"role": "user", "content": "Hi"}]
RULES_OVER_FIELDS: list[tuple[str, dict[str, Any], str]] = [
    (PATH, {"messages": USER, "top_logprobs": 2}, "top_logprobs"),
    (PATH, {"messages": USER, "top_logprobs": 2, "logprobs": False}, "top_logprobs"),
    (PATH, {"messages": USER, "max_tokens": 0}, "max_tokens"),
    (PATH, {"messages": USER, "stream_options": {"include_usage": True}}, "stream_options"),
    (PATH, {"messages": USER, "prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    (PATH, {"messages": USER, "tool_choice": "required"}, "tool_choice"),
    (PATH, {"messages": USER, "response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (PATH, {"messages": USER, "continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
    (PATH, {"messages": USER, "n": 1, "best_of": 3}, "best_of"),
    ("/v1/completions", {"prompt": "Hi", "max_tokens": 0}, "max_tokens"),
    ("/v1/completions", {"prompt": "Hi", "stream_options": {"include_usage": True}}, "stream_options"),
    ("/v1/completions", {"prompt": "Hi", "n": 1, "best_of": 3}, "best_of"),
    ("/v1/completions", {"max_tokens": 1}, "prompt"),
    ("/v1/responses", {"input": "Hi", "stream_options": {}}, "stream_options"),
    ("/v1/responses", {"input": "Hi", "max_output_tokens": 0}, "max_output_tokens"),
    ("/v1/responses", {"input": "Hi", "tool_choice": "required"}, "tool_choice"),
    ("/tokenize", {}, "prompt"),
    ("/tokenize", {"prompt": "Hi", "messages": USER}, "prompt"),
]


@pytest.mark.parametrize(("path", "body", "param"), RULES_OVER_FIELDS)
async def test_a_rule_over_several_fields_names_them(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], param: str
) -> None:
    error = check_error(await client.post(path, json=body))
    assert error["param"] == param
    assert param.partition(".")[0] in error["message"]
    assert error["code"] != "invalid_json"


@pytest.mark.parametrize("path", [PATH, "/v1/completions", "/v1/responses", "/tokenize", "/v1/embeddings"])
@pytest.mark.parametrize("content", [b"[]", b"5", b'"x"', b"null"])
async def test_what_is_no_object_is_said_to_be_none(client: httpx.AsyncClient, path: str, content: bytes) -> None:
    error = check_error(await client.post(path, content=content, headers=JSON))
    assert (error["message"], error["code"]) == ("the body must be a JSON object", "invalid_json")


@pytest.mark.parametrize("limit", [2**31, 2**63, 10**30])
async def test_a_limit_beyond_every_context_is_never_reached(client: httpx.AsyncClient, chat: Any, limit: int) -> None:
    """It bounds the answer, and the context's own room does so before."""
    answer = await client.post(PATH, json=chat(max_tokens=limit))
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    check_error(await client.post(PATH, json=chat(max_tokens=-limit)))
