from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.anyio

PATH = "/v1/completions"


async def test_whole_answer(client: httpx.AsyncClient, engine: Any) -> None:
    answer = (await client.post(PATH, json={"model": "acme/tiny", "prompt": "Say"})).json()
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    [choice] = answer["choices"]
    ended = {"finish_reason": "length", "stop_reason": None, "matched_stop": None}
    ended |= dict.fromkeys(("token_ids", "prompt_token_ids", "prompt_logprobs"))
    assert choice == {"index": 0, "text": "Hello there, fri", "logprobs": None, **ended}
    assert answer["usage"]["completion_tokens"] == 16
    assert engine.tokenizer.decode(engine.requests[0].prompt) == "Say"


@pytest.mark.parametrize(
    ("prompt", "lengths"),
    [
        ("abc", [3]),
        (["a", "bcd"], [1, 3]),
        ([5, 6, 7], [3]),
        ([[5], [6, 7]], [1, 2]),
    ],
)
async def test_forms_of_prompts(client: httpx.AsyncClient, engine: Any, prompt: Any, lengths: list[int]) -> None:
    answer = (await client.post(PATH, json={"prompt": prompt, "max_tokens": 2, "n": 2})).json()
    assert [len(r.prompt) for r in engine.requests] == [size for size in lengths for _ in range(2)]
    assert [c["index"] for c in answer["choices"]] == list(range(2 * len(lengths)))
    assert answer["usage"]["prompt_tokens"] == sum(lengths)


async def test_several_prompts_streamed(client: httpx.AsyncClient, engine: Any, events: Any) -> None:
    engine.reply = lambda request: [*request.prompt, *request.prompt, engine.eos]
    body = {"prompt": ["ab", "xyz"], "stream": True, "n": 2, "stream_options": {"include_usage": True}}
    *chunks, usage, done = events((await client.post(PATH, json=body)).text)
    assert done == "[DONE]"
    texts = dict.fromkeys(range(4), "")
    ends: dict[int, str] = {}
    for chunk in chunks:
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        if choice["finish_reason"] is not None:
            ends[choice["index"]] = choice["finish_reason"]
    assert list(texts.values()) == ["abab", "abab", "xyzxyz", "xyzxyz"]
    assert ends == dict.fromkeys(range(4), "stop")
    assert usage["usage"]["completion_tokens"] == 2 * 5 + 2 * 7


@pytest.mark.parametrize("prompt", [[], "", [[]], ["a", ""], [999], [-1], [[1], ["a"]], None, 5, {"a": 1}, [True]])
async def test_prompts_nobody_can_continue(client: httpx.AsyncClient, prompt: Any) -> None:
    response = await client.post(PATH, json={"prompt": prompt})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("prompt")


async def test_prompt_is_required(client: httpx.AsyncClient) -> None:
    error = (await client.post(PATH, json={"model": "acme/tiny"})).json()["error"]
    assert error == {
        "message": "prompt: Field required",
        "type": "invalid_request_error",
        "param": "prompt",
        "code": None,
    }


@pytest.mark.parametrize("limit", [None, 7, 32_000])
async def test_lengths_are_cut_to_the_room_there_is(client: httpx.AsyncClient, engine: Any, limit: int | None) -> None:
    assert (await client.post(PATH, json={"prompt": [5] * 250, "max_tokens": limit})).status_code == 200
    assert engine.requests[0].params.max_tokens == 6
    assert (await client.post(PATH, json={"prompt": [5] * 256})).status_code == 400


async def test_too_many_choices(client: httpx.AsyncClient) -> None:
    assert (await client.post(PATH, json={"prompt": ["a"] * 33, "n": 128})).json()["error"]["param"] == "n"
    assert (await client.post(PATH, json={"prompt": ["a"] * 2049})).json()["error"]["param"] == "prompt"


async def test_refused_choice_ends_the_others(client: httpx.AsyncClient, engine: Any) -> None:
    engine.delay = 0.01
    engine.reply = lambda request: [5] * 100 if request.prompt == (5,) else 1 // 0
    response = await client.post(PATH, json={"prompt": [[5], [6]], "stream": True, "max_tokens": 100})
    assert response.status_code == 500
    assert not engine.active


async def test_every_event_may_tell_what_the_answer_cost(client: httpx.AsyncClient, events: Any) -> None:
    options = {"continuous_usage_stats": True, "include_usage": True}
    body = {"prompt": "ab", "stream": True, "max_tokens": 5, "stream_options": options}
    *chunks, done = events((await client.post(PATH, json=body)).text)
    assert done == "[DONE]"
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {2}
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1], chunks[-1]["choices"]) == (1, 5, [])
    del options["include_usage"]
    *chunks, done = events((await client.post(PATH, json=body)).text)
    assert all(chunk["choices"] and chunk["usage"] for chunk in chunks)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("fields", "reason", "matched"),
    [
        ({"stop": ["zzz", "th"]}, "th", "th"),
        ({"stop_token_ids": []}, "t", "t"),
        ({"max_tokens": 60}, None, "</s>"),
        ({"max_tokens": 2}, None, None),
    ],
)
async def test_what_ended_an_answer(
    client: httpx.AsyncClient, engine: Any, events: Any, streamed: bool, fields: Any, reason: Any, matched: Any
) -> None:
    """`stop_reason` is vLLM's word and names what was asked for; SGLang's `matched_stop` also the model's own end."""
    body = {"prompt": "a", "max_tokens": 60, **fields}
    if "stop_token_ids" in fields:
        body["stop_token_ids"] = engine.tokenizer.encode("t", add_special_tokens=False)
        reason = matched = body["stop_token_ids"][0]
    elif matched == "</s>":
        matched = engine.eos
    if streamed:
        *chunks, _ = events((await client.post(PATH, json={**body, "stream": True})).text)
        choices = [chunk["choices"][0] for chunk in chunks]
        assert not any("stop_reason" in choice for choice in choices[:-1])
        choice = choices[-1]
    else:
        choice = (await client.post(PATH, json=body)).json()["choices"][0]
    assert (choice["stop_reason"], choice["matched_stop"]) == (reason, matched)


@pytest.mark.parametrize(
    ("prompt", "fields", "kept"),
    [
        ("abcdef", {"truncate_prompt_tokens": 2}, "ef"),
        ("abcdef", {"truncate_prompt_tokens": 2, "truncation_side": "right"}, "ab"),
        ("abcdef", {"truncate_prompt_tokens": 9}, "abcdef"),
        ([65, 66, 67], {"truncate_prompt_tokens": 2}, [66, 67]),
        ([[65, 66, 67]], {"truncate_prompt_tokens": 2, "truncation_side": "right"}, [65, 66]),
        ("a" * 300 + "b", {"truncate_prompt_tokens": -1, "max_tokens": 6}, "a" * 249 + "b"),
        ("a" * 300 + "b", {"truncate_prompt_tokens": -1}, "a" * 239 + "b"),
        ("a" * 300_000 + "b", {"truncate_prompt_tokens": 3}, "aab"),
    ],
)
async def test_prompts_are_cut_where_that_is_asked_for(
    client: httpx.AsyncClient, engine: Any, prompt: Any, fields: dict[str, Any], kept: Any
) -> None:
    response = await client.post(PATH, json={"prompt": prompt, **fields})
    assert response.status_code == 200, response.text
    wanted = engine.tokenizer.encode(kept, add_special_tokens=False) if isinstance(kept, str) else kept
    assert list(engine.requests[-1].prompt) == wanted


async def test_an_echo_of_a_prompt_that_was_cut(client: httpx.AsyncClient) -> None:
    body = {"prompt": "abcdef", "truncate_prompt_tokens": 2, "echo": True, "max_tokens": 2}
    assert (await client.post(PATH, json=body)).json()["choices"][0]["text"] == "efHe"


@pytest.mark.parametrize("wanted", [0, -2, 257])
async def test_limits_of_cutting(client: httpx.AsyncClient, wanted: int) -> None:
    error = (await client.post(PATH, json={"prompt": "a", "truncate_prompt_tokens": wanted})).json()["error"]
    assert error["param"] == "truncate_prompt_tokens"


async def test_tokens_by_their_ids(client: httpx.AsyncClient, engine: Any) -> None:
    body = {"prompt": "a", "logprobs": 1, "max_tokens": 2, "return_tokens_as_token_ids": True}
    logprobs = (await client.post(PATH, json=body)).json()["choices"][0]["logprobs"]
    ids = engine.tokenizer.encode("He", add_special_tokens=False)
    assert logprobs["tokens"] == [f"token_id:{id}" for id in ids]
    assert all(name.startswith("token_id:") for top in logprobs["top_logprobs"] for name in top)


async def test_the_id_of_an_answer_may_be_the_clients(client: httpx.AsyncClient) -> None:
    assert (await client.post(PATH, json={"prompt": "a", "request_id": "mine-1"})).json()["id"] == "cmpl-mine-1"


@pytest.mark.parametrize(
    ("options", "with_usage"),
    [
        ({"continuous_usage_stats": True}, True),
        ({"continuous_usage_stats": True, "include_usage": False}, False),  # as vLLM has it
        ({"include_usage": False}, False),
        ({}, False),
    ],
)
async def test_which_events_have_usage(client: httpx.AsyncClient, events: Any, options: Any, with_usage: bool) -> None:
    body = {"prompt": "ab", "stream": True, "max_tokens": 3, "stream_options": options}
    *chunks, _ = events((await client.post(PATH, json=body)).text)
    assert [bool(chunk.get("usage")) for chunk in chunks] == [with_usage] * len(chunks)


@pytest.mark.parametrize(
    ("options", "status"), [({"include_usage": None}, 400), ({"include_usage": True}, 400), ({}, 200)]
)
async def test_options_of_streams_without_one(client: httpx.AsyncClient, options: Any, status: int) -> None:
    assert (await client.post(PATH, json={"prompt": "a", "stream_options": options})).status_code == status
