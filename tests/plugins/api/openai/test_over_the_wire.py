"""With a real HTTP server: the official client, and clients that hang up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest


@pytest.fixture
def official(server: str) -> Any:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]


def test_official_client_chats(official: openai.OpenAI) -> None:
    answer = official.chat.completions.create(model="acme/tiny", messages=MESSAGES, temperature=0.2, seed=1)
    assert answer.choices[0].message.content == "Hello there, friend."
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 21


def test_official_client_streams(official: openai.OpenAI) -> None:
    stream = official.chat.completions.create(
        model="acme/tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello there, friend."
    assert chunks[-1].usage is not None


def test_official_client_completes_and_lists(official: openai.OpenAI) -> None:
    assert official.completions.create(model="acme/tiny", prompt=["a", "b"], max_tokens=5).choices[1].text == "Hello"
    assert [model.id for model in official.models.list()] == ["acme/tiny"]
    assert official.models.retrieve("acme/tiny").id == "acme/tiny"


def test_official_client_raises_what_it_should(official: openai.OpenAI, engine: Any) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        official.chat.completions.create(model="other", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        official.chat.completions.create(model="acme/tiny", messages=MESSAGES, n=500)
    assert wrong.value.param == "n"


def wait_until(condition: Callable[[], bool]) -> bool:
    """Whether it came true within ten seconds, which is long for a busy machine too."""
    deadline = time.monotonic() + 10.0
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize("n", [1, 3])
def test_leaving_a_stream_frees_the_request(server: str, engine: Any, recorder: Any, chat: Any, n: int) -> None:
    engine.delay, engine.reply = 0.02, lambda request: [7] * 200
    with httpx.stream("POST", f"{server}/v1/chat/completions", json=chat(stream=True, n=n)) as response:
        lines = response.iter_lines()  # kept: an iterator that is thrown away hangs up
        next(lines)
        assert len(engine.active) == n
    assert wait_until(lambda: not engine.active)
    assert wait_until(lambda: [s.status for s in recorder.stats] == [499])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_leaving_before_anything_was_said(
    server: str, engine: Any, recorder: Any, chat: Any, stream: bool, n: int
) -> None:
    engine.delay, engine.reply = 30.0, lambda request: [7] * 200
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server}/v1/chat/completions", json=chat(stream=stream, n=n), timeout=1.0)
    assert len(engine.requests) == n
    assert wait_until(lambda: not engine.active)
    assert wait_until(lambda: [s.status for s in recorder.stats] == [499])


def test_leaving_a_whole_answer_half_way(server: str, engine: Any, chat: Any) -> None:
    engine.delay, engine.reply = 0.02, lambda request: [7] * 200
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server}/v1/chat/completions", json=chat(), timeout=0.3)
    assert wait_until(lambda: not engine.active)


def test_many_at_once(server: str, engine: Any, chat: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    engine.delay = 0.001
    with httpx.Client(limits=httpx.Limits(max_connections=20)) as client, ThreadPoolExecutor(20) as pool:
        jobs = [pool.submit(client.post, f"{server}/v1/chat/completions", json=chat()) for _ in range(60)]
        texts = {job.result().json()["choices"][0]["message"]["content"] for job in jobs}
    assert texts == {"Hello there, friend."}
