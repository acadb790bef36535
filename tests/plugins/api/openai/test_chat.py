from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from maxserve.core.interfaces.errors import QueueFullError, WorkerDied

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
PROMPT = "user: Hi\nassistant:"


async def test_whole_answer(client: httpx.AsyncClient, engine: Any, chat: Any) -> None:
    engine.cached = 4
    response = await client.post(PATH, json=chat(user="ann", cache_salt="s"), headers={"X-Request-ID": "abc-1"})
    assert response.status_code == 200
    answer = response.json()
    assert answer["id"] == "chatcmpl-abc-1"
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "acme/tiny"
    assert "warnings" not in answer
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello there, friend.", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"] is None
    assert answer["usage"] == {
        "prompt_tokens": len(PROMPT),
        "completion_tokens": 21,
        "total_tokens": len(PROMPT) + 21,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    [request] = engine.requests
    assert engine.tokenizer.decode(request.prompt) == PROMPT
    assert (request.user, request.salt) == ("ann", "s")
    assert request.params.max_tokens is None


async def test_stream(client: httpx.AsyncClient, chat: Any, events: Callable[[str], list[Any]]) -> None:
    response = await client.post(PATH, json=chat(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    choices = [c["choices"][0] for c in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert choices[-1]["delta"] == {}
    assert "".join(c["delta"].get("content", "") for c in choices) == "Hello there, friend."
    assert all("usage" not in c for c in chunks)


async def test_stream_with_usage(client: httpx.AsyncClient, chat: Any, events: Callable[[str], list[Any]]) -> None:
    body = chat(stream=True, stream_options={"include_usage": True})
    *chunks, last, _ = events((await client.post(PATH, json=body)).text)
    assert all(c["usage"] is None for c in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 21


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
@pytest.mark.parametrize("stop", [None, "there"])
async def test_drafts_are_part_of_the_usage(
    client: httpx.AsyncClient, engine: Any, chat: Any, events: Any, path: str, stop: str | None
) -> None:
    engine.step, engine.rejected = 4, 2
    body = chat() if path == PATH else {"model": chat()["model"], "prompt": "a", "max_tokens": 100}
    body |= {"stop": stop} if stop else {}
    usage = (await client.post(path, json=body)).json()["usage"]
    steps = 3 if stop else 6  # a token for each character: "Hello there", or all of it and the end token alone
    accepted = 9 if stop else 15  # the fourth token of the third step is behind the stop string
    assert usage["completion_tokens_details"] == {
        "accepted_prediction_tokens": accepted,
        "rejected_prediction_tokens": 2 * steps,
    }
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    assert events((await client.post(path, json=body)).text)[-2]["usage"] == usage


async def test_stream_options_need_a_stream(client: httpx.AsyncClient, chat: Any) -> None:
    response = await client.post(PATH, json=chat(stream_options={"include_usage": True}))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "stream_options"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("step", [1, 3, 50])
async def test_stop_string_ends_the_text_before_it(
    client: httpx.AsyncClient, engine: Any, chat: Any, events: Any, stream: bool, step: int
) -> None:
    engine.step = step
    response = await client.post(PATH, json=chat(stream=stream, stop=["zzz", "there"]))
    if stream:
        choices = [c["choices"][0] for c in events(response.text)[:-1]]
        text, finish = "".join(c["delta"].get("content", "") for c in choices), choices[-1]["finish_reason"]
    else:
        [choice] = response.json()["choices"]
        text, finish = choice["message"]["content"], choice["finish_reason"]
        assert response.json()["usage"]["completion_tokens"] == len("Hello there")
    assert (text, finish) == ("Hello ", "stop")
    assert not engine.active


async def test_half_a_stop_string_is_shown_at_the_end(client: httpx.AsyncClient, chat: Any) -> None:
    [choice] = (await client.post(PATH, json=chat(stop="there!", max_tokens=9))).json()["choices"]
    assert choice["message"]["content"] == "Hello the"
    assert choice["finish_reason"] == "length"


async def test_characters_of_several_tokens(client: httpx.AsyncClient, engine: Any, chat: Any, events: Any) -> None:
    tokens = engine.tokenizer.encode("héé 🦜!", add_special_tokens=False)
    engine.reply = lambda request: [*tokens, engine.eos]
    pieces = [
        c["choices"][0]["delta"].get("content", "")
        for c in events((await client.post(PATH, json=chat(stream=True))).text)[:-1]
    ]
    assert "".join(pieces) == "héé 🦜!"
    assert not any("\ufffd" in piece for piece in pieces)
    whole = (await client.post(PATH, json=chat())).json()
    assert whole["choices"][0]["message"]["content"] == "héé 🦜!"


async def test_n_answers_have_a_seed_each(client: httpx.AsyncClient, engine: Any, chat: Any, events: Any) -> None:
    answer = (await client.post(PATH, json=chat(n=3, seed=0))).json()
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2]
    assert [r.params.seed for r in engine.requests] == [0, 1, 2]
    assert answer["usage"]["prompt_tokens"] == len(PROMPT)
    assert answer["usage"]["completion_tokens"] == 63
    chunks = events((await client.post(PATH, json=chat(n=2, stream=True))).text)[:-1]
    texts = {0: "", 1: ""}
    for chunk in chunks:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert set(texts.values()) == {"Hello there, friend."}


async def test_largest_seed_wraps(client: httpx.AsyncClient, engine: Any, chat: Any) -> None:
    assert (await client.post(PATH, json=chat(n=2, seed=2**63 - 1))).status_code == 200
    assert [r.params.seed for r in engine.requests] == [2**63 - 1, -(2**63)]


async def test_sampling_fields_reach_their_samplers(client: httpx.AsyncClient, engine: Any, chat: Any) -> None:
    await client.post(PATH, json=chat(temperature=0, top_p=0.5, min_p=None, stop_token_ids=[7], ignore_eos=True))
    params = engine.requests[0].params
    assert params.fields == {"temperature": {"temperature": 0}, "top_k": {"top_k": 40}, "top_p": {"top_p": 0.5}}
    assert params.stop_token_ids == (7,)
    assert params.ignore_eos is True


async def test_max_completion_tokens_wins(client: httpx.AsyncClient, engine: Any, chat: Any) -> None:
    answer = (await client.post(PATH, json=chat(max_tokens=9, max_completion_tokens=5))).json()
    assert engine.requests[0].params.max_tokens == 5
    assert answer["choices"][0]["message"]["content"] == "Hello"
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_beyond_the_context_ends_where_the_context_does(
    client: httpx.AsyncClient, engine: Any, chat: Any, field: str
) -> None:
    engine.reply = lambda request: [65] * 5000
    answer = (await client.post(PATH, json=chat(**{field: 32_000}))).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 256
    assert engine.requests[0].params.max_tokens == 256 - len(PROMPT)


async def test_context_length(client: httpx.AsyncClient, chat: Any) -> None:
    long = chat(messages=[{"role": "user", "content": "x" * 300}])
    too_long = (await client.post(PATH, json=long)).json()["error"]
    assert (too_long["code"], too_long["param"]) == ("context_length_exceeded", "messages")


@pytest.mark.parametrize("model", ["", None])
async def test_no_model_means_the_served_one(client: httpx.AsyncClient, chat: Any, model: str | None) -> None:
    assert (await client.post(PATH, json=chat(model=model))).json()["model"] == "acme/tiny"


async def test_another_model_is_404(client: httpx.AsyncClient, chat: Any) -> None:
    response = await client.post(PATH, json=chat(model="gpt-5"))
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")
    assert "gpt-5" in error["message"]


async def test_parts_are_joined_and_developer_becomes_system(client: httpx.AsyncClient, engine: Any, chat: Any) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": "developer", "content": "be kind"}, {"role": "user", "content": parts}]
    assert (await client.post(PATH, json=chat(messages=messages))).status_code == 200
    prompt = engine.tokenizer.decode(engine.requests[0].prompt)
    assert prompt == "system: be kind\nuser: one\ntwo\nassistant:"


async def test_final_message_is_continued(client: httpx.AsyncClient, engine: Any, chat: Any) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}]
    await client.post(PATH, json=chat(messages=messages, continue_final_message=True))
    assert engine.tokenizer.decode(engine.requests[0].prompt) == "user: Hi\nassistant: Hel"
    both = chat(messages=messages, continue_final_message=True, add_generation_prompt=True)
    assert (await client.post(PATH, json=both)).json()["error"]["param"] == "continue_final_message"


async def test_template_kwargs(client: httpx.AsyncClient, engine: Any, chat: Any) -> None:
    await client.post(PATH, json=chat(chat_template_kwargs={"preface": "P! "}))
    assert engine.tokenizer.decode(engine.requests[0].prompt).startswith("P! user: Hi")
    refused = await client.post(PATH, json=chat(chat_template_kwargs={"refuse": "bad roles"}))
    assert refused.status_code == 400
    assert "bad roles" in refused.json()["error"]["message"]
    for taken in ("messages", "self", "tools"):
        response = await client.post(PATH, json=chat(chat_template_kwargs={taken: "x"}))
        assert (response.status_code, response.json()["error"]["param"]) == (400, f"chat_template_kwargs.{taken}")


async def test_unknown_fields_are_told(client: httpx.AsyncClient, chat: Any, events: Any) -> None:
    fields = {"frobnicate": 1, "left_out": None}
    answer = (await client.post(PATH, json=chat(**fields))).json()
    assert answer["warnings"] == ["the field 'frobnicate' is not known and was ignored"]
    chunks = events((await client.post(PATH, json=chat(stream=True, **fields))).text)
    assert chunks[0]["warnings"] == answer["warnings"]
    assert all("warnings" not in chunk for chunk in chunks[1:-1])
    many = (await client.post(PATH, json=chat(**{f"x{i}" * 90: i for i in range(500)}))).json()["warnings"]
    assert len(many) == 21
    assert "480 more" in many[-1]


@pytest.mark.parametrize("stream", [False, True])
async def test_full_queue_is_429(client: httpx.AsyncClient, engine: Any, chat: Any, stream: bool) -> None:
    engine.refusal = QueueFullError("4 requests wait already", retry_after=7)
    response = await client.post(PATH, json=chat(stream=stream, n=2))
    assert response.status_code == 429
    assert response.headers["retry-after"] == "7"
    assert response.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_more_answers_than_the_server_ever_takes_are_a_400(
    client: httpx.AsyncClient, engine: Any, chat: Any, stream: bool
) -> None:
    engine.capacity = 3
    response = await client.post(PATH, json=chat(stream=stream, n=4))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "n")
    assert "4 answers" in response.json()["error"]["message"]
    assert "--max-queue-size" in response.json()["error"]["message"]
    assert engine.requests == []
    assert (await client.post(PATH, json=chat(n=3))).status_code == 200


async def test_without_a_user_requests_are_those_of_their_key(
    client: httpx.AsyncClient, engine: Any, chat: Any
) -> None:
    for key in ("sk-1", "sk-2", "sk-1"):
        await client.post(PATH, json=chat(), headers={"Authorization": f"Bearer {key}"})
    await client.post(PATH, json=chat(user="ann"), headers={"Authorization": "Bearer sk-1"})
    await client.post(PATH, json=chat())
    first, second, third, named, unnamed = [request.user for request in engine.requests]
    assert first == third != second
    assert first.startswith("key-")
    assert "sk-1" not in first
    assert (named, unnamed) == ("ann", "")


@pytest.mark.parametrize("stream", [False, True])
async def test_worker_gone_before_the_first_token_is_503(
    client: httpx.AsyncClient, engine: Any, chat: Any, stream: bool
) -> None:
    engine.failure, engine.fail_after = WorkerDied("pid 7 is gone"), 0
    response = await client.post(PATH, json=chat(stream=stream))
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert "pid 7" not in response.text


async def test_worker_gone_in_mid_stream_is_an_event(
    client: httpx.AsyncClient, engine: Any, chat: Any, events: Any, recorder: Any
) -> None:
    engine.failure = WorkerDied("pid 7 is gone")
    response = await client.post(PATH, json=chat(stream=True))
    assert response.status_code == 200
    *chunks, error, done = events(response.text)
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "Hel"
    assert error["error"]["code"] == "service_unavailable"
    assert done == "[DONE]"
    assert [s.status for s in recorder.stats] == [503]


async def test_unforeseen_failure_tells_nothing(
    client: httpx.AsyncClient, engine: Any, chat: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine.failure = ZeroDivisionError("secret")
    response = await client.post(PATH, json=chat())
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "ZeroDivisionError: secret" in caplog.text


async def test_observers_hear_of_each_request(client: httpx.AsyncClient, engine: Any, chat: Any, recorder: Any) -> None:
    engine.cached = 2
    await client.post(PATH, json=chat(n=2, max_tokens=5))
    await client.post(PATH, json=chat(stream=True))
    await client.post(PATH, json=chat(n=0))
    first, second, third = recorder.stats
    assert (first.route, first.status, first.finish, first.n, first.max_tokens) == (PATH, 200, "length", 2, 5)
    assert (first.prompt_tokens, first.generated_tokens, first.cached_tokens) == (len(PROMPT), 10, 2)
    assert len(first.inter_token) == 8
    assert first.queue_to_first_token is not None
    assert first.queue_to_first_token <= first.total
    assert (second.status, second.finish, second.generated_tokens) == (200, "stop", 21)
    assert (third.status, third.generated_tokens, third.finish) == (400, 0, "error")


async def test_a_conversation_is_cut_where_that_is_asked_for(client: httpx.AsyncClient, chat: Any, engine: Any) -> None:
    await client.post(PATH, json=chat(truncate_prompt_tokens=10))
    assert engine.tokenizer.decode(engine.requests[-1].prompt) == "assistant:"
    await client.post(PATH, json=chat(truncate_prompt_tokens=5, truncation_side="right"))
    assert engine.tokenizer.decode(engine.requests[-1].prompt) == "user:"


async def test_logprobs_by_the_ids_of_tokens(client: httpx.AsyncClient, chat: Any, engine: Any) -> None:
    body = chat(logprobs=True, top_logprobs=1, max_tokens=1, return_tokens_as_token_ids=True)
    [entry] = (await client.post(PATH, json=body)).json()["choices"][0]["logprobs"]["content"]
    [id] = engine.tokenizer.encode("H", add_special_tokens=False)
    assert (entry["token"], entry["top_logprobs"][0]["token"]) == (f"token_id:{id}", "token_id:0")
    assert bytes(entry["bytes"]) == b"H"


async def test_base_urls_without_the_version(client: httpx.AsyncClient, chat: Any) -> None:
    assert (await client.post("/chat/completions", json=chat())).json()["object"] == "chat.completion"
    assert (await client.get("/models")).json()["data"][0]["id"] == "acme/tiny"
