"""The page about fields is what the code does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import httpx
import pytest

from maxserve.core.assembly.params import request_params
from maxserve.core.config import resolve
from maxserve.core.interfaces.routes import ServerContext
from maxserve.core.registry.protocol import Host
from maxserve.plugins.api.common.answering import Answering
from maxserve.plugins.api.common.bodies import ChatBody
from maxserve.plugins.api.common.unsupported import UNSUPPORTED
from maxserve.plugins.api.openai.completion_body import CompletionBody
from maxserve.plugins.api.openai.document import built_in_host, document

PAGE = Path(__file__).parents[4] / "docs" / "fields.md"


def test_the_page_is_made_from_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(built_in_host()), (
        "run python -m maxserve.plugins.api.openai.document > docs/fields.md"
    )


def test_every_field_is_said_once() -> None:
    names = [line.split("`")[1] for line in document(built_in_host()).splitlines() if line.startswith("| `")]
    assert {"temperature", "min_p", "tools", "echo", "response_format", "logit_bias", "bad_words"} <= set(names)
    assert [name for name in names if names.count(name) > 1 and name not in UNSUPPORTED] == []


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_neutral_values_of_what_is_refused_are_accepted(client: httpx.AsyncClient, path: str) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]} if "chat" in path else {"prompt": "Hi"}
    known = ChatBody.model_fields if "chat" in path else CompletionBody.model_fields
    for name, neutral in UNSUPPORTED.items():
        if name in known:
            continue
        for value in neutral.values:
            answer = await client.post(path, json={**body, name: value})
            assert answer.status_code == 200, (name, value, answer.text)
            assert "warnings" not in answer.json()


@pytest.mark.anyio
async def test_a_model_says_what_it_can(client: httpx.AsyncClient) -> None:
    can = (await client.get("/v1/models/acme/tiny")).json()["capabilities"]
    assert {"json_schema", "regex", "choice", "grammar", "json_object"} <= set(can["chat"]["constraints"])
    assert {"tools", "min_p", "logprobs", "response_format"} <= set(can["chat"]["fields"])
    assert {"echo", "prompt", "min_p"} <= set(can["completions"]["fields"])
    assert can["chat"]["tool_parser"] is not None


@pytest.mark.anyio
async def test_what_is_switched_off_is_no_capability(host: Host, context: ServerContext) -> None:
    off = dict.fromkeys(("enable_echo", "enable_structured_output", "enable_penalties"), False)
    settings = resolve(off, environ={}, sections=host.plugin_sections())
    less = dataclasses.replace(
        context,
        sections=host.section_values(settings),
        params=request_params(host, settings),
        grammars=settings.sampling.grammars,
        model=dataclasses.replace(context.model, unsupported={"prompt_logprobs": "switched off"}),
    )
    answering = Answering(less)
    can = answering.capabilities(answering.body(CompletionBody))
    assert can["constraints"] == []
    for field in ("echo", "guided_json", "prompt_logprobs", "presence_penalty"):
        assert field not in can["fields"]
    assert "min_p" in can["fields"]
