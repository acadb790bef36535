"""What is streamed is what is answered at once, with characters of several tokens and stop strings across tokens."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import httpx
import pytest

from maxserve.testing.live import LiveServer

PROMPTS = 200
WORDS = ("page", "日本語", "🙂", "Grüße", "fox", "the", "\n", "naïve", "क्षि", "cache")


def body_of(seed: int) -> dict[str, Any]:
    choose = random.Random(seed)
    text = " ".join(choose.choices(WORDS, k=choose.randint(1, 8)))
    body: dict[str, Any] = {
        "max_tokens": choose.randint(1, 40),
        "seed": seed,
        "temperature": choose.choice((0.0, 1.0, 1.8)),
    }
    if choose.random() < 0.5:
        body["n"] = 2
    if choose.random() < 0.5:
        body["skip_special_tokens"] = False
    body["messages"] = [{"role": "user", "content": text}]
    return body


async def whole(http: httpx.AsyncClient, body: dict[str, Any]) -> list[tuple[str, str]]:
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return [(choice["message"]["content"], choice["finish_reason"]) for choice in answer.json()["choices"]]


async def streamed(http: httpx.AsyncClient, body: dict[str, Any]) -> list[tuple[str, str]]:
    texts, ends = [""] * body.get("n", 1), [""] * body.get("n", 1)
    async with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            [choice] = json.loads(line[6:])["choices"]
            texts[choice["index"]] += choice["delta"].get("content") or ""
            ends[choice["index"]] = choice["finish_reason"] or ends[choice["index"]]
    return list(zip(texts, ends, strict=True))


def with_a_stop(body: dict[str, Any], texts: list[tuple[str, str]]) -> dict[str, Any]:
    """The same body with a stop string out of the middle of the first text; it may lie across tokens."""
    text = texts[0][0]
    choose = random.Random(body["seed"])
    start = choose.randrange(max(1, len(text) - 3))
    return {**body, "stop": [text[start : start + choose.randint(1, 4)] or "x", "never there"]}


@pytest.mark.parametrize("part", range(4))
def test_streams_equal_whole_answers(server: LiveServer, part: int) -> None:
    async def check(http: httpx.AsyncClient, seed: int) -> None:
        body = body_of(seed)
        texts = await whole(http, body)
        assert await streamed(http, body) == texts
        stopped = with_a_stop(body, texts)
        cut = await whole(http, stopped)
        assert await streamed(http, stopped) == cut
        for (text, end), (full, _) in zip(cut, texts, strict=True):
            assert not any(stop in text for stop in stopped["stop"])
            assert full.startswith(text)
            assert end == "stop" or text == full

    async def all_of_them() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            for first in range(part * PROMPTS // 4, (part + 1) * PROMPTS // 4, 5):
                await asyncio.gather(*(check(http, seed) for seed in range(first, first + 5)))

    asyncio.run(all_of_them())
