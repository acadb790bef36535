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
from maxserve.core.interfaces.request import Request
from maxserve.core.interfaces.routes import ServerContext
from maxserve.core.interfaces.tokenizer import Tokenizer
from maxserve.plugins.api.anthropic.router import router as anthropic_router
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.plugins.api.openai.router import router
from maxserve.plugins.parsers import maxserve_reasoning_parsers, maxserve_tool_parsers
from maxserve.plugins.tokenizers.folder import load_tokenizer
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
    return load_tokenizer(str(folder))


@pytest.fixture
def served(context: ServerContext, engine: ScriptedEngine) -> Served:  # noqa: F811
    """A client of a server whose model has the template of a name, and says a text to every request."""

    def make(name: str, text: str) -> httpx.AsyncClient:
        said = engine.tokenizer.encode(text, add_special_tokens=False)
        engine.reply = lambda request: [*said, engine.eos]
        model = replace(context.model, max_length=1 << 16)
        made = replace(context, model=model, template=JinjaTemplate({"default": source(name)}))
        routes = [("/", router(made), "builtin.openai"), ("/", anthropic_router(made), "builtin.anthropic")]
        app = create_app(made, routes)
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


# How answers that are held to a grammar think, by template: tokens before the thoughts and behind them, and whether the
# thoughts must come. Templates that are not here have none.
THOUGHTS = {
    "deepseek_v32": ("", "</think>", True),
    "gemma4": ("<|channel>thought", "<channel|>", False),
    "glm45": ("<think>", "</think>", False),
    "glm47": ("", "</think>", True),
    "gpt_oss": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>", True),
    "granite32": ("<think>", "</think>", False),
    "kimi_k2_thinking": ("<think>", "</think>", False),
    "magistral": ("[THINK]", "[/THINK]", False),
    "minimax_m2": ("", "</think>", True),
    "nemotron_nano": ("", "</think>", True),
    "qwen3": ("<think>", "</think>", False),
    "seed_oss": ("<seed:think>", "</seed:think>", False),
}
REQUIRED = f'[{{"name": "weather", "arguments": {OSLO}}}]'
NAMED = {"type": "function", "function": {"name": "weather"}}
CHAT, RESPONSES, ANTHROPIC = "/v1/chat/completions", "/v1/responses", "/v1/messages"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOLD = '{"city": "Oslo"}'


def bodies(path: str, *, form: bool) -> dict[str, Any]:
    """What asks for a forced call, or for a form, on a route."""
    if path == CHAT:
        wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
        return {
            "messages": [USER],
            "max_tokens": 2000,
            **({"response_format": wanted} if form else {"tools": SHOWN, "tool_choice": NAMED}),
        }
    function = SHOWN[0]["function"]
    if path == RESPONSES:
        wanted = {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}
        asked = {"tools": [{"type": "function", **function}], "tool_choice": {"type": "function", "name": "weather"}}
        return {"input": "?", "store": False, "max_output_tokens": 2000, **({"text": wanted} if form else asked)}
    tool = {"name": "weather", "input_schema": function["parameters"]}
    wanted = {"output_format": {"type": "json_schema", "schema": SCHEMA}}
    asked = {"tools": [tool], "tool_choice": {"type": "tool", "name": "weather"}}
    return {"messages": [USER], "max_tokens": 2000, **(wanted if form else asked)}


def thoughts_of(request: Request) -> tuple[list[int], list[int]]:
    """The tokens that begin an answer's thoughts, and those that end them."""
    constraint = request.params.constraint
    assert constraint is not None
    found = constraint.thoughts
    return ([], []) if found is None else ([*found.opening], [found.closing, *found.lead])


def thinks_first(engine: ScriptedEngine, text: str) -> None:  # noqa: F811
    """Has an engine think before it writes what it is held to, wherever it may."""

    def reply(request: Request) -> list[int]:
        before, behind = thoughts_of(request)
        thought = engine.tokenizer.encode("Hm." if behind else "", add_special_tokens=False)
        said = engine.tokenizer.encode(text, add_special_tokens=False)
        return [*before, *thought, *behind, *said, engine.eos]

    engine.reply = reply


@pytest.mark.parametrize("name", WROTE)
async def test_calls_can_be_forced(name: str, served: Served, engine: ScriptedEngine) -> None:  # noqa: F811
    wanted = [{"name": "weather", "arguments": OSLO}]
    for text, choice in ((REQUIRED, "required"), (OSLO, NAMED)):
        async with served(name, "") as client:
            thinks_first(engine, text)
            answer = await ask(client, tool_choice=choice)
            told = {"content": "", "reasoning_content": "Hm." if name in THOUGHTS else "", "tool_calls": wanted}
            assert without_ids(answer["message"]) == told
            assert answer["finish_reason"] == "tool_calls"
            assert without_ids(await streamed(client, tool_choice=choice)) == told


@pytest.mark.parametrize("name", WROTE)
async def test_what_may_come_before_a_form(name: str, served: Served, engine: ScriptedEngine) -> None:  # noqa: F811
    """Where thoughts need not come, the text may begin at once."""
    opening, ending, needed = THOUGHTS.get(name, ("", "", False))
    async with served(name, TOLD) as client:
        if not needed:
            body = bodies(CHAT, form=True)
            message = (await client.post(CHAT, json=body)).json()["choices"][0]["message"]
            assert (message["content"], message.get("reasoning_content") or "") == (TOLD, "")
        thinks_first(engine, TOLD)
        body = bodies(CHAT, form=True)
        message = (await client.post(CHAT, json=body)).json()["choices"][0]["message"]
        assert (message["content"], message.get("reasoning_content") or "") == (TOLD, "Hm." if ending else "")
    before, behind = thoughts_of(engine.requests[-1])
    assert engine.tokenizer.decode(before, skip_special_tokens=False) == opening
    assert engine.tokenizer.decode(behind, skip_special_tokens=False) == ending


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", [False, True])
@pytest.mark.parametrize("path", [CHAT, RESPONSES, ANTHROPIC])
@pytest.mark.parametrize("name", ["minimax_m2", "qwen3", "gpt_oss"])
async def test_thoughts_come_before_what_is_forced_on_every_route(
    name: str,
    path: str,
    form: bool,
    stream: bool,
    served: Served,
    engine: ScriptedEngine,  # noqa: F811
) -> None:
    async with served(name, "") as client:
        thinks_first(engine, TOLD)
        response = await client.post(path, json={**bodies(path, form=form), "stream": stream})
        assert response.status_code == 200, response.text
        reasoning, content, arguments = told_of(path, response.text, stream=stream)
        assert reasoning.strip() == "Hm."
        assert (content.strip(), arguments) == ((TOLD, "") if form else ("", TOLD))


def told_of(path: str, text: str, *, stream: bool) -> tuple[str, str, str]:
    """Reasoning, content and arguments in an answer, or in the events of a stream."""
    if not stream:
        return whole(path, json.loads(text))
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    if path == RESPONSES:
        return whole(path, next(event["response"] for event in events if event["type"] == "response.completed"))
    deltas = [event["choices"][0]["delta"] for event in events] if path == CHAT else []
    deltas += [event["delta"] for event in events if event.get("type") == "content_block_delta"]
    calls = [call["function"] for delta in deltas for call in delta.get("tool_calls") or ()]
    return (
        "".join(delta.get("reasoning_content") or delta.get("thinking") or "" for delta in deltas),
        "".join(delta.get("content") or delta.get("text") or "" for delta in deltas),
        "".join([call.get("arguments") or "" for call in calls] + [delta.get("partial_json", "") for delta in deltas]),
    )


def whole(path: str, answer: dict[str, Any]) -> tuple[str, str, str]:
    if path == CHAT:
        message = answer["choices"][0]["message"]
        calls = [call["function"]["arguments"] for call in message.get("tool_calls") or ()]
        return message.get("reasoning_content") or "", message["content"] or "", "".join(calls)
    if path == ANTHROPIC:
        blocks = answer["content"]
        told = ["".join(block.get(kind, "") for block in blocks) for kind in ("thinking", "text")]
        return told[0], told[1], "".join(json.dumps(block["input"]) for block in blocks if "input" in block)
    items = answer["output"]
    parts = [part for item in items for part in (item.get("content") or [])]
    return (
        "".join(part["text"] for part in parts if part["type"] == "reasoning_text"),
        "".join(part["text"] for part in parts if part["type"] == "output_text"),
        "".join(item.get("arguments", "") for item in items),
    )


async def test_thoughts_that_nobody_tells_apart_are_not_had(served: Served, engine: ScriptedEngine) -> None:  # noqa: F811
    async with served("minimax_m2", TOLD) as client:
        body = {**bodies(CHAT, form=True), "separate_reasoning": False}
        message = (await client.post(CHAT, json=body)).json()["choices"][0]["message"]
    assert message["content"] == TOLD
    assert thoughts_of(engine.requests[-1]) == ([], [])


async def test_thoughts_that_are_cut_off_leak_no_call(served: Served, engine: ScriptedEngine) -> None:  # noqa: F811
    async with served("minimax_m2", "") as client:
        thinks_first(engine, OSLO)
        answer = await ask(client, tool_choice=NAMED, max_tokens=2)
    assert (answer["finish_reason"], answer["message"]["content"] or "") == ("length", "")
    assert answer["message"]["reasoning_content"] == "Hm"
    assert not answer["message"].get("tool_calls")
