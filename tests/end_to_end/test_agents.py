"""The requests of coding agents, recorded by shape, from the body to the calls that the agent reads.

`agents/*.json` hold what each agent sends: its fields, blocks and items as they are, its texts and tools made short.
The engine is scripted, so that the calls really are made; everything else is the server's own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from maxserve.core.http.app import create_app
from maxserve.core.interfaces.routes import ServerContext
from maxserve.plugins.api.anthropic.router import router as anthropic_router
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.plugins.api.openai.router import router as openai_router
from maxserve.testing.scripted import (  # noqa: F401 (fixtures)
    anyio_backend,
    client,
    context,
    engine,
    host,
    recorder,
    tokenizer,
)

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
TEMPLATE = HERE.parent / "plugins" / "parsers" / "templates" / "qwen3.jinja"
MAX_LENGTH = 20_000  # the tokenizer makes a token of every byte


@pytest.fixture
def app(context: ServerContext, engine: Any) -> Any:  # noqa: F811
    return served(context, engine, TEMPLATE)


def served(context: ServerContext, engine: Any, template: Path) -> Any:  # noqa: F811
    engine.max_length, engine.step = MAX_LENGTH, 5
    info = dataclasses.replace(context.model, max_length=MAX_LENGTH)
    made = dataclasses.replace(context, model=info, template=JinjaTemplate({"default": template.read_text()}))
    return create_app(
        made, [("/", openai_router(made), "builtin.openai"), ("/", anthropic_router(made), "builtin.anthropic")]
    )


def recorded(name: str) -> list[Any]:
    record = json.loads((HERE / "agents" / f"{name}.json").read_text())
    exchanges = enumerate(record["exchanges"])
    return [pytest.param(record, exchange, id=f"{record['client']} {number}") for number, exchange in exchanges]


@pytest.fixture
def asked(client: httpx.AsyncClient, engine: Any) -> Callable[..., Any]:  # noqa: F811
    """Sends one recorded request and gives the answer; the prompt must hold what the agent said, in its order."""

    async def ask(record: Any, exchange: Any, *, stream: bool) -> httpx.Response:
        spoken = engine.tokenizer.encode(exchange["reply"], add_special_tokens=False)
        engine.reply = lambda request: [*spoken, engine.eos]
        body = {**exchange["body"], "stream": stream}
        response = await client.post(record["path"], json=body, headers=record["headers"])
        assert response.status_code == 200, response.text
        prompt, place = engine.tokenizer.decode(engine.requests[-1].prompt, skip_special_tokens=False), 0
        for text in exchange["prompt"]:
            assert (place := prompt.find(text, place)) >= 0, text
        assert not [text for text in exchange["absent"] if text in prompt]
        return response

    return ask


def events_of(response: httpx.Response) -> list[Any]:
    lines = (line for line in response.text.split("\n") if line.startswith("data: "))
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def blocks_of(events: list[Any]) -> list[Any]:
    """Blocks of content as Anthropic's clients put them together."""
    blocks: dict[int, Any] = {}
    inputs: dict[int, str] = {}
    for event in events:
        if event["type"] == "content_block_start":
            blocks[event["index"]] = event["content_block"]
        elif event["type"] == "content_block_delta":
            delta = dict(event["delta"])
            del delta["type"]
            for name, value in delta.items():
                if name == "partial_json":
                    inputs[event["index"]] = inputs.get(event["index"], "") + value
                else:
                    blocks[event["index"]][name] += value
    for index, text in inputs.items():
        blocks[index]["input"] = json.loads(text)
    return list(blocks.values())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("record", "exchange"), recorded("claude_code"))
async def test_claude_code(asked: Any, record: Any, exchange: Any, stream: bool) -> None:
    response = await asked(record, exchange, stream=stream)
    if stream:
        events = events_of(response)
        blocks, end = blocks_of(events), events[-2]["delta"]
        assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    else:
        end = response.json()
        blocks = end["content"]
    of = {kind: [block for block in blocks if block["type"] == kind] for kind in ("thinking", "text", "tool_use")}
    assert "".join(block["thinking"] for block in of["thinking"]) == exchange["thinking"]
    assert all(block["signature"] for block in of["thinking"])
    assert "".join(block["text"] for block in of["text"]).strip() == exchange["text"]
    assert [[block["name"], block["input"]] for block in of["tool_use"]] == exchange["calls"]
    assert all(block["id"] for block in of["tool_use"])
    assert end["stop_reason"] == ("tool_use" if exchange["calls"] else "end_turn")


@pytest.mark.parametrize(("record", "exchange"), recorded("claude_code"))
async def test_claude_code_counts_tokens(client: httpx.AsyncClient, engine: Any, record: Any, exchange: Any) -> None:  # noqa: F811
    counted = await client.post("/v1/messages/count_tokens?beta=true", json=exchange["body"], headers=record["headers"])
    assert counted.status_code == 200, counted.text
    answer = await client.post(record["path"], json=exchange["body"], headers=record["headers"])
    assert counted.json()["input_tokens"] == answer.json()["usage"]["input_tokens"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("record", "exchange"), recorded("codex"))
async def test_codex(asked: Any, record: Any, exchange: Any, stream: bool) -> None:
    response = await asked(record, exchange, stream=stream)
    answer = response.json() if not stream else None
    if stream:
        events = events_of(response)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        answer = events[-1]["response"]
        assert events[-1]["type"] == "response.completed"
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert done == answer["output"]
    assert answer["status"] == "completed"
    output = {kind: [item for item in answer["output"] if item["type"] == kind] for kind in ("reasoning", "message")}
    assert "".join(item["content"][0]["text"] for item in output["reasoning"]) == exchange["thinking"]
    assert all(item["encrypted_content"] for item in output["reasoning"])
    assert "".join(item["content"][0]["text"] for item in output["message"]).strip() == exchange["text"]
    calls = [item for item in answer["output"] if item["type"] not in output]
    assert len(calls) == len(exchange["items"])
    assert all(wanted.items() <= call.items() for wanted, call in zip(exchange["items"], calls, strict=True))
    assert all(call["call_id"] and call["id"] for call in calls)


TEXTS = ("You work in a terminal.", "Agents: none.", "What is in note.txt?", "Approvals: never.")


@pytest.mark.parametrize("template", sorted(TEMPLATE.parent.glob("*.jinja")), ids=lambda path: path.stem)
async def test_every_system_text_reaches_the_model(context: ServerContext, engine: Any, template: Path) -> None:  # noqa: F811
    """Whatever the chat template makes of system messages: agents have several, before the conversation and in it."""
    engine.reply = lambda request: [engine.eos]
    transport = httpx.ASGITransport(served(context, engine, template))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as asking:
        for name in ("claude_code", "codex"):
            for parameters in recorded(name):
                record, exchange = parameters.values
                response = await asking.post(record["path"], json=exchange["body"])
                assert response.status_code == 200, response.text
                prompt = engine.tokenizer.decode(engine.requests[-1].prompt, skip_special_tokens=False)
                sent = json.dumps(exchange["body"])
                assert not [text for text in TEXTS if text in sent and text not in prompt]
