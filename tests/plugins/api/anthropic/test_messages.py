from __future__ import annotations

from typing import Any

import httpx
import pytest

from maxserve.core.interfaces.errors import QueueFullError, WorkerDied

pytestmark = pytest.mark.anyio

PATH = "/v1/messages"
PROMPT = "user: Hi\nassistant:"


async def test_whole_answer(client: httpx.AsyncClient, engine: Any, message: Any) -> None:
    engine.cached = 4
    body = message(system="Be short.", metadata={"user_id": "ann"})
    response = await client.post(PATH, json=body, headers={"X-Request-ID": "abc-1"})
    assert response.status_code == 200
    assert response.headers["request-id"] == "abc-1"
    prompt = "system: Be short.\n" + PROMPT
    assert response.json() == {
        "id": "msg_abc-1",
        "type": "message",
        "role": "assistant",
        "model": "acme/tiny",
        "content": [{"type": "text", "text": "Hello there, friend."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": len(prompt) - 4,
            "output_tokens": 21,
            "cache_creation_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "cache_read_input_tokens": 4,
            "service_tier": "standard",
        },
    }
    [request] = engine.requests
    assert engine.tokenizer.decode(request.prompt) == prompt
    assert request.user == "ann"
    assert request.params.max_tokens == 50


async def test_stream(client: httpx.AsyncClient, engine: Any, message: Any, events: Any) -> None:
    engine.step, engine.cached = 5, 3
    response = await client.post(PATH, json=message(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    start, ping, block, *deltas, stop, delta, last = events(response.text)
    assert ping == {"type": "ping"}
    assert start["message"]["content"] == []
    assert start["message"]["stop_reason"] is None
    assert start["message"]["usage"]["cache_read_input_tokens"] == 3
    assert block == {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    assert "".join(d["delta"]["text"] for d in deltas) == "Hello there, friend."
    assert stop == {"type": "content_block_stop", "index": 0}
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert delta["usage"]["output_tokens"] == 21
    assert last == {"type": "message_stop"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "text", "reason", "sequence"),
    [
        ({"stop_sequences": ["zzz", "there"]}, "Hello ", "stop_sequence", "there"),
        ({"stop_sequences": ["nothing"]}, "Hello there, friend.", "end_turn", None),
        ({"max_tokens": 5}, "Hello", "max_tokens", None),
    ],
)
async def test_why_it_ended(
    client: httpx.AsyncClient,
    message: Any,
    events: Any,
    stream: bool,
    fields: Any,
    text: str,
    reason: str,
    sequence: Any,
) -> None:
    response = await client.post(PATH, json=message(stream=stream, **fields))
    if stream:
        told = events(response.text)
        said = "".join(e["delta"].get("text", "") for e in told if e["type"] == "content_block_delta")
        end = told[-2]["delta"]
    else:
        end = response.json()
        said = end["content"][0]["text"]
    assert (said, end["stop_reason"], end["stop_sequence"]) == (text, reason, sequence)


async def test_an_answer_of_nothing_has_no_blocks(
    client: httpx.AsyncClient, engine: Any, message: Any, events: Any
) -> None:
    engine.reply = lambda request: [engine.eos]
    assert (await client.post(PATH, json=message())).json()["content"] == []
    told = events((await client.post(PATH, json=message(stream=True))).text)
    assert [event["type"] for event in told] == ["message_start", "ping", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"system": [{"type": "text", "text": "A"}]}, "system: A\nuser: Hi\nassistant:"),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "user", "content": [{"type": "text", "text": "b"}]},
                ]
            },
            "user: a\nb\nassistant:",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "The answer is"}]},
            "user: a\nassistant: The answer is",
        ),
    ],
)
async def test_prompts(client: httpx.AsyncClient, engine: Any, message: Any, fields: Any, prompt: str) -> None:
    response = await client.post(PATH, json=message(**fields))
    assert response.status_code == 200, response.text
    assert engine.tokenizer.decode(engine.requests[0].prompt) == prompt


async def test_sampler_fields_are_there(client: httpx.AsyncClient, engine: Any, message: Any) -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "seed": 3, "cache_salt": "s"}
    assert (await client.post(PATH, json=message(**fields))).status_code == 200
    [request] = engine.requests
    given = {name: value for values in request.params.fields.values() for name, value in values.items()}
    assert given == {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1}
    assert (request.params.seed, request.salt) == (3, "s")


async def test_unknown_fields_are_told(client: httpx.AsyncClient, message: Any, events: Any) -> None:
    content = [{"type": "text", "text": "Hi", "colour": 1, "cache_control": {"type": "ephemeral"}}]
    body = message(wizardry=1, messages=[{"role": "user", "content": content}])
    names = ("wizardry", "messages[0].content[0].colour")
    expected = [f"the field {name!r} is not known and was ignored" for name in names]
    assert (await client.post(PATH, json=body)).json()["warnings"] == expected
    told = events((await client.post(PATH, json=body | {"stream": True})).text)
    assert told[0]["message"]["warnings"] == expected


async def test_counting(client: httpx.AsyncClient, engine: Any, recorder: Any, message: Any) -> None:
    body = {"model": "acme/tiny", "messages": [{"role": "user", "content": "Hi"}]}
    assert (await client.post(f"{PATH}/count_tokens", json=body)).json() == {"input_tokens": len(PROMPT)}
    assert engine.requests == recorder.stats == []
    whole = await client.post(PATH, json=message())
    assert whole.json()["usage"]["input_tokens"] == len(PROMPT)


@pytest.mark.parametrize("path", [PATH, f"{PATH}/count_tokens"])
async def test_another_model(client: httpx.AsyncClient, message: Any, path: str) -> None:
    response = await client.post(path, json=message(model="claude"), headers={"X-Request-ID": "r-1"})
    assert response.status_code == 404
    answer = response.json()
    assert answer["type"] == "error"
    assert answer["error"]["type"] == "not_found_error"
    assert "'claude'" in answer["error"]["message"]
    assert answer["request_id"] == response.headers["request-id"] == "r-1"


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (QueueFullError("too many", retry_after=3), 429, "rate_limit_error"),
        (WorkerDied("gone"), 503, "overloaded_error"),
        (ValueError("bug"), 500, "api_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_failures_before_the_answer(
    client: httpx.AsyncClient, engine: Any, message: Any, failure: Exception, status: int, kind: str, stream: bool
) -> None:
    engine.refusal = failure
    response = await client.post(PATH, json=message(stream=stream))
    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
    assert ("Retry-After" in response.headers) == (status in (429, 503))


async def test_a_failure_within_a_stream(
    client: httpx.AsyncClient, engine: Any, recorder: Any, message: Any, events: Any
) -> None:
    engine.failure = WorkerDied("gone")
    told = events((await client.post(PATH, json=message(stream=True))).text)
    assert told[-2]["type"] == "content_block_delta"
    assert (told[-1]["type"], told[-1]["error"]["type"]) == ("error", "overloaded_error")
    assert [stats.status for stats in recorder.stats] == [503]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_messages_of_nothing_at_all(client: httpx.AsyncClient, path: str) -> None:
    body = {"model": "acme/tiny", "max_tokens": 2, "messages": [{"role": "system", "content": []}]}
    answer = await client.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "messages: none of them has content for the model"
