"""Answers in the form of each family over the chat route: whole, streamed, forced and sent back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from maxserve.core.http.app import create_app
from maxserve.core.interfaces import ServerContext
from maxserve.core.text.chat_template import ChatTemplate
from maxserve.core.text.tokenizer import Tokenizer
from maxserve.plugins.api.openai.router import router
from maxserve.plugins.parsers import maxserve_reasoning_parsers, maxserve_tool_parsers
from maxserve.testing.scripted import (  # noqa: F401 (fixtures)
    ScriptedEngine,
    anyio_backend,
    context,
    engine,
    host,
    recorder,
)
from tests.plugins.parsers.test_published_templates import OSLO, SHOWN, USER, WROTE, source

pytestmark = pytest.mark.anyio

EOS = "<|over|>"
MARKERS = {
    marker
    for parsers in (maxserve_tool_parsers(), maxserve_reasoning_parsers())
    for parser in parsers
    for marker in parser.markers
}
Served = Callable[[str, str], httpx.AsyncClient]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token per byte, and all markers as special tokens, which are left out of texts unless a parser wants them."""
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([EOS, *sorted(MARKERS)])
    made.save(str(folder / "tokenizer.json"))
    config = {"eos_token": EOS, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(str(folder))


@pytest.fixture
def served(context: ServerContext, engine: ScriptedEngine) -> Served:  # noqa: F811
    """A client of a server whose model has the template of a name, and says a text to everybody."""

    def make(name: str, text: str) -> httpx.AsyncClient:
        said = engine.tokenizer.encode(text, add_special_tokens=False)
        engine.reply = lambda request: [*said, engine.eos]
        model = replace(context.model, max_length=1 << 16)
        made = replace(context, model=model, template=ChatTemplate({"default": source(name)}))
        app = create_app(made, [("/", router(made), "builtin.openai")])
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    return make


async def ask(client: httpx.AsyncClient, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    body = {"messages": [USER, *messages], "tools": SHOWN, "max_tokens": 2000, **fields}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()["choices"][0]
    return answer


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    calls = [call["function"] for call in message.get("tool_calls") or []]
    told = {name: message.get(name) or "" for name in ("content", "reasoning_content")}
    return {**told, "tool_calls": calls}


async def streamed(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """The message that the deltas of a stream make up."""
    body = {"messages": [USER], "tools": SHOWN, "max_tokens": 2000, "stream": True, **fields}
    text = (await client.post("/v1/chat/completions", json=body)).text
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    for line in text.split("\n\n"):
        if line.startswith("data: {"):
            delta = json.loads(line[6:])["choices"][0]["delta"]
            for name in ("content", "reasoning_content"):
                message[name] += delta.get(name) or ""
            for call in delta.get("tool_calls") or []:
                if call.get("id"):
                    message["tool_calls"].append({"id": call["id"], "function": {"name": "", "arguments": ""}})
                function = message["tool_calls"][call["index"]]["function"]
                for name, value in call["function"].items():
                    function[name] += value or ""
    return message


@pytest.mark.parametrize("name", WROTE)
async def test_special_tokens_reach_the_parsers(name: str, served: Served) -> None:
    async with served(name, WROTE[name]) as client:
        answer = await ask(client)
        message = answer["message"]
        assert answer["finish_reason"] == "tool_calls"
        assert message["tool_calls"][0]["function"]["name"] == "weather"
        arguments = json.loads(message["tool_calls"][0]["function"]["arguments"])
        assert arguments["days"] == 3
        assert ("Hm." in WROTE[name]) == ((message.get("reasoning_content") or "").strip() == "Hm.")
        assert (message["content"] or "") == ("Look." if "Look." in WROTE[name] else "")
        assert without_ids(await streamed(client)) == without_ids(message)


@pytest.mark.parametrize("name", WROTE)
async def test_calls_go_back_as_they_were_written(name: str, served: Served, engine: ScriptedEngine) -> None:  # noqa: F811
    async with served(name, WROTE[name]) as client:
        message = (await ask(client))["message"]
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "Rain."}
        await ask(client, message, result)
        history = engine.requests[-1].prompt
        assert list(history[: len(engine.requests[0].prompt)]) == list(engine.requests[0].prompt)
        said = engine.tokenizer.encode(WROTE[name], add_special_tokens=False)
        assert list(history[len(engine.requests[0].prompt) :][: len(said)]) == list(said)


@pytest.mark.parametrize("name", WROTE)
async def test_calls_can_be_forced(name: str, served: Served, engine: ScriptedEngine) -> None:  # noqa: F811
    async with served(name, f'[{{"name": "weather", "arguments": {OSLO}}}]') as client:
        answer = await ask(client, tool_choice="required")
        assert without_ids(answer["message"])["tool_calls"] == [{"name": "weather", "arguments": OSLO}]
        assert (answer["finish_reason"], answer["message"]["content"] or "") == ("tool_calls", "")
    async with served(name, OSLO) as client:
        answer = await ask(client, tool_choice={"type": "function", "function": {"name": "weather"}})
        assert without_ids(answer["message"])["tool_calls"] == [{"name": "weather", "arguments": OSLO}]
    assert all(request.params.constraint is not None for request in engine.requests)
