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
    assert choice == {"index": 0, "text": "Hello there, fri", "logprobs": None, "finish_reason": "length"}
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


async def test_default_length_is_cut_to_the_room_there_is(client: httpx.AsyncClient, engine: Any) -> None:
    assert (await client.post(PATH, json={"prompt": [5] * 250})).status_code == 200
    assert engine.requests[0].params.max_tokens == 6
    assert (await client.post(PATH, json={"prompt": [5] * 250, "max_tokens": 7})).status_code == 400
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
