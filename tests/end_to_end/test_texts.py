"""What a live server answers is what transformers says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, NotFoundError, OpenAI


@pytest.fixture(scope="module")
def server(two_processes: Any) -> Any:
    return two_processes


@pytest.fixture(scope="module")
def reference(model_folder: Callable[..., Path]) -> Callable[[str, int], str]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    model = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32, attn_implementation="eager")

    def complete(prompt: str, tokens: int) -> str:
        ids = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
        return str(tokenizer.decode(out[0, ids.input_ids.shape[1] :], skip_special_tokens=True))

    return complete


PROMPTS = ["the quick brown", "a page of the cache", "日本語", "emoji 🚀 and more words than before", "fox " * 60]


def test_greedy_text_equals_transformers(server: Any, reference: Any) -> None:
    client = OpenAI(base_url=server.url + "/v1", api_key="none")
    for prompt in PROMPTS:
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=24, temperature=0)
        assert answer.choices[0].text == reference(prompt, 24)


def test_many_at_once_get_what_each_gets_alone(server: Any, reference: Any) -> None:
    async def all_at_once() -> list[str]:
        async with AsyncOpenAI(base_url=server.url + "/v1", api_key="none") as client:
            calls = [
                client.completions.create(model="tiny", prompt=PROMPTS[i % 5] + " x" * i, max_tokens=20, temperature=0)
                for i in range(30)
            ]
            return [answer.choices[0].text for answer in await asyncio.gather(*calls)]

    texts = asyncio.run(all_at_once())
    assert texts == [reference(PROMPTS[i % 5] + " x" * i, 20) for i in range(30)]


def test_a_stream_adds_up_to_the_whole_answer(server: Any) -> None:
    client = OpenAI(base_url=server.url + "/v1", api_key="none")
    for seed in range(5):
        fields: dict[str, Any] = {"model": "tiny", "max_tokens": 40, "seed": seed, "temperature": 1.3}
        messages = [{"role": "user", "content": f"tell me {seed}"}]
        whole = client.chat.completions.create(messages=messages, **fields)  # type: ignore[call-overload]
        stream = client.chat.completions.create(  # type: ignore[call-overload]
            messages=messages, stream=True, stream_options={"include_usage": True}, **fields
        )
        chunks = list(stream)
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage or chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        assert len({c.created for c in chunks}) == 1


def test_a_batch_of_prompts_and_n_come_back_in_order(server: Any, reference: Any) -> None:
    client = OpenAI(base_url=server.url + "/v1", api_key="none")
    answer = client.completions.create(model="tiny", prompt=PROMPTS[:3], n=2, max_tokens=8, temperature=0)
    assert [c.index for c in answer.choices] == list(range(6))
    assert [c.text for c in answer.choices] == [reference(p, 8) for p in PROMPTS[:3] for _ in range(2)]


def test_the_second_time_the_prefix_is_found(server: Any) -> None:
    client = OpenAI(base_url=server.url + "/v1", api_key="none")
    prompt = "worm " * 150
    for expected in (False, True):
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=2, temperature=0)
        details = answer.usage and answer.usage.prompt_tokens_details
        assert (((details and details.cached_tokens) or 0) > 0) is expected


def test_models_and_unknown_models(server: Any) -> None:
    client = OpenAI(base_url=server.url + "/v1", api_key="none")
    assert [m.id for m in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(NotFoundError) as caught:
        client.completions.create(model="other", prompt="x")
    assert caught.value.code == "model_not_found"


def test_what_is_there_beside(server: Any) -> None:
    assert httpx.get(server.url + "/health").status_code == 200
    assert httpx.get(server.url + "/version").json()["version"]
    metrics = httpx.get(server.url + "/metrics").text
    assert "vllm:prompt_tokens_total" in metrics
    schema = json.loads(httpx.get(server.url + "/openapi.json").text)
    assert "/v1/chat/completions" in schema["paths"]


def test_tokens_of_a_prompt_too_long_are_counted_in_the_refusal(server: Any) -> None:
    answer = httpx.post(server.url + "/v1/completions", json={"prompt": [5] * 600})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert "600" in answer.json()["error"]["message"]
